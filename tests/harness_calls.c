#include "harness_calls.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "backend/ref/ref.h"
#include "tensor/bf16.h"
#include "tensor/memory.h"

/* ---- memory ---- */

static void *block_new(struct kernel_call *c, heed_dtype dtype, int64_t count) {
    if (c->blocks == KERNEL_BLOCKS) ck_abort_msg("too many blocks for a call");
    void *data = test_guarded(c->edge, heed_dtype_bytes(dtype), (size_t)count * heed_dtype_bytes(dtype));
    const struct heed_view all = {data, dtype, 1, {count}, {1}};
    for (int64_t i = 0; i < count; i++) heed_ref_store(&all, i, KERNEL_UNTOUCHED);
    c->block[c->blocks].data = data;
    c->block[c->blocks].dtype = dtype;
    c->block[c->blocks++].count = count;
    return data;
}

static size_t block_bytes(const struct kernel_call *c, int block) {
    return (size_t)c->block[block].count * heed_dtype_bytes(c->block[block].dtype);
}

void kernel_call_end(struct kernel_call *c) {
    for (int b = 0; b < c->blocks; b++) test_guarded_free(c->block[b].data, block_bytes(c, b));
}

static int64_t below(struct kernel_call *c, int64_t n) {
    return (int64_t)(test_bits(&c->random) % (uint64_t)n);
}

/* The dimensions from the one that is innermost in memory to the outermost. */
static void order_in_memory(struct kernel_call *c, enum kernel_layout layout, int rank, int *order) {
    for (int d = 0; d < rank; d++) order[d] = rank - 1 - d;
    bool shuffled = layout != KERNEL_DENSE && layout != KERNEL_ROWS;
    int first = layout == KERNEL_LINES ? 1 : 0;
    for (int d = rank - 1; d > first && shuffled; d--) {
        int other = first + (int)below(c, d - first + 1), swap = order[d];
        order[d] = order[other];
        order[other] = swap;
    }
}

struct heed_view kernel_view(struct kernel_call *c, heed_dtype dtype, enum kernel_layout layout,
                             unsigned repeats, int rank, const int64_t *size) {
    struct heed_view v = {NULL, dtype, rank, {0}, {0}};
    int order[HEED_MAX_RANK];
    int64_t stride = 1, last = 0;
    bool empty = false;
    order_in_memory(c, layout, rank, order);
    for (int i = 0; i < rank; i++) {
        int d = order[i];
        v.size[d] = size[d];
        if (layout == KERNEL_SCATTERED || (layout != KERNEL_DENSE && i > 0)) stride += below(c, 3);
        v.stride[d] = repeats >> d & 1 ? 0 : stride;
        if (repeats >> d & 1) continue;
        empty = empty || size[d] == 0;
        last += (size[d] - 1) * stride;
        stride *= size[d] > 0 ? size[d] : 1;
    }
    v.data = block_new(c, dtype, empty ? 0 : last + 1);
    return v;
}

static double number(struct kernel_call *c, enum kernel_fill fill, int64_t place) {
    double u = floor(test_uniform(&c->random) * 512) / 256; /* [0, 2) in steps that f32 has */
    switch (fill) {
    case KERNEL_POSITIVE:
        return 0.25 + u;
    case KERNEL_AWAY:
        return test_bits(&c->random) & 1 ? 0.25 + u : -0.25 - u;
    case KERNEL_DISTINCT:
        return (double)((place * 37 + 11) % 101) / 32;
    case KERNEL_NORMAL:
        break;
    }
    return floor(test_normal(&c->random) * 256) / 256;
}

void kernel_fill_view(struct kernel_call *c, const struct heed_view *v, enum kernel_fill fill) {
    struct heed_walk own, repeated;
    int64_t place = 0;
    for (heed_walk_split(v, &own, &repeated); own.more; heed_walk_next(&own)) {
        heed_ref_put(v, own.at, number(c, fill, place++));
    }
}

static heed_dtype some_dtype(struct kernel_call *c) {
    return c->dtype == HEED_BF16 && test_bits(&c->random) & 1 ? HEED_F32 : c->dtype;
}

void kernel_input(struct kernel_call *c, struct heed_view *x, struct heed_grad_view *dx,
                  enum kernel_fill fill, enum kernel_layout layout, unsigned repeats, int rank,
                  const int64_t *size) {
    *x = kernel_view(c, some_dtype(c), layout, repeats, rank, size);
    dx->view = kernel_view(c, some_dtype(c), layout, repeats, rank, size);
    kernel_fill_view(c, x, fill);
    c->input[c->inputs].x = x;
    c->input[c->inputs++].dx = dx;
}

