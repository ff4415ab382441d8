/* The tree of modules: names, sharing, freezing, ownership, the summary, and modules after errors. */
#include "harness.h"

#include <string.h>

#include "layers/module.h"

static heed_ctx *ctx;

static void setup(void) {
    ctx = test_ref();
}

static void teardown(void) {
    ck_assert_msg(ctx->modules == 0, "%d modules still live", (int)ctx->modules);
    heed_ctx_free(ctx);
}

static const heed_init ones = {HEED_INIT_ONES, 0, 0};

/* ---- a user's own class ---- */

struct own {
    heed_tensor scale;
    int calls;
};

static int destroyed;

static heed_tensor own_forward(heed_module *module, heed_tensor x);
static void own_destroy(heed_module *module);
static const heed_module_class own_class = {
    .name = "Own", .self_bytes = sizeof(struct own), .forward = own_forward, .destroy = own_destroy};
static const heed_module_class bare_class = {.name = "Bare", .use = "bare_forward()"};

static heed_tensor own_forward(heed_module *module, heed_tensor x) {
    struct own *own = heed_module_self(module, &own_class);
    own->calls++;
    return heed_mul(x, own->scale);
}

static void own_destroy(heed_module *module) {
    ck_assert_ptr_nonnull(heed_module_self(module, &own_class));
    destroyed++;
}

static heed_module *own_new(void) {
    heed_module *module = heed_module_new(ctx, &own_class);
    struct own *own = heed_module_self(module, &own_class);
    if (own)
        own->scale = heed_module_param(module, "scale", HEED_SHAPE(3), (heed_init){HEED_INIT_CONSTANT, 2, 0});
    return module;
}

START_TEST(own_module) {
    heed_module *module = own_new();
    test_ok(ctx);
    ck_assert_str_eq(heed_module_class_name(module), "Own");
    ck_assert_ptr_eq(heed_module_ctx(module), ctx);
    ck_assert_ptr_null(heed_module_self(module, &bare_class));
    heed_step_begin(ctx, HEED_TRAIN);
    heed_tensor x = heed_from(ctx, HEED_F32, HEED_SHAPE(3), (float[]){1, 2, 3});
    heed_tensor y = heed_forward(module, x);
    test_equals(y, 3, (float[]){2, 4, 6}, "own forward");
    heed_backward(heed_sum(y, HEED_ALL, false));
    test_equals(heed_grad(heed_param_find(module, "scale")), 3, (float[]){1, 2, 3}, "gradient");
    ck_assert_int_eq(heed_step_end(ctx), HEED_OK);
    ck_assert_int_eq(((struct own *)heed_module_self(module, &own_class))->calls, 1);
    destroyed = 0;
    heed_module_free(module);
    ck_assert_int_eq(destroyed, 1);
}
END_TEST

/* ---- names ---- */

/* root{a, b{c{w}, w}, d{}}, with the second w of b first. */
static heed_module *sample_tree(void) {
    heed_module *root = heed_module_new(ctx, &bare_class), *b = heed_module_new(ctx, &bare_class);
    heed_module *c = heed_module_new(ctx, &bare_class);
    heed_module_param(c, "w", HEED_SHAPE(2, 3), ones);
    heed_module_child(b, "c", c);
    heed_module_param(b, "w", HEED_SHAPE(5), ones);
    heed_module_child(root, "b", b);
    heed_module_param(root, "a", HEED_SHAPE(4), ones);
    heed_module_child(root, "d", heed_module_new(ctx, &bare_class));
    test_ok(ctx);
    return root;
}

static void check_names(const heed_module *root, int count, const char *const *names) {
    ck_assert_int_eq(heed_param_tensors(root), count);
    for (int i = 0; i < count; i++) {
        char name[64];
        heed_tensor t = heed_param_at(root, i, name, sizeof name);
        ck_assert_str_eq(name, names[i]);
        ck_assert(heed_is_valid(t) && heed_param_find(root, name).node == t.node);
    }
    char name[8] = "unset";
    ck_assert(heed_is_none(heed_param_at(root, count, name, sizeof name)));
    ck_assert_str_eq(name, "");
    ck_assert(heed_is_none(heed_param_at(root, -1, NULL, 0)));
}

