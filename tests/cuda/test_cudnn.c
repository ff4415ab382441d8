/* Attention through cuDNN: numbers against ref in f32 and against heed's own kernel on the same bf16, twice
 * with the same bits; what is refused and why, every call failing once. On the emulated device a fake
 * computes cuDNN's graphs. On a GPU (HEED_TEST_DEVICE=cuda) they are the real one's, and what asks the fake
 * or the emulation is left out; that a problem of the table is refused there is a failure. Where there is no
 * cuDNN it ends with 77 and says why.
 *
 * usage: cuda_cudnn [REASON]: with a reason, that a plain problem is refused for it, and nothing else; with
 * "sliced", numbers alone, where the fake wants so much of a workspace that problems must be cut. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "cudnn_in_use.h"
#include "cudnn_refusals.h"
#include "emulation.h"
#include "harness.h"
#include "tensor/internal.h"

/* ---- problems ---- */

struct row {
    const char *name;
    int64_t batch, heads, kv_heads, queries, keys, width, value_width;
    bool causal;
    const int32_t *lengths; /* of keys, by batch entry */
    const char *bias;       /* its dimensions: b, h, q, k, or 1 where it repeats */
    bool side_by_side;      /* heads in a row, as projections leave them */
    bool adds;              /* gradients are added to */
    bool odd;               /* gradients and dy begin at odd places */
    bool bad;               /* keys and values behind lengths are NaN */
    bool gone;              /* the first row of the bias is −∞ */
    const char *unwanted;   /* gradients: q, k, v, b */
    const int32_t
        *starts[2]; /* of packed sequences, of queries and keys; queries and keys are those of all */
    bool large; /* several tiles of a GPU's kernels, which are many for the emulation: not at small shapes */
};

static const int32_t some[] = {13, 20, 1}, none[] = {0, 9, 40};
static const int32_t queries_of[] = {0, 10, 25, 30}, keys_of[] = {0, 13, 20, 33},
                     few_queries_of[] = {0, 0, 12, 30}, few_keys_of[] = {0, 5, 5, 33};
static const int32_t many[] = {300, 77, 128}, many_queries_of[] = {0, 300, 310, 500},
                     many_keys_of[] = {0, 128, 428, 560};
