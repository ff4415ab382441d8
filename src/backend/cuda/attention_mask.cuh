/* Masks in kernels: the tree of a bound mask as a program for a stack of truth values.
 *
 * A node follows its operands. What a kind means is what its `test` in backend/masks says; `cuda_mask_covers`
 * proves NONE or ALL for a tile, by the same three-valued logic as there: all kinds but random ones, dense
 * ones that differ in both directions, the inside of patches, and what it takes long to look at. */
#ifndef HEED_SRC_BACKEND_CUDA_ATTENTION_MASK_CUH
#define HEED_SRC_BACKEND_CUDA_ATTENTION_MASK_CUH

#include "backend/cuda/choice.cuh"
#include "backend/cuda/philox.cuh"
#ifndef HEED_CHOSEN
#include "backend/cuda/device.cuh"
#endif

enum cuda_mask_kind {
    CUDA_MASK_DISTANCE,
    CUDA_MASK_KEY_LENGTHS,
    CUDA_MASK_QUERY_LENGTHS,
    CUDA_MASK_PREFIX,
    CUDA_MASK_SEGMENTS,
    CUDA_MASK_INTERVALS,
    CUDA_MASK_TREE,
    CUDA_MASK_BLOCKS,
    CUDA_MASK_BLOCK_LISTS,
    CUDA_MASK_DENSE,
    CUDA_MASK_PATCH,
    CUDA_MASK_RANDOM,
    CUDA_MASK_AND,
    CUDA_MASK_OR,
    CUDA_MASK_NOT,
    CUDA_MASK_KINDS
};

/* Values on the stack are bits of a word. */
enum { CUDA_MASK_DEPTH = 32 };

struct cuda_mask_node {
    enum cuda_mask_kind kind;
    int64_t number[HEED_MASK_NUMBERS];
    const void *data[2];
    int64_t size[2][4], stride[2][4];
};

#ifndef HEED_CHOSEN
/* How many nodes the program of a mask has, 0 for none; −1 if a kind is not known here, or it is too deep. */
int cuda_mask_count(const struct heed_bound_mask *mask, struct heed_why *why);

/* The kinds of its nodes, four bits each. Returns how many, 0 for no mask; −1 if they do not fit. */
int cuda_mask_kinds(const struct heed_bound_mask *mask, uint64_t *kinds);

/* Writes the program; for packed sequences that of sequence `batch`. */
void cuda_mask_flatten(const struct heed_bound_mask *mask, int64_t batch, struct cuda_mask_node *nodes);
#endif

/* A mask for kernels. */
struct cuda_mask {
    const struct cuda_mask_node *node; /* device memory */
    int count;
    int64_t queries, keys; /* of the whole problem */
};

static __device__ inline int mask_count(const struct cuda_mask &m) {
    return CHOSEN(HEED_CHOSEN_MASKS, m.count);
}

static __device__ inline enum cuda_mask_kind mask_kind(const struct cuda_mask &m, int i) {
    return CHOSEN((enum cuda_mask_kind)CHOSEN_AT(HEED_CHOSEN_MASK_KINDS, i), m.node[i].kind);
}

/* ---- one cell ---- */

static __device__ inline int64_t mask_shift(const struct cuda_mask &m, const struct cuda_mask_node &n) {
    return n.number[HEED_DISTANCE_ALIGN] == HEED_BOTTOM_RIGHT ? m.keys - m.queries : 0;
}

static __device__ inline int64_t mask_at(const struct cuda_mask_node &n, int tensor, int64_t batch,
                                         int64_t head, int64_t i, int64_t j) {
    const int64_t *stride = n.stride[tensor];
    return batch * stride[0] + head * stride[1] + i * stride[2] + j * stride[3];
}

static __device__ inline int64_t mask_number(const struct cuda_mask_node &n, int tensor, int64_t batch,
                                             int64_t head, int64_t j) {
    return static_cast<const int32_t *>(n.data[tensor])[mask_at(n, tensor, batch, head, 0, j)];
}