void kernel_output(struct kernel_call *c, struct heed_view *y, enum kernel_layout y_layout,
                   struct heed_view *dy, enum kernel_layout dy_layout, unsigned repeats, int rank,
                   const int64_t *size) {
    *y = kernel_view(c, some_dtype(c), y_layout, repeats, rank, size);
    *dy = kernel_view(c, some_dtype(c), dy_layout, repeats, rank, size);
    kernel_fill_view(c, dy, KERNEL_NORMAL);
    c->output[c->outputs].y = y;
    c->output[c->outputs++].dy = dy;
}

void kernel_hide(struct kernel_call *c, struct heed_view *v) {
    c->hide[c->hidden++] = v;
}

/* ---- images ---- */

struct kernel_image kernel_image_take(const struct kernel_call *c) {
    struct kernel_image image = {{NULL}};
    for (int b = 0; b < c->blocks; b++) {
        image.data[b] = malloc(block_bytes(c, b) + 1);
        memcpy(image.data[b], c->block[b].data, block_bytes(c, b));
    }
    return image;
}

void kernel_image_restore(const struct kernel_call *c, const struct kernel_image *image) {
    for (int b = 0; b < c->blocks; b++) memcpy(c->block[b].data, image->data[b], block_bytes(c, b));
}

void kernel_image_free(struct kernel_image *image) {
    for (int b = 0; b < KERNEL_BLOCKS; b++) free(image->data[b]);
}

bool kernel_image_has(const struct kernel_call *c, int block, const struct kernel_image *image) {
    return memcmp(c->block[block].data, image->data[block], block_bytes(c, block)) == 0;
}

/* A block's numbers, which may be in an image (malloc). */
static double *numbers_of(const struct kernel_call *c, int block, void *data) {
    const int64_t count = c->block[block].count;
    const struct heed_view all = {data, c->block[block].dtype, 1, {count}, {1}};
    double *numbers = malloc((size_t)(count + 1) * sizeof *numbers);
    for (int64_t i = 0; i < count; i++) numbers[i] = heed_ref_load(&all, i);
    return numbers;
}

double kernel_image_largest(const struct kernel_call *c, int block, const struct kernel_image *image) {
    double *numbers = numbers_of(c, block, image->data[block]), largest = 0;
    const bool rounded = c->block[block].dtype == HEED_BF16;
    const double untouched = rounded ? heed_bf16_round(-KERNEL_UNTOUCHED) : -KERNEL_UNTOUCHED;
    for (int64_t i = 0; i < c->block[block].count; i++) {
        const double size = fabs(numbers[i]);
        if (isfinite(size) && size != untouched && size > largest) largest = size;
    }
    free(numbers);
    return largest;
}

bool kernel_image_close(const struct kernel_call *c, int block, const struct kernel_image *image,
                        struct test_tolerance tolerance, double scale, char *text, size_t bytes) {
    if (kernel_image_has(c, block, image)) return true;
    double *actual = numbers_of(c, block, c->block[block].data),
           *expected = numbers_of(c, block, image->data[block]);
    const bool close = test_close(c->block[block].count, actual, expected, tolerance, scale, text, bytes);
    free(actual);
    free(expected);
    return close;
}

/* ---- running ---- */

typedef heed_status direction(struct heed_exec *exec, const void *args, void *saved, void *scratch);

static void *room_new(const struct heed_exec *exec, enum test_edge edge, size_t bytes) {
    const struct heed_remote *remote = &exec->remote;
    return remote->device ? remote->device->alloc(remote->self, bytes + 1)
                          : test_guarded(edge, HEED_ALIGN, bytes);
}

static void room_free(const struct heed_exec *exec, void *room, size_t bytes) {
    const struct heed_remote *remote = &exec->remote;
    if (remote->device)
        remote->device->free(remote->self, room, bytes + 1);
    else
        test_guarded_free(room, bytes);
}

static void run(const struct heed_kernel *kernel, direction *way, const void *args,
                const struct kernel_saved *saved, size_t bytes) {
    struct heed_exec *exec = saved->exec;
    void *scratch = bytes > 0 ? room_new(exec, saved->edge, bytes) : NULL;
    if (way(exec, args, saved->memory, scratch) != HEED_OK)
        ck_abort_msg("%s: %s", kernel->name, heed_error(exec->ctx));
    if (scratch) room_free(exec, scratch, bytes);
}