static const struct row rows[] = {
    {"plain", 2, 3, 3, 16, 16, 8, 8},
    {"ragged", 2, 2, 2, 11, 13, 16, 24},
    {"one batch entry and head", 1, 1, 1, 8, 9, 8, 8},
    {"causal", 2, 2, 2, 17, 17, 8, 8, true},
    {"causal, more queries", 1, 2, 2, 19, 10, 8, 8, true},
    {"causal, more keys", 1, 2, 2, 10, 19, 8, 8, true},
    {"grouped", 2, 6, 2, 12, 14, 8, 16},
    {"one key head", 1, 4, 1, 12, 12, 16, 8, true},
    {"lengths", 3, 2, 2, 12, 20, 8, 8, .lengths = some},
    {"lengths, none and too many", 3, 2, 1, 12, 20, 8, 8, .lengths = none},
    {"lengths with NaN behind", 3, 2, 2, 12, 20, 8, 8, .lengths = some, .bad = true},
    {"lengths with NaN behind, none and too many", 3, 4, 2, 12, 20, 8, 8, true, none, .bad = true},
    {"causal lengths", 3, 2, 2, 20, 20, 8, 8, true, some, .side_by_side = true},
    {"bias of all", 2, 2, 2, 9, 11, 8, 8, .bias = "bhqk"},
    {"bias of all, more heads", 2, 4, 2, 10, 12, 8, 8, .bias = "bhqk"},
    {"many heads", 1, 12, 6, 10, 12, 8, 8, true, .side_by_side = true},
    {"bias of heads", 2, 3, 3, 9, 16, 8, 8, true, .bias = "1hqk"},
    {"bias of batch entries", 2, 3, 3, 9, 11, 8, 8, .bias = "b1qk"},
    {"bias of cells", 2, 3, 1, 9, 11, 8, 8, .bias = "11qk"},
    {"bias of keys", 2, 2, 2, 9, 11, 8, 8, .bias = "1h1k"},
    {"bias and lengths", 3, 2, 2, 9, 20, 8, 8, true, none, "bhqk", .bad = true},
    {"bias that hides a row", 2, 2, 2, 9, 11, 8, 8, .bias = "bhqk", .gone = true},
    {"bias that hides a row for all", 3, 2, 2, 9, 20, 8, 8, true, some, "11qk", .gone = true},
    {"side by side", 2, 4, 2, 10, 12, 8, 8, true, .side_by_side = true},
    {"added to", 2, 4, 2, 10, 12, 8, 8, .bias = "1hqk", .adds = true},
    {"added to, side by side", 3, 2, 2, 10, 20, 8, 8, .lengths = some, .side_by_side = true, .adds = true},
    {"odd places", 2, 2, 2, 10, 12, 8, 8, .bias = "11qk", .odd = true},
    {"queries alone", 2, 2, 2, 10, 12, 8, 8, .bias = "11qk", .unwanted = "kvb"},
    {"packed", 3, 2, 2, 30, 33, 8, 16, .starts = {queries_of, keys_of}},
    {"packed, causal, grouped", 3, 4, 2, 30, 33, 8, 8, true, .side_by_side = true,
     .starts = {queries_of, keys_of}},
    {"packed, some empty", 3, 2, 1, 30, 33, 8, 8, .starts = {few_queries_of, few_keys_of}},
    {"packed, added to", 3, 2, 2, 30, 33, 8, 8, true, .adds = true, .starts = {queries_of, few_keys_of}},
    {"packed, keys alone", 3, 2, 2, 30, 30, 8, 8, true, .odd = true, .unwanted = "qv",
     .starts = {queries_of, queries_of}},
    {"bias alone", 2, 2, 2, 10, 12, 8, 8, .bias = "11qk", .unwanted = "qkv"},
    {"large, causal", 2, 4, 4, 300, 300, 64, 64, true, .side_by_side = true, .large = true},
    {"large, grouped, lengths", 3, 8, 2, 333, 300, 128, 128, .lengths = many, .bad = true, .large = true},
    {"large, wider values", 2, 4, 2, 300, 300, 64, 128, true, .adds = true, .large = true},
    {"large, bias of heads", 2, 4, 4, 260, 320, 64, 64, .bias = "1hqk", .large = true},
    {"large, bias of cells", 2, 4, 4, 260, 320, 64, 64, true, .bias = "11qk", .adds = true, .large = true},
    {"large, packed", 3, 4, 2, 500, 560, 64, 64, true, .starts = {many_queries_of, many_keys_of},
     .large = true},
};
enum { ROWS = (int)(sizeof rows / sizeof *rows) };

/* ---- bf16 ---- */

static float number_of(uint16_t bits) {
    const uint32_t word = (uint32_t)bits << 16;
    float number;
    memcpy(&number, &word, sizeof number);
    return number;
}

static uint16_t bits_of(float number) {
    uint32_t word;
    memcpy(&word, &number, sizeof word);
    return (uint16_t)((word + 0x7fff + (word >> 16 & 1)) >> 16);
}

/* ---- tensors, on the host in f32 and on the device in bf16 ---- */

enum block { Q, K, V, Y, DY, DQ, DK, DV, BIAS, DBIAS, BLOCKS };
enum { ODD = 1, GUARD = 8 }; /* elements before and behind */

struct tensor {
    struct heed_view host, device; /* the same but for dtype and memory */
    int64_t elements, first;
    float *numbers;
    uint16_t *bits; /* that were there first */
    void *memory;
};

struct call {
    const struct row *row;
    heed_ctx *ctx; /* the device's */
    bool forward_only;
    struct tensor tensor[BLOCKS];
    struct heed_bound_mask causal[2], lengths[2], both[2]; /* on the host, on the device */
    void *device_lengths;
    struct heed_attention_args args[2];
};

