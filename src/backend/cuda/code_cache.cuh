/* Compiled code on disk, so that the next process need not compile it again.
 *
 * A file each in $HEED_CUDA_CACHE, or else in heed/ of $XDG_CACHE_HOME or ~/.cache; none with HEED_CUDA_CACHE
 * empty. A file appears whole or not at all (rename), one that is damaged is none, and what cannot be written
 * is not kept: nothing here is an error. `why` (of CUDA_WHY_BYTES) gets a line where something is amiss, and
 * is left alone otherwise. */
#ifndef HEED_SRC_BACKEND_CUDA_CODE_CACHE_CUH
#define HEED_SRC_BACKEND_CUDA_CODE_CACHE_CUH

#include "backend/cuda/hash.cuh"
#include "backend/cuda/nvrtc.cuh"

bool cuda_cache_load(struct heed_exec *exec, struct cuda_hash key, struct cuda_image *image, char *why);
void cuda_cache_store(struct cuda_hash key, const struct cuda_image *image, char *why);

#endif
