/* The reference kernels through their own interface: every backward against central differences, over random
 * strides, repeats and zero sizes; and what their comments promise of infinities and NaN. */
#include "harness_kernels.h"

#include <math.h>

#include "backend/masks.h"
#include "tensor/internal.h"

#define SIZES(...)                                                                                           \
    (int64_t[]) {                                                                                            \
        __VA_ARGS__                                                                                          \
    }

/* ---- one element at a time ---- */

static void build_unary(struct kernel_call *c, int variant) {
    struct heed_unary_args *a = &c->args.unary;
    c->primitive = HEED_PRIMITIVE_UNARY;
    a->op = (enum heed_unary)(variant % HEED_UNARIES);
    bool kinked = a->op == HEED_UNARY_RELU;
    bool positive = a->op == HEED_UNARY_LOG || a->op == HEED_UNARY_SQRT || a->op == HEED_UNARY_POW_SCALAR;
    a->c = a->op == HEED_UNARY_POW_SCALAR && variant >= HEED_UNARIES ? -1.5 : 2.5;
    const int64_t *size = variant < HEED_UNARIES ? SIZES(3, 2, 4)
                          : positive             ? SIZES(1, 3, 1)
                                                 : SIZES(2, 0, 3);
    kernel_input(c, &a->x, &a->dx,
                 positive ? KERNEL_POSITIVE
                 : kinked ? KERNEL_AWAY
                          : KERNEL_NORMAL,
                 KERNEL_SCATTERED, variant & 2, 3, size);
    kernel_output(c, &a->y, KERNEL_SCATTERED, &a->dy, KERNEL_SCATTERED, 0, 3, size);
    if (!(heed_unary_needs(a->op) & HEED_NEEDS_X)) kernel_hide(c, &a->x);
    if (!(heed_unary_needs(a->op) & HEED_NEEDS_Y)) kernel_hide(c, &a->y);
}

/* Repeats of a and b: none, scalars, one dimension each. */
static const unsigned pair_repeats[][2] = {{0, 0}, {7, 0}, {0, 5}, {1, 6}, {2, 2}, {7, 7}};

static void build_binary(struct kernel_call *c, int variant) {
    struct heed_binary_args *a = &c->args.binary;
    const unsigned *repeats = pair_repeats[variant % 6];
    c->primitive = HEED_PRIMITIVE_BINARY;
    a->op = (enum heed_binary)(variant / 6 % HEED_BINARY_EQUAL);
    enum kernel_fill fill =
        a->op == HEED_BINARY_DIV || a->op == HEED_BINARY_POW ? KERNEL_POSITIVE : KERNEL_NORMAL;
    const int64_t *size = variant / 6 < HEED_BINARY_EQUAL ? SIZES(2, 3, 4) : SIZES(2, 0, 3);
    kernel_input(c, &a->a, &a->da, fill, KERNEL_SCATTERED, repeats[0], 3, size);
    kernel_input(c, &a->b, &a->db, fill, KERNEL_SCATTERED, repeats[1], 3, size);
    kernel_output(c, &a->y, KERNEL_DENSE, &a->dy, KERNEL_SCATTERED, 0, 3, size);
    kernel_hide(c, &a->y);
    if (a->op == HEED_BINARY_ADD || a->op == HEED_BINARY_SUB) {
        kernel_hide(c, &a->a);
        kernel_hide(c, &a->b);
    }
}

static void build_where(struct kernel_call *c, int variant) {
    struct heed_where_args *a = &c->args.where;
    const unsigned *repeats = pair_repeats[variant % 6];
    const int64_t *size = variant < 6 ? SIZES(2, 3, 4) : SIZES(0, 3, 4);
    c->primitive = HEED_PRIMITIVE_WHERE;
    a->condition = kernel_view(c, HEED_BOOL, KERNEL_SCATTERED, variant & 3, 3, size);
    kernel_fill_view(c, &a->condition, KERNEL_NORMAL);
    if (variant < 6) ((uint8_t *)a->condition.data)[0] = 0;
    kernel_input(c, &a->a, &a->da, KERNEL_NORMAL, KERNEL_SCATTERED, repeats[0], 3, size);
    kernel_input(c, &a->b, &a->db, KERNEL_NORMAL, KERNEL_SCATTERED, repeats[1], 3, size);
    kernel_output(c, &a->y, KERNEL_DENSE, &a->dy, KERNEL_SCATTERED, 0, 3, size);
    kernel_hide(c, &a->a);
    kernel_hide(c, &a->b);
    kernel_hide(c, &a->y);
}