START_TEST(names_and_counts) {
    heed_module *root = sample_tree();
    check_names(root, 3, (const char *[]){"a", "b.w", "b.c.w"});
    ck_assert_int_eq(heed_param_count(root), 4 + 5 + 6);
    heed_module *b = heed_module_find(root, "b");
    ck_assert_ptr_nonnull(heed_module_find(b, "c"));
    ck_assert_ptr_eq(heed_module_find(root, "b.c"), heed_module_find(b, "c"));
    const char *const nowhere[] = {"", ".", "b.", ".b", "b..c", "b.c.", "b.c.w", "b.d", "bb", "b.c.c", "a"};
    for (size_t i = 0; i < sizeof nowhere / sizeof *nowhere; i++)
        ck_assert_msg(!heed_module_find(root, nowhere[i]), "a module \"%s\"", nowhere[i]);
    ck_assert(!heed_module_find(NULL, "b") && !heed_module_find(root, NULL));
    check_names(b, 2, (const char *[]){"w", "c.w"});
    ck_assert_ptr_null(heed_module_find(root, "a"));
    static const char *const missing[] = {"", "b", "b.", ".a", "a.w", "b.c.w.x", "b..w", "x.w"};
    for (size_t i = 0; i < sizeof missing / sizeof *missing; i++)
        ck_assert_msg(heed_is_none(heed_param_find(root, missing[i])), "found \"%s\"", missing[i]);
    char shortened[4];
    heed_param_at(root, 1, shortened, sizeof shortened);
    ck_assert_str_eq(shortened, "b.w");
    heed_param_at(root, 2, shortened, sizeof shortened);
    ck_assert_str_eq(shortened, "b.c");
    test_ok(ctx);
    heed_module_free(root);
}
END_TEST

/* Whether counted where it was made or, without that in sight, at the first place that shares it: once. */
START_TEST(shared_parameters) {
    heed_module *root = heed_module_new(ctx, &bare_class), *maker = heed_module_new(ctx, &bare_class);
    heed_module *user = heed_module_new(ctx, &bare_class);
    heed_tensor w = heed_module_param(maker, "w", HEED_SHAPE(7), ones);
    ck_assert_int_eq(heed_module_share(user, "tied", w), HEED_OK);
    heed_module_param(user, "bias", HEED_SHAPE(2), ones);
    heed_module_share(user, "again", w);
    heed_module_child(root, "user", user);
    heed_module_child(root, "maker", maker);
    check_names(root, 2, (const char *[]){"user.bias", "maker.w"});
    ck_assert_int_eq(heed_param_count(root), 9);
    check_names(user, 2, (const char *[]){"tied", "bias"});
    ck_assert_ptr_eq(heed_param_find(root, "user.tied").node, w.node);
    test_ok(ctx);
    heed_module_share(user, "w2", heed_zeros(ctx, HEED_F32, HEED_SHAPE(2)));
    test_error(ctx, HEED_ERROR_ARGUMENT, "module_share: \"w2\"", "sharing no parameter");
    heed_module_free(root);
}
END_TEST

START_TEST(bad_names) {
    char long_name[HEED_STEP_BYTES + 1];
    memset(long_name, 'x', HEED_STEP_BYTES);
    long_name[HEED_STEP_BYTES] = '\0';
    const char *const bad[] = {NULL, "", "a b", "a.b", "a-b", "ä", long_name, "taken", "child"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        heed_module *module = heed_module_new(ctx, &bare_class);
        heed_module_param(module, "taken", HEED_SHAPE(1), ones);
        heed_module_child(module, "child", heed_module_new(ctx, &bare_class));
        test_ok(ctx);
        ck_assert(!heed_is_valid(heed_module_param(module, bad[i], HEED_SHAPE(1), ones)));
        test_error(ctx, HEED_ERROR_ARGUMENT, "module_param: ", bad[i] ? bad[i] : "NULL");
        heed_module_child(module, bad[i], heed_module_new(ctx, &bare_class));
        test_error(ctx, HEED_ERROR_ARGUMENT, "module_child: ", bad[i] ? bad[i] : "NULL");
        heed_module_free(module);
    }
    heed_module *module = heed_module_new(ctx, &bare_class);
    heed_module_param(module, &long_name[1], HEED_SHAPE(1), ones);
    test_ok(ctx);
    heed_module_free(module);
}
END_TEST

/* ---- freezing and gradients ---- */

