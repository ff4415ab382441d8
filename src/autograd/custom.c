/* Operations of the user's own, over raw memory. */
#include "autograd/tape.h"

#include <string.h>

#define MAX_CUSTOM_INPUTS 16
#define MAX_CUSTOM_OUTPUTS 8

/* What the tape keeps. The op's name is part of it, so that messages can name it. */
struct custom_args {
    heed_status (*forward)(const heed_custom_call *);
    heed_status (*backward)(const heed_custom_call *);
    void *user;
    int inputs, outputs;
    struct heed_view input[MAX_CUSTOM_INPUTS], output[MAX_CUSTOM_OUTPUTS];
    char name[64];
};

/* The user's functions see host memory: elements themselves, or copies that are written back. */
struct staged {
    struct heed_exec *exec;
    int count;
    bool ok;
    struct {
        struct heed_view view, host;
        unsigned how;
    } item[2 * (MAX_CUSTOM_INPUTS + MAX_CUSTOM_OUTPUTS)];
};

static heed_raw raw_of(const struct heed_view *v) {
    heed_raw raw = {.data = v->data, .dtype = v->dtype, .rank = v->rank};
    memcpy(raw.size, v->size, sizeof raw.size);
    memcpy(raw.stride, v->stride, sizeof raw.stride);
    return raw;
}

static heed_raw stage(struct staged *s, const struct heed_view *v, unsigned how) {
    struct heed_view host = *v;
    if (heed_elements_map(s->exec, v, how, &host) != HEED_OK) s->ok = false;
    s->item[s->count].view = *v;
    s->item[s->count].host = host;
    s->item[s->count++].how = how;
    return raw_of(&host);
}

/* Ends all; what the user wrote goes back. */
static bool unstage(struct staged *s) {
    for (int i = 0; i < s->count; i++)
        if (heed_elements_unmap(s->exec, &s->item[i].view, s->item[i].how, &s->item[i].host) != HEED_OK)
            s->ok = false;
    return s->ok;
}

/* The gradient of an output as the user sees it: contiguous, zeros where none arrived. */
static struct heed_view d_output(struct heed_backward *b, const struct custom_args *args, int i) {
    struct heed_view dy = heed_dy_dense(b, i);
    if (!heed_has(&dy) && b->ok) {
        const struct heed_view *y = &args->output[i];
        if (!heed_is_float(y->dtype)) return (struct heed_view){0};
        dy = heed_backward_temp(b, y->dtype, y->rank, y->size);
        struct heed_fill_args fill = {.y = dy};
        if (b->ok && heed_exec_run(&b->ctx->exec, HEED_PRIMITIVE_FILL, &fill) != HEED_OK) b->ok = false;
    }
    return dy;
}

/* The user fills zeroed memory; what was there before is added afterwards. */
static struct heed_view d_input(struct heed_backward *b, const struct custom_args *args, int i) {
    if (!heed_wants(b, i)) return (struct heed_view){0};
    const struct heed_view *x = &args->input[i];
    struct heed_view dx = heed_backward_temp(b, x->dtype, x->rank, x->size);
    struct heed_fill_args fill = {.y = dx};
    if (b->ok && heed_exec_run(&b->ctx->exec, HEED_PRIMITIVE_FILL, &fill) != HEED_OK) b->ok = false;
    return dx;
}

static void give_d_input(struct heed_backward *b, int i, const struct heed_view *from) {
    if (!heed_has(from)) return;
    struct heed_grad_view dx = heed_dx(b, i);
    struct heed_copy_args copy = {.x = dx.view, .y = dx};
    copy.x.data = from->data;
    if (b->ok && heed_exec_run(&b->ctx->exec, HEED_PRIMITIVE_COPY, &copy) != HEED_OK) b->ok = false;
}

static heed_status custom_backward(struct heed_backward *b) {
    const struct custom_args *args = b->args;
    heed_raw input[MAX_CUSTOM_INPUTS], output[MAX_CUSTOM_OUTPUTS], dy[MAX_CUSTOM_OUTPUTS],
        dx[MAX_CUSTOM_INPUTS];
    struct heed_view given[MAX_CUSTOM_INPUTS];
    struct staged s = {.exec = &b->ctx->exec, .ok = true};
    if (!args->backward)
        return heed_fail(b->ctx, HEED_ERROR_GRADIENT, args->name,
                         "the operation was given no backward function");
    for (int i = 0; i < args->inputs; i++) input[i] = stage(&s, &args->input[i], HEED_MAP_READ);
    for (int i = 0; i < args->outputs; i++) {
        const struct heed_view gradient = d_output(b, args, i);
        output[i] = stage(&s, &args->output[i], HEED_MAP_READ);
        dy[i] = stage(&s, &gradient, HEED_MAP_READ);
    }
    for (int i = 0; i < args->inputs; i++) {
        given[i] = d_input(b, args, i);
        dx[i] = stage(&s, &given[i], HEED_MAP_READ | HEED_MAP_WRITE);
    }
    if (!b->ok || !s.ok) {
        unstage(&s);
        return b->ctx->status;
    }
    heed_custom_call call = {.inputs = args->inputs,
                             .outputs = args->outputs,
                             .input = input,
                             .output = output,
                             .d_output = dy,
                             .d_input = dx,
                             .user = args->user};
    heed_status status = args->backward(&call);
    if (status != HEED_OK) heed_fail(b->ctx, status, args->name, "its backward reported an error");
    if (!unstage(&s) || status != HEED_OK) return b->ctx->status;
    for (int i = 0; i < args->inputs; i++) give_d_input(b, i, &given[i]);
    return HEED_OK;
}

