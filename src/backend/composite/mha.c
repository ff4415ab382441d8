/* Multi-head attention made of the LINEAR and ATTENTION kernels of the same exec, whichever those are. It
 * stands before nothing: every backend has it, and a backend that can do better puts a kernel of its own
 * before it.
 *
 * The three input projections are cut into parts, each one matrix product. Neighbours share a part if they
 * read the same memory and their weights (and biases) lie one after the other, so that self-attention out of
 * one weight storage is a single product. A part's result is one buffer [rows, width] in which queries, keys
 * and values are columns; attention reads and writes it through strides, so nothing is ever transposed.
 *
 * saved: the parts' results, attention's output, attention's own bytes. The linear kernels save nothing,
 * since they run without an activation. Which kernels ran is kept in the arguments. */
#include "backend/composite/mha.h"

#include <string.h>

#include "backend/joined.h"
#include "tensor/memory.h"

enum { QUERY, KEY, VALUE, INPUTS };

/* One matrix product that makes one, two or three of queries, keys and values. */
struct part {
    int first; /* of those it makes */
    struct heed_joined joined;
    int64_t rows, width; /* of the result */
    struct heed_view x, w, bias;
    size_t offset; /* of the result, from the start of the results */
};

struct plan {
    int parts;
    struct part part[INPUTS];
    int part_of[INPUTS];
    int64_t column[INPUTS]; /* where an input's projection starts within its part's rows */
    int64_t outputs[INPUTS];
    int64_t batch, length[INPUTS];
    int64_t head_width, value_width;
    size_t joined_offset, joined_bytes; /* attention's output */
    size_t results_bytes;               /* the parts' results alone */
    heed_dtype dtype;
    size_t element;
};

static size_t aligned(size_t bytes) {
    return (bytes + HEED_ALIGN - 1) / HEED_ALIGN * HEED_ALIGN;
}

/* ---- the plan: from the arguments alone ---- */

static struct heed_view matrix(void *data, heed_dtype dtype, int64_t rows, int64_t columns, int64_t stride) {
    return (struct heed_view){
        .data = data, .dtype = dtype, .rank = 2, .size = {rows, columns}, .stride = {stride, 1}};
}

static void plan_part(struct plan *p, const struct heed_view *const x[], const struct heed_view *const w[],
                      const struct heed_view *const bias[], int input) {
    struct part *last = p->parts ? &p->part[p->parts - 1] : NULL;
    if (last && x[input]->data == x[input - 1]->data && p->length[input] == p->length[input - 1] &&
        heed_joins(w[input - 1], bias[input - 1], w[input], bias[input])) {
        p->column[input] = last->width;
    } else {
        last = &p->part[p->parts++];
        const struct heed_view rows = heed_view_rows(x[input]);
        *last = (struct part){
            .first = input, .rows = rows.size[0], .x = rows, .w = *w[input], .bias = *bias[input]};
        p->column[input] = 0;
    }
    p->part_of[input] = p->parts - 1;
    last->joined.width[last->joined.count++] = p->outputs[input];
    last->width += p->outputs[input];
    last->w.size[0] = last->width;
    last->bias.size[0] = last->width;
}

static void make_plan(struct plan *p, const struct heed_mha_args *a) {
    const struct heed_view *const x[INPUTS] = {&a->query, &a->key, &a->value};
    const struct heed_view *const w[INPUTS] = {&a->wq, &a->wk, &a->wv};
    const struct heed_view *const bias[INPUTS] = {&a->bq, &a->bk, &a->bv};
    memset(p, 0, sizeof *p);
    p->dtype = a->query.dtype;
    p->element = heed_dtype_bytes(p->dtype);
    p->batch = a->query.size[0];
    p->head_width = a->wq.size[0] / a->heads;
    p->value_width = a->wv.size[0] / a->kv_heads;
    for (int i = 0; i < INPUTS; i++) {
        p->length[i] = x[i]->size[1];
        p->outputs[i] = w[i]->size[0];
        plan_part(p, x, w, bias, i);
    }
    for (int i = 0; i < p->parts; i++) {
        p->part[i].offset = p->results_bytes;
        p->results_bytes += aligned((size_t)p->part[i].rows * (size_t)p->part[i].width * p->element);
    }
    p->joined_offset = p->results_bytes;
    p->joined_bytes = aligned((size_t)p->batch * (size_t)p->length[QUERY] * (size_t)a->heads *
                              (size_t)p->value_width * p->element);
}

