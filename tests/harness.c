#include "harness.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- suites ---- */

int test_main(Suite *suite) {
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}

TCase *test_case(Suite *suite, const char *name) {
    TCase *tcase = tcase_create(name);
    tcase_set_timeout(tcase, 240); /* only what hangs is to be ended, also on a busy machine */
    suite_add_tcase(suite, tcase);
    return tcase;
}

bool test_small(void) {
    const char *scale = getenv("HEED_TEST_SCALE");
    return scale && strcmp(scale, "small") == 0;
}

int64_t test_size(int64_t full, int64_t small) {
    return test_small() ? small : full;
}

static uint64_t number_of(const char *name, uint64_t otherwise) {
    const char *text = getenv(name);
    return text ? strtoull(text, NULL, 10) : otherwise;
}

struct test_seeds test_seeds(int64_t full, int64_t small) {
    const uint64_t first = number_of("HEED_SEED", 0);
    return (struct test_seeds){first, first + number_of("HEED_FUZZ", (uint64_t)test_size(full, small))};
}

/* ---- devices ---- */

bool test_has_bf16(void) {
    if (!test_elsewhere()) return true;
    heed_ctx *ctx = heed_ctx_new(&(heed_ctx_options){.precision = HEED_BF16});
    const bool has = heed_error_status(ctx) != HEED_ERROR_UNSUPPORTED;
    heed_ctx_free(ctx);
    return has;
}

bool test_elsewhere(void) {
    return getenv("HEED_TEST_DEVICE") != NULL;
}

