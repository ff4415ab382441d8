/* Masks in kernels: the tree of a bound mask as a program for a stack of truth values.
 *
 * A node follows its operands. What a kind means is what its `test` in backend/masks says; `cuda_mask_covers`
 * proves NONE or ALL for a tile where that is cheap, by the same three-valued logic as there. */
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

/* Of queries q0 … q1 − 1 and keys k0 … k1 − 1, which are not empty. */
static __device__ inline heed_cover leaf_covers(const struct cuda_mask &m, int i, int64_t batch, int64_t head,
                                                int64_t q0, int64_t q1, int64_t k0, int64_t k1) {
    const struct cuda_mask_node &n = m.node[i];
    switch (mask_kind(m, i)) {
    case CUDA_MASK_DISTANCE: {
        const int64_t shift = mask_shift(m, n);
        return cover_between(k0 - (q1 - 1) - shift, k1 - 1 - q0 - shift, n.number[HEED_DISTANCE_LOW],
                             n.number[HEED_DISTANCE_HIGH]);
    }
    case CUDA_MASK_KEY_LENGTHS:
        return cover_between(k0, k1 - 1, 0, mask_number(n, 0, batch, head, 0) - 1);
    case CUDA_MASK_QUERY_LENGTHS:
        return cover_between(q0, q1 - 1, 0, mask_number(n, 0, batch, head, 0) - 1);
    case CUDA_MASK_PREFIX: {
        const int64_t length = mask_number(n, 0, batch, head, 0), shift = mask_shift(m, n);
        const int64_t first = q0 + shift + 1, last = q1 + shift;
        if (k1 <= (first > length ? first : length)) return HEED_COVER_ALL;
        return k0 >= (last > length ? last : length) ? HEED_COVER_NONE : HEED_COVER_SOME;
    }
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
static __device__ inline heed_cover cuda_mask_covers(const struct cuda_mask &m, int64_t batch, int64_t head,
                                                     int64_t q0, int64_t q1, int64_t k0, int64_t k1) {
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
            stack = stack << 2 | (uint64_t)leaf_covers(m, i, batch, head, q0, q1, k0, k1);
        }
    }
    return (heed_cover)(stack & 3);
}

#endif
