/* Gradients of biases.
 *
 * A gradient with a cell for every query and key is added to where it lies, by the one task that owns the
 * cell. All others are gathered in arrays that are linear in the lengths and private to a task, and added up
 * here in a fixed order. */
#include <string.h>

#include "backend/cpu/attention.h"

heed_status heed_attention_bias_open(struct heed_exec *exec, const struct heed_attention_plan *p) {
    for (int i = 0; i < p->args->stages; i++) {
        const struct heed_grad_view *gradient = &p->args->stage[i].dtensor;
        if (p->scope[i] == HEED_BIAS_NONE) continue;
        if (p->sums[i]) memset(p->sums[i], 0, (size_t)heed_attention_bias_floats(p, i) * sizeof(float));
        if (gradient->add) continue;
        struct heed_fill_args fill = {.y = gradient->view};
        for (int d = 0; d < 4; d++) {
            if (fill.y.stride[d] == 0) fill.y.size[d] = 1;
        }
        const heed_status status = heed_exec_run(exec, HEED_PRIMITIVE_FILL, &fill);
        if (status) return status;
    }
    return HEED_OK;
}

/* The gathered array of one strip, batch and head has `count` elements along dimension `dim` (none: one
 * element). */
static void deliver(const struct heed_attention_plan *p, int stage, int64_t strips, int dim) {
    const struct heed_view *v = &p->args->stage[stage].dtensor.view;
    const int64_t count = dim < 4 ? v->size[dim] : 1, step = dim < 4 ? v->stride[dim] : 0;
    const float *from = p->sums[stage];
    for (int64_t strip = 0; strip < strips; strip++) {
        for (int64_t row = 0; row < p->batch * p->heads; row++) {
            float *to = (float *)v->data + row / p->heads * v->stride[0] + row % p->heads * v->stride[1];
            for (int64_t i = 0; i < count; i++) to[i * step] += *from++;
        }
    }
}

void heed_attention_bias_close(const struct heed_attention_plan *p) {
    for (int i = 0; i < p->args->stages; i++) {
        if (p->scope[i] == HEED_BIAS_KEY) deliver(p, i, 1, 3);
        if (p->scope[i] == HEED_BIAS_QUERY) deliver(p, i, p->strips, 2);
        if (p->scope[i] == HEED_BIAS_HEAD) deliver(p, i, p->strips, 4);
    }
}