static void build_dropout(struct kernel_call *c, int variant) {
    struct heed_dropout_args *a = &c->args.dropout;
    c->primitive = HEED_PRIMITIVE_DROPOUT;
    a->threshold = heed_keep_threshold(variant == 1 ? 0 : 0.4);
    a->random = (struct heed_random){.seed = 7, .stream = HEED_STREAM_TRAIN, .step = 3, .ordinal = 2};
    const int64_t *size = variant == 2 ? SIZES(0, 4) : SIZES(9, 3);
    kernel_input(c, &a->x, &a->dx, KERNEL_NORMAL, KERNEL_DENSE, 0, 2, size);
    kernel_output(c, &a->y, KERNEL_DENSE, &a->dy, KERNEL_DENSE, 0, 2, size);
    kernel_hide(c, &a->x);
    kernel_hide(c, &a->y);
}

/* ---- reductions and rows ---- */

static void build_reduce(struct kernel_call *c, int variant) {
    struct heed_reduce_args *a = &c->args.reduce;
    static const unsigned dims[] = {0, 1, 2, 4, 5, 7};
    unsigned reduced = dims[variant % 6];
    bool empty = variant >= 18; /* of sums only: nothing is reduced, or nothing is made */
    const int64_t *size = !empty ? SIZES(2, 3, 4) : variant & 1 ? SIZES(2, 0, 3) : SIZES(0, 2, 1);
    c->primitive = HEED_PRIMITIVE_REDUCE;
    a->op = (enum heed_reduce)(variant / 6 % 3);
    a->reduced = 1;
    for (int d = 0; d < 3; d++) a->reduced *= reduced >> d & 1 ? size[d] : 1;
    kernel_input(c, &a->x, &a->dx, KERNEL_DISTINCT, KERNEL_SCATTERED, 0, 3, size);
    kernel_output(c, &a->y, KERNEL_DENSE, &a->dy, KERNEL_DENSE, reduced, 3, size);
    if (a->op != HEED_REDUCE_OP_MAX) {
        kernel_hide(c, &a->x);
        kernel_hide(c, &a->y);
    }
}

static const int64_t *row_sizes(int variant) {
    static const int64_t sizes[][2] = {{3, 5}, {2, 1}, {0, 4}, {3, 0}};
    return sizes[variant % 4];
}

static void build_softmax(struct kernel_call *c, int variant) {
    struct heed_softmax_args *a = &c->args.softmax;
    c->primitive = HEED_PRIMITIVE_SOFTMAX;
    a->log = variant >= 4;
    kernel_input(c, &a->x, &a->dx, KERNEL_NORMAL, KERNEL_DENSE, 0, 2, row_sizes(variant));
    kernel_output(c, &a->y, KERNEL_DENSE, &a->dy, KERNEL_DENSE, 0, 2, row_sizes(variant));
    kernel_hide(c, &a->x);
}

static void build_norm(struct kernel_call *c, int variant) {
    struct heed_norm_args *a = &c->args.norm;
    static const int64_t strided[][4] = {{2, 3, 2, 5}, {1, 4, 1, 1}, {2, 0, 3, 4}, {3, 2, 1, 0}};
    const bool lines = variant & 16;
    const int64_t *size = row_sizes(variant), *line = strided[variant % 4];
    const int64_t rows[2] = {line[0] * line[1] * line[2], line[3]};
    c->primitive = HEED_PRIMITIVE_NORM;
    a->rms = variant & 4;
    a->eps = 1e-2;
    if (lines) size = rows;
    if (lines)
        kernel_input(c, &a->x, &a->dx, KERNEL_NORMAL, KERNEL_LINES, 0, 4, line);
    else
        kernel_input(c, &a->x, &a->dx, KERNEL_NORMAL, KERNEL_DENSE, 0, 2, size);
    if (variant & 8) kernel_input(c, &a->weight, &a->dweight, KERNEL_NORMAL, KERNEL_DENSE, 0, 1, size + 1);
    if (variant & 8 && !a->rms)
        kernel_input(c, &a->bias, &a->dbias, KERNEL_NORMAL, KERNEL_DENSE, 0, 1, size + 1);
    kernel_output(c, &a->y, KERNEL_DENSE, &a->dy, KERNEL_DENSE, 0, 2, size);
    kernel_hide(c, &a->y);
    kernel_hide(c, &a->bias);
}

