/* Views: counts, strides, broadcasting, and reshaping without a copy, against plain definitions. */
#include "harness.h"
#include "tensor/view.h"

#include <stdlib.h>
#include <string.h>

static struct heed_view view_of(int rank, const int64_t *size) {
    static char data[1];
    struct heed_view v = {.data = data, .dtype = HEED_F32, .rank = rank};
    for (int d = 0; d < rank; d++) v.size[d] = size[d];
    ck_assert(heed_view_set_contiguous(&v));
    return v;
}
#define VIEW(...) view_of(TEST_SHAPE(__VA_ARGS__))

static struct heed_view swapped(struct heed_view v, int a, int b) {
    int64_t size = v.size[a], stride = v.stride[a];
    v.size[a] = v.size[b];
    v.stride[a] = v.stride[b];
    v.size[b] = size;
    v.stride[b] = stride;
    return v;
}

/* The offset of the n-th element in row-major order: what a view means. */
static int64_t offset_of(const struct heed_view *v, int64_t n) {
    int64_t offset = 0;
    for (int d = v->rank - 1; d >= 0; d--) {
        offset += n % v->size[d] * v->stride[d];
        n /= v->size[d];
    }
    return offset;
}

static bool same_elements(const struct heed_view *a, const struct heed_view *b) {
    int64_t count = heed_view_count(a);
    if (heed_view_count(b) != count) return false;
    for (int64_t n = 0; n < count; n++)
        if (offset_of(a, n) != offset_of(b, n)) return false;
    return true;
}

START_TEST(counts) {
    struct heed_view scalar = view_of(0, NULL), v = VIEW(2, 3, 4), none = VIEW(5, 0, 7);
    ck_assert_int_eq(heed_view_count(&scalar), 1);
    ck_assert_int_eq(heed_view_count(&v), 24);
    ck_assert_int_eq(heed_view_count(&none), 0);
    ck_assert_int_eq(v.stride[0], 12);
    ck_assert_int_eq(v.stride[1], 4);
    ck_assert_int_eq(v.stride[2], 1);
    const int64_t big = (int64_t)1 << 40;
    struct heed_view repeated = {.rank = 2, .size = {big, big}};
    ck_assert_int_eq(heed_view_count(&repeated), INT64_MAX);
    struct heed_view repeated_none = {.rank = 3, .size = {big, big, 0}};
    ck_assert_int_eq(heed_view_count(&repeated_none), 0);
}
END_TEST

START_TEST(counts_that_overflow) {
    const int64_t big = (int64_t)1 << 32;
    const struct heed_view refused[] = {
        {.rank = 2, .size = {big, big}},
        {.rank = 2, .size = {big, big / 2}},
        {.rank = 3, .size = {big, 0, big}},
        {.rank = 3, .size = {0, big, big}},
        {.rank = 1, .size = {-1}},
        {.rank = 2, .size = {0, -3}},
        {.rank = 4, .size = {3, INT64_MAX, 1, 1}},
    };
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++) {
        struct heed_view v = refused[i];
        ck_assert_msg(!heed_view_set_contiguous(&v), "case %zu", i);
    }
    struct heed_view largest = {.rank = 2, .size = {1, INT64_MAX}};
    ck_assert(heed_view_set_contiguous(&largest));
}
END_TEST

START_TEST(contiguous_or_not) {
    struct heed_view v = VIEW(2, 3, 4), t = swapped(v, 0, 2), scalar = view_of(0, NULL);
    ck_assert(heed_view_is_contiguous(&v));
    ck_assert(heed_view_is_contiguous(&scalar));
    ck_assert(!heed_view_is_contiguous(&t));
    struct heed_view ones = VIEW(1, 3, 1);
    ones.stride[0] = 77;
    ones.stride[2] = -5;
    ck_assert(heed_view_is_contiguous(&ones));
    struct heed_view none = VIEW(3, 0);
    none.stride[0] = 99;
    ck_assert(heed_view_is_contiguous(&none));
    v.stride[0] = 13;
    ck_assert(!heed_view_is_contiguous(&v));
    v.stride[0] = 0;
    ck_assert(!heed_view_is_contiguous(&v));
}
END_TEST

