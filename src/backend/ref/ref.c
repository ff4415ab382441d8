/* Elements, walks and sums of the reference kernels, and the table of all of them. */
#include "backend/ref/ref.h"

#include <math.h>
#include <string.h>

#include "tensor/bf16.h"

/* Multi-head attention is made of other primitives: what it does better or worse is decided by theirs. */
extern const struct heed_kernel heed_composite_mha;

const struct heed_kernel *const heed_ref_kernels[HEED_PRIMITIVES] = {
    [HEED_PRIMITIVE_COPY] = &heed_ref_copy,
    [HEED_PRIMITIVE_FILL] = &heed_ref_fill,
    [HEED_PRIMITIVE_RANDOM] = &heed_ref_random,
    [HEED_PRIMITIVE_UNARY] = &heed_ref_unary,
    [HEED_PRIMITIVE_BINARY] = &heed_ref_binary,
    [HEED_PRIMITIVE_WHERE] = &heed_ref_where,
    [HEED_PRIMITIVE_REDUCE] = &heed_ref_reduce,
    [HEED_PRIMITIVE_ARGMAX] = &heed_ref_argmax,
    [HEED_PRIMITIVE_SOFTMAX] = &heed_ref_softmax,
    [HEED_PRIMITIVE_NORM] = &heed_ref_norm,
    [HEED_PRIMITIVE_RESIDUAL_NORM] = &heed_ref_residual_norm,
    [HEED_PRIMITIVE_ROTARY] = &heed_ref_rotary,
    [HEED_PRIMITIVE_MATMUL] = &heed_ref_matmul,
    [HEED_PRIMITIVE_LINEAR] = &heed_ref_linear,
    [HEED_PRIMITIVE_GATHER] = &heed_ref_gather,
    [HEED_PRIMITIVE_DROPOUT] = &heed_ref_dropout,
    [HEED_PRIMITIVE_CROSS_ENTROPY] = &heed_ref_cross_entropy,
    [HEED_PRIMITIVE_PAIR_LOSS] = &heed_ref_pair_loss,
    [HEED_PRIMITIVE_ATTENTION] = &heed_ref_attention,
    [HEED_PRIMITIVE_MHA] = &heed_composite_mha,
    [HEED_PRIMITIVE_LOSS] = &heed_ref_loss,
    [HEED_PRIMITIVE_GRAD_NORM] = &heed_ref_grad_norm,
    [HEED_PRIMITIVE_UPDATE] = &heed_ref_update,
};

/* ---- elements ---- */

static int32_t i32_store(double value) {
    if (isnan(value)) return 0;
    if (value <= INT32_MIN) return INT32_MIN;
    return value >= INT32_MAX ? INT32_MAX : (int32_t)value;
}

double heed_ref_load(const struct heed_view *v, int64_t offset) {
    switch (v->dtype) {
    case HEED_F32:
        return ((const float *)v->data)[offset];
    case HEED_F64:
        return ((const double *)v->data)[offset];
    case HEED_BF16:
        return (double)heed_bf16_value(((const uint16_t *)v->data)[offset]);
    case HEED_I32:
        return ((const int32_t *)v->data)[offset];
    case HEED_BOOL:
        return ((const uint8_t *)v->data)[offset] != 0;
    }
    return NAN;
}

void heed_ref_store(const struct heed_view *v, int64_t offset, double value) {
    switch (v->dtype) {
    case HEED_F32:
        ((float *)v->data)[offset] = (float)value;
        break;
    case HEED_F64:
        ((double *)v->data)[offset] = value;
        break;
    case HEED_BF16:
        ((uint16_t *)v->data)[offset] = heed_bf16_of_double(value);
        break;
    case HEED_I32:
        ((int32_t *)v->data)[offset] = i32_store(value);
        break;
    case HEED_BOOL:
        ((uint8_t *)v->data)[offset] = value != 0;
        break;
    }
}