/* An input's projection inside the parts' results, as attention sees it: [batch, heads, length, width]. */
static struct heed_view split_heads(const struct plan *p, void *results, int input, int64_t heads) {
    const struct part *part = &p->part[p->part_of[input]];
    const int64_t width = p->outputs[input] / heads;
    return (struct heed_view){.data = (char *)results + part->offset + (size_t)p->column[input] * p->element,
                              .dtype = p->dtype,
                              .rank = 4,
                              .size = {p->batch, heads, p->length[input], width},
                              .stride = {p->length[input] * part->width, width, part->width, 1}};
}

/* Attention's output [batch · queries, heads · value width], as attention sees it. */
static struct heed_view split_joined(const struct plan *p, void *joined, int64_t heads) {
    const int64_t row = heads * p->value_width;
    return (struct heed_view){.data = joined,
                              .dtype = p->dtype,
                              .rank = 4,
                              .size = {p->batch, heads, p->length[QUERY], p->value_width},
                              .stride = {p->length[QUERY] * row, p->value_width, row, 1}};
}

static struct heed_view joined_rows(const struct plan *p, void *joined, int64_t heads) {
    const int64_t row = heads * p->value_width;
    return matrix(joined, p->dtype, p->batch * p->length[QUERY], row, row);
}

static struct heed_attention_args attention_args(const struct plan *p, const struct heed_mha_args *a,
                                                 void *results, void *joined) {
    struct heed_attention_args attention = a->attention;
    attention.q = split_heads(p, results, QUERY, a->heads);
    attention.k = split_heads(p, results, KEY, a->kv_heads);
    attention.v = split_heads(p, results, VALUE, a->kv_heads);
    attention.y = split_joined(p, joined, a->heads);
    return attention;
}

static struct heed_linear_args part_args(const struct plan *p, int i, void *results) {
    const struct part *part = &p->part[i];
    return (struct heed_linear_args){
        .x = part->x,
        .w = part->w,
        .bias = part->bias,
        .y = matrix((char *)results + part->offset, p->dtype, part->rows, part->width, part->width)};
}

static struct heed_linear_args out_args(const struct plan *p, const struct heed_mha_args *a, void *joined) {
    return (struct heed_linear_args){
        .x = joined_rows(p, joined, a->heads),
        .w = a->wo,
        .bias = a->bo,
        .y = matrix(a->y.data, p->dtype, p->batch * p->length[QUERY], a->wo.size[0], a->wo.size[0])};
}

/* The kernel that heed_exec_select will choose, without counting it. */
static const struct heed_kernel *would_select(const struct heed_exec *exec, enum heed_primitive primitive,
                                              const void *args) {
    for (int i = 0; i < HEED_MAX_KERNELS && exec->kernel[primitive][i]; i++) {
        const struct heed_kernel *kernel = exec->kernel[primitive][i];
        struct heed_why why = {NULL};
        if (!kernel->applies || kernel->applies(exec, args, &why)) return kernel;
    }
    return heed_ref_kernels[primitive];
}

static size_t attention_saved(const struct heed_exec *exec, const struct heed_kernel *kernel,
                              const struct heed_attention_args *args) {
    struct heed_sizes sizes = {0};
    if (kernel->sizes) kernel->sizes(exec, args, &sizes);
    return aligned(sizes.saved);
}

/* Intermediate results are allocated within forward and backward, so that each ends as early as it can; the
 * kernel asks for no scratch. */
static void mha_sizes(const struct heed_exec *exec, const void *arguments, struct heed_sizes *sizes) {
    const struct heed_mha_args *a = arguments;
    struct plan p;
    make_plan(&p, a);
    /* The results do not exist yet; kernels look at shapes, at what is present and how it is aligned, so any
     * memory can stand for them. */
    _Alignas(HEED_ALIGN) char stand_in[HEED_ALIGN];
    struct heed_attention_args attention = attention_args(&p, a, stand_in, stand_in);
    attention.q.data = attention.k.data = attention.v.data = stand_in;
    const struct heed_kernel *kernel = would_select(exec, HEED_PRIMITIVE_ATTENTION, &attention);
    sizes->saved = p.results_bytes + p.joined_bytes + attention_saved(exec, kernel, &attention);
}

/* ---- forward ---- */

struct areas {
    struct heed_mha_chosen *chosen;
    void *results, *joined, *attention;
    void *owned[2]; /* blocks to give back when nothing is saved */
};

/* The one part of the arguments that forward writes: they are kept for backward after it. */
static struct heed_mha_chosen *chosen_of(const void *arguments) {
    return (struct heed_mha_chosen *)(uintptr_t) & ((const struct heed_mha_args *)arguments)->chosen;
}

static void areas_of_saved(const struct plan *p, void *saved, struct areas *areas) {
    areas->results = saved;
    areas->joined = (char *)areas->results + p->joined_offset;
    areas->attention = (char *)areas->joined + p->joined_bytes;
}