START_TEST(repeats) {
    struct heed_view v = VIEW(2, 3), one = VIEW(1, 3), none = VIEW(2, 0);
    ck_assert(!heed_view_repeats(&v));
    v.stride[0] = one.stride[0] = none.stride[0] = 0;
    ck_assert(heed_view_repeats(&v));
    ck_assert(!heed_view_repeats(&one));
    ck_assert(!heed_view_repeats(&none));
}
END_TEST

START_TEST(same_shape) {
    struct heed_view a = VIEW(2, 3), b = VIEW(2, 3), c = VIEW(3, 2), d = VIEW(2, 3, 1),
                     scalar = view_of(0, NULL);
    b.stride[0] = 17;
    ck_assert(heed_view_same_shape(&a, &b));
    ck_assert(!heed_view_same_shape(&a, &c));
    ck_assert(!heed_view_same_shape(&a, &d));
    ck_assert(!heed_view_same_shape(&a, &scalar));
    ck_assert(heed_view_same_shape(&scalar, &scalar));
}
END_TEST

START_TEST(expanding) {
    struct heed_view v = VIEW(3, 1), out;
    ck_assert(heed_view_expand(&v, TEST_SHAPE(2, 3, 4), &out));
    ck_assert_ptr_eq(out.data, v.data);
    ck_assert_int_eq(out.rank, 3);
    ck_assert_int_eq(out.stride[0], 0);
    ck_assert_int_eq(out.stride[1], 1);
    ck_assert_int_eq(out.stride[2], 0);
    ck_assert_int_eq(out.size[2], 4);
    ck_assert(heed_view_expand(&v, TEST_SHAPE(3, 0), &out));
    ck_assert_int_eq(heed_view_count(&out), 0);
    ck_assert(heed_view_expand(&v, TEST_SHAPE(3, 1), &v)); /* in place */
    ck_assert_int_eq(v.stride[0], 1);

    struct heed_view scalar = view_of(0, NULL), none = VIEW(0, 1);
    ck_assert(heed_view_expand(&scalar, TEST_SHAPE(5), &out));
    ck_assert_int_eq(out.stride[0], 0);
    ck_assert(heed_view_expand(&scalar, 0, NULL, &out));
    ck_assert(heed_view_expand(&none, TEST_SHAPE(0, 6), &out));

    ck_assert(!heed_view_expand(&v, TEST_SHAPE(4, 1), &out));
    ck_assert(!heed_view_expand(&v, TEST_SHAPE(3), &out));
    ck_assert(!heed_view_expand(&none, TEST_SHAPE(3, 1), &out));
    ck_assert(!heed_view_expand(&v, TEST_SHAPE(3, -1), &out));
    ck_assert(!heed_view_expand(&v, TEST_SHAPE(1, 1, 1, 1, 1, 1, 1, 3, 1), &out));
}
END_TEST

struct broadcast_case {
    int rank_a;
    int64_t a[3];
    int rank_b;
    int64_t b[3];
    int rank; /* of the result; −1: they clash */
    int64_t size[3];
};

static const struct broadcast_case broadcasts[] = {
    {0, {0}, 0, {0}, 0, {0}},       {0, {0}, 2, {2, 3}, 2, {2, 3}},
    {2, {2, 1}, 1, {5}, 2, {2, 5}}, {3, {4, 1, 6}, 2, {5, 1}, 3, {4, 5, 6}},
    {1, {1}, 2, {3, 0}, 2, {3, 0}}, {2, {1, 0}, 2, {7, 1}, 2, {7, 0}},
    {1, {0}, 1, {1}, 1, {0}},       {1, {2}, 1, {3}, -1, {0}},
    {1, {0}, 1, {2}, -1, {0}},      {2, {2, 3}, 2, {3, 2}, -1, {0}},
};

START_TEST(broadcasting) {
    const struct broadcast_case *c = &broadcasts[_i];
    for (int order = 0; order < 2; order++) {
        int rank = -7;
        int64_t size[HEED_MAX_RANK];
        bool fits = order ? heed_shape_broadcast(c->rank_b, c->b, c->rank_a, c->a, &rank, size)
                          : heed_shape_broadcast(c->rank_a, c->a, c->rank_b, c->b, &rank, size);
        ck_assert_int_eq(fits, c->rank >= 0);
        if (!fits) continue;
        ck_assert_int_eq(rank, c->rank);
        for (int d = 0; d < rank; d++) ck_assert_int_eq(size[d], c->size[d]);
    }
}
END_TEST

