/* Masks: bits agree with test, whatever instruction set makes them; NONE and ALL are proofs, and are given
 * where they are easy; what bounds cut off is invisible. */
#include "harness_masks.h"

#include "backend/cpu/masks.h"

#include <string.h>

#define BATCH 2
#define HEADS 2
#define QUERIES 37
#define KEYS 83

static int32_t lengths[BATCH] = {0, 70};
static uint8_t random_cells[BATCH * HEADS * QUERIES * KEYS];
static uint8_t blocks[QUERIES * KEYS]; /* whole tiles of 16 × 32 are set or not */
static uint8_t columns[2 * KEYS];      /* every other byte is a key */

static const struct heed_bound_mask masks[] = {
    {.kind = &heed_mask_kind_causal, .number = {-HEED_MASK_FAR, 0}},
    {.kind = &heed_mask_kind_causal, .number = {-HEED_MASK_FAR, 0, HEED_BOTTOM_RIGHT}},
    {.kind = &heed_mask_kind_causal, .number = {-HEED_MASK_FAR, -20}},
    {.kind = &heed_mask_kind_causal, .number = {-HEED_MASK_FAR, KEYS}},
    {.kind = &heed_mask_kind_key_lengths, .tensor = {{lengths, HEED_I32, 1, {BATCH}, {1}}}},
    {.kind = &heed_mask_kind_key_lengths, .tensor = {{lengths + 1, HEED_I32, 1, {BATCH}, {0}}}},
    {.kind = &heed_mask_kind_dense,
     .tensor = {{random_cells,
                 HEED_BOOL,
                 4,
                 {BATCH, HEADS, QUERIES, KEYS},
                 {HEADS * QUERIES * KEYS, QUERIES *KEYS, KEYS, 1}}}},
    {.kind = &heed_mask_kind_dense, /* queries innermost */
     .tensor = {{random_cells,
                 HEED_BOOL,
                 4,
                 {BATCH, HEADS, QUERIES, KEYS},
                 {HEADS * QUERIES * KEYS, QUERIES *KEYS, 1, QUERIES}}}},
    {.kind = &heed_mask_kind_dense,
     .tensor = {{blocks, HEED_BOOL, 4, {BATCH, HEADS, QUERIES, KEYS}, {0, 0, KEYS, 1}}}},
    {.kind = &heed_mask_kind_dense,
     .tensor = {{columns, HEED_BOOL, 4, {BATCH, HEADS, QUERIES, KEYS}, {0, 0, 0, 2}}}},
    {.kind = &heed_mask_kind_dense,
     .tensor = {{columns, HEED_BOOL, 4, {BATCH, HEADS, QUERIES, KEYS}, {0, 0, 1, 0}}}},
    {.kind = &heed_mask_kind_and, .a = &masks[0], .b = &masks[5]},
    {.kind = &heed_mask_kind_and, .a = &masks[11], .b = &masks[6]},
    {.kind = &heed_mask_kind_and, .a = &masks[8], .b = NULL},
};
#define MASKS (int)(sizeof masks / sizeof masks[0])

static void fill(void) {
    struct test_random random = {1};
    for (size_t i = 0; i < sizeof random_cells; i++) random_cells[i] = (uint8_t)(test_bits(&random) % 3);
    for (size_t i = 0; i < sizeof columns; i++) columns[i] = test_bits(&random) & 1 ? 255 : 0;
    for (int q = 0; q < QUERIES; q++) {
        for (int k = 0; k < KEYS; k++) blocks[q * KEYS + k] = ((q / 16 + k / 32) & 1) != 0;
    }
}

/* The number of cells of which bits or cover say something else than test. */
static int64_t disagreements(const struct heed_bound_mask *mask, const struct heed_box *box) {
    uint64_t row[QUERIES];
    int64_t wrong = 0;
    memset(row, 0xa5, sizeof row);
    heed_mask_bits(mask, box, row);
    heed_cover cover = heed_mask_cover(mask, box);
    for (int r = 0; r < box->nq; r++) {
        for (int c = 0; c < 64; c++) {
            bool may = c < box->nk && heed_mask_test(mask, box, box->q0 + r, box->k0 + c);
            wrong += (row[r] >> c & 1) != may;
            if (c < box->nk) wrong += cover == (may ? HEED_COVER_NONE : HEED_COVER_ALL);
        }
    }
    return wrong;
}

