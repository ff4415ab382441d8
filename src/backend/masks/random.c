/* Random masks: each cell is visible or not by its place alone. */
#include "backend/masks/words.h"
#include "tensor/philox.h"

enum { CELLS = HEED_RANDOM_CELLS };

static uint32_t line_of(const struct heed_bound_mask *self, const struct heed_box *box) {
    return (uint32_t)(box->batch * self->number[HEED_RANDOM_BATCH_LINES] +
                      box->head * self->number[HEED_RANDOM_HEAD_LINES]);
}

/* One bit for each of the cells k … k + 7 of a query; k is a multiple of 8. */
static uint64_t eight_cells(const struct heed_bound_mask *self, const struct heed_box *box, int64_t q,
                            int64_t k) {
    const uint32_t threshold = (uint32_t)self->number[HEED_RANDOM_THRESHOLD];
    const uint32_t counter[4] = {(uint32_t)q, (uint32_t)(k / CELLS), line_of(self, box), HEED_RANDOM_STREAM};
    uint32_t word[4];
    uint64_t bits = 0;
    heed_philox((uint64_t)self->number[HEED_RANDOM_KEY], counter, word);
    for (int i = 0; i < CELLS; i++)
        bits |= (uint64_t)((word[i / 2] >> (16 * (i & 1)) & 0xffff) < threshold) << i;
    return bits;
}

static bool random_test(const struct heed_bound_mask *self, const struct heed_box *box, int64_t q,
                        int64_t k) {
    return eight_cells(self, box, q, k / CELLS * CELLS) >> k % CELLS & 1;
}

static heed_cover random_cover(const struct heed_bound_mask *self, const struct heed_box *box) {
    (void)box;
    const int64_t threshold = self->number[HEED_RANDOM_THRESHOLD];
    return threshold == 0 ? HEED_COVER_NONE : threshold >= 65536 ? HEED_COVER_ALL : HEED_COVER_SOME;
}

static void plain_bits(const struct heed_bound_mask *self, const struct heed_box *box, uint64_t *row) {
    const int before = (int)(box->k0 % CELLS); /* cells of the first eight that lie before the tile */
    for (int r = 0; r < box->nq; r++) {
        row[r] = 0;
        for (int c = -before; c < box->nk; c += CELLS) {
            const uint64_t bits = eight_cells(self, box, box->q0 + r, box->k0 + c);
            row[r] |= c < 0 ? bits >> -c : bits << c;
        }
        row[r] &= heed_first_bits(box->nk);
    }
}

static void random_bits(const struct heed_bound_mask *self, const struct heed_box *box, uint64_t *row) {
    const int64_t threshold = self->number[HEED_RANDOM_THRESHOLD];
    if (box->vectors && box->k0 % CELLS == 0 && threshold < 65536)
        box->vectors->random((uint64_t)self->number[HEED_RANDOM_KEY], line_of(self, box), (uint32_t)threshold,
                             box, row);
    else
        plain_bits(self, box, row);
}

const struct heed_mask_kind heed_mask_kind_random = {"random", random_test, random_cover, random_bits, NULL};