static struct heed_exec *exec_of(const struct call *c) {
    return &c->ctx->exec;
}

/* [size 0, 1, 2, 3] with repeated dimensions where the bias has them. */
static void shape(struct tensor *t, const int64_t size[4], bool side_by_side, const char *bias, bool odd) {
    struct heed_view *v = &t->host;
    *v = (struct heed_view){.dtype = HEED_F32, .rank = 4};
    memcpy(v->size, size, 4 * sizeof *size);
    const int order[2][4] = {{3, 2, 1, 0}, {3, 1, 2, 0}};
    int64_t stride = 1;
    for (int i = 0; i < 4; i++) {
        const int d = order[side_by_side][i];
        const bool repeats = bias && bias[d] == '1';
        v->stride[d] = repeats ? 0 : stride;
        stride *= repeats ? 1 : size[d];
    }
    t->first = odd ? GUARD + ODD : GUARD;
    t->elements = stride;
}

/* With those beside it. */
static int64_t all_of(const struct tensor *t) {
    return t->elements + 2 * GUARD;
}

/* Writes to the device what was there first. */
static void put_back(const struct call *c, enum block i) {
    const struct tensor *t = &c->tensor[i];
    ck_assert_int_eq(heed_elements_write(exec_of(c), t->memory, t->bits, (size_t)all_of(t) * sizeof *t->bits),
                     HEED_OK);
}

static void fill(struct call *c, enum block i, uint64_t seed) {
    struct tensor *t = &c->tensor[i];
    struct test_random random = {seed * BLOCKS + i};
    const int64_t all = all_of(t);
    t->bits = malloc((size_t)all * sizeof *t->bits);
    t->numbers = malloc((size_t)all * sizeof *t->numbers);
    for (int64_t j = 0; j < all; j++) {
        t->bits[j] = bits_of((float)test_normal(&random));
        t->numbers[j] = number_of(t->bits[j]);
    }
    t->memory = heed_block_new(exec_of(c)->elements, (size_t)all * sizeof *t->bits);
    ck_assert(t->memory != NULL);
    put_back(c, i);
    t->host.data = t->numbers + t->first;
    t->device = t->host;
    t->device.dtype = HEED_BF16;
    t->device.data = (uint16_t *)t->memory + t->first;
}

/* Writes a number to an element of both. */
static void set(struct call *c, enum block i, int64_t offset, float number) {
    struct tensor *t = &c->tensor[i];
    const uint16_t bits = isnan(number) ? 0x7fc0 : bits_of(number);
    ((float *)t->host.data)[offset] = number;
    ck_assert_int_eq(heed_elements_write(exec_of(c), (uint16_t *)t->device.data + offset, &bits, sizeof bits),
                     HEED_OK);
}

static void spoil_behind_lengths(struct call *c) {
    const struct row *r = c->row;
    for (int i = K; i <= V; i++) {
        const struct heed_view *v = &c->tensor[i].host;
        for (int64_t b = 0; b < r->batch; b++)
            for (int64_t key = r->lengths[b]; key < r->keys; key++)
                for (int64_t w = 0; w < v->size[3]; w++)
                    set(c, (enum block)i, b * v->stride[0] + key * v->stride[2] + w, NAN);
    }
}

static void hide_first_row(struct call *c) {
    for (int64_t k = 0; k < c->row->keys; k++) set(c, BIAS, k, -INFINITY);
}

static bool wants(const struct row *r, char gradient) {
    return !r->unwanted || !strchr(r->unwanted, gradient);
}

