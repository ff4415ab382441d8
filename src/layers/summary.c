/* The table that heed_module_summary() prints. */
#include "layers/module.h"

#include <string.h>

struct table {
    char *text;
    size_t size, used;
    int name_width, class_width, number_width;
};

static void append(struct table *t, const char *format, ...) __attribute__((format(printf, 2, 3)));

static void append(struct table *t, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    bool room = t->used < t->size;
    int n = vsnprintf(room ? t->text + t->used : NULL, room ? t->size - t->used : 0, format, arguments);
    va_end(arguments);
    if (n > 0) t->used += (size_t)n;
}

/* 1234567 as 1,234,567. */
static const char *grouped(int64_t number, char *text, size_t size) {
    char digits[24];
    int n = snprintf(digits, sizeof digits, "%lld", (long long)number);
    size_t used = 0;
    for (int i = 0; i < n && used + 2 < size; i++) {
        text[used++] = digits[i];
        if (i < n - 1 && (n - 1 - i) % 3 == 0) text[used++] = ',';
    }
    text[used] = '\0';
    return text;
}

enum { INDENT = 2 };

static int larger(int a, size_t b) {
    return a > (int)b ? a : (int)b;
}

static void measure(struct table *t, const heed_module *module, int depth) {
    t->name_width = larger(t->name_width, (size_t)(INDENT * depth) + strlen(module->name));
    t->class_width = larger(t->class_width, strlen(module->type->name));
    for (const heed_module *child = module->first; child; child = child->sibling)
        measure(t, child, depth + 1);
}

static void print_rows(struct table *t, const heed_module *module, int depth) {
    char number[40];
    append(t, "%*s%-*s  %-*s  %*s\n", INDENT * depth, "", t->name_width - INDENT * depth, module->name,
           t->class_width, module->type->name, t->number_width,
           grouped(heed_param_count(module), number, sizeof number));
    for (const heed_module *child = module->first; child; child = child->sibling)
        print_rows(t, child, depth + 1);
}

static bool add_frozen(void *arg, const char *name, heed_tensor param) {
    (void)name;
    struct heed_node *node = param.node;
    if (node->serial == param.serial && !(node->flags & HEED_NODE_WANTS_GRAD))
        *(int64_t *)arg += heed_view_count(&node->view);
    return true;
}

size_t heed_module_summary(const heed_module *module, char *text, size_t size) {
    struct table t = {.text = text, .size = size, .name_width = 4, .class_width = 5, .number_width = 10};
    if (size) text[0] = '\0';
    if (!module) return 0;
    char number[40], total[40];
    int64_t frozen = 0;
    heed_param_walk(module, add_frozen, &frozen);
    measure(&t, module, 0);
    t.number_width = larger(t.number_width, strlen(grouped(heed_param_count(module), total, sizeof total)));
    append(&t, "%-*s  %-*s  %*s\n", t.name_width, "name", t.class_width, "class", t.number_width,
           "parameters");
    print_rows(&t, module, 0);
    append(&t, "%s parameters in %lld tensors", total, (long long)heed_param_tensors(module));
    if (frozen) append(&t, ", %s of them frozen", grouped(frozen, number, sizeof number));
    append(&t, "\n");
    return t.used;
}