START_TEST(freezing) {
    heed_module *root = sample_tree(), *b = heed_module_find(root, "b");
    heed_module_freeze(b, true);
    ck_assert(heed_requires_grad(heed_param_find(root, "a")));
    ck_assert(!heed_requires_grad(heed_param_find(root, "b.w")) &&
              !heed_requires_grad(heed_param_find(root, "b.c.w")));
    heed_step_begin(ctx, HEED_TRAIN);
    heed_tensor sum = heed_add(heed_sum(heed_param_find(root, "a"), HEED_ALL, false),
                               heed_sum(heed_param_find(root, "b.w"), HEED_ALL, false));
    heed_backward(sum);
    ck_assert(!heed_is_none(heed_grad(heed_param_find(root, "a"))));
    ck_assert(heed_is_none(heed_grad(heed_param_find(root, "b.w"))));
    heed_module_zero_grad(root);
    ck_assert(heed_is_none(heed_grad(heed_param_find(root, "a"))));
    heed_step_end(ctx);
    char text[600];
    heed_module_summary(root, text, sizeof text);
    ck_assert_ptr_nonnull(strstr(text, "15 parameters in 3 tensors, 11 of them frozen\n"));
    heed_module_freeze(root, false);
    ck_assert(heed_requires_grad(heed_param_find(root, "b.c.w")));
    test_ok(ctx);
    heed_module_free(root);
}
END_TEST

/* ---- the summary ---- */

START_TEST(summary) {
    heed_module *root = sample_tree();
    heed_module_param(root, "big", HEED_SHAPE(1000, 2000), ones);
    static const char expected[] = "name   class  parameters\n"
                                   "       Bare    2,000,015\n"
                                   "  b    Bare           11\n"
                                   "    c  Bare            6\n"
                                   "  d    Bare            0\n"
                                   "2,000,015 parameters in 4 tensors\n";
    char text[400], part[20];
    ck_assert_uint_eq(heed_module_summary(root, text, sizeof text), sizeof expected - 1);
    ck_assert_str_eq(text, expected);
    ck_assert_uint_eq(heed_module_summary(root, part, sizeof part), sizeof expected - 1);
    ck_assert(strlen(part) == sizeof part - 1 && !strncmp(part, expected, sizeof part - 1));
    ck_assert_uint_eq(heed_module_summary(root, NULL, 0), sizeof expected - 1);
    ck_assert_uint_eq(heed_module_summary(NULL, text, sizeof text), 0);
    heed_module_free(root);
}
END_TEST

/* ---- ownership ---- */

START_TEST(owned_modules) {
    heed_module *root = heed_module_new(ctx, &bare_class), *child = own_new();
    destroyed = 0;
    ck_assert_ptr_eq(heed_module_child(root, "child", child), child);
    heed_module_free(child);
    test_error(ctx, HEED_ERROR_STATE, "module_free: Own \"child\" belongs to a Bare", "freeing a child");
    ck_assert_int_eq(destroyed, 0);
    heed_module *other = heed_module_new(ctx, &bare_class);
    heed_module_child(other, "stolen", child);
    test_error(ctx, HEED_ERROR_ARGUMENT, "already has a place", "a child given twice");
    ck_assert_ptr_eq(heed_module_find(root, "child"), child);
    heed_module_child(child, "loop", root);
    test_error(ctx, HEED_ERROR_ARGUMENT, "already has a place", "a cycle");
    heed_module_child(root, "self", root);
    test_error(ctx, HEED_ERROR_ARGUMENT, "already has a place", "itself");
    heed_module_child(root, "none", NULL);
    test_error(ctx, HEED_ERROR_ARGUMENT, "no child given", "NULL");
    heed_module_free(other);
    heed_module_free(root);
    ck_assert_int_eq(destroyed, 1);
    heed_module_free(NULL);
}
END_TEST

/* A child that cannot be added is freed. */
START_TEST(refused_child_is_freed) {
    heed_module *root = heed_module_new(ctx, &bare_class);
    destroyed = 0;
    heed_module_child(root, "not a name", own_new());
    test_error(ctx, HEED_ERROR_ARGUMENT, "not a name", "bad name");
    ck_assert_int_eq(destroyed, 1);
    heed_module *late = own_new();
    heed_error_set(ctx, HEED_ERROR_IO, "test", "an earlier error");
    heed_module_child(root, "late", late);
    ck_assert_int_eq(destroyed, 2);
    heed_error_clear(ctx);
    heed_module *inert_parent_child = own_new();
    heed_module_child(NULL, "child", inert_parent_child);
    ck_assert_int_eq(destroyed, 3);
    heed_ctx *other = test_ref();
    heed_module *foreign = heed_module_new(other, &bare_class);
    heed_module_child(root, "foreign", foreign);
    test_error(ctx, HEED_ERROR_CONTEXT, "another context", "foreign child");
    ck_assert_uint_eq(other->modules, 0);
    heed_ctx_free(other);
    heed_module_free(root);
}
END_TEST