START_TEST(bits_and_cover_agree_with_test) {
    const struct heed_bound_mask *mask = _i < MASKS ? &masks[_i] : NULL;
    struct test_random random = {(uint64_t)_i};
    fill();
    for (int n = 0; n < test_size(3000, 300); n++) {
        struct heed_box box = {.queries = QUERIES, .keys = KEYS};
        box.batch = (int64_t)(test_bits(&random) % BATCH);
        box.head = (int64_t)(test_bits(&random) % HEADS);
        box.q0 = (int64_t)(test_bits(&random) % QUERIES);
        box.k0 = (int64_t)(test_bits(&random) % KEYS);
        box.nq = (int)(test_bits(&random) % (uint64_t)(QUERIES - box.q0 + 1));
        box.nk = (int)(test_bits(&random) % (uint64_t)(KEYS - box.k0 + 1));
        if (box.nk > 64) box.nk = 64;
        ck_assert_msg(disagreements(mask, &box) == 0, "q %d + %d, k %d + %d", (int)box.q0, box.nq,
                      (int)box.k0, box.nk);
    }
}
END_TEST

static heed_cover cover_at(int mask, int64_t batch, int64_t q0, int64_t k0, int nq, int nk) {
    struct heed_box box = {batch, 0, q0, k0, QUERIES, KEYS, nq, nk};
    return heed_mask_cover(&masks[mask], &box);
}

START_TEST(easy_proofs_are_given) {
    fill();
    ck_assert_int_eq(cover_at(0, 0, 16, 0, 8, 17), HEED_COVER_ALL);
    ck_assert_int_eq(cover_at(0, 0, 16, 0, 8, 18), HEED_COVER_SOME);
    ck_assert_int_eq(cover_at(0, 0, 16, 23, 8, 8), HEED_COVER_SOME);
    ck_assert_int_eq(cover_at(0, 0, 16, 24, 8, 8), HEED_COVER_NONE);
    ck_assert_int_eq(cover_at(3, 0, 0, 0, QUERIES, 64), HEED_COVER_ALL);
    ck_assert_int_eq(cover_at(4, 0, 0, 0, 8, 8), HEED_COVER_NONE);
    ck_assert_int_eq(cover_at(4, 1, 0, 6, 8, 64), HEED_COVER_ALL);
    ck_assert_int_eq(cover_at(4, 1, 0, 7, 8, 64), HEED_COVER_SOME);
    ck_assert_int_eq(cover_at(4, 1, 0, 70, 8, 8), HEED_COVER_NONE);
    ck_assert_int_eq(cover_at(8, 0, 0, 0, 16, 32), HEED_COVER_NONE);
    ck_assert_int_eq(cover_at(8, 0, 0, 32, 16, 32), HEED_COVER_ALL);
    ck_assert_int_eq(cover_at(8, 0, 0, 16, 16, 32), HEED_COVER_SOME);
    ck_assert_int_eq(cover_at(11, 0, 16, 24, 8, 8), HEED_COVER_NONE);
    ck_assert_int_eq(cover_at(11, 0, 16, 0, 8, 8), HEED_COVER_ALL);
    ck_assert_int_eq(cover_at(11, 0, 36, 0, 1, 64), HEED_COVER_SOME);
}
END_TEST

/* ---- every kind, and trees of them ---- */

/* The cells that bounds cut off although they are visible. */
static int64_t lost(const struct heed_bound_mask *mask, const struct heed_region *whole) {
    const struct heed_box box = {
        .batch = whole->batch, .head = whole->head, .queries = whole->queries, .keys = whole->keys};
    struct heed_region r = *whole;
    int64_t count = 0;
    heed_mask_bounds(mask, &r);
    ck_assert(heed_region_is_empty(&r) ||
              (r.q0 >= whole->q0 && r.q1 <= whole->q1 && r.k0 >= whole->k0 && r.k1 <= whole->k1));
    for (int64_t q = whole->q0; q < whole->q1; q++) {
        for (int64_t k = whole->k0; k < whole->k1; k++) {
            const bool cut = q < r.q0 || q >= r.q1 || k < r.k0 || k >= r.k1;
            count += cut && heed_mask_test(mask, &box, q, k);
        }
    }
    return count;
}

