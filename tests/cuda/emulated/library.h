/* What the emulated runtime's own files share of libraries of kernels. */
#ifndef HEED_TESTS_CUDA_EMULATED_LIBRARY_H
#define HEED_TESTS_CUDA_EMULATED_LIBRARY_H

#include <driver_types.h>

namespace emulated {

/* Counts a call that may fail; whether it is the one that is to. */
bool fails();

/* Keeps what a call returns for cudaGetLastError, which tells of any call in the thread. */
cudaError_t failed(cudaError_t status);

int libraries_living();

/* What cudaLaunchKernel starts where it is given this address. NULL: launching it is an error. */
struct twin;
void kernel_add(const void *function, const char *name, const twin *kernel);

} // namespace emulated

#endif
