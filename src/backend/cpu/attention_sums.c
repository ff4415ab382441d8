/* Gradients of biases, of stages' parameters and of sinks.
 *
 * A gradient with a cell for every query and key is added to where it lies, by the one task that owns the
 * cell. All others are gathered in arrays that are linear in the lengths and private to a task, and added up
 * here in a fixed order. */
#include <string.h>

#include "backend/cpu/attention.h"

heed_status heed_attention_sums_open(struct heed_exec *exec, const struct heed_attention_plan *p) {
    for (int i = 0; i < HEED_SUMS; i++) {
        const struct heed_attention_sum *sum = &p->sum[i];
        if (sum->scope == HEED_SUM_NONE) continue;
        memset(sum->data, 0, (size_t)heed_attention_sum_floats(sum) * sizeof(float));
        if (sum->to->add) continue;
        struct heed_fill_args fill = {.y = sum->to->view};
        for (int d = 0; d < 4; d++) {
            if (fill.y.stride[d] == 0) fill.y.size[d] = 1;
        }
        const heed_status status = heed_exec_run(exec, HEED_PRIMITIVE_FILL, &fill);
        if (status) return status;
    }
    return HEED_OK;
}

/* Part after part; the elements of one lie along dimension 2 of the gradient (queries) or 3. */
static void deliver(const struct heed_attention_plan *p, const struct heed_attention_sum *sum, int64_t batch,
                    int64_t batches) {
    const struct heed_view *v = &sum->to->view;
    const int64_t step = sum->scope == HEED_SUM_QUERY ? v->stride[2] : v->stride[3];
    for (int64_t part = 0; part < sum->parts; part++) {
        for (int64_t row = batch * p->heads; row < (batch + batches) * p->heads; row++) {
            const float *from = heed_attention_sum_at(sum, part, row / p->heads, row % p->heads);
            float *to = (float *)v->data + row / p->heads * v->stride[0] + row % p->heads * v->stride[1];
            for (int64_t i = 0; i < sum->count; i++) to[i * step] += from[i];
        }
    }
}

static void deliver_all(const struct heed_attention_plan *p, int64_t batch, int64_t batches) {
    for (int i = 0; i < HEED_SUMS; i++) {
        if (p->sum[i].parts > 0) deliver(p, &p->sum[i], batch, batches);
    }
}

void heed_attention_sums_close(const struct heed_attention_plan *p) {
    if (!heed_is_packed(&p->args->packed)) {
        deliver_all(p, 0, p->batch);
        return;
    }
    for (int64_t i = 0; i < p->batch; i++) {
        struct heed_attention_plan own;
        struct heed_attention_args args;
        heed_attention_plan_of_sequence(p, i, &own, &args);
        deliver_all(&own, i, 1);
    }
}