/* Plain C, or an instruction set of this machine. */
static const struct heed_mask_vectors *random_vectors(struct test_random *random) {
    const uint64_t which = test_bits(random) % (uint64_t)(heed_cpu_isa_detect() + 2);
    return which == 0 ? NULL : heed_mask_vectors((enum heed_isa)(which - 1));
}

static void random_box(struct test_masks *m, struct heed_box *box, struct heed_region *r) {
    struct test_random *random = &m->random;
    *box = (struct heed_box){.queries = m->queries, .keys = m->keys, .vectors = random_vectors(&m->random)};
    box->batch = (int64_t)(test_bits(random) % (uint64_t)m->batch);
    box->head = (int64_t)(test_bits(random) % (uint64_t)m->heads);
    box->q0 = (int64_t)(test_bits(random) % (uint64_t)m->queries);
    box->k0 = (int64_t)(test_bits(random) % (uint64_t)m->keys);
    if (test_bits(random) & 1) box->k0 -= box->k0 % HEED_RANDOM_CELLS;
    *r = (struct heed_region){.batch = box->batch,
                              .head = box->head,
                              .queries = m->queries,
                              .keys = m->keys,
                              .q0 = box->q0,
                              .k0 = box->k0};
    r->q1 = r->q0 + (int64_t)(test_bits(random) % (uint64_t)(m->queries - box->q0 + 1));
    r->k1 = r->k0 + (int64_t)(test_bits(random) % (uint64_t)(m->keys - box->k0 + 1));
    box->nq = (int)(r->q1 - r->q0 < QUERIES ? r->q1 - r->q0 : QUERIES);
    box->nk = (int)(r->k1 - r->k0 < 64 ? r->k1 - r->k0 : 64);
}

static void check_mask(struct test_masks *m, const struct heed_bound_mask *mask, int boxes, int seed) {
    for (int n = 0; n < boxes; n++) {
        struct heed_box box;
        struct heed_region r;
        random_box(m, &box, &r);
        ck_assert_msg(disagreements(mask, &box) == 0, "%s, seed %d: q %d + %d, k %d + %d", mask->kind->name,
                      seed, (int)box.q0, box.nq, (int)box.k0, box.nk);
        ck_assert_msg(lost(mask, &r) == 0, "%s, seed %d: bounds of q %d to %d, k %d to %d", mask->kind->name,
                      seed, (int)r.q0, (int)r.q1, (int)r.k0, (int)r.k1);
    }
}

static struct test_masks problem_of(int seed) {
    static const int64_t queries[] = {37, 1, 64, 100, 5}, keys[] = {83, 1, 64, 40, 200};
    return (struct test_masks){.random = {(uint64_t)seed * 31 + 5},
                               .edge = seed % 3 == 0 ? TEST_EDGE_BEFORE : TEST_EDGE_BEHIND,
                               .batch = 2,
                               .heads = 2,
                               .queries = queries[seed % 5],
                               .keys = keys[seed / 5 % 5]};
}

START_TEST(every_kind) {
    for (int seed = 0; seed < test_size(200, 25); seed++) {
        struct test_masks m = problem_of(seed);
        check_mask(&m, test_mask(&m, test_mask_kinds[_i]), 20, seed);
        test_masks_free(&m);
    }
}
END_TEST

START_TEST(trees_of_kinds) {
    for (int seed = 0; seed < test_size(3000, 300); seed++) {
        struct test_masks m = problem_of(seed);
        check_mask(&m, test_mask_tree(&m, 3), 5, seed);
        test_masks_free(&m);
    }
}
END_TEST

