#include "backend/cuda/specialise.cuh"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- what is there ---- */

/* Programs that a context keeps. */
#ifndef HEED_CUDA_SPECIALS
#define HEED_CUDA_SPECIALS 64
#endif
enum { CUDA_SPECIALS = HEED_CUDA_SPECIALS };

/* A program that was asked for. */
struct special {
    struct cuda_hash key;
    cudaLibrary_t library; /* NULL: there is none, because */
    char why[CUDA_WHY_BYTES];
    uint64_t used; /* the number of the last call that asked for it */
};

struct cuda_specials {
    struct cuda_hash surroundings; /* of the device, the compiler and the embedded sources */
    uint64_t calls;
    int count, compiled, from_disk, dropped;
    char why[CUDA_WHY_BYTES];  /* of the last that could not be had */
    char disk[CUDA_WHY_BYTES]; /* what was last amiss there */
    struct special special[CUDA_SPECIALS];
};

bool cuda_special_wanted(const struct heed_exec *exec) {
    return cuda_of(exec)->specialises;
}

static struct cuda_specials *specials_of(struct heed_exec *exec) {
    struct cuda_device *device = cuda_of(exec);
    if (device->specials) return device->specials;
    struct cuda_specials *all = static_cast<struct cuda_specials *>(cuda_code_block(exec, sizeof *all));
    if (!all) return NULL;
    memset(all, 0, sizeof *all);
    all->surroundings = cuda_hash_new();
    cuda_hash_add(&all->surroundings, &device->architecture, sizeof device->architecture);
    cuda_nvrtc_add_to(&all->surroundings);
    return device->specials = all;
}

static struct cuda_hash key_of(const struct cuda_specials *all, const struct cuda_program *program) {
    struct cuda_hash key = all->surroundings;
    cuda_hash_add(&key, &program->own, sizeof program->own);
    return key;
}

/* ---- making one ---- */

static bool load(const struct cuda_image *image, struct special *s) {
    const cudaError_t status = cudaLibraryLoadData(&s->library, image->bytes, NULL, NULL, 0, NULL, NULL, 0);
    if (status == cudaSuccess) return true;
    cudaGetLastError(); /* is told by `why`, and is no error of what comes next */
    s->library = NULL;
    snprintf(s->why, sizeof s->why, "the driver does not load the code: %s", cudaGetErrorString(status));
    return false;
}

/* A file that the driver does not take is as good as none. */
static bool from_disk(struct heed_exec *exec, struct special *s, char *amiss) {
    struct cuda_image image;
    if (!cuda_cache_load(exec, s->key, &image, amiss)) return false;
    const bool loaded = load(&image, s);
    heed_host->block_free(exec->memory, image.bytes);
    return loaded;
}

static bool compile(struct heed_exec *exec, const struct cuda_program *program, struct special *s,
                    char *amiss) {
    struct cuda_image image;
    char *text = program->text(exec, program->self);
    if (!text) {
        snprintf(s->why, sizeof s->why, "no memory for the source");
        return false;
    }
    bool done = cuda_nvrtc_compile(exec, text, cuda_of(exec)->architecture, &image, s->why);
    heed_host->block_free(exec->memory, text);
    if (!done) return false;
    done = load(&image, s);
    if (done) cuda_cache_store(s->key, &image, amiss);
    heed_host->block_free(exec->memory, image.bytes);
    return done;
}

static void unload(struct cuda_device *, void *library) {
    cudaLibraryUnload(static_cast<cudaLibrary_t>(library));
}

/* Room for one more. What it may displace may still run. */
static struct special *make_room(struct heed_exec *exec, struct cuda_specials *all) {
    if (all->count < CUDA_SPECIALS) return &all->special[all->count++];
    struct special *oldest = &all->special[0];
    for (int i = 1; i < all->count; i++)
        if (all->special[i].used < oldest->used) oldest = &all->special[i];
    if (oldest->library) cuda_retire(cuda_of(exec), oldest->library, unload);
    all->dropped++;
    return oldest;
}

static struct special *find(struct heed_exec *exec, struct cuda_specials *all,
                            const struct cuda_program *program) {
    const struct cuda_hash key = key_of(all, program);
    for (int i = 0; i < all->count; i++)
        if (cuda_hash_same(all->special[i].key, key)) return &all->special[i];
    struct special *s = make_room(exec, all);
    memset(s, 0, sizeof *s);
    s->key = key;
    if (from_disk(exec, s, all->disk))
        all->from_disk++;
    else if (!cuda_of(exec)->starved && compile(exec, program, s, all->disk))
        all->compiled++;
    else
        memcpy(all->why, s->why, sizeof all->why);
    if (cuda_of(exec)->starved) s->key = {}; /* another time there may be memory */
    return s;
}

cudaKernel_t cuda_special_kernel(struct heed_exec *exec, const struct cuda_program *program, const char *name,
                                 const char **why) {
    struct cuda_specials *all = specials_of(exec);
    cudaKernel_t kernel = NULL;
    *why = "no memory";
    if (!all) return NULL;
    struct special *s = find(exec, all, program);
    s->used = ++all->calls;
    *why = s->why;
    if (!s->library) return NULL;
    const cudaError_t status = cudaLibraryGetKernel(&kernel, s->library, name);
    if (status == cudaSuccess) return kernel;
    cudaGetLastError();
    snprintf(s->why, sizeof s->why, "no kernel %s: %s", name, cudaGetErrorString(status));
    memcpy(all->why, s->why, sizeof all->why);
    return NULL;
}

/* ---- the end, and what is said ---- */

void cuda_special_close(struct cuda_device *device) {
    struct cuda_specials *all = device->specials;
    if (!all) return;
    for (int i = 0; i < all->count; i++)
        if (all->special[i].library) cudaLibraryUnload(all->special[i].library);
    heed_host->block_free(device->exec->memory, all);
    device->specials = NULL;
}

size_t cuda_special_describe(const struct cuda_device *device, char *text, size_t size) {
    const struct cuda_specials *all = device->specials;
    int n;
    if (!all)
        n = snprintf(text, size, "specialised kernels: %s\n", device->specialises ? "none yet" : "off");
    else
        n = snprintf(text, size,
                     "specialised kernels for sm_%d: %d compiled, %d read from disk, %d in memory, %d "
                     "dropped%s%s%s%s\n",
                     device->architecture, all->compiled, all->from_disk, all->count, all->dropped,
                     all->why[0] ? "; the general ones run where not: " : "", all->why,
                     all->disk[0] ? "; on disk: " : "", all->disk);
    return n > 0 ? (size_t)n : 0;
}