/* ---- reshaping ---- */

START_TEST(reshaping_contiguous) {
    struct heed_view v = VIEW(2, 3, 4), out;
    ck_assert(heed_view_reshape(&v, TEST_SHAPE(6, 4), &out));
    ck_assert(heed_view_is_contiguous(&out) && same_elements(&v, &out));
    ck_assert_ptr_eq(out.data, v.data);
    ck_assert_int_eq(out.dtype, v.dtype);
    ck_assert(heed_view_reshape(&v, TEST_SHAPE(1, 24, 1), &out) && same_elements(&v, &out));
    ck_assert(heed_view_reshape(&v, TEST_SHAPE(4, 3, 2), &out) && same_elements(&v, &out));
    ck_assert(!heed_view_reshape(&v, TEST_SHAPE(5, 5), &out));
    ck_assert(!heed_view_reshape(&v, TEST_SHAPE(-6, -4), &out));
    ck_assert(!heed_view_reshape(&v, 0, NULL, &out));
    ck_assert(!heed_view_reshape(&v, TEST_SHAPE(24, 1, 1, 1, 1, 1, 1, 1, 1), &out));

    struct heed_view one = VIEW(1, 1), none = VIEW(3, 0, 2);
    ck_assert(heed_view_reshape(&one, 0, NULL, &out));
    ck_assert_int_eq(out.rank, 0);
    ck_assert(heed_view_reshape(&out, TEST_SHAPE(1, 1, 1), &out));
    ck_assert_int_eq(out.rank, 3);
    ck_assert(heed_view_reshape(&none, TEST_SHAPE(0), &out));
    ck_assert(heed_view_reshape(&none, TEST_SHAPE(7, 0, 9), &out));
    ck_assert(!heed_view_reshape(&none, TEST_SHAPE(1), &out));
}
END_TEST

START_TEST(reshaping_strided) {
    struct heed_view v = VIEW(4, 6, 5), t = swapped(v, 0, 1), out;
    /* The last dimension keeps to itself, the transposed ones can be cut but not joined. */
    ck_assert(heed_view_reshape(&t, TEST_SHAPE(2, 3, 4, 5), &out) && same_elements(&t, &out));
    ck_assert(heed_view_reshape(&t, TEST_SHAPE(6, 1, 2, 2, 5, 1), &out) && same_elements(&t, &out));
    ck_assert(!heed_view_reshape(&t, TEST_SHAPE(24, 5), &out));
    ck_assert(!heed_view_reshape(&t, TEST_SHAPE(6, 20), &out));

    struct heed_view slice = VIEW(4, 10);
    slice.size[1] = 5; /* five of ten columns */
    ck_assert(heed_view_reshape(&slice, TEST_SHAPE(2, 2, 5), &out) && same_elements(&slice, &out));
    ck_assert(!heed_view_reshape(&slice, TEST_SHAPE(20), &out));

    struct heed_view repeated = {.data = v.data, .rank = 3, .size = {2, 3, 4}, .stride = {0, 0, 1}};
    ck_assert(heed_view_reshape(&repeated, TEST_SHAPE(6, 4), &out) && same_elements(&repeated, &out));
    ck_assert(!heed_view_reshape(&repeated, TEST_SHAPE(2, 12), &out));

    struct heed_view backward = {.data = v.data, .rank = 2, .size = {3, 4}, .stride = {-4, -1}};
    ck_assert(heed_view_reshape(&backward, TEST_SHAPE(2, 6), &out) && same_elements(&backward, &out));
}
END_TEST

/* Whether any strides describe v's elements under the sizes: one stride per dimension can be read off, then
 * all elements are compared. */
static bool can_reshape(const struct heed_view *v, int rank, const int64_t *size) {
    struct heed_view out = {.rank = rank};
    int64_t inner = 1;
    for (int d = rank - 1; d >= 0; d--) {
        out.size[d] = size[d];
        out.stride[d] = size[d] > 1 ? offset_of(v, inner) : 0;
        inner *= size[d];
    }
    return same_elements(v, &out);
}

