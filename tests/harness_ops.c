#include "harness_ops.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* What one run of a row leaves, as double. */
struct result {
    int outputs;
    double *output[OP_OUTPUTS];
    int64_t count[OP_OUTPUTS];
    double *grad[OP_INPUTS];  /* of the leaf below each input; NULL where none was asked for */
    double *twice[OP_INPUTS]; /* the same after it was added to once more; likewise */
    int64_t grad_count[OP_INPUTS];
    bool refused; /* then there is nothing else */
};

struct tolerances {
    struct test_tolerance forward, backward;
};

/* Forward and backward, in f32 and f64. */
static const struct tolerances tolerances[OP_KINDS][2] = {
    [OP_EXACT] = {{{0, 0}, {0, 2e-6}}, {{0, 0}, {0, 1e-14}}},
    [OP_ELEMENTWISE] = {{{1e-6, 2e-7}, {2e-6, 2e-6}}, {{1e-13, 1e-15}, {1e-13, 1e-14}}},
    [OP_REDUCE] = {{{2e-6, 2e-6}, {2e-6, 2e-6}}, {{1e-13, 1e-14}, {1e-13, 1e-14}}},
    [OP_ROWS] = {{{4e-6, 1e-6}, {4e-6, 8e-6}}, {{1e-13, 1e-14}, {1e-13, 1e-13}}},
    [OP_PRODUCT] = {{{4e-6, 4e-6}, {4e-6, 4e-6}}, {{1e-13, 1e-13}, {1e-13, 1e-13}}},
    [OP_ATTENTION] = {{{4e-6, 4e-6}, {1e-5, 1e-5}}, {{1e-12, 1e-13}, {1e-12, 1e-12}}},
};

/* In bf16 both sides round numbers that differ by the tolerance of f32, once: to neighbours at most, which
 * are 2⁻⁷ apart. Gradients are sums that cancel, of what was rounded before, so that their errors are
 * relative to the largest number of the run; those of attention have its rounded output in each term. */
static struct tolerances tolerances_of(const struct op_case *row, heed_dtype dtype) {
    if (dtype != HEED_BF16) return tolerances[row->kind][dtype == HEED_F64];
    return (struct tolerances){{0x1p-7, 1e-5}, {0x1p-7, row->kind == OP_ATTENTION ? 0x1p-6 : 0x1p-8}};
}

static const struct test_tolerance difference_tolerance = {2e-6, 2e-6};

/* ---- inputs ---- */

static heed_dtype input_dtype(const struct op_input *input, heed_dtype row_dtype) {
    if (input->other_dtype) return input->dtype;
    if (input->fill == OP_INDEX) return HEED_I32;
    if (input->fill == OP_MASK || input->fill == OP_FALSE) return HEED_BOOL;
    return row_dtype;
}

/* The sizes of the leaf that the layout looks into. */
static int leaf_sizes(const struct op_input *input, int64_t size[HEED_MAX_RANK]) {
    int rank = input->rank;
    memcpy(size, input->size, sizeof input->size);
    switch (input->layout) {
    case OP_DENSE:
        break;
    case OP_TRANSPOSED:
        size[rank - 1] = input->size[rank - 2];
        size[rank - 2] = input->size[rank - 1];
        break;
    case OP_SLICED:
        for (int i = 0; i < rank; i++) size[i] = 2 * size[i] + 1;
        break;
    case OP_REPEATED:
        size[0] = 1;
        break;
    case OP_OUTER:
        for (int i = 0; i + 1 < rank; i++) size[i] = input->size[i + 1];
        size[rank - 1] = input->size[0];
        break;
    }
    return rank;
}

static int64_t leaf_count(const struct op_input *input) {
    int64_t size[HEED_MAX_RANK], count = 1;
    int rank = leaf_sizes(input, size);
    for (int i = 0; i < rank; i++) count *= size[i];
    return count;
}

