/* The inside of contexts, tensors, scopes and errors, for the library's own files.
 *
 * Invariants
 * - A node's memory stays a node until its context ends; only its serial tells whether a handle is live. A
 * handle is live if its serial equals the node's. Whoever ends the public life of a node changes the serial;
 * internal pointers go on by reference count.
 * - A node may outlive its elements: after its scope ended, storage is NULL, but shape, dtype and place in
 * the graph stay for backward.
 * - A storage's elements are there as long as a node or anyone else refers to it, but for entries of the tape
 * that wait until they are computed again (struct heed_recipe).
 * - Every error passes heed_fail().
 * - A context is entered by one thread at a time: public functions that touch shared state are bracketed by
 *   heed_enter() and heed_leave(). */
#ifndef HEED_SRC_TENSOR_INTERNAL_H
#define HEED_SRC_TENSOR_INTERNAL_H

#include <heed/heed.h>

#include <stdarg.h>
#include <stdatomic.h>

#include "backend/backend.h"
#include "tensor/memory.h"
#include "tensor/view.h"

struct heed_tape;
struct heed_entry;
struct heed_scope;

/* Elements, shared by the nodes that view them. */
struct heed_storage {
    heed_ctx *ctx;
    int64_t refs;
    uint64_t version; /* bumped by every writer after creation */
    size_t bytes;
    void *data;                 /* NULL only while nobody but entries of the tape that wait refers to it */
    struct heed_memory *memory; /* where they are from */
    struct heed_recipe *recipe; /* NULL: what the elements are cannot be computed again */
    bool of_model;              /* f32: parameters or constants of a module */
    struct heed_storage *low; /* mixed precision: a copy in bf16, of elements of that version; may be NULL */
    uint64_t low_version;
    void *written; /* where elements are far: what the host wrote, as of that version; may be NULL */
    uint64_t written_version;
};

/* How a storage's elements can be computed again: part of the tape's entry that made them. Each of the two
 * forgets the other when it ends. */
struct heed_recipe {
    struct heed_entry *entry;
    struct heed_storage *storage;
    int64_t waiting; /* references of entries that need no elements until backward comes to them */
    int depth;       /* how many others may have to be made for it, one out of the other */
};

enum {
    HEED_NODE_INERT = 1,      /* the context's answer after an error */
    HEED_NODE_WANTS_GRAD = 2, /* a leaf that asks */
    HEED_NODE_PARAM = 4,      /* owned by a module */
    HEED_NODE_GRAD_FULL = 8,  /* leaf: grad holds a gradient (otherwise the next backward overwrites it) */
    HEED_NODE_TOUCHED = 16    /* leaf: in the tape's list of gradients written in this step */
};

struct heed_node {
    uint64_t serial;
    heed_ctx *ctx;
    int64_t refs; /* scope or owner 1, each tape entry that names it 1, each score, mask, … 1 */
    unsigned flags;
    struct heed_storage *storage;
    struct heed_view view;             /* data points into storage, NULL when storage is gone */
    struct heed_scope *scope;          /* the scope that owns it, NULL: the caller or a module */
    struct heed_node *previous, *next; /* in that scope's list; next also links free nodes */
    struct heed_entry *producer;       /* the tape entry that made it, NULL for leaves */
    struct heed_storage *grad_storage; /* gradient, of leaves and (during backward) of others */
    struct heed_view grad;
    uint64_t grad_epoch; /* of a leaf that is full: the context's when it was (heed_grad_is_full) */
    struct heed_node *touched_next; /* in the tape's list, which holds a reference */
};

struct heed_scope {
    struct heed_scope *outer;
    struct heed_node *nodes;     /* doubly linked */
    struct heed_object *objects; /* scores and masks */
    bool is_step;
};

/* What scores and masks begin with: counted, owned by a scope, recognised when dead. */
struct heed_object {
    uint32_t kind; /* HEED_OBJECT_…; 0 when dead */
    int64_t refs;
    heed_ctx *ctx;
    struct heed_scope *scope;
    struct heed_object *previous, *next;
    void (*destroy)(
        struct heed_object *self); /* drops what it refers to; the memory stays in the context's pool */
};
enum { HEED_OBJECT_DEAD = 0, HEED_OBJECT_MASK = 0x6d61736b, HEED_OBJECT_SCORE = 0x73636f72 };

