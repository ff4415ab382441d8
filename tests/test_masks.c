/* Masks: bits agree with test; NONE and ALL are proofs, and are given where they are easy. */
#include "harness.h"

#include <string.h>

#include "backend/masks.h"

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
    return test_main(suite);
}