static heed_tensor lay_out(const struct op_input *input, heed_tensor leaf) {
    int rank = input->rank, dims[HEED_MAX_RANK];
    switch (input->layout) {
    case OP_DENSE:
        break;
    case OP_TRANSPOSED:
        return heed_transpose(leaf, -1, -2);
    case OP_SLICED:
        for (int i = 0; i < rank; i++) leaf = heed_slice(leaf, i, 1, 2 * input->size[i] + 1, 2);
        break;
    case OP_REPEATED:
        return heed_broadcast(leaf, rank, input->size);
    case OP_OUTER:
        for (int i = 0; i < rank; i++) dims[i] = i == 0 ? rank - 1 : i - 1;
        return heed_permute(leaf, rank, dims);
    }
    return leaf;
}

static double fill_value(const struct op_input *input, int64_t i, int64_t count, struct test_random *random) {
    static const double extremes[] = {0,     -0.0,  1e-40, -1e-45, 1e-38,     3e38,      -3e38,
                                      1e30,  -1e30, 88.8,  -104.5, INFINITY,  -INFINITY, NAN,
                                      -87.4, 1,     -1,    16.5,   -1.000001, 0.5};
    const int64_t kinds = (int64_t)(sizeof extremes / sizeof extremes[0]);
    double u = test_uniform(random), n = test_normal(random);
    switch (input->fill) {
    case OP_NONE:
    case OP_FALSE:
        return 0;
    case OP_NORMAL:
        return n;
    case OP_WEIGHT:
        return n / sqrt((double)input->size[input->rank - 1]);
    case OP_POSITIVE:
        return 0.3 + 2 * u;
    case OP_UNIT:
        return u;
    case OP_AWAY:
        return n < 0 ? -0.2 - 2 * u : 0.2 + 2 * u;
    case OP_DISTINCT: /* multiples of a number coprime to count visit every residue once */
        return 0.02 * (double)((i * 7919 + 3) % (count ? count : 1)) - 1 + 0.005 * u;
    case OP_TIES:
        return floor(3 * u);
    case OP_EXTREME:
        return i % 3 == 2 ? n : extremes[(i / 3 * 2 + i % 3) % kinds];
    case OP_LARGE:
        return 180 * u - 90;
    case OP_INFINITE:
        return u < 0.3 ? -INFINITY : n;
    case OP_INDEX:
        return floor(u * input->limit);
    case OP_MASK:
        return u < 0.625;
    case OP_VALUE:
        return input->limit;
    }
    return 0;
}

/* The numbers of a row's leaves, rounded to f32 so that both dtypes start from the same. */
static void make_data(const struct op_case *row, double *data[OP_INPUTS]) {
    for (int k = 0; k < OP_INPUTS; k++) {
        data[k] = NULL;
        if (row->in[k].fill == OP_NONE) continue;
        struct test_random random = {(uint64_t)k * 1000 + 17};
        int64_t count = leaf_count(&row->in[k]);
        data[k] = malloc((size_t)(count + 1) * sizeof(double));
        for (int64_t i = 0; i < count; i++) data[k][i] = (float)fill_value(&row->in[k], i, count, &random);
    }
}

static void free_data(double *data[OP_INPUTS]) {
    for (int k = 0; k < OP_INPUTS; k++) free(data[k]);
}

static heed_tensor make_leaf(heed_ctx *ctx, const struct op_input *input, heed_dtype dtype,
                             const double *data) {
    int64_t size[HEED_MAX_RANK];
    int rank = leaf_sizes(input, size);
    int64_t count = leaf_count(input);
    void *raw = malloc((size_t)(count + 1) * sizeof(double));
    for (int64_t i = 0; i < count; i++) {
        switch (dtype) {
        case HEED_F32:
            ((float *)raw)[i] = (float)data[i];
            break;
        case HEED_F64:
            ((double *)raw)[i] = data[i];
            break;
        case HEED_BF16:
            ((uint16_t *)raw)[i] = test_bf16(data[i]);
            break;
        case HEED_I32:
            ((int32_t *)raw)[i] = (int32_t)data[i];
            break;
        default:
            ((uint8_t *)raw)[i] = data[i] != 0;
            break;
        }
    }
    heed_tensor leaf = heed_from(ctx, dtype, rank, size, raw);
    free(raw);
    return leaf;
}

