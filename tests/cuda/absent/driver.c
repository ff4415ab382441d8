/* libcuda.so.1 as it is found where there is no GPU to be used; which of them, HEED_TEST_DRIVER says. */
#include <stdlib.h>
#include <string.h>

enum { SUCCESS = 0, STUB_LIBRARY = 34, NO_DEVICE = 100 };

int cuInit(unsigned flags);
int cuDriverGetVersion(int *version);
int cuDeviceGetCount(int *count);
int cuGetErrorName(int status, const char **name);
int cuGetErrorString(int status, const char **text);
int cuDeviceGet(int *device, int ordinal);
int cuDeviceGetAttribute(int *value, int attribute, int device);

static int is(const char *kind) {
    const char *wanted = getenv("HEED_TEST_DRIVER");
    return wanted && strcmp(wanted, kind) == 0;
}

/* "stub": what programs are linked with on machines without a driver. "no device": a driver, but no GPU.
 * "old": one that knows an earlier CUDA only. "h200": one that tells what
 * an H200 is, and nothing else. */
int cuInit(unsigned flags) {
    (void)flags;
    if (is("h200")) return SUCCESS;
    return is("stub") ? STUB_LIBRARY : NO_DEVICE;
}

int cuDriverGetVersion(int *version) {
    *version = is("old") ? 11000 : 13000;
    return is("stub") ? STUB_LIBRARY : SUCCESS;
}

int cuDeviceGetCount(int *count) {
    *count = 0;
    return SUCCESS;
}

int cuGetErrorName(int status, const char **name) {
    (void)status;
    *name = "NO_GPU";
    return SUCCESS;
}

int cuGetErrorString(int status, const char **text) {
    (void)status;
    *text = "no GPU";
    return SUCCESS;
}

int cuDeviceGet(int *device, int ordinal) {
    *device = ordinal;
    return is("h200") ? SUCCESS : NO_DEVICE;
}

/* As cuda.h numbers them: clock, multiprocessors, the memory's clock and bits, compute capability. */
int cuDeviceGetAttribute(int *value, int attribute, int device) {
    static const int numbers[] = {
        [13] = 1980000, [16] = 132, [36] = 3201000, [37] = 6144, [75] = 9, [76] = 0};
    (void)device;
    if (!is("h200") || attribute < 0 || (size_t)attribute >= sizeof numbers / sizeof *numbers)
        return NO_DEVICE;
    *value = numbers[attribute];
    return SUCCESS;
}

/* What cuDNN looks for before it compiles kernels for a device that is described to it. */
#define SYMBOLS(X)                                                                                           \
    X(cuCtxGetCurrent)                                                                                       \
    X(cuCtxGetDevice)                                                                                        \
    X(cuCtxGetLimit)                                                                                         \
    X(cuCtxPopCurrent)                                                                                       \
    X(cuCtxPushCurrent)                                                                                      \
    X(cuDevicePrimaryCtxRelease)                                                                             \
    X(cuDevicePrimaryCtxReset)                                                                               \
    X(cuDevicePrimaryCtxRetain)                                                                              \
    X(cuFuncGetAttribute)                                                                                    \
    X(cuFuncSetAttribute)                                                                                    \
    X(cuKernelGetAttribute)                                                                                  \
    X(cuKernelGetFunction)                                                                                   \
    X(cuKernelSetAttribute)                                                                                  \
    X(cuLaunchCooperativeKernel)                                                                             \
    X(cuLaunchKernel)                                                                                        \
    X(cuLaunchKernelEx)                                                                                      \
    X(cuLibraryGetGlobal)                                                                                    \
    X(cuLibraryGetKernel)                                                                                    \
    X(cuLibraryLoadData)                                                                                     \
    X(cuLibraryLoadFromFile)                                                                                 \
    X(cuLibraryUnload)                                                                                       \
    X(cuLinkAddData)                                                                                         \
    X(cuLinkAddData_v2)                                                                                      \
    X(cuLinkAddFile_v2)                                                                                      \
    X(cuLinkComplete)                                                                                        \
    X(cuLinkCreate)                                                                                          \
    X(cuLinkCreate_v2)                                                                                       \
    X(cuLinkDestroy)                                                                                         \
    X(cuMemcpyDtoH_v2)                                                                                       \
    X(cuMemcpyHtoDAsync_v2)                                                                                  \
    X(cuModuleGetFunction)                                                                                   \
    X(cuModuleGetGlobal_v2)                                                                                  \
    X(cuModuleLoadData)                                                                                      \
    X(cuModuleLoadDataEx)                                                                                    \
    X(cuModuleLoadFatBinary)                                                                                 \
    X(cuModuleUnload)                                                                                        \
    X(cuOccupancyMaxActiveBlocksPerMultiprocessor)                                                           \
    X(cuOccupancyMaxPotentialClusterSize)                                                                    \
    X(cuStreamGetCtx)                                                                                        \
    X(cuStreamSynchronize)                                                                                   \
    X(cuTensorMapEncodeIm2col)                                                                               \
    X(cuTensorMapEncodeTiled)
#define NO(name)                                                                                             \
    int name(void);                                                                                          \
    int name(void) {                                                                                         \
        return NO_DEVICE;                                                                                    \
    }
SYMBOLS(NO)
