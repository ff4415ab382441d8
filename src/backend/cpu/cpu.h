/* What the files of the CPU backend share.
 *
 * A kernel of this backend has two halves. Its file here is compiled once: when it applies, how work is cut
 * into tiles (by shape alone), in which order sums are made. Its inner loops are in vector/, compiled once
 * per instruction set, and reached through a table of functions. */
#ifndef HEED_SRC_BACKEND_CPU_CPU_H
#define HEED_SRC_BACKEND_CPU_CPU_H

#include "backend/views.h"
#include "backend/backend.h"

/* The largest instruction set that the processor has and the operating system lets programs use. */
enum heed_isa heed_cpu_isa_detect(void);

/* ---- tables of vector functions ---- */

#if defined(HEED_HAVE_AVX2) && defined(HEED_HAVE_AVX512)
#define HEED_CPU_TABLE(name)                                                                                 \
    extern const struct heed_##name##_vectors heed_##name##_vectors_baseline;                                \
    extern const struct heed_##name##_vectors heed_##name##_vectors_avx2;                                    \
    extern const struct heed_##name##_vectors heed_##name##_vectors_avx512;                                  \
    static inline const struct heed_##name##_vectors *heed_##name##_vectors(enum heed_isa isa) {             \
        if (isa == HEED_ISA_AVX512) return &heed_##name##_vectors_avx512;                                    \
        return isa == HEED_ISA_AVX2 ? &heed_##name##_vectors_avx2 : &heed_##name##_vectors_baseline;         \
    }
#else
#define HEED_CPU_TABLE(name)                                                                                 \
    extern const struct heed_##name##_vectors heed_##name##_vectors_baseline;                                \
    static inline const struct heed_##name##_vectors *heed_##name##_vectors(enum heed_isa isa) {             \
        (void)isa;                                                                                           \
        return &heed_##name##_vectors_baseline;                                                              \
    }
#endif

/* ---- the BLAS library (openblas.c) ---- */

/* Makes OpenBLAS run in the calling thread alone, from now on and for the whole process: heed cuts the work
 * itself. Called when a "cpu" exec is opened; cheap when repeated. */
void heed_cpu_blas_prepare(void);

/* "OpenBLAS 0.3.21 SkylakeX (re-selected from Prescott)". Static. */
const char *heed_cpu_blas_report(void);

/* Whether OpenBLAS runs a kernel that uses what the processor has; otherwise kernels of heed's own are
 * better. */
bool heed_cpu_blas_fits(void);

/* ---- kernels ---- */

/* For `applies` of kernels that take f32 only. */
static inline bool heed_cpu_takes_f32(enum heed_primitive primitive, const void *args, struct heed_why *why) {
    if (heed_args_are_f32(primitive, args)) return true;
    why->reason = "dtype is not f32";
    return false;
}

extern const struct heed_kernel heed_cpu_copy;
extern const struct heed_kernel heed_cpu_fill;
extern const struct heed_kernel heed_cpu_random;
extern const struct heed_kernel heed_cpu_unary;
extern const struct heed_kernel heed_cpu_binary;
extern const struct heed_kernel heed_cpu_where;
extern const struct heed_kernel heed_cpu_reduce;
extern const struct heed_kernel heed_cpu_argmax;
extern const struct heed_kernel heed_cpu_softmax;
extern const struct heed_kernel heed_cpu_norm;
extern const struct heed_kernel heed_cpu_residual_norm;
extern const struct heed_kernel heed_cpu_rotary;
extern const struct heed_kernel heed_cpu_matmul;
extern const struct heed_kernel heed_cpu_linear;
extern const struct heed_kernel heed_cpu_gather;
extern const struct heed_kernel heed_cpu_dropout;
extern const struct heed_kernel heed_cpu_cross_entropy;
extern const struct heed_kernel heed_cpu_pair_loss;
extern const struct heed_kernel heed_cpu_attention;
extern const struct heed_kernel heed_cpu_attention_short;
extern const struct heed_kernel heed_cpu_attention_decode;
extern const struct heed_kernel heed_cpu_mha_short;
extern const struct heed_kernel heed_cpu_grad_norm;
extern const struct heed_kernel heed_cpu_update;

/* ---- cutting work ---- */

/* Elements of simple work per tile: enough that a tile outweighs handing it to a thread. */
#define HEED_CPU_GRAIN 16384

/* How many tiles of `grain` cover `count`; 0 for nothing. */
static inline int64_t heed_cpu_tiles(int64_t count, int64_t grain) {
    return count / grain + (count % grain != 0);
}

/* The part of `count` that tile `tile` covers. */
static inline int64_t heed_cpu_part(int64_t count, int64_t grain, int64_t tile) {
    const int64_t rest = count - tile * grain;
    return rest < grain ? rest : grain;
}

/* Rows of n elements per tile so that a tile has about `grain` elements; at least 1. */
static inline int64_t heed_cpu_rows_per_tile(int64_t n, int64_t grain) {
    return n >= grain ? 1 : n > 0 ? grain / n : grain;
}

#endif