static bool is_float(heed_dtype dtype) {
    return dtype == HEED_F32 || dtype == HEED_F64 || dtype == HEED_BF16;
}

/* ---- one run ---- */

enum run { RUN_FORWARD, RUN_BACKWARD, RUN_TWICE /* backward again, which adds to the gradients */ };

/* The gradient that is sent into output o: fixed numbers. */
static heed_tensor cotangent(heed_ctx *ctx, heed_tensor output, int o) {
    int64_t size[HEED_MAX_RANK];
    int rank = heed_rank(output);
    for (int i = 0; i < rank; i++) size[i] = heed_size(output, i);
    return test_tensor(ctx, heed_dtype_of(output), 900 + (uint64_t)o, rank, size);
}

/* One output gets its gradient directly; several are summed into one number, so that all gradients arrive
 * together. Returns what to go back from. */
static heed_tensor join(heed_ctx *ctx, const struct op_case *row, const heed_tensor *out,
                        heed_backward_options *options) {
    if (row->outputs <= 1) {
        options->gradient = cotangent(ctx, out[0], 0);
        return out[0];
    }
    heed_tensor sum = {0};
    for (int o = 0; o < row->outputs; o++) {
        heed_tensor part = heed_sum(heed_mul(out[o], cotangent(ctx, out[o], o)), HEED_ALL, false);
        if (heed_dtype_of(part) == HEED_BF16) part = heed_cast(part, HEED_F32); /* others may be f32 */
        sum = o == 0 ? part : heed_add(sum, part);
    }
    return sum;
}

static void take_gradients(const struct op_case *row, const heed_tensor *leaf, double **grad,
                           int64_t *count) {
    for (int k = 0; k < OP_INPUTS; k++) {
        if (!heed_requires_grad(leaf[k])) continue;
        heed_tensor from = heed_grad(leaf[k]);
        ck_assert_msg(heed_is_valid(from), "%s: input %d got no gradient", row->name, k);
        grad[k] = test_values(from, &count[k]);
    }
}

static void backward(heed_ctx *ctx, const struct op_case *row, const heed_tensor *leaf,
                     const heed_tensor *out, bool twice, struct result *result) {
    heed_backward_options options = {.retain = twice};
    const heed_tensor from = join(ctx, row, out, &options);
    heed_backward_with(from, &options);
    ck_assert_msg(!heed_failed(ctx), "%s, backward: %s", row->name, heed_error(ctx));
    take_gradients(row, leaf, result->grad, result->grad_count);
    if (!twice) return;
    options.retain = false;
    heed_backward_with(from, &options);
    ck_assert_msg(!heed_failed(ctx), "%s, backward again: %s", row->name, heed_error(ctx));
    take_gradients(row, leaf, result->twice, result->grad_count);
}

