/* Multi-head attention over many short sequences for one instruction set: its functions, and lane order. */
#ifndef HEED_SRC_BACKEND_CPU_VECTOR_MHA_SHORT_VECTORS_H
#define HEED_SRC_BACKEND_CPU_VECTOR_MHA_SHORT_VECTORS_H

#include "backend/cpu/mha_short.h"
#include "backend/cpu/vector/vector.h"

void HEED_VECTOR_NAME(heed_mha_short_pack)(const struct heed_mha_short_plan *plan, int64_t unit);
void HEED_VECTOR_NAME(heed_mha_short_pack_backward)(const struct heed_mha_short_plan *plan, int64_t unit);
void HEED_VECTOR_NAME(heed_mha_short_backward)(const struct heed_mha_short_plan *p, int64_t index,
                                               int worker);
void HEED_VECTOR_NAME(heed_mha_short_weights)(const struct heed_mha_short_plan *p, int64_t index, int worker);

/* What a column of projected rows is: the row `feature` of an input's weights. */
struct place {
    int input;
    int64_t feature;
};

static inline struct place place_of(const struct heed_mha_short_plan *p, int64_t column) {
    int input = HEED_MHA_QUERY;
    while (column >= p->first[input + 1]) input++;
    const int64_t within = column - p->first[input], width = p->head_width[input];
    const int64_t vector = within / HEED_LANES, head = vector / width * HEED_LANES + within % HEED_LANES;
    return (struct place){input, head * width + vector % width};
}

#endif