/* Gradients arrive at both results, or at one of them. */
static void build_residual_norm(struct kernel_call *c, int variant) {
    struct heed_residual_norm_args *a = &c->args.residual_norm;
    const int64_t *size = row_sizes(variant);
    c->primitive = HEED_PRIMITIVE_RESIDUAL_NORM;
    a->rms = variant & 4;
    a->eps = 1e-2;
    a->threshold = heed_keep_threshold(variant & 8 ? 0.4 : 0);
    a->random = (struct heed_random){9, HEED_STREAM_TRAIN, 3, (uint32_t)variant};
    kernel_input(c, &a->x, &a->dx, KERNEL_NORMAL, KERNEL_DENSE, 0, 2, size);
    kernel_input(c, &a->branch, &a->dbranch, KERNEL_NORMAL, KERNEL_DENSE, 0, 2, size);
    kernel_output(c, &a->sum, KERNEL_DENSE, &a->dsum, KERNEL_DENSE, 0, 2, size);
    kernel_output(c, &a->y, KERNEL_DENSE, &a->dy, KERNEL_DENSE, 0, 2, size);
    kernel_hide(c, &a->x);
    kernel_hide(c, &a->branch);
    kernel_hide(c, &a->y);
    kernel_hide(c, &a->bias);
    if (variant / 16 == 1) a->dsum.data = NULL;
    if (variant / 16 == 2) {
        a->dy.data = NULL;
        return;
    }
    kernel_input(c, &a->weight, &a->dweight, KERNEL_NORMAL, KERNEL_DENSE, 0, 1, size + 1);
    if (variant & 1) kernel_input(c, &a->bias, &a->dbias, KERNEL_NORMAL, KERNEL_DENSE, 0, 1, size + 1);
}

/* Positions by place, by row, and by batch and row; pairs of both kinds; all or a part of the width turned.
 */
static void build_rotary(struct kernel_call *c, int variant) {
    struct heed_rotary_args *a = &c->args.rotary;
    const int64_t *size = variant < 12 ? SIZES(2, 3, 4, 6) : SIZES(2, 0, 3, 2);
    c->primitive = HEED_PRIMITIVE_ROTARY;
    a->half = variant & 1;
    a->base = 50;
    a->rotated = variant & 2 ? size[3] : 2;
    a->offset = variant - 5;
    kernel_input(c, &a->x, &a->dx, KERNEL_NORMAL, KERNEL_LINES, 0, 4, size);
    kernel_output(c, &a->y, KERNEL_LINES, &a->dy, KERNEL_LINES, 0, 4, size);
    if (variant / 4 % 3 > 0) {
        const bool by_batch = variant / 4 % 3 == 2;
        a->positions = kernel_view(c, HEED_I32, KERNEL_DENSE, 0, 2, SIZES(by_batch ? size[0] : 1, size[2]));
        kernel_fill_view(c, &a->positions, KERNEL_POSITIVE);
        a->positions = (struct heed_view){.data = a->positions.data,
                                          .dtype = HEED_I32,
                                          .rank = 3,
                                          .size = {size[0], size[1], size[2]},
                                          .stride = {by_batch ? size[2] : 0, 0, 1}};
    }
    kernel_hide(c, &a->x);
    kernel_hide(c, &a->y);
}

/* ---- products ---- */