static struct result run(heed_ctx *ctx, const struct op_case *row, heed_dtype dtype, double *const *data,
                         enum run what) {
    heed_random_state start = {.seed = 11};
    heed_random_set(ctx, &start);
    heed_step_begin(ctx, (what != RUN_FORWARD ? HEED_RECORD : 0) | (row->random ? HEED_RANDOM : 0));
    heed_tensor leaf[OP_INPUTS] = {{0}}, in[OP_INPUTS] = {{0}}, out[OP_OUTPUTS] = {{0}};
    for (int k = 0; k < OP_INPUTS; k++) {
        const struct op_input *input = &row->in[k];
        if (input->fill == OP_NONE) continue;
        leaf[k] = make_leaf(ctx, input, input_dtype(input, dtype), data[k]);
        bool wanted = what != RUN_FORWARD && is_float(input_dtype(input, dtype)) && !input->constant;
        if (wanted) heed_require_grad(leaf[k], true);
        in[k] = lay_out(input, leaf[k]);
    }
    test_ok(ctx);
    row->call(row, in, out);
    if (test_refused(ctx)) {
        heed_step_end(ctx);
        return (struct result){.refused = true};
    }
    ck_assert_msg(!heed_failed(ctx), "%s: %s", row->name, heed_error(ctx));

    struct result result = {.outputs = row->outputs ? row->outputs : 1};
    for (int o = 0; o < result.outputs; o++) result.output[o] = test_values(out[o], &result.count[o]);
    if (what != RUN_FORWARD && !row->no_gradient) backward(ctx, row, leaf, out, what == RUN_TWICE, &result);
    ck_assert_msg(heed_step_end(ctx) == HEED_OK, "%s: %s", row->name, heed_error(ctx));
    return result;
}

static void free_result(struct result *result) {
    for (int o = 0; o < OP_OUTPUTS; o++) free(result->output[o]);
    for (int k = 0; k < OP_INPUTS; k++) {
        free(result->grad[k]);
        free(result->twice[k]);
    }
}

/* ---- gradients against central differences ---- */

/* Σ cotangent · output. */
static double weighted(const struct result *result) {
    double sum = 0;
    for (int o = 0; o < result->outputs; o++) {
        struct test_random random = {900 + (uint64_t)o};
        for (int64_t i = 0; i < result->count[o]; i++) sum += test_normal(&random) * result->output[o][i];
    }
    return sum;
}

static void check_difference(heed_ctx *ctx, const struct op_case *row, double **data, int k,
                             const double *grad) {
    int64_t count = leaf_count(&row->in[k]);
    double *difference = malloc((size_t)(count + 1) * sizeof(double));
    for (int64_t i = 0; i < count; i++) {
        double x = data[k][i], side[2];
        const double h = 1e-5;
        for (int s = 0; s < 2; s++) {
            data[k][i] = s ? x + h : x - h;
            struct result moved = run(ctx, row, HEED_F64, data, RUN_FORWARD);
            side[s] = weighted(&moved);
            free_result(&moved);
        }
        data[k][i] = x;
        difference[i] = (side[1] - side[0]) / (2 * h);
    }
    char text[200];
    /* A gradient that is zero throughout still has the noise of the differences: hence the floor. */
    double scale = fmax(test_largest(count, grad), 0.05);
    bool close = test_close(count, grad, difference, difference_tolerance, scale, text, sizeof text);
    free(difference);
    ck_assert_msg(close, "%s: gradient of input %d against differences: %s", row->name, k, text);
}

static void gradcheck(const struct op_case *row) {
    if (row->no_gradient || row->no_difference || row->big) return;
    heed_ctx *ctx = test_ref();
    double *data[OP_INPUTS];
    make_data(row, data);
    struct result result = run(ctx, row, HEED_F64, data, RUN_BACKWARD);
    for (int k = 0; k < OP_INPUTS; k++)
        if (result.grad[k]) check_difference(ctx, row, data, k, result.grad[k]);
    free_result(&result);
    free_data(data);
    heed_ctx_free(ctx);
}

/* ---- cpu against ref ---- */

/* The largest number of a whole run, which stands in for the terms that cancel in a gradient that is zero:
 * such as that of a bias of the keys. */
static double largest_of_all(const struct result *result) {
    double largest = 0;
    for (int o = 0; o < result->outputs; o++)
        largest = fmax(largest, test_largest(result->count[o], result->output[o]));
    for (int k = 0; k < OP_INPUTS; k++)
        if (result->grad[k]) largest = fmax(largest, test_largest(result->grad_count[k], result->grad[k]));
    return largest;
}

/* A gradient of so few numbers sums a large problem up in each: tens of thousands of terms, most of which
 * cancel. */