struct heed_pool { /* free lists of equal records */
    void *free;
    size_t bytes;
};

struct heed_ctx {
    struct heed_exec exec; /* backend, threads, memory */
    heed_ctx_options options;
    _Atomic heed_status status; /* of the first error; atomic because a second thread may ask */
    char error[512];
    bool error_placed;   /* it names the module it arose in, or came too late for that to be known */
    uint64_t grad_epoch; /* errors that were known late: gradients of before may be of what went wrong */
    struct heed_node *inert;
    struct heed_scope root;
    struct heed_scope *scope; /* the innermost */
    unsigned flags;           /* of the step */
    bool in_step;
    int missing_scopes; /* begun when there was no memory for them */
    struct heed_tape *tape;
    uint64_t serial; /* last given out */
    heed_random_state random;
    uint32_t ordinal; /* random operations in this step */
    uint64_t eval_ordinal;
    struct heed_pool nodes, storages, scopes, objects;
    uint64_t modules;         /* living modules, optimisers and caches: tests see that none is lost */
    _Atomic uintptr_t thread; /* the thread that is inside, 0: none */
    int depth;
    atomic_bool intruder; /* a second thread came while the first was inside */
    bool broken;          /* heed_ctx_new() failed: the error cannot be cleared */
    bool is_static_inert; /* the context of none handles and where there was no memory for another */
};

/* Whether a leaf has a gradient, which the next backward adds to. */
static inline bool heed_grad_is_full(const struct heed_node *leaf) {
    return leaf->flags & HEED_NODE_GRAD_FULL && leaf->grad_epoch == leaf->ctx->grad_epoch;
}

/* Whether the context computes in mixed precision. */
static inline bool heed_is_mixed(const heed_ctx *ctx) {
    return ctx->options.precision == HEED_BF16;
}

/* Whether tensors of two dtypes may go into one operation. */
static inline bool heed_dtypes_meet(const heed_ctx *ctx, heed_dtype a, heed_dtype b) {
    return a == b ||
           (heed_is_mixed(ctx) && (a == HEED_F32 || a == HEED_BF16) && (b == HEED_F32 || b == HEED_BF16));
}

/* ---- errors ---- */

/* The one place every error passes: keeps it if it is the first. `where` is the operation. Returns status. */
heed_status heed_fail(heed_ctx *ctx, heed_status status, const char *where, const char *format, ...)
    __attribute__((format(printf, 4, 5)));

/* "x[8,64,384]": a name and a shape for messages. Returns text. */
const char *heed_named_shape(const char *name, const struct heed_view *v, char *text, size_t bytes);

/* Marks the calling thread as inside; false (and an error) if another one is. Nests. */
bool heed_enter(heed_ctx *ctx);
void heed_leave(heed_ctx *ctx);

/* The context that has nothing and whose error says so. */
heed_ctx *heed_inert_ctx(void);

/* Checks that a struct's reserved words are zero. */
bool heed_reserved_zero(const uint64_t *words, size_t count);

/* ---- storage ---- */

/* Not zeroed. NULL (and an error kept) without memory. refs is 1. */
struct heed_storage *heed_storage_new(heed_ctx *ctx, size_t bytes);
void heed_storage_ref(struct heed_storage *storage);
void heed_storage_drop(struct heed_storage *storage); /* NULL is fine */

/* Where elements are far, the host need not fetch what it wrote itself: lengths, starts and masks, made anew
 * for each batch, are looked at on the host, which would wait for all that runs before. Keeps `data`, just
 * written to all of the storage, if it is as small as such things are and no floating-point numbers. False
 * (and an error kept) without memory. */
enum { HEED_MOST_KEPT_BYTES = 64 << 10 };
bool heed_storage_keep_written(struct heed_storage *storage, heed_dtype dtype, const void *data);

/* What the host wrote, if the storage still holds that; otherwise NULL. */
const void *heed_storage_written(const struct heed_storage *storage);

/* A view into the storage for the host to read: heed_elements_map(), or what the host wrote. */
heed_status heed_storage_map(const struct heed_storage *storage, const struct heed_view *v,
                             struct heed_view *mapped);
