#include "tensor/free_index.h"

/* ---- lists of equal sizes ---- */

static int list_of(size_t size) {
    return (int)(size / HEED_ALIGN) - 1;
}

HEED_BOOKKEEPING static void list_add(struct heed_free_index *index, int i, struct heed_block *block) {
    block->left = NULL;
    block->right = index->list[i];
    if (block->right) block->right->left = block;
    index->list[i] = block;
    index->filled |= (uint64_t)1 << i;
}

HEED_BOOKKEEPING static void list_remove(struct heed_free_index *index, int i, struct heed_block *block) {
    if (block->right) block->right->left = block->left;
    if (block->left)
        block->left->right = block->right;
    else
        index->list[i] = block->right;
    if (!index->list[i]) index->filled &= ~((uint64_t)1 << i);
}

/* ---- a treap over (size, address): a search tree that is also a heap over priorities, which are a hash of
 * the address, so that it is balanced as if it had been filled in random order (Seidel and Aragon,
 * "Randomized search trees", 1996) ---- */

static uint64_t priority(const struct heed_block *block) {
    return (uint64_t)(uintptr_t)block / HEED_ALIGN * UINT64_C(0x9E3779B97F4A7C15);
}

HEED_BOOKKEEPING static bool is_before(const struct heed_block *a, const struct heed_block *b) {
    size_t size_a = heed_block_size(a), size_b = heed_block_size(b);
    return size_a != size_b ? size_a < size_b : (uintptr_t)a < (uintptr_t)b;
}

HEED_BOOKKEEPING static void tree_add(struct heed_block **link, struct heed_block *block) {
    uint64_t own = priority(block);
    while (*link && priority(*link) >= own) link = is_before(block, *link) ? &(*link)->left : &(*link)->right;
    /* What is below moves to the two sides of the new block. */
    struct heed_block *below = *link, **left = &block->left, **right = &block->right;
    while (below) {
        if (is_before(below, block)) {
            *left = below;
            left = &below->right;
            below = *left;
        } else {
            *right = below;
            right = &below->left;
            below = *right;
        }
    }
    *left = *right = NULL;
    *link = block;
}

HEED_BOOKKEEPING static void tree_remove(struct heed_block **link, struct heed_block *block) {
    while (*link != block) link = is_before(block, *link) ? &(*link)->left : &(*link)->right;
    struct heed_block *left = block->left, *right = block->right;
    while (left && right) {
        if (priority(left) >= priority(right)) {
            *link = left;
            link = &left->right;
            left = *link;
        } else {
            *link = right;
            link = &right->left;
            right = *link;
        }
    }
    *link = left ? left : right;
}

/* ---- both ---- */

void heed_free_index_add(struct heed_free_index *index, struct heed_block *block) {
    size_t size = heed_block_size(block);
    if (size <= HEED_EXACT_BYTES)
        list_add(index, list_of(size), block);
    else
        tree_add(&index->root, block);
}

void heed_free_index_remove(struct heed_free_index *index, struct heed_block *block) {
    size_t size = heed_block_size(block);
    if (size <= HEED_EXACT_BYTES)
        list_remove(index, list_of(size), block);
    else
        tree_remove(&index->root, block);
}

HEED_BOOKKEEPING struct heed_block *heed_free_index_best(const struct heed_free_index *index, size_t size) {
    if (size <= HEED_EXACT_BYTES) {
        uint64_t fitting = index->filled >> list_of(size) << list_of(size);
        if (fitting) return index->list[__builtin_ctzll(fitting)];
    }
    struct heed_block *best = NULL, *at = index->root;
    while (at) {
        if (heed_block_size(at) >= size) {
            best = at;
            at = at->left;
        } else {
            at = at->right;
        }
    }
    return best;
}

HEED_BOOKKEEPING struct heed_block *heed_free_index_largest(const struct heed_free_index *index) {
    struct heed_block *at = index->root;
    while (at && at->right) at = at->right;
    return at;
}
