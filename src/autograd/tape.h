/* The tape, and how an operation is written.
 *
 * An operation is a public function that fills a primitive's argument struct and a small backward function
 * that fills in the gradients and runs the same kernel the other way:
 *
 *     static heed_status softmax_backward(struct heed_backward *b) {
 *         struct heed_softmax_args *args = b->args;
 *         args->dy = heed_dy_rows(b, 0);
 *         args->dx = heed_dx_rows(b, 0);
 *         return heed_backward_run(b);
 *     }
 *     static const struct heed_op op_softmax = {"softmax", HEED_PRECISE, softmax_backward, NULL};
 *
 *     heed_tensor heed_softmax(heed_tensor x, int dim) {
 *         struct heed_call c;
 *         if (!heed_call_begin(&c, &op_softmax, NULL, 1, &x)) return heed_call_end(&c);
 *         …
 *         args.x = heed_call_dense(&c, 0);
 *         args.y = heed_call_output(&c, dtype, rank, size);
 *         heed_call_save_output(&c, 0);
 *         return heed_call_run(&c, HEED_PRIMITIVE_SOFTMAX, &args, sizeof args);
 *     }
 *
 * Invariants
 * - Whatever goes wrong between begin and end/run is kept in the context, and end/run return the inert
 * tensor.
 * - An entry holds references to its nodes (identity) and to the storages it saved (elements), with the
 * version each had; backward refuses storage that changed.
 * - Entries are in the order of execution; backward walks them in reverse.
 * - What is cheap to compute again need not stay: an operation may say that its output can be
 * (heed_call_can_remake), and one that saves an input that it is able to wait for it (heed_call_save_view).
 * When only entries that wait refer to such a storage, its elements are given back. The first of them that
 * backward comes to has them computed again, by the same kernel out of the same numbers; they stay until the
 * last of them is through, or backward ends (remake.c). */
#ifndef HEED_SRC_AUTOGRAD_TAPE_H
#define HEED_SRC_AUTOGRAD_TAPE_H

#include "tensor/internal.h"

#define HEED_MAX_INPUTS 48
#define HEED_MAX_OUTPUTS 8
#define HEED_MAX_SAVED 56
#define HEED_MAX_LOWERED 12

/* What an operation does in a context of mixed precision (options.precision HEED_BF16). Every one computes in
 * f32 or better and rounds its result once; without mixed precision the result has the dtype of the inputs,
 * which must all have one. f64 is never touched. */
enum heed_precision {
    HEED_FOLLOWS, /* the result is as wide as the widest input; parameters adapt to the others */
    HEED_PRODUCT, /* a matrix product: reads f32 inputs as bf16, gives bf16, accumulates in f32 */
    HEED_ROUNDED, /* reads what it is given and gives an activation, bf16: norms, rotary positions, embeddings
                   */
    HEED_PRECISE  /* reads what it is given and gives f32: softmax, sums, losses */
};

struct heed_backward;

#define HEED_BACKWARD_WHERE "backward"

struct heed_op {
    const char *name;
    enum heed_precision precision;
    heed_status (*backward)(struct heed_backward *b);
    const char *no_gradient; /* with backward NULL: the reason, for the message */
    /* So many of the inputs are read as bf16, of a product, or followed; 0: all. */
    int operands;
};

struct heed_saved {
    struct heed_storage *storage;
    uint64_t version;
    bool waits; /* the elements may be gone until they are needed; `moved` says where args has them */
};

/* A view within an entry's args whose elements may have moved when backward comes. */
struct heed_moved {
    struct heed_storage *storage;
    size_t view;   /* its place in args */
    size_t offset; /* of its data in the storage, in bytes */
};
#define HEED_MAX_MOVED 4

/* What would be made of more than this, one out of the other, keeps its input: work stays proportional. */
#define HEED_MOST_REMADE 2