int test_isas(const char *const **isas) {
    static const char *names[3];
    static int count;
    if (count == 0) {
        names[count++] = "baseline";
#if defined(__x86_64__)
        __builtin_cpu_init();
        bool avx2 = !test_elsewhere() && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
        if (avx2) names[count++] = "avx2";
        if (avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
            __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl"))
            names[count++] = "avx512";
#endif
    }
    *isas = names;
    return count;
}

int test_threads(const int **threads) {
    static const int counts[] = {1, 3, 2};
    *threads = counts;
    return test_small() || test_elsewhere() ? 2 : 3;
}

/* HEED_TEST_DEVICE names a device that stands for "cpu" in the whole suite, HEED_TEST_REF one for "ref":
 * suites are linked with calls of heed_ctx_new() going here. With HEED_TEST_CHUNK_BYTES=1 every block of a
 * context is an allocation of its own, so that what lies beside it is watched.
 * HEED_TEST_PRECISION=bf16 makes all contexts those of mixed precision. */
heed_ctx *__real_heed_ctx_new(const heed_ctx_options *options);
heed_ctx *__wrap_heed_ctx_new(const heed_ctx_options *options);

heed_ctx *__wrap_heed_ctx_new(const heed_ctx_options *options) {
    heed_ctx_options other = options ? *options : (heed_ctx_options){0};
    const char *precision = getenv("HEED_TEST_PRECISION");
    if (precision && strcmp(precision, "bf16") == 0) other.precision = HEED_BF16;
    const bool is_cpu = !other.device || strcmp(other.device, "cpu") == 0;
    const bool is_ref = other.device && strcmp(other.device, "ref") == 0;
    const char *instead = is_cpu ? getenv("HEED_TEST_DEVICE") : is_ref ? getenv("HEED_TEST_REF") : NULL;
    const char *chunk_bytes = getenv("HEED_TEST_CHUNK_BYTES");
    if (chunk_bytes && !other.chunk_bytes) other.chunk_bytes = strtoul(chunk_bytes, NULL, 10);
    if (instead) other.device = instead;
    return __real_heed_ctx_new(&other);
}

int test_devices(const struct test_device **devices) {
    static struct test_device all[1 + 3 * 3];
    static int count;
    if (count == 0) {
        all[count++] = (struct test_device){"ref", NULL, 1};
        const char *const *isa;
        const int *threads, isas = test_isas(&isa), counts = test_threads(&threads);
        for (int i = 0; i < isas; i++)
            for (int t = 0; t < counts; t++) all[count++] = (struct test_device){"cpu", isa[i], threads[t]};
    }
    *devices = all;
    return count;
}

const char *test_device_name(const struct test_device *device, char *text, size_t bytes) {
    if (device->isa)
        snprintf(text, bytes, "%s/%s/%d threads", device->device, device->isa, device->threads);
    else
        snprintf(text, bytes, "%s", device->device);
    return text;
}

heed_ctx *test_ctx_with(const struct test_device *device, heed_ctx_options options) {
    char *before = getenv("HEED_ISA") ? strdup(getenv("HEED_ISA")) : NULL;
    if (device->isa) setenv("HEED_ISA", device->isa, 1);
    options.device = device->device;
    options.threads = device->threads;
    heed_ctx *ctx = heed_ctx_new(&options);
    if (device->isa && before) setenv("HEED_ISA", before, 1);
    if (device->isa && !before) unsetenv("HEED_ISA");
    free(before);
    test_ok(ctx);
    return ctx;
}

heed_ctx *test_ctx(const struct test_device *device) {
    return test_ctx_with(device, (heed_ctx_options){.seed = 7, .poison = true});
}

heed_ctx *test_ref(void) {
    return test_ctx(&(struct test_device){"ref", NULL, 1});
}

heed_ctx *test_cpu(void) {
    return test_ctx(&(struct test_device){"cpu", NULL, 0});
}

/* ---- errors ---- */

void test_error(heed_ctx *ctx, heed_status status, const char *part, const char *what) {
    ck_assert_msg(heed_failed(ctx), "%s: no error, but \"%s\" was expected", what, heed_status_text(status));
    ck_assert_msg(heed_error_status(ctx) == status, "%s: status is \"%s\" and not \"%s\": %s", what,
                  heed_status_text(heed_error_status(ctx)), heed_status_text(status), heed_error(ctx));
    ck_assert_msg(strstr(heed_error(ctx), part) != NULL, "%s: \"%s\" does not have \"%s\"", what,
                  heed_error(ctx), part);
    heed_error_clear(ctx);
    ck_assert_msg(!heed_failed(ctx), "%s: the error stays after heed_error_clear()", what);
}

/* ---- numbers ---- */

uint64_t test_bits(struct test_random *random) {
    uint64_t z = random->state += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

double test_uniform(struct test_random *random) {
    return (double)(test_bits(random) >> 11) * 0x1p-53;
}

double test_normal(struct test_random *random) {
    double radius = sqrt(-2 * log(1 - test_uniform(random)));
    return radius * cos(2 * 3.14159265358979323846 * test_uniform(random));
}

double test_noise(struct test_random *random) {
    const uint64_t bits = test_bits(random);
    const double sum =
        (double)((bits & 0xffff) + (bits >> 16 & 0xffff) + (bits >> 32 & 0xffff) + (bits >> 48));
    return (sum - 2 * 65535.0) * (1.7320508 / 65536); /* of variance 1 */
}

double test_bf16_value(uint16_t half) {
    const uint32_t bits = (uint32_t)half << 16;
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

uint16_t test_bf16(double number) {
    const float value = (float)number;
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return (uint16_t)(bits >> 16);
}

heed_tensor test_tensor(heed_ctx *ctx, heed_dtype dtype, uint64_t seed, int rank, const int64_t *sizes) {
    int64_t count = 1;
    for (int i = 0; i < rank; i++) count *= sizes[i];
    struct test_random random = {seed};
    void *data = malloc((size_t)(count ? count : 1) * sizeof(double));
    for (int64_t i = 0; i < count; i++) {
        if (dtype == HEED_F64)
            ((double *)data)[i] = test_normal(&random);
        else if (dtype == HEED_BF16)
            ((uint16_t *)data)[i] = test_bf16(test_normal(&random));
        else
            ((float *)data)[i] = (float)test_normal(&random);
    }
    heed_tensor t = heed_from(ctx, dtype, rank, sizes, data);
    free(data);
    return t;
}

bool test_refused(heed_ctx *ctx) {
    if (!test_elsewhere() || !heed_failed(ctx) || !strstr(heed_error(ctx), "a stage of the user's"))
        return false;
    test_error(ctx, HEED_ERROR_UNSUPPORTED, "attention: ", "a function of the host");
    return true;
}

bool test_late(heed_ctx *ctx) {
    if (!test_elsewhere() || heed_failed(ctx)) return false;
    heed_sync(ctx);
    return true;
}

double *test_values(heed_tensor t, int64_t *count) {
    ck_assert_msg(heed_is_valid(t), "no valid tensor: %s", heed_error(heed_context(t)));
    *count = heed_count(t);
    heed_dtype dtype = heed_dtype_of(t);
    size_t elements = *count ? (size_t)*count : 1;
    size_t bytes = (size_t)*count * heed_dtype_bytes(dtype);
    void *raw = malloc(elements * sizeof(double));
    double *values = malloc(elements * sizeof *values);
    ck_assert_msg(heed_read(t, raw, bytes) == HEED_OK, "heed_read: %s", heed_error(heed_context(t)));
    for (int64_t i = 0; i < *count; i++) {
        switch (dtype) {
        case HEED_F32:
            values[i] = ((float *)raw)[i];
            break;
        case HEED_F64:
            values[i] = ((double *)raw)[i];
            break;
        case HEED_BF16:
            values[i] = test_bf16_value(((uint16_t *)raw)[i]);
            break;
        case HEED_I32:
            values[i] = ((int32_t *)raw)[i];
            break;
        default:
            values[i] = ((uint8_t *)raw)[i];
            break;
        }
    }
    free(raw);
    return values;
}

void test_equals(heed_tensor t, int64_t count, const float *expected, const char *what) {
    int64_t n;
    double *values = test_values(t, &n);
    ck_assert_msg(n == count, "%s: %lld elements and not %lld", what, (long long)n, (long long)count);
    for (int64_t i = 0; i < n; i++) {
        bool same = values[i] == (double)expected[i] || (isnan(values[i]) && isnan(expected[i]));
        ck_assert_msg(same, "%s: element %lld is %g and not %g", what, (long long)i, values[i],
                      (double)expected[i]);
    }
    free(values);
}

double test_largest(int64_t count, const double *values) {
    double largest = 0;
    for (int64_t i = 0; i < count; i++)
        if (isfinite(values[i])) largest = fmax(largest, fabs(values[i]));
    return largest;
}

bool test_close(int64_t count, const double *actual, const double *expected, struct test_tolerance tolerance,
                double scale, char *text, size_t bytes) {
    double worst = 0;
    int64_t at = -1;
    for (int64_t i = 0; i < count; i++) {
        double a = actual[i], e = expected[i], over = 0;
        if (isnan(a) || isnan(e))
            over = isnan(a) && isnan(e) ? 0 : INFINITY;
        else if (isinf(a) || isinf(e))
            over = a == e ? 0 : INFINITY;
        else if (a != e)
            over = fabs(a - e) / (tolerance.relative * fabs(e) + tolerance.absolute * scale + DBL_MIN);
        if (over > worst) {
            worst = over;
            at = i;
        }
    }
    if (worst <= 1) return true;
    snprintf(text, bytes, "element %lld of %lld is %.9g and not %.9g, %.3g times the tolerance (scale %.3g)",
             (long long)at, (long long)count, actual[at], expected[at], worst, scale);
    return false;
}

/* ---- memory ---- */

static void *counted_alloc(void *user, size_t bytes) {
    struct test_allocator *state = user;
    state->calls++;
    if (state->fail_at && (state->for_good ? state->calls >= state->fail_at : state->calls == state->fail_at))
        return NULL;
    void *memory = malloc(bytes);
    if (memory) state->living++;
    return memory;
}

static void counted_free(void *user, void *memory, size_t bytes) {
    struct test_allocator *state = user;
    (void)bytes;
    state->living--;
    free(memory);
}

heed_allocator test_allocator(struct test_allocator *state) {
    return (heed_allocator){.alloc = counted_alloc, .free = counted_free, .user = state};
}

/* Whether the n-th allocation was reached. */
static bool fail_allocation(const char *device, int64_t n, bool for_good, void (*program)(heed_ctx *ctx)) {
    struct test_allocator state = {.fail_at = n, .for_good = for_good};
    heed_ctx *ctx = heed_ctx_new(&(heed_ctx_options){
        .device = device, .threads = 1, .allocator = test_allocator(&state), .chunk_bytes = 1});
    program(ctx);
    const bool reached = state.calls >= n, failed = heed_failed(ctx);
    test_check(!reached || failed, "allocation %lld failed without an error", (long long)n);
    test_check(reached || !failed, "%s", heed_error(ctx));
    heed_ctx_free(ctx);
    test_check(state.living == 0, "allocation %lld failed: %lld blocks leaked", (long long)n,
               (long long)state.living);
    return reached;
}

int64_t test_failing_allocations(const char *device, int64_t stride, bool for_good,
                                 void (*program)(heed_ctx *ctx)) {
    int64_t n = 1;
    while (fail_allocation(device, n, for_good, program)) n += stride;
    return n;
}
