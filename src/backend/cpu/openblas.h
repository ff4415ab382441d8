/* The OpenBLAS watch, for its test. Everyone else needs only what cpu.h declares. */
#ifndef HEED_SRC_BACKEND_CPU_OPENBLAS_H
#define HEED_SRC_BACKEND_CPU_OPENBLAS_H

#include "backend/backend.h"

/* A change of cores that is known to work in a version of OpenBLAS. */
struct heed_blas_change {
    const char *version, *from, *to;
};

/* All of them; ends with a NULL version. */
extern const struct heed_blas_change heed_blas_changes[];

/* The core whose kernels use what the processor has. */
const char *heed_blas_best_core(enum heed_isa isa, bool amd);

/* Whether the table knows this change. */
bool heed_blas_may_change(const char *version, const char *from, const char *to);

/* Lets OpenBLAS choose again, as if the environment said `core`; the environment is then as before. Whether
 * that core now runs. Only while no product runs in any thread. */
bool heed_blas_select(const char *core);

/* What the library constructor does: looks, re-selects where it is allowed, and writes the report. */
void heed_blas_watch(void);

#endif