static void set_masks(struct call *c, bool device) {
    const struct row *r = c->row;
    c->causal[device] = (struct heed_bound_mask){
        .kind = &heed_mask_kind_causal,
        .number = {[HEED_DISTANCE_LOW] = -HEED_MASK_FAR, [HEED_DISTANCE_ALIGN] = HEED_TOP_LEFT}};
    c->lengths[device] = (struct heed_bound_mask){.kind = &heed_mask_kind_key_lengths};
    c->lengths[device].tensor[0] = (struct heed_view){device ? c->device_lengths : (void *)r->lengths,
                                                      HEED_I32,
                                                      4,
                                                      {r->batch, r->heads, 1, 1},
                                                      {1, 0, 0, 0}};
    c->both[device] = (struct heed_bound_mask){
        .kind = &heed_mask_kind_and, .a = &c->causal[device], .b = &c->lengths[device]};
    c->args[device].mask = r->causal && r->lengths ? &c->both[device]
                           : r->causal             ? &c->causal[device]
                           : r->lengths            ? &c->lengths[device]
                                                   : NULL;
}

static struct heed_view view(const struct call *c, enum block i, bool device) {
    return device ? c->tensor[i].device : c->tensor[i].host;
}

static void set_packed(const struct row *r, struct heed_packed *packed) {
    *packed = (struct heed_packed){r->batch, r->starts[0], r->starts[1], 0, 0};
    for (int64_t i = 0; i < r->batch; i++) {
        const int64_t queries = r->starts[0][i + 1] - r->starts[0][i],
                      keys = r->starts[1][i + 1] - r->starts[1][i];
        if (queries > packed->most_queries) packed->most_queries = queries;
        if (keys > packed->most_keys) packed->most_keys = keys;
    }
}

static void set_args(struct call *c, bool device) {
    const struct row *r = c->row;
    struct heed_attention_args *a = &c->args[device];
    a->q = view(c, Q, device);
    a->k = view(c, K, device);
    a->v = view(c, V, device);
    a->y = view(c, Y, device);
    a->scale = 1 / sqrt((double)r->width);
    a->threshold = 65536;
    if (r->bias) {
        a->stages = 1;
        a->stage[0].kind = HEED_STAGE_BIAS;
        a->stage[0].tensor = view(c, BIAS, device);
    }
    if (r->starts[0]) set_packed(r, &a->packed);
    set_masks(c, device);
}

/* As backward fills them in. */
static void set_gradients(struct call *c, bool device) {
    const struct row *r = c->row;
    struct heed_attention_args *a = &c->args[device];
    a->dy = view(c, DY, device);
    if (wants(r, 'q')) a->dq = (struct heed_grad_view){view(c, DQ, device), r->adds};
    if (wants(r, 'k')) a->dk = (struct heed_grad_view){view(c, DK, device), r->adds};
    if (wants(r, 'v')) a->dv = (struct heed_grad_view){view(c, DV, device), r->adds};
    if (r->bias && wants(r, 'b'))
        a->stage[0].dtensor = (struct heed_grad_view){view(c, DBIAS, device), r->adds};
}

static void begin(struct call *c, const struct row *r, heed_ctx *ctx, uint64_t seed) {
    *c = (struct call){.row = r, .ctx = ctx};
    const int64_t q[4] = {r->batch, r->heads, r->queries, r->width},
                  k[4] = {r->batch, r->kv_heads, r->keys, r->width},
                  v[4] = {r->batch, r->kv_heads, r->keys, r->value_width},
                  y[4] = {r->batch, r->heads, r->queries, r->value_width},
                  cells[4] = {r->batch, r->heads, r->queries, r->keys};
    const int64_t *const sizes[BLOCKS] = {q, k, v, y, y, q, k, v, cells, cells};
    for (int i = 0; i < BLOCKS; i++) {
        if (i >= BIAS && !r->bias) continue;
        const char *repeats = i >= BIAS ? r->bias : r->starts[0] ? "1hqk" : NULL;
        shape(&c->tensor[i], sizes[i], i < BIAS && r->side_by_side, repeats,
              r->odd && (i == DY || (i >= DQ && i != BIAS)));
        fill(c, (enum block)i, seed);
    }
    if (r->lengths) {
        const size_t bytes = (size_t)r->batch * sizeof *r->lengths;
        c->device_lengths = heed_block_new(exec_of(c)->elements, bytes);
        heed_elements_write(exec_of(c), c->device_lengths, r->lengths, bytes);
    }
    if (r->bad) spoil_behind_lengths(c);
    if (r->gone) hide_first_row(c);
    set_args(c, false);
    set_args(c, true);
}