static __device__ inline bool mask_lists(const struct cuda_mask_node &n, int64_t batch, int64_t head,
                                         int64_t row, int64_t column) {
    const int32_t *list = static_cast<const int32_t *>(n.data[0]);
    for (int64_t i = 0; i < n.size[0][3]; i++)
        if (list[mask_at(n, 0, batch, head, row, i)] == column) return true;
    return false;
}

static __device__ inline bool mask_patch(const struct cuda_mask_node &n, int64_t batch, int64_t head,
                                         int64_t q, int64_t k) {
    const int64_t i = q - n.number[HEED_PATCH_QUERY], j = k - n.number[HEED_PATCH_KEY];
    if (i < 0 || i >= n.size[0][2] || j < 0 || j >= n.size[0][3]) return n.number[HEED_PATCH_OUTSIDE] != 0;
    return static_cast<const uint8_t *>(n.data[0])[mask_at(n, 0, batch, head, i, j)] != 0;
}

static __device__ inline bool mask_random(const struct cuda_mask_node &n, int64_t batch, int64_t head,
                                          int64_t q, int64_t k) {
    const uint32_t line =
        (uint32_t)(batch * n.number[HEED_RANDOM_BATCH_LINES] + head * n.number[HEED_RANDOM_HEAD_LINES]);
    const uint32_t counter[4] = {(uint32_t)q, (uint32_t)(k / 8), line, 0x6d61736bu};
    uint32_t word[4];
    cuda_philox((uint64_t)n.number[HEED_RANDOM_KEY], counter, word);
    return cuda_keep(word, (int)(k % 8), (uint32_t)n.number[HEED_RANDOM_THRESHOLD]);
}

static __device__ inline bool mask_leaf(const struct cuda_mask &m, int i, int64_t batch, int64_t head,
                                        int64_t q, int64_t k) {
    const struct cuda_mask_node &n = m.node[i];
    switch (mask_kind(m, i)) {
    case CUDA_MASK_DISTANCE: {
        const int64_t distance = k - q - mask_shift(m, n);
        return distance >= n.number[HEED_DISTANCE_LOW] && distance <= n.number[HEED_DISTANCE_HIGH];
    }
    case CUDA_MASK_KEY_LENGTHS:
        return k < mask_number(n, 0, batch, head, 0);
    case CUDA_MASK_QUERY_LENGTHS:
        return q < mask_number(n, 0, batch, head, 0);
    case CUDA_MASK_PREFIX:
        return k < mask_number(n, 0, batch, head, 0) || k <= q + mask_shift(m, n);
    case CUDA_MASK_SEGMENTS: {
        const int64_t id = mask_number(n, 0, batch, head, q);
        return id >= 0 && id == mask_number(n, 1, batch, head, k);
    }
    case CUDA_MASK_INTERVALS:
        return mask_number(n, 0, batch, head, k) <= q && q < mask_number(n, 1, batch, head, k);
    case CUDA_MASK_TREE: {
        const int64_t node = k - n.number[HEED_TREE_PREFIX];
        return node < 0 || (node <= q && q < mask_number(n, 0, batch, head, node));
    }
    case CUDA_MASK_BLOCKS:
        return static_cast<const uint8_t *>(n.data[0])[mask_at(
                   n, 0, batch, head, q / n.number[HEED_BLOCK_QUERIES], k / n.number[HEED_BLOCK_KEYS])] != 0;
    case CUDA_MASK_BLOCK_LISTS:
        return mask_lists(n, batch, head, q / n.number[HEED_BLOCK_QUERIES], k / n.number[HEED_BLOCK_KEYS]);
    case CUDA_MASK_DENSE:
        return static_cast<const uint8_t *>(n.data[0])[mask_at(n, 0, batch, head, q, k)] != 0;
    case CUDA_MASK_PATCH:
        return mask_patch(n, batch, head, q, k);
    case CUDA_MASK_RANDOM:
        return mask_random(n, batch, head, q, k);
    case CUDA_MASK_AND:
    case CUDA_MASK_OR:
    case CUDA_MASK_NOT:
    case CUDA_MASK_KINDS:
        break;
    }
    return true;
}