static void build_matmul(struct kernel_call *c, int variant) {
    struct heed_matmul_args *a = &c->args.matmul;
    static const int64_t mkn[][3] = {{2, 3, 4}, {1, 5, 1}, {3, 0, 2}, {0, 2, 3}, {2, 3, 0}, {3, 1, 2}};
    const int64_t *m = mkn[variant % 6];
    const unsigned *repeats = (const unsigned[][2]){{0, 0}, {1, 2}, {3, 0}, {0, 3}}[variant / 6 % 4];
    int64_t batch = variant == 24 ? 0 : 2;
    c->primitive = HEED_PRIMITIVE_MATMUL;
    kernel_input(c, &a->a, &a->da, KERNEL_NORMAL, KERNEL_SCATTERED, repeats[0], 4,
                 SIZES(batch, 3, m[0], m[1]));
    kernel_input(c, &a->b, &a->db, KERNEL_NORMAL, KERNEL_SCATTERED, repeats[1], 4,
                 SIZES(batch, 3, m[1], m[2]));
    kernel_output(c, &a->y, KERNEL_DENSE, &a->dy, KERNEL_SCATTERED, 0, 4, SIZES(batch, 3, m[0], m[2]));
    kernel_hide(c, &a->y);
}

static void build_linear(struct kernel_call *c, int variant) {
    struct heed_linear_args *a = &c->args.linear;
    static const int64_t sizes[][3] = {{3, 4, 2}, {1, 1, 5}, {0, 3, 2}, {2, 0, 3}, {2, 3, 0}};
    const int64_t *s = sizes[variant / 7 % 5]; /* rows, in, out */
    c->primitive = HEED_PRIMITIVE_LINEAR;
    a->activation = (heed_activation)(variant % 7);
    kernel_input(c, &a->x, &a->dx, KERNEL_AWAY, KERNEL_ROWS, 0, 2, SIZES(s[0], s[1]));
    kernel_input(c, &a->w, &a->dw, KERNEL_AWAY, KERNEL_ROWS, 0, 2, SIZES(s[2], s[1]));
    if (variant & 1) kernel_input(c, &a->bias, &a->dbias, KERNEL_AWAY, KERNEL_DENSE, 0, 1, SIZES(s[2]));
    kernel_output(c, &a->y, KERNEL_ROWS, &a->dy, KERNEL_ROWS, 0, 2, SIZES(s[0], s[2]));
    kernel_hide(c, &a->y);
}

static void build_gather(struct kernel_call *c, int variant) {
    struct heed_gather_args *a = &c->args.gather;
    c->primitive = HEED_PRIMITIVE_GATHER;
    a->dim = variant % 3;
    const int64_t *size = variant < 6 ? SIZES(2, 3, 2) : SIZES(0, 2, 2);
    unsigned repeats = variant < 3 ? 0 : 7u & ~(1u << a->dim); /* from 3 on one index for whole slices */
    kernel_input(c, &a->x, &a->dx, KERNEL_NORMAL, KERNEL_SCATTERED, variant & 1, 3, SIZES(3, 4, 3));
    a->index = kernel_view(c, HEED_I32, KERNEL_SCATTERED, repeats, 3, size);
    kernel_fill_view(c, &a->index, KERNEL_POSITIVE); /* 0 … 2 */
    kernel_output(c, &a->y, KERNEL_DENSE, &a->dy, KERNEL_DENSE, 0, 3, size);
    kernel_hide(c, &a->x);
    kernel_hide(c, &a->y);
}

/* ---- losses ---- */

static void build_cross_entropy(struct kernel_call *c, int variant) {
    struct heed_cross_entropy_args *a = &c->args.cross_entropy;
    c->primitive = HEED_PRIMITIVE_CROSS_ENTROPY;
    a->reduction = variant & 1 ? HEED_REDUCE_SUM : HEED_REDUCE_MEAN;
    a->smoothing = variant & 2 ? 0.1 : 0;
    a->ignore_index = variant & 4 ? 1 : -100;
    int64_t rows = variant & 8 ? 0 : 4;
    kernel_input(c, &a->x, &a->dx, KERNEL_NORMAL, KERNEL_DENSE, 0, 2, SIZES(rows, 3));
    a->target = kernel_view(c, HEED_I32, KERNEL_DENSE, 0, 1, SIZES(rows));
    kernel_fill_view(c, &a->target, KERNEL_POSITIVE);
    if (rows) ((int32_t *)a->target.data)[0] = a->ignore_index;
    kernel_output(c, &a->y, KERNEL_DENSE, &a->dy, KERNEL_DENSE, 0, 0, NULL);
    kernel_hide(c, &a->y);
}

