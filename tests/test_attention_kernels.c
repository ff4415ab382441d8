/* The attention kernels of the CPU backend, or of the device that stands for it, against the reference
 * kernel, on random problems (harness_problems.h). HEED_FUZZ=N tries N of them; what fails says its seed, and
 * HEED_FUZZ=1 HEED_SEED=S tries that one alone. */
#include "harness_problems.h"

#include <math.h>
#include <string.h>

#include "tensor/internal.h"
#include "tensor/philox.h"

static heed_ctx *contexts[32];
static const struct test_device *devices;
static int device_count, thread_counts; /* of each instruction set */

/* What kernels allocate themselves is guarded too. */
static void open_contexts(void) {
    const int *threads;
    device_count = test_devices(&devices);
    thread_counts = test_threads(&threads);
    const heed_ctx_options options = {
        .poison = true, .allocator = test_guarded_allocator(), .chunk_bytes = 1};
    for (int i = 0; i < device_count; i++) contexts[i] = test_ctx_with(&devices[i], options);
}

static void close_contexts(void) {
    for (int i = 0; i < device_count; i++) heed_ctx_free(contexts[i]);
}

/* ---- comparing ---- */

/* Whether an input is the same for all queries or keys, heads or batches: then so is the error of each, and
 * they add up. */
static bool repeats(const struct heed_attention_args *a) {
    const struct heed_view *const inputs[] = {&a->q, &a->k, &a->v, &a->dy, &a->dweights, &a->dlse};
    for (int i = 0; i < 6; i++)
        for (int d = heed_is_packed(&a->packed) ? 1 : 0; d < 3 && heed_has(inputs[i]); d++)
            if (inputs[i]->stride[d] == 0 && inputs[i]->size[d] > 1) return true;
    return false;
}

/* How far a kernel may be from the reference: sums of rounded terms in another order, over keys or queries of
 * sums over the width. Where scores are large, an error of a score is one of its probability. Gradients of
 * the score's tensors are sums over batch and heads too, and over all cells if they are few numbers. */
static struct test_tolerance tolerance_of(const struct problem *p, int block) {
    const struct heed_attention_args *a = &p->call.args.attention;
    const double pairs = (double)(a->q.size[0] * a->q.size[1] + 1), queries = (double)(a->q.size[2] + 8),
                 keys = (double)(a->k.size[2] + 8);
    double rows = queries + keys;
    if (p->sums[block])
        rows = fmax(rows * pairs, pairs * queries * keys / (double)p->call.block[block].count);
    const double terms = (repeats(a) ? rows * rows : rows) * (double)(a->q.size[3] + a->v.size[3] + 16);
    const double factor = (1 + fabs(a->scale)) * (1 + heed_keep_scale(a->threshold));
    return (struct test_tolerance){.relative = 1e-5, .absolute = 1e-7 * sqrt(terms) * factor};
}

/* Sums that cancel have errors of the size of their terms: those are products over the widths. */
static void compare(const struct problem *p, const struct kernel_image *expected, const char *device,
                    const char *kernel) {
    const struct kernel_call *c = &p->call;
    const double widths = (double)(c->args.attention.q.size[3] + c->args.attention.v.size[3]);
    for (int b = 0; b < c->blocks; b++) {
        char text[200];
        const double scale = fmax(sqrt(widths) / 2, kernel_image_largest(c, b, expected));
        test_check(kernel_image_close(c, b, expected, tolerance_of(p, b), scale, text, sizeof text),
                   "%s, %s %s, %s: %s", p->text, device, kernel, p->name[b], text);
    }
}

static void compare_bits(const struct problem *p, const struct kernel_image *bits, const char *device,
                         const char *what) {
    for (int b = 0; b < p->call.blocks; b++)
        test_check(kernel_image_has(&p->call, b, bits), "%s, %s, %s: bits of %s differ", p->text, device,
                   what, p->name[b]);
}

/* The reference has written all of its results, and what is masked reaches none: they are finite, but for the
 * logarithm of an empty row's sum, which is −∞. */
static void check_finite(const struct problem *p, const struct kernel_image *start) {
    const struct kernel_call *c = &p->call;
    for (int b = 0; b < c->blocks; b++) {
        const float *data = c->block[b].data;
        if (c->block[b].dtype != HEED_F32 || kernel_image_has(c, b, start)) continue;
        for (int64_t i = 0; i < c->block[b].count; i++)
            test_check(isfinite(data[i]) || (data[i] == -INFINITY && strcmp(p->name[b], "lse") == 0),
                       "%s: %s has %g", p->text, p->name[b], (double)data[i]);
    }
}

/* ---- a problem on every device ---- */

static int tried[HEED_MAX_KERNELS]; /* problems that the kernel at each place of the slot applied to */

