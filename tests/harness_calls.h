/* A call of one kernel, without tensors or tape: arguments with random strided views in guarded memory, which
 * also knows when something between their elements was written; images of that memory, so that a call runs
 * many times from the same bytes; and running it. */
#ifndef HEED_TESTS_HARNESS_CALLS_H
#define HEED_TESTS_HARNESS_CALLS_H

#include "harness_guard.h"

#include "backend/backend.h"

enum kernel_layout {
    KERNEL_DENSE,
    KERNEL_LINES,    /* the last dimension dense, the others in any order and with gaps */
    KERNEL_ROWS,     /* a matrix whose rows are dense, with a gap between them */
    KERNEL_SHUFFLED, /* all dimensions in any order, the innermost dense, the others with gaps */
    KERNEL_SCATTERED /* all dimensions in any order and with gaps */
};

enum kernel_fill { KERNEL_NORMAL, KERNEL_POSITIVE, KERNEL_AWAY, KERNEL_DISTINCT };

#define KERNEL_BLOCKS 48
#define KERNEL_OTHERS 48
#define KERNEL_INPUTS 16
#define KERNEL_ITEMS 4

/* A call that is being built: the arguments, and which of their views are what. */
struct kernel_call {
    struct test_random random;
    heed_dtype dtype;    /* of its floating-point views; HEED_BF16: each is bf16 or f32 by chance */
    enum test_edge edge; /* of its memory */
    enum heed_primitive primitive;
    union {
        struct heed_copy_args copy;
        struct heed_unary_args unary;
        struct heed_binary_args binary;
        struct heed_where_args where;
        struct heed_reduce_args reduce;
        struct heed_softmax_args softmax;
        struct heed_norm_args norm;
        struct heed_residual_norm_args residual_norm;
        struct heed_rotary_args rotary;
        struct heed_matmul_args matmul;
        struct heed_linear_args linear;
        struct heed_gather_args gather;
        struct heed_dropout_args dropout;
        struct heed_cross_entropy_args cross_entropy;
        struct heed_pair_loss_args pair_loss;
        struct heed_attention_args attention;
        struct heed_grad_norm_args grad_norm;
        struct heed_update_args update;
    } args;
    struct heed_param_item item[KERNEL_ITEMS]; /* of the last two */
    int inputs, outputs, hidden, blocks;
    struct {
        struct heed_view *x;
        struct heed_grad_view *dx;
    } input[KERNEL_INPUTS];
    struct {
        struct heed_view *y, *dy; /* dy->data NULL: no gradient arrives there */
    } output[2];
    struct heed_view *hide[8]; /* not there in backward */
    struct heed_bound_mask mask[3];
    struct {
        void *data;
        heed_dtype dtype;
        int64_t count;
    } block[KERNEL_BLOCKS];
    int more; /* memory of others that it reads, and structs of theirs that point there */
    struct {
        void *data;
        size_t bytes;
    } others[KERNEL_OTHERS];
    void *pointing;
    size_t pointing_bytes;
};

typedef void kernel_build(struct kernel_call *c, int variant);

/* ---- for builders ---- */

/* What lies between the elements. */
#define KERNEL_UNTOUCHED (-7777.25)

/* A view of new memory, which ends with the view's last element; bit d of `repeats` gives dimension d the
 * stride 0. */
struct heed_view kernel_view(struct kernel_call *c, heed_dtype dtype, enum kernel_layout layout,
                             unsigned repeats, int rank, const int64_t *size);

/* An input at *x with its gradient at *dx (both of the same layout and repeats), filled. */
void kernel_input(struct kernel_call *c, struct heed_view *x, struct heed_grad_view *dx,
                  enum kernel_fill fill, enum kernel_layout layout, unsigned repeats, int rank,
                  const int64_t *size);

/* An output at *y and its gradient at *dy. Both have their own layouts. */
void kernel_output(struct kernel_call *c, struct heed_view *y, enum kernel_layout y_layout,
                   struct heed_view *dy, enum kernel_layout dy_layout, unsigned repeats, int rank,
                   const int64_t *size);

void kernel_fill_view(struct kernel_call *c, const struct heed_view *v, enum kernel_fill fill);

/* This view is gone when backward runs. */
void kernel_hide(struct kernel_call *c, struct heed_view *v);

/* Gives the memory back. */
void kernel_call_end(struct kernel_call *c);

/* ---- images ---- */

/* The bytes of all memory of a call. */
struct kernel_image {
    void *data[KERNEL_BLOCKS];
};
struct kernel_image kernel_image_take(const struct kernel_call *c);
void kernel_image_restore(const struct kernel_call *c, const struct kernel_image *image);
void kernel_image_free(struct kernel_image *image);

/* Whether a block of the call is as in the image, bit for bit. */
bool kernel_image_has(const struct kernel_call *c, int block, const struct kernel_image *image);

/* The largest finite number of a block in the image, but for what lies between the elements. */
double kernel_image_largest(const struct kernel_call *c, int block, const struct kernel_image *image);

/* test_close() of a block and its image. */
bool kernel_image_close(const struct kernel_call *c, int block, const struct kernel_image *image,
                        struct test_tolerance tolerance, double scale, char *text, size_t bytes);

/* ---- running ---- */

/* What a kernel saved. It and the kernel's scratch are guarded memory too, or a device's. */
struct kernel_saved {
    struct heed_exec *exec;
    enum test_edge edge; /* of the scratch too */
    void *memory;
    size_t bytes;
};

/* One way of a kernel; asserts that it went well. */
struct kernel_saved kernel_run_forward(struct heed_exec *exec, const struct heed_kernel *kernel,
                                       const void *args, enum test_edge edge);
void kernel_run_backward(struct heed_exec *exec, const struct heed_kernel *kernel, const void *args,
                         const struct kernel_saved *saved);
void kernel_saved_free(const struct kernel_saved *saved);

/* ---- on a device whose memory the host cannot touch ---- */

/* The memory of a call there. */
struct kernel_away {
    void *data[KERNEL_BLOCKS];
};

/* Sends the memory there, each block as far from an aligned address as it is here, and lets arguments and
 * items point to it; brings it back, and the pointers. Elsewhere than on such a device nothing happens. */
struct kernel_away kernel_send(struct heed_exec *exec, struct kernel_call *c);
void kernel_fetch(struct heed_exec *exec, struct kernel_call *c, const struct kernel_away *away);

#endif