/* Random factors of 24 as sizes, with ones among them. */
static int random_shape(struct test_random *random, int64_t *size) {
    static const int64_t primes[] = {2, 2, 2, 3};
    int rank = 1 + (int)(test_bits(random) % 5);
    for (int d = 0; d < rank; d++) size[d] = 1;
    for (int i = 0; i < 4; i++) size[test_bits(random) % (uint64_t)rank] *= primes[i];
    return rank;
}

START_TEST(reshaping_random) {
    struct test_random random = {5};
    int fitting = 0;
    for (int i = 0; i < 3000; i++) {
        int64_t size[HEED_MAX_RANK];
        struct heed_view v = view_of(random_shape(&random, size), size), out;
        for (int d = 0; d < v.rank; d++) {
            uint64_t change = test_bits(&random) % 8;
            if (change == 0) v = swapped(v, d, (int)(test_bits(&random) % (uint64_t)v.rank));
            if (change == 1) v.stride[d] = 0;
            if (change == 2) v.stride[d] *= 2;
        }
        int rank = random_shape(&random, size);
        bool expected = can_reshape(&v, rank, size), is = heed_view_reshape(&v, rank, size, &out);
        if (is != expected || (is && !same_elements(&v, &out))) ck_abort_msg("case %d", i);
        fitting += is;
    }
    ck_assert_int_gt(fitting, 500);
    ck_assert_int_lt(fitting, 2900);
}
END_TEST

START_TEST(rows) {
    struct heed_view v = VIEW(2, 3, 4), r = heed_view_rows(&v);
    ck_assert_int_eq(r.rank, 2);
    ck_assert_int_eq(r.size[0], 6);
    ck_assert_int_eq(r.size[1], 4);
    ck_assert(same_elements(&v, &r));
    struct heed_view line = VIEW(7), none = VIEW(5, 0), no_rows = VIEW(0, 5);
    r = heed_view_rows(&line);
    ck_assert(r.size[0] == 1 && r.size[1] == 7);
    r = heed_view_rows(&none);
    ck_assert(r.size[0] == 5 && r.size[1] == 0);
    r = heed_view_rows(&no_rows);
    ck_assert(r.size[0] == 0 && r.size[1] == 5);
}
END_TEST

START_TEST(texts) {
    char text[96];
    ck_assert_str_eq(heed_shape_text(0, NULL, text, sizeof text), "[]");
    ck_assert_str_eq(heed_shape_text(TEST_SHAPE(8), text, sizeof text), "[8]");
    ck_assert_str_eq(heed_shape_text(TEST_SHAPE(8, 64, 384), text, sizeof text), "[8,64,384]");
    ck_assert_str_eq(heed_shape_text(TEST_SHAPE(0, -1), text, sizeof text), "[0,-1]");
    for (size_t bytes = 1; bytes < 12; bytes++) {
        memset(text, '#', sizeof text);
        ck_assert_ptr_eq(heed_shape_text(TEST_SHAPE(8, 64, 384), text, bytes), text);
        ck_assert_uint_le(strlen(text), bytes - 1);
        ck_assert_int_eq(strncmp(text, "[8,64,384]", bytes - 1), 0);
        ck_assert_int_eq(text[bytes], '#');
    }
}
END_TEST

int main(void) {
    Suite *suite = suite_create("view");
    TCase *shapes = test_case(suite, "shapes");
    tcase_add_test(shapes, counts);
    tcase_add_test(shapes, counts_that_overflow);
    tcase_add_test(shapes, contiguous_or_not);
    tcase_add_test(shapes, repeats);
    tcase_add_test(shapes, same_shape);
    tcase_add_test(shapes, expanding);
    tcase_add_loop_test(shapes, broadcasting, 0, (int)(sizeof broadcasts / sizeof *broadcasts));
    tcase_add_test(shapes, reshaping_contiguous);
    tcase_add_test(shapes, reshaping_strided);
    tcase_add_test(shapes, reshaping_random);
    tcase_add_test(shapes, rows);
    tcase_add_test(shapes, texts);
    return test_main(suite);
}