static void build_pair_loss(struct kernel_call *c, int variant) {
    struct heed_pair_loss_args *a = &c->args.pair_loss;
    const int64_t *size = variant & 4 ? SIZES(3, 0) : SIZES(3, 2);
    c->primitive = HEED_PRIMITIVE_PAIR_LOSS;
    a->bce = variant & 1;
    a->reduction = variant & 2 ? HEED_REDUCE_SUM : HEED_REDUCE_MEAN;
    kernel_input(c, &a->x, &a->dx, KERNEL_AWAY, KERNEL_DENSE, 0, 2, size);
    kernel_input(c, &a->t, &a->dt, KERNEL_POSITIVE, KERNEL_DENSE, 0, 2, size);
    kernel_output(c, &a->y, KERNEL_DENSE, &a->dy, KERNEL_DENSE, 0, 0, NULL);
    kernel_hide(c, &a->y);
}

/* ---- attention ---- */

enum {
    ONE_BIAS = 1,
    TWO_BIASES = 2,
    DROPOUT = 4,
    CAUSAL = 8,
    LENGTHS = 16,
    DENSE = 32,
    WEIGHTS = 64,
    ONLY_WEIGHTS = 128
};
enum { NO_KEYS = 256, NO_QUERIES = 512, NO_WIDTH = 1024, NO_BATCH = 2048 };

static const int attention_variants[] = {0,
                                         ONE_BIAS,
                                         TWO_BIASES,
                                         DROPOUT,
                                         CAUSAL,
                                         LENGTHS,
                                         DENSE,
                                         WEIGHTS,
                                         WEIGHTS | ONLY_WEIGHTS,
                                         CAUSAL | LENGTHS,
                                         DENSE | CAUSAL | WEIGHTS | DROPOUT | TWO_BIASES,
                                         LENGTHS | ONE_BIAS | DROPOUT | WEIGHTS,
                                         NO_KEYS | ONE_BIAS | WEIGHTS,
                                         NO_QUERIES | TWO_BIASES,
                                         NO_WIDTH | WEIGHTS,
                                         NO_BATCH | ONE_BIAS,
                                         DROPOUT | WEIGHTS | ONLY_WEIGHTS | LENGTHS};

/* Joins a mask to what there is. */
static void join_mask(struct kernel_call *c, struct heed_bound_mask mask) {
    struct heed_attention_args *a = &c->args.attention;
    c->mask[a->mask ? 1 : 0] = mask;
    if (a->mask)
        c->mask[2] =
            (struct heed_bound_mask){.kind = &heed_mask_kind_and, .a = &c->mask[0], .b = &c->mask[1]};
    a->mask = a->mask ? &c->mask[2] : &c->mask[0];
}

static void build_masks(struct kernel_call *c, int flags) {
    struct heed_attention_args *a = &c->args.attention;
    int64_t batch = a->q.size[0], heads = a->q.size[1], queries = a->q.size[2], keys = a->k.size[2];
    if (flags & CAUSAL)
        join_mask(c, (struct heed_bound_mask){.kind = &heed_mask_kind_causal, .number = {-HEED_MASK_FAR, 1}});
    if (flags & LENGTHS) {
        struct heed_view lengths = kernel_view(c, HEED_I32, KERNEL_SCATTERED, 0, 1, SIZES(batch));
        heed_ref_kernels[HEED_PRIMITIVE_FILL]->forward(
            NULL, &(struct heed_fill_args){.y = lengths, .arange = true}, NULL, NULL);
        join_mask(c, (struct heed_bound_mask){.kind = &heed_mask_kind_key_lengths, .tensor = {lengths}});
    }
    if (flags & DENSE) {
        struct heed_view allowed =
            kernel_view(c, HEED_BOOL, KERNEL_SCATTERED, 1, 4, SIZES(batch, heads, queries, keys));
        kernel_fill_view(c, &allowed, KERNEL_NORMAL);
        ((uint8_t *)allowed.data)[0] = 0;
        join_mask(c, (struct heed_bound_mask){.kind = &heed_mask_kind_dense, .tensor = {allowed}});
    }
}