static void run(struct problem *p, const struct kernel_image *start, struct heed_exec *exec,
                const struct heed_kernel *kernel) {
    kernel_image_restore(&p->call, start);
    problem_run(p, exec, kernel);
}

/* The mask proves nothing: the same bits. */
static void check_without_proofs(struct problem *p, const struct kernel_image *start, struct heed_exec *exec,
                                 const struct heed_kernel *kernel, const struct kernel_image *bits,
                                 const char *device) {
    const struct heed_bound_mask **mask = &p->call.args.attention.mask, *before = *mask;
    if (!before) return;
    *mask = test_mask_without_proofs(&p->masks, before);
    run(p, start, exec, kernel);
    compare_bits(p, bits, device, "a mask without proofs");
    *mask = before;
    p->masks.nodes--;
}

/* A kernel on the devices of one instruction set, from `first` on: close to ref; the same bits for any number
 * of threads and whatever the mask can prove. Every problem asks one of these, by its seed. */
static void check_isa(struct problem *p, uint64_t seed, const struct kernel_image *start,
                      const struct kernel_image *expected, int first, int place) {
    const struct heed_kernel *kernel = contexts[first]->exec.kernel[HEED_PRIMITIVE_ATTENTION][place];
    char device[64];
    test_device_name(&devices[first], device, sizeof device);
    run(p, start, &contexts[first]->exec, kernel);
    compare(p, expected, device, kernel->name);
    struct kernel_image bits = kernel_image_take(&p->call);
    const int other = (int)((seed + (uint64_t)(first / thread_counts)) % (uint64_t)thread_counts);
    if (other == 0 && !test_elsewhere()) { /* a device knows kinds of masks by their names */
        check_without_proofs(p, start, &contexts[first]->exec, kernel, &bits, device);
    } else {
        run(p, start, &contexts[first + other]->exec, kernel);
        compare_bits(p, &bits, test_device_name(&devices[first + other], device, sizeof device),
                     kernel->name);
    }
    kernel_image_free(&bits);
}

/* With every kernel that applies. */
static void check(struct problem *p, uint64_t seed) {
    const struct heed_kernel *ref = heed_ref_kernels[HEED_PRIMITIVE_ATTENTION];
    struct kernel_image start = kernel_image_take(&p->call);
    run(p, &start, &contexts[0]->exec, ref);
    check_finite(p, &start);
    struct kernel_image expected = kernel_image_take(&p->call);
    struct heed_exec *exec = &contexts[1]->exec;
    const struct heed_kernel *kernel;
    for (int k = 0; (kernel = exec->kernel[HEED_PRIMITIVE_ATTENTION][k]) && kernel != ref; k++) {
        struct heed_why why = {NULL};
        if (kernel->applies && !kernel->applies(exec, &p->call.args, &why)) continue;
        tried[k]++;
        for (int first = 1; first < device_count; first += thread_counts)
            check_isa(p, seed, &start, &expected, first, k);
    }
    kernel_image_free(&start);
    kernel_image_free(&expected);
}

enum { PROBLEMS = 2000, FEW = 200, FEWEST = 32, PARTS = 4 }; /* each part is a test with a time of its own */

/* A device may be an emulated one. */
static struct test_seeds seeds_to_try(void) {
    return test_seeds(PROBLEMS, test_elsewhere() ? FEWEST : FEW);
}

START_TEST(random_problems) {
    const struct test_seeds seeds = seeds_to_try();
    static struct problem p;
    open_contexts();
    test_fault_says(p.text);
    for (uint64_t seed = seeds.first + (uint64_t)_i; seed < seeds.end; seed += PARTS) {
        problem_make(&p, seed);
        check(&p, seed);
        problem_free(&p);
    }
    test_fault_says(NULL);
    const struct heed_kernel *const *kernel = contexts[1]->exec.kernel[HEED_PRIMITIVE_ATTENTION];
    /* Those of bf16 are these behind conversions, or a library's, and have tables of their own. */
    for (int k = 0; kernel[k] && seeds.end - seeds.first >= 100 * PARTS; k++) {
        const bool of_f32 = !strstr(kernel[k]->name, "bf16") && !strstr(kernel[k]->name, "cudnn");
        ck_assert_msg(tried[k] > 0 || !of_f32 || kernel[k] == heed_ref_kernels[HEED_PRIMITIVE_ATTENTION],
                      "no problem was for %s", kernel[k]->name);
    }
    close_contexts();
}
END_TEST

int main(void) {
    const struct test_seeds seeds = seeds_to_try();
    printf("problems of seeds %llu to %llu\n", (unsigned long long)seeds.first,
           (unsigned long long)seeds.end - 1);
    fflush(stdout);
    Suite *suite = suite_create("attention_kernels");
    TCase *tests = test_case(suite, "against_ref");
    tcase_add_loop_test(tests, random_problems, 0, PARTS);
    return test_main(suite);
}
