/* Reference kernels that make elements: copy (with conversion, or as a sum), fill, random. */
#include "backend/ref/ref.h"

#include <math.h>

static double copied(const void *p, const int64_t *at) {
    const struct heed_copy_args *args = p;
    return heed_ref_get(&args->x, at);
}

static heed_status copy_forward(struct heed_exec *exec, const void *p, void *saved, void *scratch) {
    (void)exec, (void)saved, (void)scratch;
    const struct heed_copy_args *args = p;
    if (args->y.add)
        heed_ref_gradient(&args->y, copied, args);
    else
        heed_ref_map(&args->y.view, copied, args); /* a sum would make 0 of −0 */
    return HEED_OK;
}

const struct heed_kernel heed_ref_copy = {"ref", NULL, NULL, copy_forward, NULL};

static double filled(const void *p, const int64_t *at) {
    const struct heed_fill_args *args = p;
    return args->arange ? (double)at[0] : args->value;
}

static heed_status fill_forward(struct heed_exec *exec, const void *p, void *saved, void *scratch) {
    (void)exec, (void)saved, (void)scratch;
    const struct heed_fill_args *args = p;
    heed_ref_map(&args->y, filled, args);
    return HEED_OK;
}

const struct heed_kernel heed_ref_fill = {"ref", NULL, NULL, fill_forward, NULL};

static void random_f32(const struct heed_random_args *args, int64_t count) {
    float *y = args->y.data;
    const float a = (float)args->a, b = (float)args->b, span = (float)(args->b - args->a);
    const float top = heed_below_f32(b, a); /* a + span·u may round up to b */
    for (int64_t i = 0; i < count; i++) {
        if (args->normal) {
            y[i] = a + b * heed_normal_f32(&args->random, (uint64_t)i);
        } else {
            y[i] = fminf(a + span * heed_uniform_f32(&args->random, (uint64_t)i), top);
        }
    }
}

static void random_f64(const struct heed_random_args *args, int64_t count) {
    double *y = args->y.data;
    const double a = args->a, b = args->b, span = args->b - args->a;
    const double top = b > a ? nextafter(b, a) : INFINITY;
    for (int64_t i = 0; i < count; i++) {
        if (args->normal) {
            y[i] = a + b * heed_normal_f64(&args->random, (uint64_t)i);
        } else {
            y[i] = fmin(a + span * heed_uniform_f64(&args->random, (uint64_t)i), top);
        }
    }
}

static heed_status random_forward(struct heed_exec *exec, const void *p, void *saved, void *scratch) {
    (void)exec, (void)saved, (void)scratch;
    const struct heed_random_args *args = p;
    int64_t count = heed_view_count(&args->y);
    if (args->y.dtype == HEED_F64) {
        random_f64(args, count);
    } else {
        random_f32(args, count);
    }
    return HEED_OK;
}

const struct heed_kernel heed_ref_random = {"ref", NULL, NULL, random_forward, NULL};
