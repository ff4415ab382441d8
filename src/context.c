/* Making and ending a context: where memory, backend and tape come together. */
#include "autograd/tape.h"

#include <stdlib.h>
#include <string.h>

static void *default_alloc(void *user, size_t bytes) {
    (void)user;
    return malloc(bytes);
}

static void default_free(void *user, void *memory, size_t bytes) {
    (void)user;
    (void)bytes;
    free(memory);
}

static heed_status check_options(heed_ctx *ctx) {
    const heed_ctx_options *o = &ctx->options;
    if (!heed_reserved_zero(o->reserved, sizeof o->reserved / sizeof *o->reserved))
        return heed_fail(ctx, HEED_ERROR_ARGUMENT, "ctx_new", "reserved words of the options are not zero");
    if (o->threads < 0 || o->threads > 256)
        return heed_fail(ctx, HEED_ERROR_ARGUMENT, "ctx_new", "threads %d is not in 0 to 256", o->threads);
    if (o->precision != HEED_F32 && o->precision != HEED_BF16)
        return heed_fail(ctx, HEED_ERROR_ARGUMENT, "ctx_new", "precision is %s, not f32 or bf16",
                         heed_dtype_name(o->precision));
    return HEED_OK;
}

static heed_status out_of_memory(heed_ctx *ctx) {
    return heed_fail(ctx, HEED_ERROR_MEMORY, "ctx_new", "out of memory");
}

static heed_status open_parts(heed_ctx *ctx, const heed_allocator *allocator) {
    heed_status status = check_options(ctx);
    if (status != HEED_OK) return status;
    ctx->exec.memory = heed_memory_new(allocator, ctx->options.chunk_bytes, ctx->options.poison);
    if (!ctx->exec.memory) return out_of_memory(ctx);
    ctx->exec.elements = ctx->exec.memory;
    ctx->inert = heed_node_new(ctx, "ctx_new", HEED_F32, 0, NULL);
    if (!ctx->inert) return ctx->status;
    ctx->inert->flags = HEED_NODE_INERT;
    ctx->exec.threads = heed_threads_new(ctx->options.threads);
    if (!ctx->exec.threads) return out_of_memory(ctx);
    status = heed_exec_open(&ctx->exec, ctx->options.device ? ctx->options.device : "cpu");
    return status != HEED_OK ? status : heed_tape_open(ctx);
}

static void log_context(const heed_ctx *ctx) {
    const char *log = getenv("HEED_LOG");
    if (!log || strcmp(log, "1") != 0) return;
    char text[1024];
    heed_exec_describe(&ctx->exec, text, sizeof text);
    fprintf(stderr, "%s", text);
}

/* The inert node of a context whose memory could not be opened. */
static struct heed_node *static_inert_node(void) {
    return heed_inert_ctx()->inert;
}

heed_ctx *heed_ctx_new(const heed_ctx_options *options) {
    heed_allocator allocator = {default_alloc, default_free, NULL};
    if (options && options->allocator.alloc && options->allocator.free) allocator = options->allocator;
    heed_ctx *ctx = allocator.alloc(allocator.user, sizeof *ctx);
    if (!ctx) return heed_inert_ctx();
    memset(ctx, 0, sizeof *ctx);
    if (options) ctx->options = *options;
    ctx->options.allocator = allocator;
    ctx->exec.ctx = ctx;
    ctx->exec.strict = ctx->options.strict;
    ctx->exec.any_dropout = ctx->options.any_dropout;
    ctx->scope = &ctx->root;
    ctx->random.seed = ctx->options.seed;
    if (open_parts(ctx, &allocator) != HEED_OK) {
        ctx->broken = true;
        if (!ctx->inert) ctx->inert = static_inert_node();
        return ctx;
    }
    log_context(ctx);
    return ctx;
}

void heed_ctx_free(heed_ctx *ctx) {
    if (!ctx || ctx->is_static_inert) return;
    heed_allocator allocator = ctx->options.allocator;
    heed_exec_close(&ctx->exec);
    heed_threads_free(ctx->exec.threads);
    heed_memory_free(ctx->exec.memory); /* with every node, storage, scope and tape entry */
    allocator.free(allocator.user, ctx, sizeof *ctx);
}

heed_memory_info heed_memory(const heed_ctx *ctx) {
    if (!ctx || !ctx->exec.memory) return (heed_memory_info){0};
    heed_memory_info info = heed_memory_look(ctx->exec.memory);
    if (ctx->exec.elements == ctx->exec.memory) return info;
    const heed_memory_info far = heed_memory_look(ctx->exec.elements);
    info.in_use += far.in_use;
    info.peak += far.peak;
    info.reserved += far.reserved;
    info.calls += far.calls;
    return info;
}

uint64_t heed_fallbacks(const heed_ctx *ctx) {
    return ctx ? ctx->exec.fallbacks : 0;
}

heed_status heed_sync(heed_ctx *ctx) {
    if (!ctx) ctx = heed_inert_ctx();
    if (ctx->broken) return ctx->status;
    if (!heed_enter(ctx)) return HEED_ERROR_THREAD;
    heed_elements_wait(&ctx->exec);
    heed_leave(ctx);
    return heed_error_status(ctx);
}

/* ---- heed_explain ---- */

struct text {
    char *at;
    size_t size, used;
};

static void append(struct text *t, const char *format, ...) __attribute__((format(printf, 2, 3)));

static void append(struct text *t, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    bool room = t->used < t->size;
    int n = vsnprintf(room ? t->at + t->used : NULL, room ? t->size - t->used : 0, format, arguments);
    va_end(arguments);
    if (n > 0) t->used += (size_t)n;
}

static void explain_primitive(struct text *t, const struct heed_exec *exec, int primitive) {
    const struct heed_last_run *last = &exec->last[primitive];
    if (!last->kernel) return;
    append(t, "%s: %s, %llu runs%s%s\n", heed_primitive_word((enum heed_primitive)primitive),
           last->kernel->name, (unsigned long long)last->runs, last->note[0] ? "; " : "", last->note);
    for (int i = 0; i < HEED_MAX_KERNELS && exec->kernel[primitive][i] != last->kernel; i++)
        append(t, "    not %s: %s\n", exec->kernel[primitive][i]->name,
               last->why_not[i] ? last->why_not[i] : "does not apply");
}

size_t heed_explain(const heed_ctx *ctx, char *text, size_t size) {
    struct text t = {.at = text, .size = size};
    if (size) text[0] = '\0';
    if (!ctx || ctx->broken) {
        append(&t, "no context: %s\n", heed_error(ctx));
        return t.used;
    }
    t.used = heed_exec_describe(&ctx->exec, text, size);
    append(&t, "precision %s\n",
           heed_is_mixed(ctx) ? "bf16: f32 parameters, gradients of them, statistics and losses" : "f32");
    for (int p = 0; p < HEED_PRIMITIVES; p++) explain_primitive(&t, &ctx->exec, p);
    if (ctx->exec.fallbacks)
        append(&t, "%llu runs fell through to the reference kernels\n",
               (unsigned long long)ctx->exec.fallbacks);
    return t.used;
}
