/* Which cuDNN a test has: the fake on the emulated device, on a GPU that of the machine. */
#ifndef HEED_TESTS_CUDA_CUDNN_IN_USE_H
#define HEED_TESTS_CUDA_CUDNN_IN_USE_H

#include <stdbool.h>

#include "fakes/cudnn.h"

/* NULL: it is not the fake. Opens the library, and no device. */
struct fake_cudnn *cudnn_fake(void);

/* For main(), before the suite. 0: there is a cuDNN. 77: there is none, and a line said why; that is no
 * failure of the tests, but they did not run. 1: it does not fit the device, and a line said so. On a GPU the
 * tests then share a process, since one with a device cannot fork. */
int cudnn_begin(void);

/* Whether it is known to have a gradient that is the same every time, `sums`: of a bias too, or with dropout.
 * As the table of docs/cuda.md says. */
bool cudnn_has_gradient(bool sums);

#endif