static heed_status out_of_memory(struct heed_exec *exec, size_t bytes) {
    return heed_exec_fail(exec, HEED_ERROR_MEMORY, HEED_PRIMITIVE_MHA, "no memory for %zu bytes", bytes);
}

static heed_status project(struct heed_exec *exec, const struct plan *p, struct areas *areas) {
    for (int i = 0; i < p->parts; i++) {
        const struct heed_linear_args args = part_args(p, i, areas->results);
        const struct heed_kernel *kernel = heed_exec_select(exec, HEED_PRIMITIVE_LINEAR, &args);
        if (!kernel) return HEED_ERROR_UNSUPPORTED;
        areas->chosen->linear[i] = kernel;
        const heed_status status = heed_exec_forward(exec, kernel, &args, NULL);
        if (status) return status;
    }
    return HEED_OK;
}

static heed_status attend(struct heed_exec *exec, const struct plan *p, const struct heed_mha_args *a,
                          struct areas *areas) {
    const struct heed_attention_args args = attention_args(p, a, areas->results, areas->joined);
    const struct heed_kernel *kernel = heed_exec_select(exec, HEED_PRIMITIVE_ATTENTION, &args);
    if (!kernel) return HEED_ERROR_UNSUPPORTED;
    areas->chosen->attention = kernel;
    return heed_exec_forward(exec, kernel, &args, areas->attention);
}

static heed_status project_out(struct heed_exec *exec, const struct plan *p, const struct heed_mha_args *a,
                               struct areas *areas) {
    const struct heed_linear_args args = out_args(p, a, areas->joined);
    const struct heed_kernel *kernel = heed_exec_select(exec, HEED_PRIMITIVE_LINEAR, &args);
    if (!kernel) return HEED_ERROR_UNSUPPORTED;
    areas->chosen->out = kernel;
    return heed_exec_forward(exec, kernel, &args, NULL);
}

static heed_status forward_in(struct heed_exec *exec, const struct plan *p, const struct heed_mha_args *a,
                              struct areas *areas) {
    heed_status status = project(exec, p, areas);
    if (status) return status;
    if (!areas->joined) {
        areas->joined = areas->owned[1] = heed_block_new(exec->elements, p->joined_bytes);
        if (!areas->joined) return out_of_memory(exec, p->joined_bytes);
    }
    status = attend(exec, p, a, areas);
    if (status) return status;
    heed_block_free(exec->elements, areas->owned[0]);
    areas->owned[0] = NULL;
    return project_out(exec, p, a, areas);
}

static heed_status mha_forward(struct heed_exec *exec, const void *arguments, void *saved, void *scratch) {
    const struct heed_mha_args *a = arguments;
    struct plan p;
    struct areas areas = {.chosen = chosen_of(arguments)};
    (void)scratch;
    make_plan(&p, a);
    if (saved) {
        areas_of_saved(&p, saved, &areas);
    } else {
        areas.results = areas.owned[0] = heed_block_new(exec->elements, p.results_bytes);
        if (!areas.results) return out_of_memory(exec, p.results_bytes);
    }
    const heed_status status = forward_in(exec, &p, a, &areas);
    for (int i = 0; i < 2; i++) heed_block_free(exec->elements, areas.owned[i]);
    return status;
}

/* ---- backward ---- */

/* The gradients of one input's projection. */
struct wanted {
    const struct heed_grad_view *dx[INPUTS], *dw[INPUTS], *db[INPUTS];
};

static struct wanted wanted_of(const struct heed_mha_args *a) {
    return (struct wanted){
        {&a->dquery, &a->dkey, &a->dvalue}, {&a->dwq, &a->dwk, &a->dwv}, {&a->dbq, &a->dbk, &a->dbv}};
}

static bool part_is_wanted(const struct part *part, const struct wanted *want) {
    for (int i = part->first; i < part->first + part->joined.count; i++) {
        if (heed_has(&want->dx[i]->view) || heed_has(&want->dw[i]->view) || heed_has(&want->db[i]->view))
            return true;
    }
    return false;
}

/* Nothing flows into a gradient that is wanted: zero, unless it is added to. */
static heed_status no_gradient(struct heed_exec *exec, const struct heed_grad_view *gradient) {
    if (!heed_has(&gradient->view) || gradient->add) return HEED_OK;
    const struct heed_fill_args args = {.y = gradient->view};
    return heed_exec_run(exec, HEED_PRIMITIVE_FILL, &args);
}

/* Through the output projection: dwo, dbo and, if `djoined` is not NULL, the gradient of attention's output.
 */
