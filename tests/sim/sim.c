/* A device for tests: its memory cannot be touched by the host except while one of its kernels runs, and its
 * kernels are the reference. Host code that looks at elements directly dies here by a signal. */
#include "backend/plugin.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "tensor/internal.h"

enum { MOST_CHUNKS = 4096, PAGE = 4096 };

struct sim {
    struct heed_exec *exec;
    int ordinal, chunks, inside;
    struct {
        void *memory, *token;
        size_t bytes;
    } chunk[MOST_CHUNKS];
};

static const struct heed_services *heed;
static struct heed_backend sim_backend;

static size_t whole_pages(size_t bytes) {
    return (bytes + PAGE - 1) / PAGE * PAGE;
}

/* ---- who may touch it ---- */

static void protect(const struct sim *sim, int rights) {
    for (int i = 0; i < sim->chunks; i++) mprotect(sim->chunk[i].memory, sim->chunk[i].bytes, rights);
}

static void enter(struct sim *sim) {
    if (sim->inside++ == 0) protect(sim, PROT_READ | PROT_WRITE);
}

static void leave(struct sim *sim) {
    if (--sim->inside == 0) protect(sim, PROT_NONE);
}

/* ---- the device ---- */

static void *sim_open(struct heed_exec *exec, int ordinal, char *why, size_t bytes) {
    if (ordinal > 1) {
        snprintf(why, bytes, "there are 2 of them, and no number %d", ordinal);
        return NULL;
    }
    struct sim *sim = heed->block_new(exec->memory, sizeof *sim);
    if (!sim) {
        snprintf(why, bytes, "out of memory");
        return NULL;
    }
    memset(sim, 0, sizeof *sim);
    sim->exec = exec;
    sim->ordinal = ordinal;
    return sim;
}

static void sim_close(void *self) {
    struct sim *sim = self;
    heed->block_free(sim->exec->memory, sim);
}

/* For every chunk a byte of the program's own allocator is held, so that tests that count its calls or let
 * them fail see the device's memory too. */
static void *sim_alloc(void *self, size_t bytes) {
    struct sim *sim = self;
    const heed_allocator *allocator = &sim->exec->ctx->options.allocator;
    void *token = sim->chunks < MOST_CHUNKS ? allocator->alloc(allocator->user, 1) : NULL;
    if (!token) return NULL;
    bytes = whole_pages(bytes);
    void *memory = mmap(NULL, bytes, sim->inside ? PROT_READ | PROT_WRITE : PROT_NONE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) {
        allocator->free(allocator->user, token, 1);
        return NULL;
    }
    sim->chunk[sim->chunks].memory = memory;
    sim->chunk[sim->chunks].token = token;
    sim->chunk[sim->chunks++].bytes = bytes;
    return memory;
}

static void sim_free(void *self, void *memory, size_t bytes) {
    struct sim *sim = self;
    munmap(memory, whole_pages(bytes));
    for (int i = 0; i < sim->chunks; i++) {
        if (sim->chunk[i].memory != memory) continue;
        const heed_allocator *allocator = &sim->exec->ctx->options.allocator;
        allocator->free(allocator->user, sim->chunk[i].token, 1);
        sim->chunk[i] = sim->chunk[--sim->chunks];
        return;
    }
}

static heed_status sim_fill(void *self, void *to, int byte, size_t bytes) {
    enter(self);
    memset(to, byte, bytes);
    leave(self);
    return HEED_OK;
}

static heed_status move(struct sim *sim, void *to, const void *from, size_t bytes) {
    enter(sim);
    memmove(to, from, bytes);
    leave(sim);
    return HEED_OK;
}

static heed_status sim_copy(void *self, void *to, const void *from, size_t bytes) {
    return move(self, to, from, bytes);
}

static heed_status sim_sync(void *self) {
    (void)self;
    return HEED_OK;
}

static size_t sim_describe(void *self, char *text, size_t size) {
    const struct sim *sim = self;
    const int n = snprintf(text, size, "sim:%d, %d chunks\n", sim->ordinal, sim->chunks);
    return n > 0 ? (size_t)n : 0;
}

static const struct heed_device sim_device = {.open = sim_open,
                                              .close = sim_close,
                                              .alloc = sim_alloc,
                                              .free = sim_free,
                                              .fill = sim_fill,
                                              .copy = sim_copy,
                                              .write = sim_copy,
                                              .read = sim_copy,
                                              .sync = sim_sync,
                                              .describe = sim_describe};

/* ---- its kernels ---- */

#define KERNEL(name, word, args)                                                                             \
    static void sizes_##name(const struct heed_exec *exec, const void *a, struct heed_sizes *sizes) {        \
        const struct heed_kernel *ref = heed->ref[HEED_PRIMITIVE_##name];                                    \
        if (ref->sizes) ref->sizes(exec, a, sizes);                                                          \
    }                                                                                                        \
    static heed_status forward_##name(struct heed_exec *exec, const void *a, void *saved, void *scratch) {   \
        enter(exec->remote.self);                                                                            \
        const heed_status status = heed->ref[HEED_PRIMITIVE_##name]->forward(exec, a, saved, scratch);       \
        leave(exec->remote.self);                                                                            \
        return status;                                                                                       \
    }                                                                                                        \
    static heed_status backward_##name(struct heed_exec *exec, const void *a, void *saved, void *scratch) {  \
        enter(exec->remote.self);                                                                            \
        const heed_status status = heed->ref[HEED_PRIMITIVE_##name]->backward(exec, a, saved, scratch);      \
        leave(exec->remote.self);                                                                            \
        return status;                                                                                       \
    }                                                                                                        \
    static struct heed_kernel kernel_##name = {"sim", NULL, sizes_##name, forward_##name, backward_##name};  \
    static const struct heed_kernel *slot_##name[2] = {&kernel_##name};
HEED_PRIMITIVE_LIST(KERNEL)

#define SLOT(name, word, args) [HEED_PRIMITIVE_##name] = slot_##name,
static struct heed_backend sim_backend = {
    .name = "sim", .slot = {HEED_PRIMITIVE_LIST(SLOT)}, .device = &sim_device};

const struct heed_backend *heed_plugin(const struct heed_services *services) {
    if (services->version != HEED_PLUGIN_VERSION) return NULL;
    heed = services;
    sim_backend.mixed = !getenv("HEED_SIM_WITHOUT_BF16");
    slot_MHA[0] = services->composite[HEED_PRIMITIVE_MHA];
#define WITHOUT(name, word, args)                                                                            \
    if (!services->ref[HEED_PRIMITIVE_##name]->backward) kernel_##name.backward = NULL;                      \
    if (!services->ref[HEED_PRIMITIVE_##name]->remake) kernel_##name.remake = NULL;
    HEED_PRIMITIVE_LIST(WITHOUT)
    return &sim_backend;
}
