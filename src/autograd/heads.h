/* Operations for layers that take attention apart: not public, since they ask for more than handles show. */
#ifndef HEED_SRC_AUTOGRAD_HEADS_H
#define HEED_SRC_AUTOGRAD_HEADS_H

#include <heed/ops.h>

/* out[i] [.., heads, length, width] = x[i]·w[i]ᵀ + bias[i] taken apart into heads[i] heads, for `count` ≤ 3
 * (x [.., length, in], w [heads · width, in], bias may be none). Neighbours of one x whose weights and biases
 * lie one after the other in memory, as parameters of one storage do, are made by one product; their outputs
 * are then views of one storage, and so are their gradients. */
void heed_project_heads(int count, const heed_tensor *x, const heed_tensor *w, const heed_tensor *bias,
                        const int64_t *heads, heed_tensor *out);

/* heed_rotary() that writes over x, which nobody may need any more: a tensor that an operation has just made
 * [rows without gaps]. */
heed_tensor heed_rotary_over(heed_tensor x, const heed_rotary_options *options);

#endif
