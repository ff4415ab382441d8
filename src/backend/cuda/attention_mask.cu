/* From the tree of a bound mask to the program that kernels run. */
#include "backend/cuda/attention_mask.cuh"

#include <string.h>

/* The kinds are constants of the library, which a plugin knows by their names. */
static enum cuda_mask_kind kind_of(const char *name) {
    static const struct {
        const char *name;
        enum cuda_mask_kind kind;
    } kinds[] = {
        {"causal", CUDA_MASK_DISTANCE},
        {"window", CUDA_MASK_DISTANCE},
        {"band", CUDA_MASK_DISTANCE},
        {"key_lengths", CUDA_MASK_KEY_LENGTHS},
        {"query_lengths", CUDA_MASK_QUERY_LENGTHS},
        {"prefix", CUDA_MASK_PREFIX},
        {"segments", CUDA_MASK_SEGMENTS},
        {"key_intervals", CUDA_MASK_INTERVALS},
        {"tree", CUDA_MASK_TREE},
        {"blocks", CUDA_MASK_BLOCKS},
        {"block_lists", CUDA_MASK_BLOCK_LISTS},
        {"dense", CUDA_MASK_DENSE},
        {"patch", CUDA_MASK_PATCH},
        {"random", CUDA_MASK_RANDOM},
        {"and", CUDA_MASK_AND},
        {"or", CUDA_MASK_OR},
        {"not", CUDA_MASK_NOT},
    };
    for (const auto &k : kinds)
        if (strcmp(k.name, name) == 0) return k.kind;
    return CUDA_MASK_KINDS;
}

static bool has_two(enum cuda_mask_kind kind) {
    return kind == CUDA_MASK_AND || kind == CUDA_MASK_OR;
}

/* Counts nodes, and the values that are on the stack at most. */
static bool measure(const struct heed_bound_mask *mask, int depth, int *count, int *most) {
    const enum cuda_mask_kind kind = kind_of(mask->kind->name);
    if (kind == CUDA_MASK_KINDS) return false;
    ++*count;
    if (depth + 1 > *most) *most = depth + 1;
    if (kind == CUDA_MASK_NOT) return measure(mask->a, depth, count, most);
    if (!has_two(kind)) return true;
    return measure(mask->a, depth, count, most) && measure(mask->b, depth + 1, count, most);
}

int cuda_mask_count(const struct heed_bound_mask *mask, struct heed_why *why) {
    int count = 0, most = 0;
    if (!mask) return 0;
    if (!measure(mask, 0, &count, &most)) {
        why->reason = "a kind of mask is not known here";
        return -1;
    }
    if (most < CUDA_MASK_DEPTH / 2) return count;
    why->reason = "the mask is too deep";
    return -1;
}

static bool add_kinds(const struct heed_bound_mask *mask, int *count, uint64_t *kinds) {
    const enum cuda_mask_kind kind = kind_of(mask->kind->name);
    if ((kind == CUDA_MASK_NOT || has_two(kind)) && !add_kinds(mask->a, count, kinds)) return false;
    if (has_two(kind) && !add_kinds(mask->b, count, kinds)) return false;
    if (kind == CUDA_MASK_KINDS || *count == 16) return false;
    *kinds |= (uint64_t)kind << 4 * (*count)++;
    return true;
}

int cuda_mask_kinds(const struct heed_bound_mask *mask, uint64_t *kinds) {
    int count = 0;
    *kinds = 0;
    return !mask || add_kinds(mask, &count, kinds) ? count : -1;
}

/* Of packed sequences the tensor's rows and columns begin with the sequence. */
static void flatten_tensor(const struct heed_bound_mask *mask, int i, int64_t batch,
                           struct cuda_mask_node *n) {
    const struct heed_view *t = &mask->tensor[i];
    int64_t at = 0;
    for (int d = 0; d < 4; d++) {
        n->size[i][d] = t->size[d];
        n->stride[i][d] = t->stride[d];
    }
    if (!heed_has(t)) return;
    if (mask->row_starts[i]) at += mask->row_starts[i][batch] * t->stride[2];
    if (mask->column_starts[i]) at += mask->column_starts[i][batch] * t->stride[3];
    n->data[i] = heed_view_at(t, at);
}

static struct cuda_mask_node *flatten(const struct heed_bound_mask *mask, int64_t batch,
                                      struct cuda_mask_node *n) {
    const enum cuda_mask_kind kind = kind_of(mask->kind->name);
    if (kind == CUDA_MASK_NOT || has_two(kind)) n = flatten(mask->a, batch, n);
    if (has_two(kind)) n = flatten(mask->b, batch, n);
    memset(n, 0, sizeof *n);
    n->kind = kind;
    memcpy(n->number, mask->number, sizeof n->number);
    for (int i = 0; i < 2; i++) flatten_tensor(mask, i, batch, n);
    return n + 1;
}

void cuda_mask_flatten(const struct heed_bound_mask *mask, int64_t batch, struct cuda_mask_node *nodes) {
    flatten(mask, batch, nodes);
}