static void end(struct call *c) {
    for (int i = 0; i < BLOCKS; i++) {
        free(c->tensor[i].numbers);
        free(c->tensor[i].bits);
        heed_block_free(exec_of(c)->elements, c->tensor[i].memory);
    }
    heed_block_free(exec_of(c)->elements, c->device_lengths);
}

/* ---- running ---- */

/* Its kernels are asked as if for the tape. */
static heed_ctx *device_ctx(void) {
    heed_ctx *ctx = heed_ctx_new(&(heed_ctx_options){.device = emulation_device(), .poison = true});
    if (ctx) ctx->exec.recording = true;
    return ctx;
}

static const struct heed_kernel *cudnn_of(const heed_ctx *ctx) {
    const struct heed_kernel *kernel = ctx->exec.kernel[HEED_PRIMITIVE_ATTENTION][0];
    ck_assert_str_eq(kernel->name, "cudnn");
    return kernel;
}

static heed_status run(struct call *c, struct heed_exec *exec, const struct heed_kernel *kernel,
                       bool device) {
    struct heed_sizes sizes = {0};
    kernel->sizes(exec, &c->args[device], &sizes);
    if (c->forward_only) return heed_exec_forward(exec, kernel, &c->args[device], NULL);
    void *saved = heed_block_new(exec->elements, sizes.saved + 1);
    if (!saved) return HEED_ERROR_MEMORY;
    heed_status status = heed_exec_forward(exec, kernel, &c->args[device], saved);
    if (status == HEED_OK) {
        set_gradients(c, device);
        status = heed_exec_backward(exec, kernel, &c->args[device], saved);
    }
    heed_block_free(exec->elements, saved);
    return status;
}

/* Whether a run writes a tensor. */
static bool is_result(const struct call *c, enum block i) {
    static const char gradients[BLOCKS] = {[DQ] = 'q', [DK] = 'k', [DV] = 'v', [DBIAS] = 'b'};
    if (i == Y) return true;
    if (c->forward_only || !gradients[i] || (i == DBIAS && !c->row->bias)) return false;
    return wants(c->row, gradients[i]);
}

/* The bits of all that a run wrote. */
struct results {
    uint16_t *bits[BLOCKS];
};

/* Runs a kernel of the device on tensors that are as they were. */
static void run_anew(struct call *c, const struct heed_kernel *kernel, struct results *r) {
    *r = (struct results){{NULL}};
    c->args[true] = (struct heed_attention_args){0}; /* without the last run's gradients */
    set_args(c, true);
    for (int i = 0; i < BLOCKS; i++)
        if (is_result(c, (enum block)i)) put_back(c, (enum block)i);
    ck_assert_msg(run(c, exec_of(c), kernel, true) == HEED_OK, "%s: %s: %s", c->row->name, kernel->name,
                  heed_error(c->ctx));
    for (int i = 0; i < BLOCKS; i++) {
        const size_t bytes = (size_t)all_of(&c->tensor[i]) * sizeof *r->bits[i];
        if (!is_result(c, (enum block)i)) continue;
        r->bits[i] = malloc(bytes);
        ck_assert_int_eq(heed_elements_read(exec_of(c), r->bits[i], c->tensor[i].memory, bytes), HEED_OK);
    }
}

static void free_results(struct results *r) {
    for (int i = 0; i < BLOCKS; i++) free(r->bits[i]);
}

static const char *const names[BLOCKS] = {
    [Y] = "y", [DQ] = "dq", [DK] = "dk", [DV] = "dv", [DBIAS] = "dbias"};

/* Elements, and what lies beside them, against those of ref, or of another kernel of the device: P and ds are
 * rounded to bf16 on the way, and so are results; those of heed's kernel differ from ref's too. */
