/* Widening what is read, rounding what was written, and the kernel of f32 in between.
 *
 * In scratch a view has the order of its dimensions in memory and no gaps, and repeats what it repeated, so
 * that a kernel finds rows contiguous that were. */
#include "backend/widened.h"

#include <string.h>

#include "backend/views.h"

/* ---- the arguments a kernel of f32 gets ---- */

enum direction { FORWARD, BACKWARD };

enum { MOST_VIEWS = 24 + 2 * HEED_MAX_STAGES + 2 * HEED_MAX_STAGE_PARAMS };

struct widened {
    enum direction direction;
    char *scratch; /* NULL: only sizes matter, views stay where they are */
    size_t bytes;  /* of it, so far */
    bool any;      /* bf16 */
    int count;
    struct {
        struct heed_view low, wide;
        unsigned how;
    } item[MOST_VIEWS]; /* those that have a place in scratch */
    _Alignas(16) char args[HEED_MOST_ARGS_BYTES];
};

static unsigned reads(enum direction direction) {
    return direction == FORWARD ? HEED_FORWARD_READS : HEED_BACKWARD_READS;
}

static unsigned writes(enum direction direction) {
    return direction == FORWARD ? HEED_FORWARD_WRITES : HEED_BACKWARD_WRITES;
}

/* Strides without gaps in the order that they had. Returns how many elements there are: what repeats is there
 * once, even if it is repeated no times. */
static int64_t close_gaps(struct heed_view *v) {
    int order[HEED_MAX_RANK];
    for (int d = 0; d < v->rank; d++) {
        int at = d;
        for (; at > 0 && v->stride[order[at - 1]] < v->stride[d]; at--) order[at] = order[at - 1];
        order[at] = d;
    }
    int64_t count = 1;
    for (int i = v->rank - 1; i >= 0; i--) {
        const int d = order[i];
        if (v->stride[d] == 0) continue;
        v->stride[d] = count;
        count *= v->size[d];
    }
    return count;
}

/* What the kernel passes over in this direction may be gone, but is there: the beginning of scratch, wherever
 * it looks. */
static void hide(const struct widened *w, struct heed_view *view) {
    for (int d = 0; d < view->rank; d++) view->stride[d] = 0;
    if (w->scratch) view->data = w->scratch;
}

static void widen(void *self, struct heed_view *view, unsigned how) {
    struct widened *w = self;
    if (view->dtype != HEED_BF16) return;
    const struct heed_view low = *view;
    view->dtype = HEED_F32; /* of one that is absent too: sizes may follow from it */
    if (!heed_has(view)) return;
    w->any = true;
    how &= reads(w->direction) | writes(w->direction);
    if (!how) {
        hide(w, view);
        return;
    }
    const size_t bytes = (size_t)close_gaps(view) * sizeof(float);
    if (w->scratch) {
        view->data = w->scratch + w->bytes;
        w->item[w->count].low = low;
        w->item[w->count].wide = *view;
        w->item[w->count++].how = how;
    }
    w->bytes += (bytes + HEED_ALIGN - 1) / HEED_ALIGN * HEED_ALIGN;
}

/* Of the sum of RESIDUAL_NORM more is made than what is stored: the kernel must round it itself. */
static void tell_what_is_rounded(enum heed_primitive primitive, const void *args, void *wide) {
    if (primitive != HEED_PRIMITIVE_RESIDUAL_NORM) return;
    const struct heed_residual_norm_args *a = args;
    ((struct heed_residual_norm_args *)wide)->rounded = a->sum.dtype == HEED_BF16;
}

static void widen_args(struct widened *w, enum direction direction, enum heed_primitive primitive,
                       const void *args, void *scratch) {
    w->direction = direction;
    w->scratch = scratch;
    w->bytes = HEED_ALIGN; /* where what is hidden is */
    w->count = 0;
    w->any = false;
    memcpy(w->args, args, heed_args_bytes(primitive));
    tell_what_is_rounded(primitive, args, w->args);
    heed_args_visit(primitive, w->args, widen, w);
}

/* ---- conversion ---- */

/* Elements that repeat are converted once. */
static heed_status convert(const struct heed_kernel *copying, struct heed_exec *exec,
                           const struct heed_view *from, const struct heed_view *to) {
    struct heed_copy_args copy = {.x = *from, .y.view = *to};
    for (int d = 0; d < from->rank; d++)
        if (to->stride[d] == 0) copy.x.size[d] = copy.y.view.size[d] = 1;
    return copying->forward(exec, &copy, NULL, NULL);
}

static heed_status read_all(const struct heed_kernel *copying, struct heed_exec *exec,
                            const struct widened *w) {
    heed_status status = HEED_OK;
    for (int i = 0; i < w->count && status == HEED_OK; i++)
        if (w->item[i].how & reads(w->direction))
            status = convert(copying, exec, &w->item[i].low, &w->item[i].wide);
    return status;
}

static heed_status write_all(const struct heed_kernel *copying, struct heed_exec *exec,
                             const struct widened *w) {
    heed_status status = HEED_OK;
    for (int i = 0; i < w->count && status == HEED_OK; i++)
        if (w->item[i].how & writes(w->direction))
            status = convert(copying, exec, &w->item[i].wide, &w->item[i].low);
    return status;
}

/* ---- the kernels ---- */

bool heed_widened_applies(const struct heed_widened *of, const struct heed_exec *exec, const void *args,
                          struct heed_why *why) {
    struct widened w;
    widen_args(&w, FORWARD, of->primitive, args, NULL);
    if (of->kernel->applies && !of->kernel->applies(exec, w.args, why)) return false;
    if (w.any) return true;
    why->reason = "nothing is bf16";
    return false;
}

void heed_widened_sizes(const struct heed_widened *of, const struct heed_exec *exec, const void *args,
                        struct heed_sizes *sizes) {
    struct heed_sizes inner = {0};
    struct widened w;
    widen_args(&w, FORWARD, of->primitive, args, NULL);
    if (of->kernel->sizes) of->kernel->sizes(exec, w.args, &inner);
    sizes->saved = inner.saved;
    sizes->forward_scratch = w.bytes + inner.forward_scratch;
    widen_args(&w, BACKWARD, of->primitive, args, NULL);
    inner = (struct heed_sizes){0};
    if (of->kernel->sizes && of->kernel->backward) of->kernel->sizes(exec, w.args, &inner);
    sizes->backward_scratch = w.bytes + inner.backward_scratch;
}

static heed_status run(const struct heed_widened *of, enum direction direction, struct heed_exec *exec,
                       const void *args, void *saved, void *scratch) {
    struct widened w;
    widen_args(&w, direction, of->primitive, args, scratch);
    void *rest = (char *)scratch + w.bytes;
    heed_status status = read_all(of->copy, exec, &w);
    if (status == HEED_OK)
        status = direction == FORWARD ? of->kernel->forward(exec, w.args, saved, rest)
                                      : of->kernel->backward(exec, w.args, saved, rest);
    return status == HEED_OK ? write_all(of->copy, exec, &w) : status;
}

heed_status heed_widened_forward(const struct heed_widened *of, struct heed_exec *exec, const void *args,
                                 void *saved, void *scratch) {
    return run(of, FORWARD, exec, args, saved, scratch);
}

heed_status heed_widened_backward(const struct heed_widened *of, struct heed_exec *exec, const void *args,
                                  void *saved, void *scratch) {
    return run(of, BACKWARD, exec, args, saved, scratch);
}