static const struct heed_op op_custom = {"custom_op", HEED_FOLLOWS, custom_backward, NULL};

static bool check_options(struct heed_call *c, const heed_custom_options *o) {
    if (!heed_reserved_zero(o->reserved, 4))
        return heed_call_fail(c, HEED_ERROR_ARGUMENT, "reserved words of the options are not zero");
    if (!o->forward) return heed_call_fail(c, HEED_ERROR_ARGUMENT, "no forward function given");
    if (o->outputs < 1 || o->outputs > MAX_CUSTOM_OUTPUTS || !o->output)
        return heed_call_fail(c, HEED_ERROR_ARGUMENT, "%d outputs: not 1 to %d", o->outputs,
                              MAX_CUSTOM_OUTPUTS);
    return true;
}

static void run_forward(struct heed_call *c, const struct custom_args *args) {
    heed_raw input[MAX_CUSTOM_INPUTS], output[MAX_CUSTOM_OUTPUTS];
    struct staged s = {.exec = &c->ctx->exec, .ok = true};
    for (int i = 0; i < args->inputs; i++) input[i] = stage(&s, &args->input[i], HEED_MAP_READ);
    for (int i = 0; i < args->outputs; i++) output[i] = stage(&s, &args->output[i], HEED_MAP_WRITE);
    heed_custom_call call = {.inputs = args->inputs,
                             .outputs = args->outputs,
                             .input = input,
                             .output = output,
                             .user = args->user};
    const heed_status status = s.ok ? args->forward(&call) : HEED_OK;
    if (status != HEED_OK) heed_fail(c->ctx, status, args->name, "its forward reported an error");
    c->ok = unstage(&s) && status == HEED_OK;
}

static void fill_args(struct heed_call *c, const heed_custom_options *o, struct custom_args *args) {
    *args = (struct custom_args){.forward = o->forward,
                                 .backward = o->backward,
                                 .user = o->user,
                                 .inputs = o->inputs,
                                 .outputs = o->outputs};
    snprintf(args->name, sizeof args->name, "%s", o->name ? o->name : "custom_op");
    for (int i = 0; i < o->inputs; i++) {
        args->input[i] = heed_call_dense(c, i);
        heed_call_save(c, &args->input[i]);
    }
    for (int i = 0; c->ok && i < o->outputs; i++) {
        args->output[i] = heed_call_output(c, o->output[i].dtype, o->output[i].rank, o->output[i].size);
        heed_call_save_output(c, i);
    }
}

/* The user's functions were written for f32: mixed precision does not show. */
static void take_inputs(const heed_ctx *ctx, const heed_custom_options *o, heed_tensor *input) {
    for (int i = 0; i < o->inputs; i++) {
        const heed_tensor t = o->input[i];
        const bool low = heed_is_valid(t) && t.node->ctx == ctx && heed_dtype_of(t) == HEED_BF16;
        input[i] = low && heed_is_mixed(ctx) ? heed_cast(t, HEED_F32) : t;
    }
}

heed_status heed_custom_op(heed_ctx *ctx, const heed_custom_options *options, heed_tensor *result) {
    struct heed_call c;
    heed_tensor input[MAX_CUSTOM_INPUTS];
    struct custom_args args;
    if (!ctx) ctx = heed_inert_ctx();
    int inputs = options ? options->inputs : -1;
    bool countable = inputs >= 0 && inputs <= MAX_CUSTOM_INPUTS && (inputs == 0 || options->input);
    if (countable) take_inputs(ctx, options, input);
    heed_call_begin(&c, &op_custom, ctx, countable ? inputs : 0, input);
    if (c.ok && (!countable || !result))
        heed_call_fail(&c, HEED_ERROR_ARGUMENT,
                       "no options or no place for results given, or not 0 to %d inputs", MAX_CUSTOM_INPUTS);
    if (c.ok && check_options(&c, options)) {
        fill_args(&c, options, &args);
        if (c.ok) run_forward(&c, &args);
    }
    if (c.ok)
        heed_call_finish(&c, &args, sizeof args);
    else
        heed_call_end(&c);
    for (int i = 0; result && options && i < options->outputs && i < MAX_CUSTOM_OUTPUTS; i++)
        result[i] = heed_call_result(&c, i);
    return heed_error_status(c.ctx);
}