static void compare_block(const struct call *c, enum block i, const uint16_t *bits, const uint16_t *other) {
    const struct tensor *t = &c->tensor[i];
    const int64_t all = all_of(t);
    double *actual = malloc((size_t)all * sizeof *actual), *expected = malloc((size_t)all * sizeof *expected);
    for (int64_t j = 0; j < all; j++) {
        actual[j] = number_of(bits[j]);
        expected[j] = other ? number_of(other[j]) : t->numbers[j];
        const bool beside = j < t->first || j >= t->first + t->elements;
        test_check(!beside || actual[j] == expected[j], "%s: beside %s, element %d", c->row->name, names[i],
                   (int)(j - t->first));
    }
    char text[200];
    const double near = other || c->row->large ? 1.0 / 64 : 1.0 / 128;
    const bool close =
        test_close(t->elements, actual + t->first, expected + t->first, (struct test_tolerance){near, near},
                   test_largest(t->elements, expected + t->first), text, sizeof text);
    ck_assert_msg(close, "%s: %s%s: %s", c->row->name, names[i], other ? " against heed's own kernel" : "",
                  text);
    free(actual);
    free(expected);
}

static void compare(const struct call *c, const struct results *r, const struct results *other) {
    for (int i = 0; i < BLOCKS; i++)
        if (is_result(c, (enum block)i))
            compare_block(c, (enum block)i, r->bits[i], other ? other->bits[i] : NULL);
}

static void compare_bits(const struct call *c, const struct results *a, const struct results *b) {
    for (int i = 0; i < BLOCKS; i++)
        ck_assert_msg(!is_result(c, (enum block)i) ||
                          memcmp(a->bits[i], b->bits[i], (size_t)all_of(&c->tensor[i]) * sizeof **a->bits) ==
                              0,
                      "%s: %s has other bits in a second run", c->row->name, names[i]);
}

/* What would run if cuDNN did not. */
static const struct heed_kernel *own_of(const struct call *c) {
    const struct heed_kernel *const *kernel = c->ctx->exec.kernel[HEED_PRIMITIVE_ATTENTION] + 1;
    struct heed_why why;
    while (!(*kernel)->applies(exec_of(c), &c->args[true], &why)) kernel++;
    ck_assert_msg(strncmp((*kernel)->name, "cuda", 4) == 0, "%s", (*kernel)->name);
    return *kernel;
}

static bool is_sliced; /* by the command line */

/* Whether a row is cut, and into how many. What biases' gradients sum cannot be. */
static bool may_run(const struct row *r, int64_t *runs) {
    const int64_t batch = r->starts[0] ? 8 : r->batch, pairs = batch * r->heads,
                  most = 4; /* 240 of 256 MiB */
    *runs = 1;
    if (!is_sliced || pairs <= most) return true;
    *runs = pairs; /* no more than that */
    return !r->bias || (r->bias[0] == 'b' && r->bias[1] == 'h' && r->heads * r->queries * r->keys % 8 == 0);
}

/* A run and what the fake noticed of it. */
static void run_cudnn(struct call *c, const struct heed_kernel *kernel, int64_t slices, struct results *r) {
    struct fake_cudnn *fake = cudnn_fake();
    const struct fake_cudnn before = fake ? *fake : (struct fake_cudnn){0};
    run_anew(c, kernel, r);
    if (!fake) return;
    ck_assert_int_ge(fake->runs, before.runs + (slices > 1 ? 4 : 2));
    ck_assert_int_le(fake->runs, before.runs + 2 * slices);
    ck_assert_int_le(fake->plans,
                     before.plans +
                         (is_sliced ? 3 : 1)); /* of a gradient that lies otherwise than expected */
}