static heed_status backward_out(struct heed_exec *exec, const struct plan *p, const struct heed_mha_args *a,
                                const struct areas *areas, void *djoined) {
    if (!heed_has(&a->dy)) {
        const heed_status status = no_gradient(exec, &a->dwo);
        return status ? status : no_gradient(exec, &a->dbo);
    }
    struct heed_linear_args args = out_args(p, a, areas->joined);
    args.dy = matrix(a->dy.data, p->dtype, p->batch * p->length[QUERY], a->wo.size[0], a->wo.size[0]);
    if (djoined) args.dx.view = joined_rows(p, djoined, a->heads);
    args.dw = a->dwo;
    args.dbias = a->dbo;
    return heed_exec_backward(exec, areas->chosen->out, &args, NULL);
}

static heed_status backward_attention(struct heed_exec *exec, const struct plan *p,
                                      const struct heed_mha_args *a, const struct areas *areas, void *djoined,
                                      void *dresults) {
    const struct wanted want = wanted_of(a);
    struct heed_attention_args args = attention_args(p, a, areas->results, areas->joined);
    struct heed_grad_view *const gradient[INPUTS] = {&args.dq, &args.dk, &args.dv};
    const int64_t heads[INPUTS] = {a->heads, a->kv_heads, a->kv_heads};
    if (heed_has(&a->dy)) args.dy = split_joined(p, djoined, a->heads);
    for (int i = 0; i < INPUTS; i++) {
        if (!part_is_wanted(&p->part[p->part_of[i]], &want)) continue;
        gradient[i]->view = split_heads(p, dresults, i, heads[i]);
    }
    return heed_exec_backward(exec, areas->chosen->attention, &args, areas->attention);
}

/* The gradient of a part's input. Inputs that are the same memory have the same gradient memory: the first
 * part that writes it does so as asked, later ones add. */
static struct heed_grad_view input_gradient(const struct plan *p, int i, const struct wanted *want) {
    const struct heed_grad_view *dx = want->dx[p->part[i].first];
    if (!heed_has(&dx->view)) return (struct heed_grad_view){0};
    struct heed_grad_view rows = {.view = heed_view_rows(&dx->view), .add = dx->add};
    for (int j = 0; j < i; j++) {
        if (want->dx[p->part[j].first]->view.data == dx->view.data) rows.add = true;
    }
    return rows;
}

static heed_status backward_part(struct heed_exec *exec, const struct plan *p, int i,
                                 const struct wanted *want, const struct areas *areas, void *dresults) {
    const struct part *part = &p->part[i];
    struct heed_linear_args args = part_args(p, i, areas->results);
    args.dy = matrix((char *)dresults + part->offset, p->dtype, part->rows, part->width, part->width);
    args.dx = input_gradient(p, i, want);
    return heed_joined_backward(exec, areas->chosen->linear[i], &args, &part->joined, want->dw + part->first,
                                want->db + part->first);
}

static heed_status backward_inner(struct heed_exec *exec, const struct plan *p, const struct heed_mha_args *a,
                                  const struct areas *areas, void *blocks[2]) {
    const struct wanted want = wanted_of(a);
    heed_status status;
    if (heed_has(&a->dy) && !(blocks[0] = heed_block_new(exec->elements, p->joined_bytes))) {
        return out_of_memory(exec, p->joined_bytes);
    }
    if ((status = backward_out(exec, p, a, areas, blocks[0]))) return status;
    if (!(blocks[1] = heed_block_new(exec->elements, p->results_bytes)))
        return out_of_memory(exec, p->results_bytes);
    if ((status = backward_attention(exec, p, a, areas, blocks[0], blocks[1]))) return status;
    heed_block_free(exec->elements, blocks[0]);
    blocks[0] = NULL;
    for (int i = 0; i < p->parts; i++) {
        if (!part_is_wanted(&p->part[i], &want)) continue;
        if ((status = backward_part(exec, p, i, &want, areas, blocks[1]))) return status;
    }
    return HEED_OK;
}

static heed_status mha_backward(struct heed_exec *exec, const void *arguments, void *saved, void *scratch) {
    const struct heed_mha_args *a = arguments;
    const struct wanted want = wanted_of(a);
    struct plan p;
    struct areas areas = {.chosen = chosen_of(arguments)};
    bool inner = heed_attention_wants_score(&a->attention);
    (void)scratch;
    make_plan(&p, a);
    areas_of_saved(&p, saved, &areas);
    for (int i = 0; i < p.parts; i++) inner = inner || part_is_wanted(&p.part[i], &want);
    if (!inner) return backward_out(exec, &p, a, &areas, NULL);
    void *blocks[2] = {NULL, NULL};
    const heed_status status = backward_inner(exec, &p, a, &areas, blocks);
    for (int i = 0; i < 2; i++) heed_block_free(exec->elements, blocks[i]);
    return status;
}

const struct heed_kernel heed_composite_mha = {
    .name = "composite", .sizes = mha_sizes, .forward = mha_forward, .backward = mha_backward};
