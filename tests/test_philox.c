/* Random numbers: published vectors of the generator, the frozen maps from elements to numbers, and their
 * statistics. */
#include "harness.h"
#include "tensor/philox.h"

#include <math.h>
#include <stdlib.h>

/* Philox4x32-10 in the known-answer file of the authors' library Random123. */
static const struct {
    uint32_t counter[4];
    uint64_t key;
    uint32_t out[4];
} vectors[] = {
    {{0, 0, 0, 0}, 0, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
    {{0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff},
     UINT64_MAX,
     {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
    {{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344},
     0x299f31d0a4093822,
     {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
};

START_TEST(published_vectors) {
    uint32_t out[4];
    heed_philox(vectors[_i].key, vectors[_i].counter, out);
    for (int w = 0; w < 4; w++) ck_assert_uint_eq(out[w], vectors[_i].out[w]);
}
END_TEST

/* ---- the frozen maps ---- */

static const struct heed_random place = {
    .seed = 0x123456789abcdef0, .stream = HEED_STREAM_TRAIN, .step = 7, .ordinal = 3};

/* Computed from the text of philox.h by an implementation of its own, in Python. */
static const struct {
    uint64_t element;
    float uniform_f32;
    double uniform_f64;
    float normal_f32;
    double normal_f64;
    uint32_t bits;
} frozen[] = {
    {0, 0x1.06990cp-2f, 0x1.27fb4ffc834c8p-1, -1.45512986f, -0.66018331175385692, 17244},
    {1, 0x1.27fb4ep-1f, 0x1.5518911739396p-1, -0.777362823f, -1.1358172796506789, 16806},
    {2, 0x1.39396ap-1f, 0x1.1948c9f25ba8ep-1, -0.498182714f, 0.66869796230885181, 43006},
    {3, 0x1.551890p-1f, 0x1.4a14048e12d14p-3, -0.857102156f, 1.0710369390418046, 37885},
    {4, 0x1.6ea3b0p-3f, 0x1.edd325712ef52p-2, -1.76627731f, -0.43028387748504077, 46560},
    {5, 0x1.1948c8p-1f, 0x1.3ea5f3b5fe0c6p-2, -0.566343129f, 1.063665512557183, 40092},
    {1000003, 0x1.c466d4p-2f, 0x1.f78776c73cd29p-1, 0.561946094f, -0.14301847246333987, 25527},
    {((uint64_t)1 << 34) - 1, 0x1.e0ba66p-1f, 0x1.e0ba661ab9757p-1, -0.533585608f, -0.38206147837291932,
     14878},
};

START_TEST(frozen_elements) {
    uint64_t e = frozen[_i].element;
    ck_assert(heed_uniform_f32(&place, e) == frozen[_i].uniform_f32);
    ck_assert(heed_uniform_f64(&place, e) == frozen[_i].uniform_f64);
    ck_assert_float_eq_tol(heed_normal_f32(&place, e), frozen[_i].normal_f32, 2e-7);
    ck_assert_double_eq_tol(heed_normal_f64(&place, e), frozen[_i].normal_f64, 1e-14);
    ck_assert(!heed_keep_element(&place, e, frozen[_i].bits));
    ck_assert(heed_keep_element(&place, e, frozen[_i].bits + 1));
}
END_TEST

static const struct {
    uint32_t q, k, row, bits;
} frozen_attention[] = {
    {0, 0, 0, 38992},  {0, 1, 0, 50590},  {5, 31, 2, 58104},  {5, 32, 2, 39734},     {5, 63, 2, 26940},
    {5, 64, 2, 22919}, {5, 127, 2, 9471}, {5, 128, 2, 30575}, {99, 1000, 17, 57974},
};

START_TEST(frozen_attention_bits) {
    struct heed_attention_random random = heed_attention_random(&place);
    ck_assert_uint_eq(random.key, 0x84571db051cfdc7d);
    ck_assert_uint_eq(random.call, place.ordinal);
    uint32_t q = frozen_attention[_i].q, k = frozen_attention[_i].k, row = frozen_attention[_i].row;
    ck_assert(!heed_attention_keep(&random, q, k, row, frozen_attention[_i].bits));
    ck_assert(heed_attention_keep(&random, q, k, row, frozen_attention[_i].bits + 1));
}
END_TEST

START_TEST(many_normals) {
    float many[40];
    for (uint64_t first = 0; first < 9; first++)
        for (int64_t count = 0; count < 30; count++) {
            many[count] = -99.0f;
            heed_normals_f32(&place, first, count, many);
            bool same = many[count] == -99.0f;
            for (int64_t i = 0; i < count; i++)
                same &= many[i] == heed_normal_f32(&place, first + (uint64_t)i);
            ck_assert_msg(same, "from %d, %d numbers", (int)first, (int)count);
        }
}
END_TEST

START_TEST(thresholds) {
    ck_assert_uint_eq(heed_keep_threshold(0.0), 65536);
    ck_assert_uint_eq(heed_keep_threshold(0.5), 32768);
    ck_assert_uint_eq(heed_keep_threshold(0.1), 58982);
    ck_assert_uint_eq(heed_keep_threshold(1.0), 0);
    ck_assert_double_eq(heed_keep_scale(65536), 1.0);
    ck_assert_double_eq(heed_keep_scale(16384), 4.0);
    ck_assert_double_eq(heed_keep_scale(0), 0.0);
    bool all = true, none = true;
    for (uint64_t e = 0; e < 1000; e++) {
        all &= heed_keep_element(&place, e, 65536);
        none &= !heed_keep_element(&place, e, 0);
    }
    ck_assert(all && none);
}
END_TEST

/* Each part of an operation's place gives other numbers. */
START_TEST(places_differ) {
    struct heed_random other[5];
    for (int i = 0; i < 5; i++) other[i] = place;
    other[0].seed ^= (uint64_t)1 << 63;
    other[1].seed ^= 1;
    other[2].stream = HEED_STREAM_EVAL;
    other[3].step++;
    other[4].ordinal++;
    struct heed_attention_random attention = heed_attention_random(&place);
    for (int i = 0; i < 5; i++) {
        int equal = 0;
        for (uint64_t e = 0; e < 64; e++)
            equal += heed_uniform_f32(&place, e) == heed_uniform_f32(&other[i], e);
        ck_assert_int_le(equal, 1);
        struct heed_attention_random a = heed_attention_random(&other[i]);
        ck_assert(a.key != attention.key || a.call != attention.call);
    }
}
END_TEST

/* ---- statistics ---- */

static int ascending(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* The statistic of Kolmogorov and Smirnov times sqrt(n): the largest distance of the empirical distribution
 * of the sorted x from `cdf`. It exceeds 2.3 by chance once in 20,000 times. */
static double distance(const double *x, int64_t n, double (*cdf)(double)) {
    double largest = 0.0;
    for (int64_t i = 0; i < n; i++) {
        double p = cdf(x[i]);
        largest = fmax(largest, fmax(p - (double)i / (double)n, (double)(i + 1) / (double)n - p));
    }
    return largest * sqrt((double)n);
}

static double uniform_cdf(double x) {
    return x;
}

static double normal_cdf(double x) {
    return 0.5 * erfc(-x / sqrt(2.0));
}

static double draw(int kind, uint64_t e) {
    switch (kind) {
    case 0:
        return heed_uniform_f32(&place, e);
    case 1:
        return heed_uniform_f64(&place, e);
    case 2:
        return heed_normal_f32(&place, e);
    default:
        return heed_normal_f64(&place, e);
    }
}

/* Mean, variance, correlation of neighbours, and the whole distribution. Bounds are five standard deviations.
 */
START_TEST(distributions) {
    const bool normal = _i >= 2;
    const int64_t n = test_size(200000, 20000);
    const double mean = normal ? 0.0 : 0.5, variance = normal ? 1.0 : 1.0 / 12.0;
    const double fourth = normal ? 3.0 : 1.0 / 80.0, root = sqrt((double)n);
    double *x = malloc((size_t)n * sizeof *x), sum = 0.0, squares = 0.0, products = 0.0;
    ck_assert_ptr_nonnull(x);
    for (int64_t e = 0; e < n; e++) {
        x[e] = draw(_i, (uint64_t)e);
        double d = x[e] - mean;
        sum += d;
        squares += d * d;
        if (e > 0) products += d * (x[e - 1] - mean);
    }
    ck_assert_double_le(fabs(sum / (double)n), 5.0 * sqrt(variance) / root);
    ck_assert_double_le(fabs(squares / (double)n - variance),
                        5.0 * sqrt(fourth - variance * variance) / root);
    ck_assert_double_le(fabs(products / (double)n), 5.0 * variance / root);
    qsort(x, (size_t)n, sizeof *x, ascending);
    if (!normal) ck_assert(x[0] >= 0.0 && x[n - 1] < 1.0);
    ck_assert_double_le(distance(x, n, normal ? normal_cdf : uniform_cdf), 2.3);
    free(x);
}
END_TEST

/* How many are kept, and whether neighbours are kept independently. */
START_TEST(kept_fraction) {
    const struct heed_attention_random random = heed_attention_random(&place);
    const uint32_t threshold = heed_keep_threshold(0.1);
    const double p = threshold / 65536.0;
    const int64_t n = test_size(200000, 20000);
    int64_t kept = 0, both = 0;
    bool before = false;
    for (int64_t e = 0; e < n; e++) {
        uint32_t q = (uint32_t)(e / 500), k = (uint32_t)(e % 500);
        bool keep = _i == 0 ? heed_keep_element(&place, (uint64_t)e, threshold)
                            : heed_attention_keep(&random, q, k, 3, threshold);
        kept += keep;
        both += keep && before;
        before = keep;
    }
    ck_assert_double_le(fabs((double)kept / (double)n - p), 5.0 * sqrt(p * (1 - p) / (double)n));
    ck_assert_double_le(fabs((double)both / (double)n - p * p), 10.0 * sqrt(p * (1 - p) / (double)n));
}
END_TEST

/* Within a tile of attention no two elements share their bits: all 16 bits of 128 × 8 neighbours are told
 * apart by few collisions, as chance has them (1024² / 2 / 65536 = 8). */
START_TEST(attention_bits_are_distinct) {
    enum { QUERIES = 8, KEYS = 128, COUNT = QUERIES * KEYS };
    const struct heed_attention_random random = heed_attention_random(&place);
    uint32_t bits[COUNT];
    for (int i = 0; i < COUNT; i++) {
        uint32_t low = 0, high = 65535; /* the bits are the largest threshold that drops the element */
        while (low < high) {
            uint32_t middle = (low + high + 1) / 2;
            if (heed_attention_keep(&random, (uint32_t)i / KEYS, (uint32_t)i % KEYS, 0, middle))
                high = middle - 1;
            else
                low = middle;
        }
        bits[i] = low;
    }
    int equal = 0;
    for (int i = 0; i < COUNT; i++)
        for (int j = 0; j < i; j++) equal += bits[i] == bits[j];
    ck_assert_int_le(equal, 30);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("philox");
    TCase *maps = test_case(suite, "maps");
    tcase_add_loop_test(maps, published_vectors, 0, (int)(sizeof vectors / sizeof *vectors));
    tcase_add_loop_test(maps, frozen_elements, 0, (int)(sizeof frozen / sizeof *frozen));
    tcase_add_loop_test(maps, frozen_attention_bits, 0,
                        (int)(sizeof frozen_attention / sizeof *frozen_attention));
    tcase_add_test(maps, many_normals);
    tcase_add_test(maps, thresholds);
    tcase_add_test(maps, places_differ);
    TCase *statistics = test_case(suite, "statistics");
    tcase_add_loop_test(statistics, distributions, 0, 4);
    tcase_add_loop_test(statistics, kept_fraction, 0, 2);
    tcase_add_test(statistics, attention_bits_are_distinct);
    return test_main(suite);
}