START_TEST(deep_trees) {
    heed_module *root = heed_module_new(ctx, &bare_class), *leaf = root;
    for (int i = 1; i < HEED_MAX_DEPTH; i++) {
        leaf = heed_module_child(leaf, "x", heed_module_new(ctx, &bare_class));
        test_ok(ctx);
    }
    heed_module_param(leaf, "w", HEED_SHAPE(1), ones);
    char name[HEED_NAME_BYTES];
    ck_assert(heed_is_valid(heed_param_at(root, 0, name, sizeof name)));
    ck_assert_uint_eq(strlen(name), 2 * (HEED_MAX_DEPTH - 1) + 1);
    heed_module_child(leaf, "x", heed_module_new(ctx, &bare_class));
    test_error(ctx, HEED_ERROR_ARGUMENT, "deeper than", "built from the top");
    heed_module *above = heed_module_new(ctx, &bare_class);
    heed_module_child(above, "x", root);
    test_error(ctx, HEED_ERROR_ARGUMENT, "deeper than", "built from the bottom");
    ck_assert_uint_eq(ctx->modules, 1);
    heed_module_free(above);
}
END_TEST

/* A parameter that outlives its module is stale, and so is one that was shared. */
START_TEST(freed_parameters_are_stale) {
    heed_module *maker = heed_module_new(ctx, &bare_class), *user = heed_module_new(ctx, &bare_class);
    heed_tensor w = heed_module_param(maker, "w", HEED_SHAPE(2), ones);
    heed_module_share(user, "tied", w);
    heed_module_free(maker);
    ck_assert(!heed_is_valid(w));
    heed_exp(w);
    test_error(ctx, HEED_ERROR_STALE, "exp", "freed parameter");
    heed_module_freeze(user, true);
    heed_module_zero_grad(user);
    ck_assert_int_eq(heed_param_count(user), 0);
    heed_module_free(user);
}
END_TEST

/* ---- after errors ---- */

static void check_inert(heed_module *module) {
    ck_assert_ptr_nonnull(module);
    ck_assert_ptr_null(heed_module_self(module, &own_class));
    ck_assert_int_eq(heed_param_tensors(module), 0);
    ck_assert(!heed_is_valid(heed_module_param(module, "w", HEED_SHAPE(2), ones)));
    ck_assert_int_ne(heed_module_share(module, "w", (heed_tensor){0}), HEED_OK);
    heed_module_freeze(module, true);
    heed_module_zero_grad(module);
    char text[200];
    heed_module_summary(module, text, sizeof text);
    heed_module_free(module);
}

START_TEST(inert_modules) {
    heed_error_set(ctx, HEED_ERROR_IO, "test", "an earlier error");
    heed_module *module = heed_module_new(ctx, &own_class);
    check_inert(module);
    check_inert(heed_module_new(NULL, &own_class));
    heed_error_clear(ctx);
    check_inert(heed_module_new(ctx, NULL));
    test_error(ctx, HEED_ERROR_ARGUMENT, "a class", "no class");
    static const heed_module_class reserved = {.name = "Reserved", .reserved = {0, 1}};
    check_inert(heed_module_new(ctx, &reserved));
    test_error(ctx, HEED_ERROR_ARGUMENT, "reserved words of class Reserved", "reserved");
    static const heed_module_class huge = {.name = "Huge", .self_bytes = SIZE_MAX - 8};
    check_inert(heed_module_new(ctx, &huge));
    test_error(ctx, HEED_ERROR_MEMORY, "Huge", "too much memory");
    heed_tensor x = heed_zeros(ctx, HEED_F32, HEED_SHAPE(3));
    ck_assert(!heed_is_valid(heed_forward(module, x)));
    test_error(ctx, HEED_ERROR_STATE, "inert", "forward of an inert module");
    ck_assert(heed_context(heed_forward(NULL, x)) == ctx);
    test_error(ctx, HEED_ERROR_ARGUMENT, "forward: the module is NULL", "forward of NULL");
    ck_assert(!heed_is_valid(heed_forward(NULL, (heed_tensor){0})));
    ck_assert_ptr_eq(heed_module_ctx(NULL), heed_inert_ctx());
    ck_assert_str_eq(heed_module_class_name(NULL), "");
    ck_assert_int_eq(heed_param_tensors(NULL), 0);
    test_ok(ctx);
}
END_TEST