static struct heed_sizes sizes_of(struct heed_exec *exec, const struct heed_kernel *kernel,
                                  const void *args) {
    struct heed_sizes sizes = {0, 0, 0};
    if (kernel->sizes) kernel->sizes(exec, args, &sizes);
    return sizes;
}

struct kernel_saved kernel_run_forward(struct heed_exec *exec, const struct heed_kernel *kernel,
                                       const void *args, enum test_edge edge) {
    const struct heed_sizes sizes = sizes_of(exec, kernel, args);
    const struct kernel_saved saved = {
        .exec = exec, .edge = edge, .memory = room_new(exec, edge, sizes.saved), .bytes = sizes.saved};
    run(kernel, kernel->forward, args, &saved, sizes.forward_scratch);
    return saved;
}

void kernel_run_backward(struct heed_exec *exec, const struct heed_kernel *kernel, const void *args,
                         const struct kernel_saved *saved) {
    const struct heed_sizes sizes = sizes_of(exec, kernel, args);
    run(kernel, kernel->backward, args, saved, sizes.backward_scratch);
}

void kernel_saved_free(const struct kernel_saved *saved) {
    room_free(saved->exec, saved->memory, saved->bytes);
}

/* ---- on a device whose memory the host cannot touch ---- */

struct place {
    void *data;
    size_t bytes, beside; /* how far it is behind an aligned address */
};

static int place_count(const struct kernel_call *c) {
    return c->blocks + c->more;
}

/* Of a block of the call, or, behind those, of others. */
static struct place place_of(const struct kernel_call *c, int i) {
    struct place p = {0};
    p.data = i < c->blocks ? c->block[i].data : c->others[i - c->blocks].data;
    p.bytes = i < c->blocks ? block_bytes(c, i) : c->others[i - c->blocks].bytes;
    p.beside = (uintptr_t)p.data % HEED_ALIGN;
    return p;
}

/* Pointers of some structs that lead into this memory, from there to here or (`back`) from here to there. No
 * other number in them is an address of it. */
static void point(const struct kernel_call *c, const struct kernel_away *away, bool back, void *structs,
                  size_t bytes) {
    uintptr_t word;
    for (size_t at = 0; at + sizeof word <= bytes; at += sizeof word) {
        memcpy(&word, (char *)structs + at, sizeof word);
        for (int i = 0; i < place_count(c); i++) {
            const struct place p = place_of(c, i);
            const uintptr_t here = (uintptr_t)p.data, there = (uintptr_t)away->data[i];
            const uintptr_t first = back ? there : here, to = back ? here : there;
            if (word != first && (word < first || word >= first + p.bytes)) continue;
            word = word - first + to;
            memcpy((char *)structs + at, &word, sizeof word);
            break;
        }
    }
}

static void point_all(struct kernel_call *c, const struct kernel_away *away, bool back) {
    point(c, away, back, &c->args, sizeof c->args);
    point(c, away, back, c->item, sizeof c->item);
    if (c->pointing) point(c, away, back, c->pointing, c->pointing_bytes);
}

struct kernel_away kernel_send(struct heed_exec *exec, struct kernel_call *c) {
    struct kernel_away away = {{NULL}};
    const struct heed_remote *remote = &exec->remote;
    if (!remote->device) return away;
    for (int i = 0; i < place_count(c); i++) {
        const struct place p = place_of(c, i);
        char *room = remote->device->alloc(remote->self, p.bytes + p.beside + 1);
        ck_assert_ptr_nonnull(room);
        away.data[i] = room + p.beside;
        ck_assert_int_eq(heed_elements_write(exec, away.data[i], p.data, p.bytes), HEED_OK);
    }
    point_all(c, &away, false);
    return away;
}

void kernel_fetch(struct heed_exec *exec, struct kernel_call *c, const struct kernel_away *away) {
    const struct heed_remote *remote = &exec->remote;
    if (!remote->device) return;
    point_all(c, away, true);
    for (int i = 0; i < place_count(c); i++) {
        const struct place p = place_of(c, i);
        if (i < c->blocks && heed_elements_read(exec, p.data, away->data[i], p.bytes) != HEED_OK)
            ck_abort_msg("%s", heed_error(exec->ctx));
        remote->device->free(remote->self, (char *)away->data[i] - p.beside, p.bytes + p.beside + 1);
    }
}
