/* A view is a tensor as raw memory: what kernels see. Element (i, j, …) is at
 * data[i·stride[0] + j·stride[1] + …], strides in elements, 0 for a repeated dimension.
 *
 * Invariant: data == NULL means "no tensor here" (an optional one that is absent). A tensor without
 * elements still has a data pointer that is not NULL. */
#ifndef HEED_SRC_TENSOR_VIEW_H
#define HEED_SRC_TENSOR_VIEW_H

#include <heed/base.h>

struct heed_view {
    void *data;
    heed_dtype dtype;
    int rank;
    int64_t size[HEED_MAX_RANK];
    int64_t stride[HEED_MAX_RANK];
};

/* A gradient to be produced: view.data == NULL means not wanted. With `add` the kernel adds to what is
 * there, otherwise it overwrites all of it (also what gets no contribution: zeros). */
struct heed_grad_view {
    struct heed_view view;
    bool add;
};

static inline bool heed_has(const struct heed_view *v) {
    return v->data != NULL;
}

/* Whether tensors of a dtype may have gradients. */
static inline bool heed_is_float(heed_dtype dtype) {
    return dtype == HEED_F32 || dtype == HEED_F64 || dtype == HEED_BF16;
}

/* Number of elements, counting repeated ones. */
int64_t heed_view_count(const struct heed_view *v);

/* Row-major strides for the sizes; fails (false) if the element count overflows int64. */
bool heed_view_set_contiguous(struct heed_view *v);

bool heed_view_is_contiguous(const struct heed_view *v);

/* Whether some element can be reached by two different indices (a stride of 0 over a size > 1). */
bool heed_view_repeats(const struct heed_view *v);

bool heed_view_same_shape(const struct heed_view *a, const struct heed_view *b);

/* NumPy broadcasting: v expanded to the given sizes by strides of 0. False if it does not fit. */
bool heed_view_expand(const struct heed_view *v, int rank, const int64_t *size, struct heed_view *out);

/* The broadcast shape of two; false if they clash. */
bool heed_shape_broadcast(int rank_a, const int64_t *a, int rank_b, const int64_t *b, int *rank,
                          int64_t *size);

/* The same elements under other sizes if strides allow it without a copy (data and dtype kept). */
bool heed_view_reshape(const struct heed_view *v, int rank, const int64_t *size, struct heed_view *out);

/* A contiguous view seen as [count / last, last]. Only for contiguous views of rank ≥ 1. */
struct heed_view heed_view_rows(const struct heed_view *v);

/* With the last two dimensions exchanged. */
static inline struct heed_view heed_view_transposed(const struct heed_view *v) {
    struct heed_view t = *v;
    const int last = v->rank - 1;
    t.size[last] = v->size[last - 1];
    t.stride[last] = v->stride[last - 1];
    t.size[last - 1] = v->size[last];
    t.stride[last - 1] = v->stride[last];
    return t;
}

/* The address of an element by its offset in elements. */
static inline void *heed_view_at(const struct heed_view *v, int64_t offset) {
    return (char *)v->data + offset * (int64_t)heed_dtype_bytes(v->dtype);
}

/* The elements of a view over host memory, one behind the other in row-major order. */
void heed_view_copy_elements(const struct heed_view *v, void *to);

/* "[8,64,384]" into text (always terminated); returns text. 96 bytes hold the largest useful shape. */
const char *heed_shape_text(int rank, const int64_t *size, char *text, size_t bytes);

#endif