/* Whether query q may attend to key k. */
static __device__ inline bool cuda_mask_allows(const struct cuda_mask &m, int64_t batch, int64_t head,
                                               int64_t q, int64_t k) {
    unsigned stack = 1; /* the top is bit 0 */
    UNROLL_CHOSEN
    for (int i = 0; i < mask_count(m); i++) {
        const enum cuda_mask_kind kind = mask_kind(m, i);
        if (kind == CUDA_MASK_NOT) {
            stack ^= 1;
        } else if (kind == CUDA_MASK_AND || kind == CUDA_MASK_OR) {
            const unsigned b = stack & 1, a = stack >> 1 & 1;
            stack = (stack >> 2 << 1) | (kind == CUDA_MASK_AND ? a & b : a | b);
        } else {
            stack = stack << 1 | (mask_leaf(m, i, batch, head, q, k) ? 1u : 0u);
        }
    }
    return stack & 1;
}

/* ---- a tile ---- */

static __device__ inline heed_cover cover_between(int64_t least, int64_t most, int64_t low, int64_t high) {
    if (least >= low && most <= high) return HEED_COVER_ALL;
    return most < low || least > high ? HEED_COVER_NONE : HEED_COVER_SOME;
}

/* Cells of batch and head: queries q0 … q1 − 1, keys k0 … k1 − 1; not empty. */
struct mask_region {
    int64_t batch, head, q0, q1, k0, k1;
};

/* What has been seen of a region's cells so far. */
struct mask_sight {
    bool some, all;
};

static __device__ inline heed_cover cover_of(const mask_sight &seen) {
    return seen.all ? HEED_COVER_ALL : seen.some ? HEED_COVER_SOME : HEED_COVER_NONE;
}

/* Elements that a thread may read to prove something of a region; what would take more is SOME. A look is for
 * regions of which each thread of a warp has one, and of which cells take much longer; a glance for others.
 */
enum { CUDA_MASK_LOOK = 1024, CUDA_MASK_GLANCE = 4 };

/* The ids of a stretch that are not negative. */
struct mask_extent {
    int64_t least, most; /* most < 0: there is none */
    bool negative;       /* there is a negative one */
};

static __device__ inline mask_extent extent_of(const struct cuda_mask_node &n, int tensor,
                                               const mask_region &r, int64_t first, int64_t end) {
    mask_extent e = {INT32_MAX, -1, false};
#pragma unroll 1
    for (int64_t i = first; i < end; i++) {
        const int64_t id = mask_number(n, tensor, r.batch, r.head, i);
        e.negative = e.negative || id < 0;
        if (id > e.most) e.most = id;
        if (id >= 0 && id < e.least) e.least = id;
    }
    return e;
}

static __device__ inline heed_cover segments_cover(const struct cuda_mask_node &n, const mask_region &r,
                                                   int most) {
    if (r.q1 - r.q0 + r.k1 - r.k0 > most) return HEED_COVER_SOME;
    const mask_extent q = extent_of(n, 0, r, r.q0, r.q1), k = extent_of(n, 1, r, r.k0, r.k1);
    if (q.most < k.least || k.most < q.least) return HEED_COVER_NONE;
    const bool one = q.least == q.most && k.least == k.most && !q.negative && !k.negative;
    return one ? HEED_COVER_ALL : HEED_COVER_SOME;
}

