/* Linear products of one x whose weights, and biases, lie one after the other in memory are a single product:
 * its weight has the rows of all, and each of them makes some columns of its result. */
#ifndef HEED_SRC_BACKEND_JOINED_H
#define HEED_SRC_BACKEND_JOINED_H

#include "backend/backend.h"

#define HEED_MAX_JOINED 3

struct heed_joined {
    int count;
    int64_t width[HEED_MAX_JOINED]; /* columns that each makes, from left to right */
};

/* Whether a product's weight and bias [both contiguous, the bias may be absent] are directly followed by
 * those of another. */
bool heed_joins(const struct heed_view *w, const struct heed_view *bias, const struct heed_view *next_w,
                const struct heed_view *next_bias);

/* Makes of a product of all that of number i alone: its rows of w and bias, its columns of y and dy. */
void heed_joined_narrow(const struct heed_joined *joined, int i, struct heed_linear_args *args);

/* Backward of a product of all. `whole` has x, w, bias, dy and dx; dw and dbias are those of each, and
 * written by one product where they lie like the weights. */
heed_status heed_joined_backward(struct heed_exec *exec, const struct heed_kernel *kernel,
                                 const struct heed_linear_args *whole, const struct heed_joined *joined,
                                 const struct heed_grad_view *const dw[],
                                 const struct heed_grad_view *const dbias[]);

#endif