void heed_storage_unmap(const struct heed_storage *storage, const struct heed_view *v,
                        struct heed_view *mapped);

/* Gives back the elements if they can be computed again and only waiting entries refer to them. */
void heed_storage_rest(struct heed_storage *storage);

/* From now on the elements are there or gone for good. */
void heed_recipe_end(struct heed_recipe *recipe);

/* ---- nodes ---- */

/* The live node of a handle, or NULL: none, stale or inert. `where` names the operation in the error that a
 * stale handle causes; an inert or none handle causes none. */
struct heed_node *heed_node_of(heed_tensor t, const char *where);

/* The context of a handle, stale or not; the inert context for none. */
static inline heed_ctx *heed_ctx_of(heed_tensor t) {
    return t.node ? t.node->ctx : heed_inert_ctx();
}

/* A handle of a node; for NULL of the context's inert node. */
heed_tensor heed_handle(heed_ctx *ctx, struct heed_node *node);

/* A node with contiguous view of the given shape and storage of its own, refs 1, in no scope. NULL on error.
 */
struct heed_node *heed_node_new(heed_ctx *ctx, const char *where, heed_dtype dtype, int rank,
                                const int64_t *size);

/* A contiguous copy of a node's elements in host memory, whatever the device; refs 1, in no scope. NULL on
 * error.
 */
struct heed_node *heed_node_host_copy(struct heed_node *node);

/* A node that looks at another's storage through `view`. */
struct heed_node *heed_node_view(heed_ctx *ctx, struct heed_storage *storage, const struct heed_view *view);

void heed_node_ref(struct heed_node *node);
void heed_node_drop(struct heed_node *node); /* NULL is fine */

/* Hands the caller's reference to the innermost scope. */
void heed_node_give_to_scope(struct heed_node *node);

/* Takes a node out of its scope; its reference is the caller's again. */
void heed_node_take_from_scope(struct heed_node *node);

/* Ends the public life of a node (handles become stale), gives up its elements and drops the owner's
 * reference. */
void heed_node_retire(struct heed_node *node);

/* After writing to a node's elements: they are not what they were made as. */
static inline void heed_node_wrote(struct heed_node *node) {
    node->storage->version++;
    if (node->storage->low) node->storage->low->version++; /* what was made of it is of the old elements */
    if (node->storage->recipe) heed_recipe_end(node->storage->recipe);
}

/* ---- objects ---- */

/* Zeroed, of at most HEED_OBJECT_BYTES, owned by the innermost scope. */
#define HEED_OBJECT_BYTES 1024
void *heed_object_new(heed_ctx *ctx, uint32_t kind, size_t bytes, void (*destroy)(struct heed_object *));
bool heed_object_is(const void *object, uint32_t kind); /* false for NULL and the dead */
void heed_object_ref(void *object);
void heed_object_drop(void *memory);               /* NULL is fine */
void heed_object_release_from_scope(void *memory); /* the scope's reference ends now */

/* ---- scopes ---- */

struct heed_scope *heed_scope_push(heed_ctx *ctx, bool is_step); /* NULL on error */
void heed_scope_pop(heed_ctx *ctx);                              /* retires all it owns */
void heed_scope_clear(heed_ctx *ctx, struct heed_scope *scope);

/* ---- random numbers ---- */

/* The place of the next random operation's numbers; advances the ordinal. */
struct heed_random heed_random_next(heed_ctx *ctx);

/* Whether a mean and deviation, or bounds, make a distribution; otherwise an error is kept. */
bool heed_random_range(heed_ctx *ctx, const char *where, bool normal, double a, double b);

/* ---- the tape (src/autograd) ---- */

/* Drops all entries. */
void heed_tape_clear(heed_ctx *ctx);

/* ---- gradients of leaves ---- */

/* Lets a leaf's gradient live at a place in `storage` (the optimiser's flat bucket) from now on, keeping its
 * value. */
heed_status heed_node_rehome_grad(struct heed_node *leaf, struct heed_storage *storage, size_t byte_offset);

/* The step's backward wrote to leaves: after an error their gradients are forgotten, otherwise only the list
 * is. */
void heed_tape_settle_gradients(heed_ctx *ctx, bool forget);

#endif