/* Of intervals, or of a tree, whose first `prefix` keys all see. */
static __device__ inline heed_cover intervals_cover(const struct cuda_mask_node &n, bool tree,
                                                    const mask_region &r, int most) {
    mask_sight seen = {false, true};
    if (2 * (r.k1 - r.k0) > most) return HEED_COVER_SOME;
#pragma unroll 1
    for (int64_t k = r.k0; k < r.k1; k++) {
        const int64_t node = tree ? k - n.number[HEED_TREE_PREFIX] : k;
        if (tree && node < 0) {
            seen.some = true;
            continue;
        }
        const int64_t first = tree ? node : mask_number(n, 0, r.batch, r.head, k);
        const int64_t end = mask_number(n, tree ? 0 : 1, r.batch, r.head, node);
        seen.some = seen.some || (first < end && first < r.q1 && end > r.q0);
        seen.all = seen.all && first <= r.q0 && end >= r.q1;
    }
    return cover_of(seen);
}

static __device__ inline heed_cover blocks_cover(const struct cuda_mask_node &n, bool lists,
                                                 const mask_region &r, int most) {
    const int64_t queries = n.number[HEED_BLOCK_QUERIES], keys = n.number[HEED_BLOCK_KEYS];
    const int64_t row = r.q0 / queries, row_end = (r.q1 - 1) / queries + 1;
    const int64_t column = r.k0 / keys, columns = (r.k1 - 1) / keys + 1 - column;
    const uint8_t *grid = static_cast<const uint8_t *>(n.data[0]);
    const int32_t *list = static_cast<const int32_t *>(n.data[0]);
    mask_sight seen = {false, true};
    if (columns > 64 || (row_end - row) * (lists ? n.size[0][3] : columns) > most) return HEED_COVER_SOME;
#pragma unroll 1
    for (int64_t i = row; i < row_end; i++) {
        uint64_t word = 0; /* a bit for each column */
#pragma unroll 1
        for (int64_t j = 0; j < (lists ? n.size[0][3] : columns); j++) {
            const int64_t at = lists ? list[mask_at(n, 0, r.batch, r.head, i, j)] - column : j;
            if (at < 0 || at >= columns) continue;
            if (lists || grid[mask_at(n, 0, r.batch, r.head, i, column + j)]) word |= uint64_t(1) << at;
        }
        seen.some = seen.some || word != 0;
        seen.all = seen.all && word == ~uint64_t(0) >> (64 - columns);
    }
    return cover_of(seen);
}

/* Looks along one row or column where all are the same, as of masks of padding. */
static __device__ inline heed_cover dense_cover(const struct cuda_mask_node &n, const mask_region &r,
                                                int most) {
    const bool same_rows = n.stride[0][2] == 0, same_columns = n.stride[0][3] == 0;
    const int64_t q1 = same_rows ? r.q0 + 1 : r.q1, k1 = same_columns ? r.k0 + 1 : r.k1;
    mask_sight seen = {false, true};
    if (!same_rows && !same_columns) return HEED_COVER_SOME;
    if ((q1 - r.q0) * (k1 - r.k0) > most) return HEED_COVER_SOME;
#pragma unroll 1
    for (int64_t q = r.q0; q < q1; q++)
#pragma unroll 1
        for (int64_t k = r.k0; k < k1; k++) {
            const bool allows =
                static_cast<const uint8_t *>(n.data[0])[mask_at(n, 0, r.batch, r.head, q, k)] != 0;
            seen.some = seen.some || allows;
            seen.all = seen.all && allows;
        }
    return cover_of(seen);
}

static __device__ inline heed_cover patch_cover(const struct cuda_mask_node &n, const mask_region &r) {
    const int64_t q = n.number[HEED_PATCH_QUERY], k = n.number[HEED_PATCH_KEY];
    const bool meets = r.q0 < q + n.size[0][2] && r.q1 > q && r.k0 < k + n.size[0][3] && r.k1 > k;
    if (meets) return HEED_COVER_SOME;
    return n.number[HEED_PATCH_OUTSIDE] ? HEED_COVER_ALL : HEED_COVER_NONE;
}