/* Slices, which take the fake long, against ref alone. */
static void check_numbers(struct call *c, const struct heed_kernel *kernel, int64_t slices,
                          struct heed_exec *ref) {
    struct results first, again, own;
    run_cudnn(c, kernel, slices, &first);
    ck_assert_int_eq(run(c, ref, heed_ref_kernels[HEED_PRIMITIVE_ATTENTION], false), HEED_OK);
    compare(c, &first, NULL);
    if (!is_sliced) {
        run_cudnn(c, kernel, slices, &again);
        run_anew(c, own_of(c), &own);
        compare(c, &first, &own);
        compare_bits(c, &first, &again);
        free_results(&again);
        free_results(&own);
    }
    free_results(&first);
}

START_TEST(numbers) {
    const struct row *r = &rows[_i];
    struct call c;
    struct heed_why why = {NULL};
    int64_t slices;
    if (r->large && test_small()) return;
    heed_ctx *ctx = device_ctx(), *ref = test_ref();
    test_ok(ctx);
    begin(&c, r, ctx, 7);
    c.forward_only = !cudnn_has_gradient(r->bias);
    ctx->exec.recording = !c.forward_only;
    const struct heed_kernel *kernel = cudnn_of(ctx);
    const bool applies = kernel->applies(exec_of(&c), &c.args[true], &why);
    ck_assert_msg(applies == may_run(r, &slices), "%s: cuDNN %s: %s", r->name,
                  applies ? "takes it, which was not expected" : "is not used for it", why.reason);
    if (applies) check_numbers(&c, kernel, slices, &ref->exec);
    end(&c);
    heed_ctx_free(ctx);
    heed_ctx_free(ref);
    if (!cudnn_fake()) return;
    ck_assert_int_eq(cudnn_fake()->handles, 0);
    ck_assert_int_eq(cudnn_fake()->descriptors, 0);
}
END_TEST

/* ---- plans ---- */

/* A problem is planned once; more problems than there is room for are, too, and are all forgotten in the end.
 */
START_TEST(plans_are_kept) {
    heed_ctx *ctx = device_ctx();
    const struct heed_kernel *kernel = cudnn_of(ctx);
    struct heed_why why;
    struct fake_cudnn *cudnn = cudnn_fake();
    for (int round = 0; round < 2; round++) {
        const int64_t before = cudnn->plans;
        for (int i = 0; i < 40; i++) {
            struct row r = rows[0];
            struct call c;
            r.keys = 8 + i % 20; /* the last 20 are those before */
            begin(&c, &r, ctx, 3);
            ck_assert_msg(kernel->applies(exec_of(&c), &c.args[true], &why), "%s", why.reason);
            end(&c);
        }
        ck_assert_int_eq(cudnn->plans, before + (round == 0 ? 40 : 0));
    }
    const int64_t living = cudnn->descriptors;
    for (int i = 0; i < 60; i++) {
        struct row r = rows[0];
        struct call c;
        r.queries = 30 + i;
        begin(&c, &r, ctx, 3);
        ck_assert_msg(kernel->applies(exec_of(&c), &c.args[true], &why), "%s", why.reason);
        end(&c);
    }
    ck_assert_int_lt(cudnn->descriptors, 3 * living);
    heed_ctx_free(ctx);
    ck_assert_int_eq(cudnn->descriptors, 0);
}
END_TEST

/* ---- what is refused ---- */

static void check_refused(const struct call *c, const struct heed_attention_args *a, const char *part) {
    struct heed_why why = {"it applies"};
    const bool applies = cudnn_of(c->ctx)->applies(exec_of(c), a, &why);
    ck_assert_msg(!applies && strstr(why.reason, part) != NULL, "\"%s\" and not \"%s\"", why.reason, part);
}

START_TEST(refused) {
    heed_ctx *ctx = device_ctx();
    struct call c;
    begin(&c, &rows[0], ctx, 1);
    struct heed_attention_args a = c.args[true];
    cudnn_refusals[_i].change(&a);
    check_refused(&c, &a, cudnn_refusals[_i].part);
    end(&c);
    heed_ctx_free(ctx);
}
END_TEST

/* ---- failures ---- */