/* A module with a part that failed does not run, and neither does one that holds it. */
START_TEST(half_made_modules) {
    heed_module *root = heed_module_new(ctx, &bare_class), *module = own_new();
    heed_module_child(root, "own", module);
    heed_module_param(module, "bad", HEED_SHAPE(-1), ones);
    test_error(ctx, HEED_ERROR_SHAPE, "-1", "negative size");
    heed_tensor x = heed_zeros(ctx, HEED_F32, HEED_SHAPE(3));
    ck_assert(!heed_is_valid(heed_forward(module, x)));
    test_error(ctx, HEED_ERROR_STATE, "Own: the module is inert", "half-made");
    ck_assert(!heed_is_valid(heed_forward(root, x)));
    test_error(ctx, HEED_ERROR_STATE, "inert", "holder of half-made");
    heed_module_free(root);
}
END_TEST

START_TEST(forward_errors) {
    heed_module *bare = heed_module_new(ctx, &bare_class), *own = own_new();
    heed_tensor x = heed_zeros(ctx, HEED_F32, HEED_SHAPE(3));
    ck_assert(!heed_is_valid(heed_forward(bare, x)));
    test_error(ctx, HEED_ERROR_ARGUMENT, "forward: class Bare has no form with one input: use bare_forward()",
               "use");
    ck_assert(!heed_is_valid(heed_forward(own, (heed_tensor){0})));
    test_error(ctx, HEED_ERROR_ARGUMENT, "Own: the input is none", "none");
    heed_scope_begin(ctx);
    heed_tensor old = heed_zeros(ctx, HEED_F32, HEED_SHAPE(3));
    heed_scope_end(ctx, (heed_tensor){0});
    ck_assert(!heed_is_valid(heed_forward(heed_module_find(bare, "typo"), old)));
    test_error(ctx, HEED_ERROR_ARGUMENT, "forward: the module is NULL", "a stale input of NULL");
    heed_ctx *other = test_ref();
    ck_assert(!heed_is_valid(heed_forward(own, heed_zeros(other, HEED_F32, HEED_SHAPE(3)))));
    ck_assert(!heed_failed(other));
    test_error(ctx, HEED_ERROR_CONTEXT, "Own: the input belongs to another context", "foreign input");
    heed_ctx_free(other);
    heed_module_free(own);
    heed_module_free(bare);
}
END_TEST

/* Of a path that is too long the error has the last steps. */
START_TEST(places_of_long_paths) {
    char name[64], expected[200];
    memset(name, 'n', sizeof name - 1);
    name[sizeof name - 1] = '\0';
    heed_module *root = own_new(), *last = root;
    for (int i = 0; i < 3; i++) last = heed_module_child(last, name, own_new());
    test_ok(ctx);
    ck_assert(!heed_is_valid(heed_forward(last, heed_zeros(ctx, HEED_F32, HEED_SHAPE(4)))));
    snprintf(expected, sizeof expected, "%s.%s (Own): mul: ", name, name);
    ck_assert_msg(strncmp(heed_error(ctx), expected, strlen(expected)) == 0, "%s", heed_error(ctx));
    heed_error_clear(ctx);
    heed_module_free(root);
}
END_TEST

/* ---- memory ---- */

static void build_and_free(void) {
    heed_module *root = sample_tree();
    heed_module_child(root, "own", own_new());
    heed_module_free(root);
}

START_TEST(memory_returns) {
    build_and_free(); /* fills the context's pools */
    size_t before = heed_memory(ctx).in_use;
    build_and_free();
    ck_assert_uint_eq(heed_memory(ctx).in_use, before);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("module");
    TCase *tcase = test_case(suite, "module");
    tcase_add_checked_fixture(tcase, setup, teardown);
    tcase_add_test(tcase, own_module);
    tcase_add_test(tcase, names_and_counts);
    tcase_add_test(tcase, shared_parameters);
    tcase_add_test(tcase, bad_names);
    tcase_add_test(tcase, freezing);
    tcase_add_test(tcase, summary);
    tcase_add_test(tcase, owned_modules);
    tcase_add_test(tcase, refused_child_is_freed);
    tcase_add_test(tcase, deep_trees);
    tcase_add_test(tcase, freed_parameters_are_stale);
    tcase_add_test(tcase, inert_modules);
    tcase_add_test(tcase, half_made_modules);
    tcase_add_test(tcase, forward_errors);
    tcase_add_test(tcase, places_of_long_paths);
    tcase_add_test(tcase, memory_returns);
    return test_main(suite);
}
