#include "backend/cuda/nvrtc.cuh"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backend/cuda/sources.cuh"

#ifndef HEED_NVRTC_LIBRARY
#if CUDART_VERSION >= 13000
#define HEED_NVRTC_LIBRARY "libnvrtc.so.13"
#else
#define HEED_NVRTC_LIBRARY "libnvrtc.so.12"
#endif
#endif

/* ---- the library ---- */

typedef struct nvrtc_program *program_handle;

/* What is used of it (nvrtc.h, which not every toolkit has): X(result, name, parameters). */
#define NVRTC_FUNCTIONS(X)                                                                                   \
    X(int, nvrtcCreateProgram,                                                                               \
      (program_handle *, const char *text, const char *name, int headers, const char *const *texts,          \
       const char *const *names))                                                                            \
    X(int, nvrtcCompileProgram, (program_handle, int options, const char *const *option))                    \
    X(int, nvrtcDestroyProgram, (program_handle *))                                                          \
    X(int, nvrtcGetProgramLogSize, (program_handle, size_t * bytes))                                         \
    X(int, nvrtcGetProgramLog, (program_handle, char *log))                                                  \
    X(int, nvrtcGetCUBINSize, (program_handle, size_t * bytes))                                              \
    X(int, nvrtcGetCUBIN, (program_handle, char *image))                                                     \
    X(const char *, nvrtcGetErrorString, (int result))                                                       \
    X(int, nvrtcVersion, (int *major, int *minor))

enum { NVRTC_SUCCESS = 0 };

struct nvrtc {
#define MEMBER(result, name, parameters) result(*name) parameters;
    NVRTC_FUNCTIONS(MEMBER)
#undef MEMBER
};

static const char *library_name() {
    const char *wish = getenv("HEED_NVRTC");
    return wish && *wish ? wish : HEED_NVRTC_LIBRARY;
}

/* It stays loaded. */
static bool open_nvrtc(struct nvrtc *rtc, char *why) {
    void *library = dlopen(library_name(), RTLD_NOW | RTLD_LOCAL);
    if (!library) {
        snprintf(why, CUDA_WHY_BYTES, "NVRTC is not there: %s", dlerror());
        return false;
    }
#define FIND(result, name, parameters)                                                                       \
    *reinterpret_cast<void **>(&rtc->name) = dlsym(library, #name);                                          \
    if (!rtc->name) {                                                                                        \
        snprintf(why, CUDA_WHY_BYTES, "%s has no %s", library_name(), #name);                                \
        return false;                                                                                        \
    }
    NVRTC_FUNCTIONS(FIND)
#undef FIND
    return true;
}

/* ---- a program ---- */

/* The first line that says "error", or the first one. */
static void first_error(const char *log, char *why) {
    const char *error = strstr(log, "error");
    const char *line = error ? error : log;
    while (line > log && line[-1] != '\n') line--;
    const size_t bytes = strcspn(line, "\n");
    snprintf(why, CUDA_WHY_BYTES, "%.*s", (int)(bytes < 1000 ? bytes : 1000), line);
}

static char *new_log(struct heed_exec *exec, const struct nvrtc *rtc, program_handle program) {
    size_t bytes = 0;
    if (rtc->nvrtcGetProgramLogSize(program, &bytes) != NVRTC_SUCCESS) return NULL;
    char *log = static_cast<char *>(cuda_code_block(exec, bytes + 1));
    if (!log) return NULL;
    memset(log, 0, bytes + 1);
    if (bytes > 0) rtc->nvrtcGetProgramLog(program, log);
    return log;
}

static bool take_image(struct heed_exec *exec, const struct nvrtc *rtc, program_handle program,
                       struct cuda_image *image, char *why) {
    int result = rtc->nvrtcGetCUBINSize(program, &image->size);
    if (result == NVRTC_SUCCESS) {
        image->bytes = cuda_code_block(exec, image->size);
        if (!image->bytes) {
            snprintf(why, CUDA_WHY_BYTES, "no memory for %zu bytes of code", image->size);
            return false;
        }
        result = rtc->nvrtcGetCUBIN(program, static_cast<char *>(image->bytes));
    }
    if (result == NVRTC_SUCCESS) return true;
    snprintf(why, CUDA_WHY_BYTES, "NVRTC: %s", rtc->nvrtcGetErrorString(result));
    if (image->bytes) heed_host->block_free(exec->memory, image->bytes);
    *image = {};
    return false;
}

/* Behind that of the architecture. Declarations of the host's are read too: unused, and no matter. */
static const char *const options[] = {"--std=c++17", "--device-as-default-execution-space",
                                      "--diag-suppress=20044"};
enum { OPTIONS = sizeof options / sizeof options[0] };

static bool compile(struct heed_exec *exec, const struct nvrtc *rtc, program_handle program, int architecture,
                    struct cuda_image *image, char *why) {
    char target[40];
    const char *option[1 + OPTIONS] = {target};
    snprintf(target, sizeof target, "--gpu-architecture=sm_%d", architecture);
    for (int i = 0; i < OPTIONS; i++) option[1 + i] = options[i];
    const int result = rtc->nvrtcCompileProgram(program, 1 + OPTIONS, option);
    if (result == NVRTC_SUCCESS) return take_image(exec, rtc, program, image, why);
    char *log = new_log(exec, rtc, program);
    if (log && *log)
        first_error(log, why);
    else
        snprintf(why, CUDA_WHY_BYTES, "NVRTC: %s", rtc->nvrtcGetErrorString(result));
    if (log) heed_host->block_free(exec->memory, log);
    return false;
}

bool cuda_nvrtc_compile(struct heed_exec *exec, const char *program, int architecture,
                        struct cuda_image *image, char *why) {
    struct nvrtc rtc;
    program_handle handle = NULL;
    *image = {};
    if (!open_nvrtc(&rtc, why)) return false;
    const int result = rtc.nvrtcCreateProgram(&handle, program, "heed.cu", cuda_source_count,
                                              cuda_source_text, cuda_source_name);
    if (result != NVRTC_SUCCESS) {
        snprintf(why, CUDA_WHY_BYTES, "NVRTC: %s", rtc.nvrtcGetErrorString(result));
        return false;
    }
    const bool done = compile(exec, &rtc, handle, architecture, image, why);
    rtc.nvrtcDestroyProgram(&handle);
    return done;
}

/* Both 0 where there is none, and `why` says so. */
static bool find_version(int version[2], char *why) {
    struct nvrtc rtc;
    version[0] = version[1] = 0;
    if (!open_nvrtc(&rtc, why)) return false;
    const int result = rtc.nvrtcVersion(&version[0], &version[1]);
    if (result != NVRTC_SUCCESS)
        snprintf(why, CUDA_WHY_BYTES, "NVRTC has no version: %s", rtc.nvrtcGetErrorString(result));
    return result == NVRTC_SUCCESS;
}

void cuda_nvrtc_describe(char *text) {
    int version[2];
    if (find_version(version, text)) snprintf(text, CUDA_WHY_BYTES, "NVRTC %d.%d", version[0], version[1]);
}

void cuda_nvrtc_add_to(struct cuda_hash *h) {
    char why[CUDA_WHY_BYTES];
    int version[2];
    find_version(version, why);
    cuda_hash_add(h, version, sizeof version);
    for (const char *option : options) cuda_hash_text(h, option);
    for (int i = 0; i < cuda_source_count; i++) {
        cuda_hash_text(h, cuda_source_name[i]);
        cuda_hash_text(h, cuda_source_text[i]);
    }
}
