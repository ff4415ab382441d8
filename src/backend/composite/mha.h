/* Kernels made of other kernels of the same exec; they serve every backend. */
#ifndef HEED_SRC_BACKEND_COMPOSITE_MHA_H
#define HEED_SRC_BACKEND_COMPOSITE_MHA_H

#include "backend/backend.h"

extern const struct heed_kernel heed_composite_mha;

#endif