static __device__ inline heed_cover leaf_covers(const struct cuda_mask &m, int i, const mask_region &r,
                                                int most) {
    const struct cuda_mask_node &n = m.node[i];
    const enum cuda_mask_kind kind = mask_kind(m, i);
    switch (kind) {
    case CUDA_MASK_DISTANCE: {
        const int64_t shift = mask_shift(m, n);
        return cover_between(r.k0 - (r.q1 - 1) - shift, r.k1 - 1 - r.q0 - shift, n.number[HEED_DISTANCE_LOW],
                             n.number[HEED_DISTANCE_HIGH]);
    }
    case CUDA_MASK_KEY_LENGTHS:
        return cover_between(r.k0, r.k1 - 1, 0, mask_number(n, 0, r.batch, r.head, 0) - 1);
    case CUDA_MASK_QUERY_LENGTHS:
        return cover_between(r.q0, r.q1 - 1, 0, mask_number(n, 0, r.batch, r.head, 0) - 1);
    case CUDA_MASK_PREFIX: {
        const int64_t length = mask_number(n, 0, r.batch, r.head, 0), shift = mask_shift(m, n);
        const int64_t first = r.q0 + shift + 1, last = r.q1 + shift;
        if (r.k1 <= (first > length ? first : length)) return HEED_COVER_ALL;
        return r.k0 >= (last > length ? last : length) ? HEED_COVER_NONE : HEED_COVER_SOME;
    }
    case CUDA_MASK_SEGMENTS:
        return segments_cover(n, r, most);
    case CUDA_MASK_INTERVALS:
    case CUDA_MASK_TREE:
        return intervals_cover(n, kind == CUDA_MASK_TREE, r, most);
    case CUDA_MASK_BLOCKS:
    case CUDA_MASK_BLOCK_LISTS:
        return blocks_cover(n, kind == CUDA_MASK_BLOCK_LISTS, r, most);
    case CUDA_MASK_DENSE:
        return dense_cover(n, r, most);
    case CUDA_MASK_PATCH:
        return patch_cover(n, r);
    default:
        return HEED_COVER_SOME;
    }
}

static __device__ inline heed_cover join_covers(heed_cover a, heed_cover b, heed_cover wins,
                                                heed_cover loses) {
    if (a == wins || b == wins) return wins;
    return a == loses && b == loses ? loses : HEED_COVER_SOME;
}

/* Two bits each on a stack of half the depth; a mask that is deeper is SOME. */
static __device__ inline heed_cover cuda_mask_covers(const struct cuda_mask &m, const mask_region &r,
                                                     int most) {
    uint64_t stack = HEED_COVER_ALL;
    UNROLL_CHOSEN
    for (int i = 0; i < mask_count(m); i++) {
        const enum cuda_mask_kind kind = mask_kind(m, i);
        const heed_cover b = (heed_cover)(stack & 3), a = (heed_cover)(stack >> 2 & 3);
        if (kind == CUDA_MASK_NOT) {
            const heed_cover other = b == HEED_COVER_NONE  ? HEED_COVER_ALL
                                     : b == HEED_COVER_ALL ? HEED_COVER_NONE
                                                           : HEED_COVER_SOME;
            stack = stack >> 2 << 2 | (uint64_t)other;
        } else if (kind == CUDA_MASK_AND) {
            stack = stack >> 4 << 2 | (uint64_t)join_covers(a, b, HEED_COVER_NONE, HEED_COVER_ALL);
        } else if (kind == CUDA_MASK_OR) {
            stack = stack >> 4 << 2 | (uint64_t)join_covers(a, b, HEED_COVER_ALL, HEED_COVER_NONE);
        } else {
            stack = stack << 2 | (uint64_t)leaf_covers(m, i, r, most);
        }
    }
    return (heed_cover)(stack & 3);
}

#endif