/* Bounds are as narrow as can be where that is easy. */
START_TEST(bounds_are_narrow) {
    static const struct heed_bound_mask window = {.kind = &heed_mask_kind_window, .number = {-10, 5}};
    static const struct heed_bound_mask causal = {.kind = &heed_mask_kind_causal,
                                                  .number = {-HEED_MASK_FAR, 0}};
    static int32_t ids[1000];
    for (int i = 0; i < 1000; i++) ids[i] = i / 100;
    const struct heed_view row = {ids, HEED_I32, 4, {1, 1, 1, 1000}, {0, 0, 0, 1}};
    const struct heed_bound_mask segments = {.kind = &heed_mask_kind_segments, .tensor = {row, row}};
    const struct heed_bound_mask both = {.kind = &heed_mask_kind_and, .a = &segments, .b = &window};
    const struct heed_bound_mask either = {.kind = &heed_mask_kind_or, .a = &segments, .b = &window};
    const struct {
        const struct heed_bound_mask *mask;
        struct heed_region region, left;
    } rows[] = {
        {&window, {0, 0, 1000, 1000, 300, 348, 0, 1000}, {0, 0, 1000, 1000, 300, 348, 290, 353}},
        {&window, {0, 0, 1000, 1000, 0, 1000, 300, 364}, {0, 0, 1000, 1000, 295, 374, 300, 364}},
        {&causal, {0, 0, 1000, 1000, 300, 348, 0, 1000}, {0, 0, 1000, 1000, 300, 348, 0, 348}},
        {&causal, {0, 0, 1000, 1000, 0, 1000, 320, 384}, {0, 0, 1000, 1000, 320, 1000, 320, 384}},
        {&segments, {0, 0, 1000, 1000, 310, 350, 0, 1000}, {0, 0, 1000, 1000, 310, 350, 300, 400}},
        {&segments, {0, 0, 1000, 1000, 0, 1000, 290, 310}, {0, 0, 1000, 1000, 200, 400, 290, 310}},
        {&both, {0, 0, 1000, 1000, 305, 310, 0, 1000}, {0, 0, 1000, 1000, 305, 310, 300, 315}},
        {&either, {0, 0, 1000, 1000, 305, 310, 0, 1000}, {0, 0, 1000, 1000, 305, 310, 295, 400}},
        {&causal, {0, 0, 1000, 1000, 0, 10, 10, 20}, {0, 0, 1000, 1000, 0, 0, 10, 10}},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct heed_region r = rows[i].region;
        heed_mask_bounds(rows[i].mask, &r);
        if (heed_region_is_empty(&rows[i].left)) {
            ck_assert(heed_region_is_empty(&r));
            continue;
        }
        ck_assert_msg(memcmp(&r, &rows[i].left, sizeof r) == 0, "row %d: q %d to %d, k %d to %d", (int)i,
                      (int)r.q0, (int)r.q1, (int)r.k0, (int)r.k1);
    }
}
END_TEST

/* More rows than `and` takes at a time. */
START_TEST(and_of_many_rows) {
    enum { ROWS = 200 };
    uint64_t row[ROWS];
    struct heed_bound_mask causal = {.kind = &heed_mask_kind_causal, .number = {-HEED_MASK_FAR, 0}};
    struct heed_bound_mask late = {.kind = &heed_mask_kind_causal, .number = {-HEED_MASK_FAR, -130}};
    struct heed_bound_mask both = {.kind = &heed_mask_kind_and, .a = &causal, .b = &late};
    heed_mask_bits(&both, &(struct heed_box){.queries = ROWS, .keys = ROWS, .nq = ROWS, .nk = 64}, row);
    for (int r = 0; r < ROWS; r++) {
        int visible = r < 130 ? 0 : r - 129 < 64 ? r - 129 : 64;
        ck_assert_int_eq(__builtin_popcountll(row[r]), visible);
        ck_assert(visible == 0 || (row[r] & 1));
    }
}
END_TEST

int main(void) {
    Suite *suite = suite_create("masks");
    TCase *tc = test_case(suite, "masks");
    tcase_add_loop_test(tc, bits_and_cover_agree_with_test, 0, MASKS + 1);
    tcase_add_test(tc, easy_proofs_are_given);
    tcase_add_test(tc, and_of_many_rows);
    tcase_add_loop_test(tc, every_kind, 0, TEST_MASK_KINDS);
    tcase_add_test(tc, trees_of_kinds);
    tcase_add_test(tc, bounds_are_narrow);
    return test_main(suite);
}
