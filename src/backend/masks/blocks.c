/* Masks of whole blocks: a grid of them, or for each block of queries a list of blocks of keys. */
#include "backend/masks/words.h"

static int64_t block_row(const struct heed_bound_mask *self, int64_t q) {
    return q / self->number[HEED_BLOCK_QUERIES];
}

static int64_t block_column(const struct heed_bound_mask *self, int64_t k) {
    return k / self->number[HEED_BLOCK_KEYS];
}

/* What is the same for all queries of a block: their word, and the hull of their keys. */
typedef uint64_t block_word(const struct heed_bound_mask *self, const struct heed_box *box, int64_t row);

static void each_block_row(const struct heed_bound_mask *self, const struct heed_box *box, block_word *word,
                           uint64_t *row) {
    int64_t before = -1;
    for (int r = 0; r < box->nq; r++) {
        const int64_t own = block_row(self, box->q0 + r);
        row[r] = own == before ? row[r - 1] : word(self, box, own);
        before = own;
    }
}

static heed_cover cover_of_rows(const struct heed_bound_mask *self, const struct heed_box *box,
                                block_word *word) {
    const int64_t first = block_row(self, box->q0), end = block_row(self, box->q0 + box->nq - 1) + 1;
    heed_cover cover = HEED_COVER_SOME;
    for (int64_t i = first; i < end && (i == first || cover != HEED_COVER_SOME); i++)
        cover = heed_cover_join(cover, heed_cover_of_word(box, word(self, box, i)), i == first);
    return cover;
}

/* ---- grid ---- */

static bool grid_at(const struct heed_bound_mask *self, int64_t batch, int64_t head, int64_t i, int64_t j) {
    const struct heed_view *t = &self->tensor[0];
    return ((const uint8_t *)
                t->data)[batch * t->stride[0] + head * t->stride[1] + i * t->stride[2] + j * t->stride[3]] !=
           0;
}

static bool grid_test(const struct heed_bound_mask *self, const struct heed_box *box, int64_t q, int64_t k) {
    return grid_at(self, box->batch, box->head, block_row(self, q), block_column(self, k));
}

static uint64_t grid_word(const struct heed_bound_mask *self, const struct heed_box *box, int64_t row) {
    const int64_t size = self->number[HEED_BLOCK_KEYS];
    uint64_t word = 0;
    for (int64_t j = block_column(self, box->k0); j * size < box->k0 + box->nk; j++)
        if (grid_at(self, box->batch, box->head, row, j))
            word |= heed_bits_between(box, j * size, (j + 1) * size);
    return word;
}

static heed_cover grid_cover(const struct heed_bound_mask *self, const struct heed_box *box) {
    return cover_of_rows(self, box, grid_word);
}

static void grid_bits(const struct heed_bound_mask *self, const struct heed_box *box, uint64_t *row) {
    each_block_row(self, box, grid_word, row);
}

static bool column_is_empty(const struct heed_bound_mask *self, const struct heed_region *r, int64_t j) {
    for (int64_t i = block_row(self, r->q0); i <= block_row(self, r->q1 - 1); i++)
        if (grid_at(self, r->batch, r->head, i, j)) return false;
    return true;
}

static bool row_is_empty(const struct heed_bound_mask *self, const struct heed_region *r, int64_t i) {
    for (int64_t j = block_column(self, r->k0); j <= block_column(self, r->k1 - 1); j++)
        if (grid_at(self, r->batch, r->head, i, j)) return false;
    return true;
}

/* Takes empty blocks off the edges, which costs no more than what it saves. */
static void grid_bounds(const struct heed_bound_mask *self, struct heed_region *r) {
    const int64_t queries = self->number[HEED_BLOCK_QUERIES], keys = self->number[HEED_BLOCK_KEYS];
    int64_t first = block_column(self, r->k0), end = block_column(self, r->k1 - 1) + 1;
    while (first < end && column_is_empty(self, r, first)) first++;
    while (end > first && column_is_empty(self, r, end - 1)) end--;
    heed_region_keys(r, first * keys, end * keys);
    if (heed_region_is_empty(r)) return;
    first = block_row(self, r->q0);
    end = block_row(self, r->q1 - 1) + 1;
    while (first < end && row_is_empty(self, r, first)) first++;
    while (end > first && row_is_empty(self, r, end - 1)) end--;
    heed_region_queries(r, first * queries, end * queries);
}

const struct heed_mask_kind heed_mask_kind_blocks = {"blocks", grid_test, grid_cover, grid_bits, grid_bounds};

/* ---- lists ---- */

struct list {
    const int32_t *block;
    int64_t stride, count;
};

static struct list list_of(const struct heed_bound_mask *self, int64_t batch, int64_t head, int64_t row) {
    const struct heed_view *t = &self->tensor[0];
    return (struct list){(const int32_t *)t->data + batch * t->stride[0] + head * t->stride[1] +
                             row * t->stride[2],
                         t->stride[3], t->size[3]};
}

static bool lists_test(const struct heed_bound_mask *self, const struct heed_box *box, int64_t q, int64_t k) {
    const struct list list = list_of(self, box->batch, box->head, block_row(self, q));
    for (int64_t i = 0; i < list.count; i++)
        if (list.block[i * list.stride] == block_column(self, k)) return true;
    return false;
}

static uint64_t list_word(const struct heed_bound_mask *self, const struct heed_box *box, int64_t row) {
    const struct list list = list_of(self, box->batch, box->head, row);
    const int64_t size = self->number[HEED_BLOCK_KEYS];
    uint64_t word = 0;
    for (int64_t i = 0; i < list.count; i++) {
        const int64_t j = list.block[i * list.stride];
        if (j >= 0) word |= heed_bits_between(box, j * size, (j + 1) * size);
    }
    return word;
}

static heed_cover lists_cover(const struct heed_bound_mask *self, const struct heed_box *box) {
    return cover_of_rows(self, box, list_word);
}

static void lists_bits(const struct heed_bound_mask *self, const struct heed_box *box, uint64_t *row) {
    each_block_row(self, box, list_word, row);
}

/* The hull of the listed blocks that lie in the region, and of the rows that list one. */
static void lists_bounds(const struct heed_bound_mask *self, struct heed_region *r) {
    const int64_t queries = self->number[HEED_BLOCK_QUERIES], keys = self->number[HEED_BLOCK_KEYS];
    const int64_t left = block_column(self, r->k0), right = block_column(self, r->k1 - 1);
    int64_t k0 = right + 1, k1 = left, q0 = -1, q1 = -1;
    for (int64_t i = block_row(self, r->q0); i <= block_row(self, r->q1 - 1); i++) {
        const struct list list = list_of(self, r->batch, r->head, i);
        bool listed = false;
        for (int64_t n = 0; n < list.count; n++) {
            const int64_t j = list.block[n * list.stride];
            if (j < left || j > right) continue;
            if (j < k0) k0 = j;
            if (j >= k1) k1 = j + 1;
            listed = true;
        }
        if (listed && q0 < 0) q0 = i;
        if (listed) q1 = i + 1;
    }
    heed_region_keys(r, k0 * keys, k1 * keys);
    if (q0 >= 0) heed_region_queries(r, q0 * queries, q1 * queries);
}

const struct heed_mask_kind heed_mask_kind_block_lists = {"block_lists", lists_test, lists_cover, lists_bits,
                                                          lists_bounds};
