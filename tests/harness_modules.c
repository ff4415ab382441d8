#include "harness_modules.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static const char *shape_of(heed_tensor t, char *text, size_t bytes) {
    size_t used = (size_t)snprintf(text, bytes, "[");
    for (int d = 0; d < heed_rank(t); d++)
        used +=
            (size_t)snprintf(text + used, bytes - used, "%s%lld", d ? "," : "", (long long)heed_size(t, d));
    snprintf(text + used, bytes - used, "]");
    return text;
}

void test_shape(heed_tensor t, const char *expected) {
    char shape[200];
    test_ok(heed_context(t));
    ck_assert(heed_is_valid(t));
    ck_assert_str_eq(shape_of(t, shape, sizeof shape), expected);
}

void test_same(heed_tensor actual, heed_tensor expected, const char *what) {
    test_ok(heed_context(actual));
    int64_t count, other;
    double *a = test_values(actual, &count), *b = test_values(expected, &other);
    ck_assert_int_eq(count, other);
    char text[200];
    ck_assert_msg(test_close(count, a, b, (struct test_tolerance){1e-5, 2e-6}, test_largest(other, b), text,
                             sizeof text),
                  "%s: %s", what, text);
    free(a);
    free(b);
}

void test_params(const heed_module *module, const char *expected) {
    char text[4000] = "";
    size_t used = 0;
    for (int64_t i = 0; i < heed_param_tensors(module); i++) {
        char name[200], shape[200];
        heed_tensor t = heed_param_at(module, i, name, sizeof name);
        used += (size_t)snprintf(text + used, sizeof text - used, "%s%s%s", i ? " " : "", name,
                                 shape_of(t, shape, sizeof shape));
    }
    ck_assert_str_eq(text, expected);
}

void test_gradients(const heed_module *module) {
    for (int64_t i = 0; i < heed_param_tensors(module); i++) {
        char name[200];
        heed_tensor g = heed_grad(heed_param_at(module, i, name, sizeof name));
        ck_assert_msg(heed_is_valid(g), "%s has no gradient", name);
        double squares = heed_item(heed_sum(heed_mul(g, g), HEED_ALL, false));
        ck_assert_msg(isfinite(squares) && (squares > 0 || strstr(name, "k.bias")),
                      "%s: squares of the gradient %g", name, squares);
    }
    test_ok(heed_module_ctx(module));
}

void test_shake(heed_module *module) {
    for (int64_t i = 0; i < heed_param_tensors(module); i++) {
        heed_tensor t = heed_param_at(module, i, NULL, 0);
        if (heed_rank(t) == 1) heed_init_tensor(t, (heed_init){HEED_INIT_UNIFORM, 0.5, 1.5});
    }
}
