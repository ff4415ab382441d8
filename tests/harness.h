/* What the suites share: running a suite, contexts on every backend, tensors by seed, comparing, allocators
 * that fail. harness_ops.h has the drivers for tables of operations. */
#ifndef HEED_TESTS_HARNESS_H
#define HEED_TESTS_HARNESS_H

#include <check.h>
#include <heed/heed.h>

/* ---- suites ---- */

/* Runs a suite, frees it and returns what main() should. */
int test_main(Suite *suite);

/* A case of a suite with a timeout fit for tests that compute (Check multiplies it by CK_TIMEOUT_MULTIPLIER).
 */
TCase *test_case(Suite *suite, const char *name);

/* HEED_TEST_SCALE=small: shapes for slow tools. */
bool test_small(void);
int64_t test_size(int64_t full, int64_t small);

/* The seeds of random problems: 0 to `full` − 1, or `small` ones. HEED_FUZZ=N tries N, HEED_SEED=S begins
 * with seed S, so that HEED_FUZZ=1 HEED_SEED=S tries one again. */
struct test_seeds {
    uint64_t first, end;
};
struct test_seeds test_seeds(int64_t full, int64_t small);

/* ck_assert_msg() for what is asked many thousand times: Check notes each of its own in a file. */
#define test_check(condition, ...)                                                                           \
    do {                                                                                                     \
        if (!(condition)) ck_abort_msg(__VA_ARGS__);                                                         \
    } while (0)

/* ---- devices ---- */

/* A way to compute: the values of heed_ctx_options.device, of HEED_ISA and of threads. */
struct test_device {
    const char *device;
    const char *isa; /* NULL on ref */
    int threads;
};

/* The numbers of threads to try, 1 first; fewer at small shapes and where another device stands for "cpu".
 * Returns how many. */
int test_threads(const int **threads);

/* All ways this machine has: ref, then cpu with each instruction set and number of threads. Returns how
 * many. */
int test_devices(const struct test_device **devices);

/* The instruction sets this machine has, as HEED_ISA names them; where another device stands for "cpu", one.
 * Returns how many. */
int test_isas(const char *const **isas);

/* A context that poisons its memory; asserts that it has no error. */
heed_ctx *test_ctx(const struct test_device *device);
heed_ctx *test_ctx_with(const struct test_device *device, heed_ctx_options options);

/* The same on "ref" with 1 thread, and on "cpu" as the machine has it. */
heed_ctx *test_ref(void);
heed_ctx *test_cpu(void);

const char *test_device_name(const struct test_device *device, char *text, size_t bytes);

/* Whether another device stands for "cpu" and "ref" in this run (HEED_TEST_DEVICE): the few tests of what
 * only those two have then pass at once. */
bool test_elsewhere(void);

/* Whether what stands for "cpu" computes in bf16. */
bool test_has_bf16(void);

/* ---- errors ---- */

/* Whether a device refused what its kernels cannot do: call a function of the user's on the host, which those
 * of "cpu" and "ref" can. The error, which says so in one line, is then cleared, and the test has no more to
 * see there. */
bool test_refused(heed_ctx *ctx);

/* What a kernel of a device finds (an index out of range, say), the host knows when it waits for the device:
 * waits, if there is no error yet, and tells whether it did. */
bool test_late(heed_ctx *ctx);

/* No error is kept. */
#define test_ok(ctx) ck_assert_msg(!heed_failed(ctx), "%s", heed_error(ctx))

/* An error with this status is kept and its text has `part`; it is then cleared. `what` is for the message.
 */
void test_error(heed_ctx *ctx, heed_status status, const char *part, const char *what);

/* ---- numbers ---- */

/* A small generator of its own (splitmix64, Steele et al. 2014), so that test data depend on no code under
 * test. */
struct test_random {
    uint64_t state;
};
uint64_t test_bits(struct test_random *random);
double test_uniform(struct test_random *random); /* [0, 1) */
double test_normal(struct test_random *random);
double
test_noise(struct test_random *random); /* like normal ones and sooner made: the sum of four uniform ones */

/* Sizes and their number, for tensor-making functions: TEST_SHAPE(2, 3). */
#define TEST_SHAPE(...)                                                                                      \
    (int)(sizeof((int64_t[]){__VA_ARGS__}) / sizeof(int64_t)), (int64_t[]) {                                 \
        __VA_ARGS__                                                                                          \
    }

/* bf16, the upper half of an f32: its value, and the one towards 0 of a number. */
double test_bf16_value(uint16_t half);
uint16_t test_bf16(double number);

/* Independent normal numbers of a seed, f32, f64 or bf16. */
heed_tensor test_tensor(heed_ctx *ctx, heed_dtype dtype, uint64_t seed, int rank, const int64_t *sizes);

/* All elements as double (malloc; the caller's). Asserts that the tensor is valid. */
double *test_values(heed_tensor t, int64_t *count);

/* A tensor holds exactly these f32 numbers (equal, or both NaN). */
void test_equals(heed_tensor t, int64_t count, const float *expected, const char *what);

/* How far two arrays may be apart: per element ≤ relative·|expected| + absolute·scale. NaN must meet NaN, and
 * an infinity the same infinity. */
struct test_tolerance {
    double relative, absolute;
};

/* The largest finite |value|. */
double test_largest(int64_t count, const double *values);

/* Describes the worst violation in text and returns false, or returns true. `scale` is usually the largest
 * |expected|. */
bool test_close(int64_t count, const double *actual, const double *expected, struct test_tolerance tolerance,
                double scale, char *text, size_t bytes);

/* ---- memory ---- */

/* An allocator that counts, and fails from a chosen call on (once or for good). */
struct test_allocator {
    int64_t calls;   /* of alloc so far */
    int64_t living;  /* blocks that were not freed */
    int64_t fail_at; /* the call (counted from 1) that fails; 0: none */
    bool for_good;   /* and all after it */
};
heed_allocator test_allocator(struct test_allocator *state);

/* Runs a program on contexts of a device with one thread, of which the first allocation fails, then number 1
 * + stride, and so on, with or without all after it, until none does. What failed must be an error of the
 * context when the program returns, and all memory must come back. The program frees what is not the
 * context's. Returns the number that no run had any more. */
int64_t test_failing_allocations(const char *device, int64_t stride, bool for_good,
                                 void (*program)(heed_ctx *ctx));

#endif
