/* What the reference kernels are written with.
 *
 * They are the executable specification: an element is read as a double by its indices, sums are made in
 * double, and a result is rounded once, when it is stored. */
#ifndef HEED_SRC_BACKEND_REF_REF_H
#define HEED_SRC_BACKEND_REF_REF_H

#include "backend/backend.h"

/* ---- elements ---- */

static inline int64_t heed_ref_offset(const struct heed_view *v, const int64_t *at) {
    int64_t offset = 0;
    for (int d = 0; d < v->rank; d++) offset += at[d] * v->stride[d];
    return offset;
}

/* An element by its offset. Storing to i32 rounds towards zero and stays in range (NaN is 0); to bool it asks
 * whether the value is other than 0. */
double heed_ref_load(const struct heed_view *v, int64_t offset);
void heed_ref_store(const struct heed_view *v, int64_t offset, double value);

static inline double heed_ref_get(const struct heed_view *v, const int64_t *at) {
    return heed_ref_load(v, heed_ref_offset(v, at));
}
static inline void heed_ref_put(const struct heed_view *v, const int64_t *at, double value) {
    heed_ref_store(v, heed_ref_offset(v, at), value);
}

/* The same of matrices. */
static inline double heed_ref_get2(const struct heed_view *v, int64_t i, int64_t j) {
    return heed_ref_load(v, i * v->stride[0] + j * v->stride[1]);
}
static inline void heed_ref_put2(const struct heed_view *v, int64_t i, int64_t j, double value) {
    heed_ref_store(v, i * v->stride[0] + j * v->stride[1], value);
}

/* Writes or adds a finished contribution to a gradient's element, by offset. */
void heed_ref_contribute(const struct heed_grad_view *g, int64_t offset, double value);

/* ---- walks: all indices of a shape, the last one fastest ---- */

struct heed_walk {
    bool more;
    int rank;
    int64_t size[HEED_MAX_RANK], at[HEED_MAX_RANK];
};

void heed_walk_start(struct heed_walk *w, int rank, const int64_t *size);
void heed_walk_restart(struct heed_walk *w);
void heed_walk_next(struct heed_walk *w);

/* Splits the indices of v into those that reach different elements and those over which it repeats. An index
 * is the sum of one of each. */
void heed_walk_split(const struct heed_view *v, struct heed_walk *own, struct heed_walk *repeated);

/* ---- tensors ---- */

/* A number for every index, from a kernel's arguments. */
typedef double heed_ref_term(const void *args, const int64_t *at);

/* y[at] = term(args, at). */
void heed_ref_map(const struct heed_view *y, heed_ref_term *term, const void *args);

/* g[at] = term(args, at), summed where g repeats, added where it asks for it. Nothing if not wanted. */
void heed_ref_gradient(const struct heed_grad_view *g, heed_ref_term *term, const void *args);

/* A gradient to which contributions come in any order: summed in double in scratch, stored at the end. */
size_t heed_ref_sum_bytes(const struct heed_grad_view *g);
/* Zeroed, in the gradient's shape and repeating as it does; absent if not wanted. Advances *scratch. */
struct heed_view heed_ref_sum_open(const struct heed_grad_view *g, double **scratch);
void heed_ref_sum_close(const struct heed_grad_view *g, const struct heed_view *sum);

static inline void heed_ref_sum_add(const struct heed_view *sum, int64_t offset, double value) {
    ((double *)sum->data)[offset] += value;
}

/* Element `element` of contiguous v through dropout: scaled, or exactly 0. */
double heed_ref_dropped(const struct heed_random *random, uint32_t threshold, const struct heed_view *v,
                        int64_t element);

/* ---- the kernels ---- */

extern const struct heed_kernel heed_ref_copy;
extern const struct heed_kernel heed_ref_fill;
extern const struct heed_kernel heed_ref_random;
extern const struct heed_kernel heed_ref_unary;
extern const struct heed_kernel heed_ref_binary;
extern const struct heed_kernel heed_ref_where;
extern const struct heed_kernel heed_ref_reduce;
extern const struct heed_kernel heed_ref_argmax;
extern const struct heed_kernel heed_ref_softmax;
extern const struct heed_kernel heed_ref_norm;
extern const struct heed_kernel heed_ref_residual_norm;
extern const struct heed_kernel heed_ref_rotary;
extern const struct heed_kernel heed_ref_matmul;
extern const struct heed_kernel heed_ref_linear;
extern const struct heed_kernel heed_ref_gather;
extern const struct heed_kernel heed_ref_dropout;
extern const struct heed_kernel heed_ref_cross_entropy;
extern const struct heed_kernel heed_ref_pair_loss;
extern const struct heed_kernel heed_ref_attention;
extern const struct heed_kernel heed_ref_loss;
extern const struct heed_kernel heed_ref_grad_norm;
extern const struct heed_kernel heed_ref_update;

#endif
