/* Before functions that kernels of devices call too. */
#ifndef HEED_SRC_TENSOR_EVERYWHERE_H
#define HEED_SRC_TENSOR_EVERYWHERE_H

#ifdef __CUDACC__
#define HEED_EVERYWHERE __host__ __device__
#else
#define HEED_EVERYWHERE
#endif

#endif