struct heed_entry {
    const struct heed_op *op;
    struct heed_entry *previous, *next;
    uint64_t number;
    int inputs, outputs, saves, moves;
    struct heed_node **input; /* NULL where none or where no gradient can flow */
    struct heed_node **output;
    struct heed_saved *saved;
    struct heed_moved *moved;
    void *args; /* the operation's own copy */
    void *blob; /* extra memory of the operation, heed_call_blob() */
    const struct heed_kernel *kernel;
    struct heed_storage *kernel_saved;
    /* Where outputs are views of one storage, their gradients may be too: where each begins in it, and the
     * storage, from the first of them on until backward has gone through. NULL: they are made one by one. */
    const size_t *place;
    size_t side_by_side_bytes;
    struct heed_storage *side_by_side;
    struct heed_recipe recipe; /* of output 0; with no storage there is none */
    size_t remade;             /* the view of output 0 in args */
    bool inner_done;           /* the gradient that arrived is that of what its activation is of (linear.c) */
    bool used;                 /* backward went through and freed it */
};

struct heed_tape {
    struct heed_entry *first, *last;
    uint64_t entries;
    struct heed_node *touched; /* leaves whose gradient this step's backward wrote */
};

/* One operation being called. */
struct heed_call {
    heed_ctx *ctx;
    const struct heed_op *op;
    bool ok;     /* nothing failed so far */
    bool record; /* will be recorded */
    bool entered;
    const char *around; /* the operation that was running when this one was called, or NULL */
    bool side_by_side;  /* gradients of outputs lie as the outputs do */
    int inputs, outputs, saves, moves, temps, lowered;
    struct heed_node *input[HEED_MAX_INPUTS]; /* NULL where none */
    struct {
        int input;
        struct heed_view view;
    } low[HEED_MAX_LOWERED]; /* inputs that are read as bf16 (precision.c) */
    struct heed_node *output[HEED_MAX_OUTPUTS];
    struct heed_storage *saved[HEED_MAX_SAVED];
    bool pinned[HEED_MAX_SAVED];                            /* saved[i] was saved in a way that cannot wait */
    const struct heed_view *moved[HEED_MAX_MOVED], *remade; /* within the args that will be recorded */
    struct heed_storage *temp[HEED_MAX_SAVED];              /* references to drop at the end */
    void *blob;
    const struct heed_kernel *kernel; /* chosen already */
    struct heed_storage *kernel_saved;
};

/* The context of the first tensor that has one; the inert context if none has. */
heed_ctx *heed_find_ctx(int count, const heed_tensor *tensor);

/* The live node of an argument, NULL for none. What was made of no tensor, failed, ended or belongs elsewhere
 * gives NULL and keeps an error. */
struct heed_node *heed_argument(heed_ctx *ctx, const char *where, heed_tensor t, int number);

/* Whether a gradient flows to a node: to floating-point tensors only, also where a recorded operation made
 * others (indices). */
bool heed_node_requires_grad(const struct heed_node *node);

/* Finds the context through the tensors (none allowed, at least one live unless ctx is given), checks that
 * all are live and of one context, that no error is kept, that this thread may enter. */
bool heed_call_begin(struct heed_call *c, const struct heed_op *op, heed_ctx *ctx, int inputs,
                     const heed_tensor *input);