START_TEST(every_call_may_fail) {
    const struct row *r = &rows[20]; /* lengths, a bias, causal and dropout: all that there is */
    struct emulated_control *emulated = emulation();
    struct heed_why why;
    int64_t n = 0;
    for (bool reached = true; reached; n += test_size(1, 7)) {
        struct call c;
        heed_ctx *ctx = device_ctx();
        begin(&c, r, ctx, 5);
        ctx->exec.any_dropout = true;
        c.args[true].threshold = 60000;
        emulated->calls = 0;
        emulated->fail_at = n + 1;
        const bool applies = cudnn_of(ctx)->applies(exec_of(&c), &c.args[true], &why);
        const bool failed =
            !applies || run(&c, exec_of(&c), cudnn_of(ctx), true) != HEED_OK || heed_failed(ctx);
        reached = emulated->calls > n;
        emulated->fail_at = 0;
        ck_assert_msg(failed == reached, "call %d: %s", (int)n, heed_error(ctx));
        ck_assert_msg(applies == heed_failed(ctx) || !reached, "call %d: %s", (int)n, heed_error(ctx));
        heed_error_clear(ctx);
        /* What failed for once works afterwards, unless cuDNN did not start. */
        if (!applies && strcmp(why.reason, "cuDNN cannot be started on this device") != 0)
            ck_assert_msg(cudnn_of(ctx)->applies(exec_of(&c), &c.args[true], &why), "call %d: %s", (int)n,
                          why.reason);
        end(&c);
        heed_ctx_free(ctx);
        ck_assert_int_eq(cudnn_fake()->descriptors, 0);
        ck_assert_int_eq(cudnn_fake()->handles, 0);
    }
    ck_assert_int_gt(n, 500);
}
END_TEST

static void explains(const heed_ctx *ctx, const char *part) {
    char text[4000];
    heed_explain(ctx, text, sizeof text);
    ck_assert_msg(strstr(text, part) != NULL, "\"%s\" is not in\n%s", part, text);
}

START_TEST(described) {
    heed_ctx *ctx = device_ctx();
    explains(ctx, ", cuDNN 9.");
    heed_ctx_free(ctx);
}
END_TEST

/* The reason that the command line has: of a problem, or that the library cannot be used. */
#define NO_PLAN "cuDNN has no plan for it"
static const char *expected_reason;

START_TEST(refused_for_the_reason) {
    heed_ctx *ctx = device_ctx();
    struct call c;
    test_ok(ctx);
    begin(&c, &rows[0], ctx, 1);
    check_refused(&c, &c.args[true], expected_reason);
    check_refused(&c, &c.args[true], expected_reason); /* again, from the table */
    end(&c);
    if (strcmp(expected_reason, NO_PLAN) == 0) {
        explains(ctx, ", cuDNN 9.");
    } else {
        char missing[200];
        snprintf(missing, sizeof missing, ", no cuDNN (%s)\n", expected_reason);
        explains(ctx, missing);
    }
    heed_ctx_free(ctx);
}
END_TEST

int main(int arguments, char **argument) {
    is_sliced = arguments > 1 && strcmp(argument[1], "sliced") == 0;
    expected_reason = arguments > 1 && !is_sliced ? argument[1] : NULL;
    const int status = expected_reason ? 0 : cudnn_begin();
    if (status) return status;
    Suite *suite = suite_create("cuda_cudnn");
    TCase *tcase = test_case(suite, "attention");
    if (expected_reason) {
        tcase_add_test(tcase, refused_for_the_reason);
        return test_main(suite);
    }
    tcase_add_loop_test(tcase, numbers, 0, ROWS);
    if (is_sliced) return test_main(suite);
    tcase_add_loop_test(tcase, refused, 0, CUDNN_REFUSALS);
    tcase_add_test(tcase, described);
    if (cudnn_fake()) {
        tcase_add_test(tcase, plans_are_kept);
        tcase_add_test(tcase, every_call_may_fail);
    }
    return test_main(suite);
}