enum { FEW = 16 };

/* What the errors of a gradient are relative to, of which this is the largest number, and `all` of a whole
 * run: terms of that size have cancelled where the gradient is much smaller. */
static double gradient_scale(const struct op_case *row, int64_t count, double largest, double all) {
    if (row->big && count <= FEW) return 8 * all;
    const double scale = largest < 1e-4 * all || count <= FEW ? all : fmax(largest, all / 8);
    return row->extreme ? fmin(scale, 1) : scale;
}

static void compare_gradient(const struct op_case *row, heed_dtype dtype, int64_t count, const double *actual,
                             const double *expected, double all, const char *what) {
    char text[200];
    const double largest = dtype == HEED_BF16 ? all : test_largest(count, expected);
    const double scale = gradient_scale(row, count, largest, all);
    ck_assert_msg(
        test_close(count, actual, expected, tolerances_of(row, dtype).backward, scale, text, sizeof text),
        "%s: %s: %s", row->name, what, text);
}

static void compare(const struct op_case *row, heed_dtype dtype, const struct result *actual,
                    const struct result *expected, const char *device) {
    char text[200];
    const char *type = heed_dtype_name(dtype);
    const struct tolerances tolerance = tolerances_of(row, dtype);
    for (int o = 0; o < expected->outputs; o++) {
        double scale = test_largest(expected->count[o], expected->output[o]);
        if (row->extreme) scale = fmin(scale, 1);
        ck_assert_msg(actual->count[o] == expected->count[o], "%s on %s: output %d differs in size",
                      row->name, device, o);
        ck_assert_msg(test_close(expected->count[o], actual->output[o], expected->output[o],
                                 tolerance.forward, scale, text, sizeof text),
                      "%s on %s, %s: output %d: %s", row->name, device, type, o, text);
    }
    double all = largest_of_all(expected);
    for (int k = 0; k < OP_INPUTS; k++) {
        if (!expected->grad[k]) continue;
        const int64_t count = expected->grad_count[k];
        snprintf(text, sizeof text, "gradient of input %d on %s, %s", k, device, type);
        compare_gradient(row, dtype, count, actual->grad[k], expected->grad[k], all, text);
        snprintf(text, sizeof text, "added gradient of input %d on %s, %s", k, device, type);
        if (actual->twice[k])
            compare_gradient(row, dtype, count, actual->twice[k], expected->twice[k], 2 * all, text);
    }
}

static bool same_bits(const double *a, const double *b, int64_t count) {
    for (int64_t i = 0; i < count; i++)
        if (memcmp(&a[i], &b[i], sizeof a[i]) != 0 && !(isnan(a[i]) && isnan(b[i]))) return false;
    return true;
}

static void compare_bits(const struct op_case *row, const struct result *a, const struct result *b,
                         const char *what) {
    for (int o = 0; o < a->outputs; o++)
        ck_assert_msg(same_bits(a->output[o], b->output[o], a->count[o]), "%s: %s: other bits in output %d",
                      row->name, what, o);
    for (int k = 0; k < OP_INPUTS; k++)
        if (a->grad[k] && b->grad[k])
            ck_assert_msg(same_bits(a->grad[k], b->grad[k], a->grad_count[k]),
                          "%s: %s: other bits in the gradient of input %d", row->name, what, k);
}