void heed_ref_contribute(const struct heed_grad_view *g, int64_t offset, double value) {
    heed_ref_store(&g->view, offset, g->add ? heed_ref_load(&g->view, offset) + value : value);
}

/* ---- walks ---- */

void heed_walk_restart(struct heed_walk *w) {
    w->more = true;
    for (int d = 0; d < w->rank; d++) {
        w->at[d] = 0;
        w->more = w->more && w->size[d] > 0;
    }
}

void heed_walk_start(struct heed_walk *w, int rank, const int64_t *size) {
    *w = (struct heed_walk){.rank = rank};
    for (int d = 0; d < rank; d++) w->size[d] = size[d];
    heed_walk_restart(w);
}

void heed_walk_next(struct heed_walk *w) {
    for (int d = w->rank - 1; d >= 0; d--) {
        if (++w->at[d] < w->size[d]) return;
        w->at[d] = 0;
    }
    w->more = false;
}

void heed_walk_split(const struct heed_view *v, struct heed_walk *own, struct heed_walk *repeated) {
    *own = *repeated = (struct heed_walk){.rank = v->rank};
    for (int d = 0; d < v->rank; d++) {
        bool repeats = v->stride[d] == 0;
        own->size[d] = repeats ? 1 : v->size[d];
        repeated->size[d] = repeats ? v->size[d] : 1;
    }
    heed_walk_restart(own);
    heed_walk_restart(repeated);
}

/* ---- tensors ---- */

void heed_ref_map(const struct heed_view *y, heed_ref_term *term, const void *args) {
    struct heed_walk w;
    for (heed_walk_start(&w, y->rank, y->size); w.more; heed_walk_next(&w))
        heed_ref_put(y, w.at, term(args, w.at));
}

void heed_ref_gradient(const struct heed_grad_view *g, heed_ref_term *term, const void *args) {
    if (!heed_has(&g->view)) return;
    struct heed_walk own, repeated;
    for (heed_walk_split(&g->view, &own, &repeated); own.more; heed_walk_next(&own)) {
        double sum = 0;
        for (heed_walk_restart(&repeated); repeated.more; heed_walk_next(&repeated)) {
            int64_t at[HEED_MAX_RANK];
            for (int d = 0; d < own.rank; d++) at[d] = own.at[d] + repeated.at[d];
            sum += term(args, at);
        }
        heed_ref_contribute(g, heed_ref_offset(&g->view, own.at), sum);
    }
}

size_t heed_ref_sum_bytes(const struct heed_grad_view *g) {
    if (!heed_has(&g->view)) return 0;
    size_t count = 1;
    for (int d = 0; d < g->view.rank; d++) count *= g->view.stride[d] == 0 ? 1 : (size_t)g->view.size[d];
    return count * sizeof(double);
}

struct heed_view heed_ref_sum_open(const struct heed_grad_view *g, double **scratch) {
    struct heed_view sum = g->view;
    if (!heed_has(&sum)) return sum;
    size_t bytes = heed_ref_sum_bytes(g);
    int64_t stride = 1;
    for (int d = sum.rank - 1; d >= 0; d--) {
        bool repeats = sum.stride[d] == 0;
        sum.stride[d] = repeats ? 0 : stride;
        if (!repeats) stride *= sum.size[d];
    }
    sum.dtype = HEED_F64;
    if (bytes > 0) {
        sum.data = memset(*scratch, 0, bytes);
        *scratch += bytes / sizeof(double);
    }
    return sum;
}

void heed_ref_sum_close(const struct heed_grad_view *g, const struct heed_view *sum) {
    if (!heed_has(&g->view)) return;
    struct heed_walk own, repeated;
    for (heed_walk_split(&g->view, &own, &repeated); own.more; heed_walk_next(&own)) {
        heed_ref_contribute(g, heed_ref_offset(&g->view, own.at), heed_ref_get(sum, own.at));
    }
}
