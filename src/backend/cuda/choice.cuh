/* What attention's kernels know when they are compiled.
 *
 * Ahead of time that is nothing: stages, masks, normaliser and dropout are decided at run time. A specialised
 * kernel is made of the same sources by NVRTC with HEED_CHOSEN, and constants behind it:
 *
 *   HEED_CHOSEN_REAL          float or double
 *   HEED_CHOSEN_STAGES        how many; HEED_CHOSEN_STAGE_KINDS: four bits of enum heed_stage_kind each
 *   HEED_CHOSEN_CUSTOM        whether one is the user's (stage.cuh)
 *   HEED_CHOSEN_PARAMS        how many parameters each stage has, four bits each
 *   HEED_CHOSEN_ALL           whether more is chosen; if not, what follows is found at run time nonetheless
 *   HEED_CHOSEN_MASKS         nodes of the mask's program; HEED_CHOSEN_MASK_KINDS: four bits each
 *   HEED_CHOSEN_NORMALIZER    heed_normalizer
 *   HEED_CHOSEN_DROPS         whether there is dropout
 *   HEED_CHOSEN_SLICES        CUDA_SLICEs of a query's width; HEED_CHOSEN_VALUE_SLICES: of a value's
 *   HEED_CHOSEN_VALUE_COLUMNS columns of a result that a block makes
 *
 * specialise.cuh says how it gets there. */
#ifndef HEED_SRC_BACKEND_CUDA_CHOICE_CUH
#define HEED_SRC_BACKEND_CUDA_CHOICE_CUH

#include "backend/cuda/kernel.cuh"

#ifdef HEED_CHOSEN
/* What was chosen, or what is found at run time where nothing was. */
#define CHOSEN(constant, found) (HEED_CHOSEN_ALL ? (constant) : (found))
#define CHOSEN_STAGES(constant, found) (constant)
/* Before a loop over what is chosen. */
#define UNROLL_CHOSEN _Pragma("unroll")
/* How a kernel begins: specialised ones are found by their names. */
#define ATTENTION_KERNEL extern "C" __global__ void
typedef HEED_CHOSEN_REAL T; /* of those; other functions have it as their parameter */
#define CUSTOM_STAGES HEED_CHOSEN_CUSTOM
#else
#define CHOSEN(constant, found) (found)
#define CHOSEN_STAGES(constant, found) (found)
#define UNROLL_CHOSEN _Pragma("unroll 1")
#define ATTENTION_KERNEL template <typename T> static __global__ void
#define CUSTOM_STAGES 0
#endif

/* The i-th of some numbers of four bits. */
#define CHOSEN_AT(numbers, i) ((int)((numbers) >> (4 * (i)) & 15))

/* Of a kernel's definition, for the emulation of specialised ones: how it is called. */
#if defined(HEED_CHOSEN) && defined(HEED_EMULATED)
#define CHOSEN_KERNEL(name) EMULATED_ENTRY(name)
#else
#define CHOSEN_KERNEL(name)
#endif

#endif
