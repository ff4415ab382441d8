#include "cudnn_refusals.h"

static struct heed_bound_mask other_mask;

static void be_f32(struct heed_attention_args *a) {
    a->q.dtype = HEED_F32;
}
static void pack(struct heed_attention_args *a) {
    static const int32_t starts[] = {0, 16, 16};
    a->packed = (struct heed_packed){2, starts, starts, 16, 16};
}
static void pack_with_lengths(struct heed_attention_args *a) {
    pack(a);
    other_mask = (struct heed_bound_mask){.kind = &heed_mask_kind_key_lengths};
    a->mask = &other_mask;
}
static void pack_bottom_right(struct heed_attention_args *a) {
    static const int32_t keys[] = {0, 8, 16};
    pack(a);
    a->packed.key_starts = keys;
    other_mask = (struct heed_bound_mask){.kind = &heed_mask_kind_causal,
                                          .number = {[HEED_DISTANCE_ALIGN] = HEED_BOTTOM_RIGHT}};
    a->mask = &other_mask;
}
static void pack_with_bias(struct heed_attention_args *a) {
    pack(a);
    a->stages = 1;
    a->stage[0].tensor = a->q;
}
static void pack_unevenly(struct heed_attention_args *a) {
    pack(a);
    a->packed.most_queries = 8192;
}
static void be_sigmoid(struct heed_attention_args *a) {
    a->normalizer = HEED_NORMALIZER_SIGMOID;
}
static void drop_out(struct heed_attention_args *a) {
    a->threshold = 60000;
}
static void sink(struct heed_attention_args *a) {
    a->sink = a->q;
}
static void ask_weights(struct heed_attention_args *a) {
    a->weights = a->y;
}
static void choose(struct heed_attention_args *a) {
    a->column_sums = a->y;
}
static void ask_lse(struct heed_attention_args *a) {
    a->lse = a->y;
}
static void cap(struct heed_attention_args *a) {
    a->stages = 1;
    a->stage[0].kind = HEED_STAGE_SOFTCAP;
}
static void two_biases(struct heed_attention_args *a) {
    a->stages = 2;
    a->stage[0].kind = a->stage[1].kind = HEED_STAGE_BIAS;
}
static void no_keys(struct heed_attention_args *a) {
    a->k.size[2] = a->v.size[2] = 0;
}
static void few_queries(struct heed_attention_args *a) {
    a->q.size[2] = a->y.size[2] = 7;
}
static void odd_width(struct heed_attention_args *a) {
    a->q.size[3] = a->k.size[3] = 4;
}
static void wide(struct heed_attention_args *a) {
    a->v.size[3] = a->y.size[3] = 264;
}
static void repeat(struct heed_attention_args *a) {
    a->k.stride[0] = 0;
}
static void misalign(struct heed_attention_args *a) {
    a->v.data = (char *)a->v.data + 2;
}
static void wide_bias(struct heed_attention_args *a) {
    a->stages = 1;
    a->stage[0].tensor = a->q;
    a->stage[0].tensor.dtype = HEED_F32;
}
static void repeated_bias(struct heed_attention_args *a) {
    a->stages = 1;
    a->stage[0].tensor = a->q;
    a->stage[0].tensor.stride[3] = 0;
}
static void window(struct heed_attention_args *a) {
    other_mask = (struct heed_bound_mask){.kind = &heed_mask_kind_window};
    a->mask = &other_mask;
}
static void bottom_right(struct heed_attention_args *a) {
    other_mask = (struct heed_bound_mask){.kind = &heed_mask_kind_causal,
                                          .number = {[HEED_DISTANCE_ALIGN] = HEED_BOTTOM_RIGHT}};
    a->k.size[2] = a->v.size[2] = 15;
    a->mask = &other_mask;
}
static void lengths_of_heads(struct heed_attention_args *a) {
    other_mask = (struct heed_bound_mask){.kind = &heed_mask_kind_key_lengths};
    other_mask.tensor[0] = (struct heed_view){a->q.data, HEED_I32, 4, {2, 3, 1, 1}, {3, 1, 0, 0}};
    a->mask = &other_mask;
}

const struct cudnn_refusal cudnn_refusals[CUDNN_REFUSALS] = {
    {"for bf16", be_f32},
    {"lengths beside their own", pack_with_lengths},
    {"mask is not causal", pack_bottom_right},
    {"sequences have a bias", pack_with_bias},
    {"too different lengths", pack_unevenly},
    {"not the softmax", be_sigmoid},
    {"random numbers of its own", drop_out},
    {"a sink", sink},
    {"weights are asked for", ask_weights},
    {"weights are asked for", choose},
    {"logarithm of the sum", ask_lse},
    {"other than one bias", cap},
    {"other than one bias", two_biases},
    {"nothing to attend to", no_keys},
    {"fewer than 8 queries", few_queries},
    {"no multiple of 8", odd_width},
    {"no multiple of 8", wide},
    {"rows repeat", repeat},
    {"multiples of 16 bytes", misalign},
    {"bias is not bf16", wide_bias},
    {"repeats along the keys", repeated_bias},
    {"mask is not causal", window},
    {"mask is not causal", bottom_right},
    {"mask is not causal", lengths_of_heads},
};
