/* The views within a primitive's arguments, and who reads and writes them: for code that treats all of them
 * alike, whatever the primitive. */
#ifndef HEED_SRC_BACKEND_VIEWS_H
#define HEED_SRC_BACKEND_VIEWS_H

#include "backend/primitives.h"

enum {
    HEED_FORWARD_READS = 1,
    HEED_FORWARD_WRITES = 2,
    HEED_BACKWARD_READS = 4, /* for the gradients that are wanted; a gradient that is added to as well */
    HEED_BACKWARD_WRITES = 8
};

typedef void heed_view_visit(void *self, struct heed_view *view, unsigned how);

/* Calls visit for each view of floating-point elements that args may have (absent ones too); false for a
 * primitive of which that is not known: multi-head attention is made of others, and optimisers have no views.
 */
bool heed_args_visit(enum heed_primitive primitive, void *args, heed_view_visit *visit, void *self);

/* Bytes of a primitive's arguments. HEED_MOST_ARGS_BYTES holds those of any that can be visited. */
size_t heed_args_bytes(enum heed_primitive primitive);
#define HEED_MOST_ARGS_BYTES sizeof(struct heed_attention_args)

/* Whether all of those views that are there are f32, or bf16. */
bool heed_args_are_f32(enum heed_primitive primitive, const void *args);
bool heed_args_are_bf16(enum heed_primitive primitive, const void *args);

/* Whether some of them is bf16. */
bool heed_args_have_bf16(enum heed_primitive primitive, const void *args);

#endif