/* Keeps an error for this call; returns false. */
bool heed_call_fail(struct heed_call *c, heed_status status, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* Input i must be there and of a floating dtype (one that meets that of input 0, if that is there and i > 0).
 * `name` is for the message. */
bool heed_call_float(struct heed_call *c, int i, const char *name);
bool heed_call_dtype(struct heed_call *c, int i, const char *name, heed_dtype dtype);

/* A dimension counted from the end if negative, in 0 … rank − 1; −1 (and an error) if it is none. */
int heed_call_dim(struct heed_call *c, int dim, int rank);

/* The view of input i, as the operation reads it; an absent view if it is none. */
struct heed_view heed_call_view(struct heed_call *c, int i);

/* The same, contiguous: itself or a copy that ends with the call unless it is saved. */
struct heed_view heed_call_dense(struct heed_call *c, int i);

/* `v` (a view into input i) made contiguous. */
struct heed_view heed_call_dense_view(struct heed_call *c, const struct heed_view *v);

/* The view of input i if its rows (the last dimension) lie without gaps, otherwise made contiguous. */
struct heed_view heed_call_dense_rows(struct heed_call *c, int i);

/* A new contiguous output. */
struct heed_view heed_call_output(struct heed_call *c, heed_dtype dtype, int rank, const int64_t *size);

/* An output that looks at the elements of input i through v. */
void heed_call_output_view(struct heed_call *c, int i, const struct heed_view *v);

/* Contiguous scratch that ends with the call (unless it is saved, or an output looks at it). */
struct heed_view heed_call_temp(struct heed_call *c, heed_dtype dtype, int rank, const int64_t *size);

/* An output that looks at a part of the last scratch. All outputs of such a call are different parts of it,
 * and kernels may be given their gradients side by side too: heed_dx_strided(), heed_dy_side_by_side(). */
void heed_call_output_part(struct heed_call *c, const struct heed_view *v);

/* Keeps the elements behind a view of this call (input, output, copy or temp) for backward. No-op if not
 * recorded. */
void heed_call_save(struct heed_call *c, const struct heed_view *v);
void heed_call_save_input(struct heed_call *c, int i);
void heed_call_save_output(struct heed_call *c, int i);

/* The same for a view that is in the args of the operation, and the only way in which backward finds these
 * elements: until then they may be gone, and move. */
void heed_call_save_view(struct heed_call *c, const struct heed_view *v);

/* The kernel can write output 0, which `y` in the operation's args is a view of, again: from what it saves
 * itself (its `remake`), otherwise by running forward on args, whose inputs must all be saved. */
void heed_call_can_remake(struct heed_call *c, const struct heed_view *y);

/* Whether input i can be computed again: saving it may cost nothing. */
bool heed_call_is_remade(const struct heed_call *c, int i);

/* Zeroed memory that lives as long as the call's entry (or the call, if it isn't recorded). */
void *heed_call_blob(struct heed_call *c, size_t bytes);

/* Chooses the kernel that applies before the outputs are there (args have their shapes), so that what it
 * saves lies before them in memory: what ends first lies last, and leaves no hole. */
void heed_call_choose(struct heed_call *c, enum heed_primitive primitive, const void *args);

/* Runs a primitive by the kernel that applies; the call goes on, and heed_call_finish() records it, perhaps
 * with other args: those that backward and making output 0 again are to have. */
void heed_call_forward(struct heed_call *c, enum heed_primitive primitive, const void *args);

/* Runs a primitive by the kernel that applies, records it, and ends the call. Returns output 0. */
heed_tensor heed_call_run(struct heed_call *c, enum heed_primitive primitive, const void *args, size_t bytes);

/* Ends a call that ran no primitive of its own or has run it, recording it with `args` (may be NULL). Returns
 * output 0, the inert tensor after an error. */
heed_tensor heed_call_finish(struct heed_call *c, const void *args, size_t bytes);

/* Ends a call that failed, or without result. */
heed_tensor heed_call_end(struct heed_call *c);

/* A handle to output i; only after run or finish, which keep the nodes alive in the scope. */
heed_tensor heed_call_result(struct heed_call *c, int i);

/* ---- precision ---- */

/* The dtype of statistics and losses of such a tensor: bf16 is too coarse. */
heed_dtype heed_precise_dtype(heed_dtype dtype);

/* The dtype of the result, by the operation's class and its inputs. */
heed_dtype heed_call_result_dtype(struct heed_call *c);

/* The dtype of an activation as HEED_ROUNDED gives it, of such a tensor. */
heed_dtype heed_rounded_dtype(const heed_ctx *ctx, heed_dtype dtype);

/* For heed_call_begin(): finds what a product reads instead of its f32 inputs. */
void heed_call_lower(struct heed_call *c);

/* ---- backward ---- */

struct heed_backward {
    heed_ctx *ctx;
    struct heed_entry *entry;
    void *args; /* the entry's; may be changed */
    bool retain;
    struct heed_storage *temp[HEED_MAX_SAVED];
    int temps;
    bool given[HEED_MAX_INPUTS]; /* heed_dx() has handed out the gradient of this input */
    int pendings;                /* gradients that go to their place after the kernel ran */
    struct heed_node *pending_node[HEED_MAX_INPUTS];
    struct heed_grad_view pending[HEED_MAX_INPUTS];
    bool ok;
};

/* The gradient of output i, strided, in its shape; absent if none arrived. */
struct heed_view heed_dy(struct heed_backward *b, int i);
/* The same, contiguous. */
struct heed_view heed_dy_dense(struct heed_backward *b, int i);
/* The same, contiguous, as [rows, last dimension]. */
struct heed_view heed_dy_rows(struct heed_backward *b, int i);

/* Whether the gradient of output i is nobody else's, so that it may be written over: it ends with this entry.
 */
bool heed_dy_ends(const struct heed_backward *b, int i);

/* Moves all gradients of outputs that are parts of one scratch side by side, as the outputs lie: fills in the
 * gradient of the scratch, `whole`. Returns whether all arrived; what did not has no elements there. */
bool heed_dy_side_by_side(struct heed_backward *b, struct heed_view *whole);

/* The entry that made input i, if its gradient comes from input i of this entry alone; otherwise, or if that
 * takes long to see, NULL. */
struct heed_entry *heed_sole_producer(const struct heed_backward *b, int i);

/* Whether input i wants a gradient. */
bool heed_wants(const struct heed_backward *b, int i);

/* Where the gradient of input i goes: contiguous, in the input's shape; absent if not wanted. */
struct heed_grad_view heed_dx(struct heed_backward *b, int i);
/* The same for kernels that write it strided (its last dimension is contiguous): it may lie beside others. */
struct heed_grad_view heed_dx_strided(struct heed_backward *b, int i);
/* The same as [rows, last dimension]. */
struct heed_grad_view heed_dx_rows(struct heed_backward *b, int i);

/* The same, expanded to the sizes of `like`: a stride of 0 says that the kernel sums over that dimension. */
struct heed_grad_view heed_dx_expanded(struct heed_backward *b, int i, const struct heed_view *like);

/* The same for kernels that read the gradient of output o and write this one element by element: its memory,
 * where that ends here and nothing else has arrived at input i. */
struct heed_grad_view heed_dx_over(struct heed_backward *b, int i, int o);

/* Whether the gradient of input i, of the same shape, can be that of input j too, which the kernel writes to
 * `dx`: then it is. */
bool heed_dx_is_that_of(struct heed_backward *b, int i, int j, const struct heed_grad_view *dx);

/* The gradient of input i is `dy` of output o seen through `v` (strided, no repeats): shared without a copy
 * where nothing else has arrived, otherwise added. For views and for additions. */
void heed_dx_share(struct heed_backward *b, int i, int o, const struct heed_view *v);

/* Contiguous scratch for the duration of this backward. */
struct heed_view heed_backward_temp(struct heed_backward *b, heed_dtype dtype, int rank, const int64_t *size);

/* Runs the pinned kernel's backward on b->args. */
heed_status heed_backward_run(struct heed_backward *b);

/* Without `retain`: what was saved for this view of args is not read any more, and ends now. */
void heed_backward_done_with(struct heed_backward *b, const struct heed_view *v);
/* The same for what the kernel saved. */
void heed_backward_done_with_kernel(struct heed_backward *b);

/* ---- the tape itself ---- */

heed_status heed_tape_open(heed_ctx *ctx);
void heed_tape_append(heed_ctx *ctx, struct heed_entry *entry);
void heed_entry_release(heed_ctx *ctx, struct heed_entry *entry);
void heed_saved_drop(const struct heed_saved *saved);

/* Before an entry's backward: all that it saved is there, and args know where. */
heed_status heed_entry_prepare(heed_ctx *ctx, struct heed_entry *entry);

/* Before an entry gives up what it saved: others that wait for its output get it now, since nobody can make
 * it later. There are none unless backward did not come to them first: gradients stop where they have the
 * output from (heed_detach), or another loss is theirs. */
heed_status heed_entry_bequeath(heed_ctx *ctx, struct heed_entry *entry);

/* After backward: what was made again for entries that still wait goes. */
void heed_tape_rest(heed_ctx *ctx);

/* Whether what an entry saved is what it was. */
heed_status heed_entry_check_saved(heed_ctx *ctx, const struct heed_entry *entry);

#endif