static void against_ref_as(const struct op_case *row, heed_dtype dtype, double *const *data) {
    heed_ctx *ref = test_ref();
    struct result expected = run(ref, row, dtype, data, RUN_TWICE);
    const char *const *isa;
    /* f64 is computed by the reference kernels whatever the instruction set, but not by the same ones for
     * composites. */
    int isas = dtype == HEED_F64 ? 1 : test_isas(&isa);
    test_isas(&isa);
    const int *threads;
    const int counts = test_threads(&threads);
    for (int i = 0; i < isas; i++) {
        struct result one = {0};
        for (int t = 0; t < counts; t++) {
            struct test_device device = {"cpu", isa[i], threads[t]};
            char name[64];
            test_device_name(&device, name, sizeof name);
            heed_ctx *ctx = test_ctx(&device);
            struct result result = run(ctx, row, dtype, data, t == 1 ? RUN_TWICE : RUN_BACKWARD);
            if (result.refused) {
                heed_ctx_free(ctx);
                continue;
            }
            if (t <= 1) compare(row, dtype, &result, &expected, name);
            if (t == 0) {
                struct result unrecorded = run(ctx, row, dtype, data, RUN_FORWARD);
                compare_bits(row, &result, &unrecorded, "without a tape");
                free_result(&unrecorded);
                one = result;
            } else {
                compare_bits(row, &one, &result, name);
                free_result(&result);
            }
            if (dtype != HEED_F64 && !row->falls_back)
                ck_assert_msg(heed_fallbacks(ctx) == 0, "%s on %s fell back to ref", row->name, name);
            heed_ctx_free(ctx);
        }
        free_result(&one);
    }
    free_result(&expected);
    heed_ctx_free(ref);
}

static void against_ref(const struct op_case *row) {
    if (row->big && test_small()) return;
    double *data[OP_INPUTS];
    make_data(row, data);
    against_ref_as(row, HEED_F32, data);
    if (!row->big) against_ref_as(row, HEED_F64, data);
    if (!row->big && test_has_bf16()) against_ref_as(row, HEED_BF16, data);
    free_data(data);
}

/* ---- wrong use ---- */

static void wrong_on(const struct op_wrong *wrong, const struct test_device *device) {
    const struct op_case *row = &wrong->row;
    heed_ctx *ctx = test_ctx(device);
    double *data[OP_INPUTS];
    make_data(row, data);
    heed_step_begin(ctx, HEED_TRAIN);
    heed_tensor in[OP_INPUTS] = {{0}}, out[OP_OUTPUTS] = {{0}};
    for (int k = 0; k < OP_INPUTS; k++)
        if (row->in[k].fill != OP_NONE)
            in[k] = lay_out(&row->in[k],
                            make_leaf(ctx, &row->in[k], input_dtype(&row->in[k], HEED_F32), data[k]));
    test_ok(ctx);
    row->call(row, in, out);
    const bool late = test_late(ctx);
    ck_assert_msg(late || !heed_is_valid(out[0]), "%s: the result is a valid tensor", row->name);
    /* By then the device knows the primitive, and not for which operation it was. */
    test_error(ctx, wrong->status, late ? ": " : wrong->message, row->name);
    heed_step_end(ctx);
    free_data(data);
    heed_ctx_free(ctx);
}

/* ---- into a suite ---- */

/* A suite has one table of each kind; each Check test is one row. */
static const struct op_case *case_rows;
static const struct op_wrong *wrong_rows;

START_TEST(test_gradients) {
    gradcheck(&case_rows[_i]);
}
END_TEST

START_TEST(test_against_ref) {
    against_ref(&case_rows[_i]);
}
END_TEST

START_TEST(test_wrong) {
    wrong_on(&wrong_rows[_i], &(struct test_device){"ref", NULL, 1});
    wrong_on(&wrong_rows[_i], &(struct test_device){"cpu", NULL, 2});
}
END_TEST

void op_add_cases(Suite *suite, const struct op_case *rows, int count) {
    case_rows = rows;
    if (!test_small() && !test_elsewhere()) /* which change no number of ref's */
        tcase_add_loop_test(test_case(suite, "gradients"), test_gradients, 0, count);
    tcase_add_loop_test(test_case(suite, "cpu against ref"), test_against_ref, 0, count);
}

void op_add_wrong(Suite *suite, const struct op_wrong *rows, int count) {
    wrong_rows = rows;
    tcase_add_loop_test(test_case(suite, "wrong use"), test_wrong, 0, count);
}
