/* Words of masks by vectors (vector/masks.c). */
#ifndef HEED_SRC_BACKEND_CPU_MASKS_H
#define HEED_SRC_BACKEND_CPU_MASKS_H

#include "backend/cpu/cpu.h"
#include "backend/masks.h"

HEED_CPU_TABLE(mask)

#endif
