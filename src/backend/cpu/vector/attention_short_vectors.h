/* The two directions of short attention for one instruction set; each has a file of its own. */
#ifndef HEED_SRC_BACKEND_CPU_VECTOR_ATTENTION_SHORT_VECTORS_H
#define HEED_SRC_BACKEND_CPU_VECTOR_ATTENTION_SHORT_VECTORS_H

#include "backend/cpu/attention_short.h"
#include "backend/cpu/vector/vector.h"

void HEED_VECTOR_NAME(heed_short_forward_task)(const struct heed_short_plan *plan, int64_t task, int worker);
void HEED_VECTOR_NAME(heed_short_backward_task)(const struct heed_short_plan *plan, int64_t task, int worker);

#endif
