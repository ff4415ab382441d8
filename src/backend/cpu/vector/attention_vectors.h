/* The tasks of tiled attention for one instruction set; each has a file of its own. */
#ifndef HEED_SRC_BACKEND_CPU_VECTOR_ATTENTION_VECTORS_H
#define HEED_SRC_BACKEND_CPU_VECTOR_ATTENTION_VECTORS_H

#include "backend/cpu/attention.h"
#include "backend/cpu/vector/vector.h"

heed_attention_work HEED_VECTOR_NAME(heed_attention_forward_task);
heed_attention_work HEED_VECTOR_NAME(heed_attention_chosen_task);
heed_attention_work HEED_VECTOR_NAME(heed_attention_delta_task);
heed_attention_work HEED_VECTOR_NAME(heed_attention_backward_task);

#endif