static void build_attention(struct kernel_call *c, int flags) {
    struct heed_attention_args *a = &c->args.attention;
    int64_t batch = flags & NO_BATCH ? 0 : 2, heads = 4, kv_heads = 2, queries = flags & NO_QUERIES ? 0 : 3;
    int64_t keys = flags & NO_KEYS ? 0 : 4, width = flags & NO_WIDTH ? 0 : 3, value_width = 2;
    const int64_t *cells = SIZES(batch, heads, queries, keys);
    c->primitive = HEED_PRIMITIVE_ATTENTION;
    a->scale = 0.6;
    a->threshold = heed_keep_threshold(flags & DROPOUT ? 0.3 : 0);
    a->random = (struct heed_random){.seed = 5, .stream = HEED_STREAM_TRAIN, .step = 1, .ordinal = 4};
    kernel_input(c, &a->q, &a->dq, KERNEL_NORMAL, KERNEL_LINES, 0, 4, SIZES(batch, heads, queries, width));
    kernel_input(c, &a->k, &a->dk, KERNEL_NORMAL, KERNEL_LINES, 0, 4, SIZES(batch, kv_heads, keys, width));
    kernel_input(c, &a->v, &a->dv, KERNEL_NORMAL, KERNEL_LINES, 0, 4,
                 SIZES(batch, kv_heads, keys, value_width));
    a->stages = flags & TWO_BIASES ? 2 : flags & ONE_BIAS;
    for (int i = 0; i < a->stages; i++) {
        a->stage[i].kind = HEED_STAGE_BIAS;
        kernel_input(c, &a->stage[i].tensor, &a->stage[i].dtensor, KERNEL_NORMAL, KERNEL_SCATTERED, i ? 9 : 4,
                     4, cells);
    }
    build_masks(c, flags);
    kernel_output(c, &a->y, KERNEL_LINES, &a->dy, KERNEL_LINES, 0, 4,
                  SIZES(batch, heads, queries, value_width));
    if (flags & ONLY_WEIGHTS) a->dy.data = NULL;
    if (flags & WEIGHTS) kernel_output(c, &a->weights, KERNEL_DENSE, &a->dweights, KERNEL_LINES, 0, 4, cells);
    kernel_hide(c, &a->weights);
}

/* ---- the table ---- */

static const struct {
    const char *name;
    kernel_build *build;
    int variants;
} builds[] = {{"unary", build_unary, 2 * HEED_UNARIES},
              {"binary", build_binary, 36},
              {"where", build_where, 12},
              {"dropout", build_dropout, 3},
              {"reduce", build_reduce, 18},
              {"softmax", build_softmax, 8},
              {"norm", build_norm, 32},
              {"residual_norm", build_residual_norm, 48},
              {"rotary", build_rotary, 16},
              {"matmul", build_matmul, 25},
              {"linear", build_linear, 35},
              {"gather", build_gather, 9},
              {"cross_entropy", build_cross_entropy, 16},
              {"pair_loss", build_pair_loss, 8}};

START_TEST(gradients) {
    heed_ctx *ctx = test_ref();
    for (int v = 0; v < builds[_i].variants; v++)
        kernel_check(&ctx->exec, builds[_i].name, builds[_i].build, v);
    test_ok(ctx);
    heed_ctx_free(ctx);
}
END_TEST

START_TEST(attention_gradients) {
    heed_ctx *ctx = test_ref();
    kernel_check(&ctx->exec, "attention", build_attention, attention_variants[_i]);
    test_ok(ctx);
    heed_ctx_free(ctx);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("ref_kernels");
    TCase *tc = test_case(suite, "gradients");
    tcase_add_loop_test(tc, gradients, 0, sizeof builds / sizeof builds[0]);
    tcase_add_loop_test(tc, attention_gradients, 0, sizeof attention_variants / sizeof attention_variants[0]);
    return test_main(suite);
}
