#include "kit/internal.h"

#include <errno.h>
#include <limits.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Where a message goes. */
struct complaint {
    char *text;
    size_t size;
};

static heed_status wrong(struct complaint c, const char *name, const char *value, const char *why) {
    if (c.text && c.size) snprintf(c.text, c.size, "--%s: '%s' %s", name, value, why);
    return HEED_ERROR_ARGUMENT;
}

static heed_status take_count(struct complaint c, const heed_arg *arg, const char *value, int64_t most,
                              int64_t *count) {
    char *end;
    errno = 0;
    long long number = strtoll(value, &end, 10);
    if (value[0] < '0' || value[0] > '9' || *end) return wrong(c, arg->name, value, "is not a whole number");
    if (errno == ERANGE || number > most) return wrong(c, arg->name, value, "is too large");
    *count = number;
    return HEED_OK;
}

static heed_status take_int(struct complaint c, const heed_arg *arg, const char *value) {
    int64_t number;
    heed_status status = take_count(c, arg, value, INT_MAX, &number);
    if (status == HEED_OK) *(int *)arg->target = (int)number;
    return status;
}

static heed_status take_number(struct complaint c, const heed_arg *arg, const char *value) {
    char *end;
    double number = strtod(value, &end);
    if (end == value || *end || !isfinite(number)) return wrong(c, arg->name, value, "is not a number");
    *(double *)arg->target = number;
    return HEED_OK;
}

static heed_status take(struct complaint c, const heed_arg *arg, const char *value) {
    switch (arg->kind) {
    case HEED_ARG_COUNT:
        return take_count(c, arg, value, INT64_MAX, arg->target);
    case HEED_ARG_INT:
        return take_int(c, arg, value);
    case HEED_ARG_NUMBER:
        return take_number(c, arg, value);
    default:
        if (!*value) return wrong(c, arg->name, value, "is empty");
        *(const char **)arg->target = value;
        return HEED_OK;
    }
}

/* The option that `word`, which begins with two dashes, names; *value is what follows its '=', or NULL. */
static const heed_arg *find(const char *word, int count, const heed_arg *args, const char **value) {
    const char *name = word + 2, *equals = strchr(name, '=');
    size_t length = equals ? (size_t)(equals - name) : strlen(name);
    *value = equals ? equals + 1 : NULL;
    for (int i = 0; i < count; i++)
        if (strlen(args[i].name) == length && !strncmp(args[i].name, name, length)) return &args[i];
    return NULL;
}

heed_status heed_args_parse(int argc, char **argv, int count, const heed_arg *args, char *message,
                            size_t message_size) {
    struct complaint c = {message, message_size};
    for (int i = 1; i < argc; i++) {
        const char *value = NULL;
        const heed_arg *arg = strncmp(argv[i], "--", 2) ? NULL : find(argv[i], count, args, &value);
        if (!arg) {
            if (c.text && c.size)
                snprintf(c.text, c.size, "unknown argument '%s'; --help lists the options", argv[i]);
            return HEED_ERROR_ARGUMENT;
        }
        if (arg->kind == HEED_ARG_FLAG) {
            if (value) return wrong(c, arg->name, value, "is not wanted: the option takes no value");
            *(bool *)arg->target = true;
            continue;
        }
        if (!value && ++i < argc) value = argv[i];
        if (!value) {
            if (c.text && c.size) snprintf(c.text, c.size, "--%s: a value must follow", arg->name);
            return HEED_ERROR_ARGUMENT;
        }
        heed_status status = take(c, arg, value);
        if (status != HEED_OK) return status;
    }
    return HEED_OK;
}

heed_status heed_args_help(FILE *file, const char *program, const char *about, int count,
                           const heed_arg *args) {
    static const char *const placeholder[] = {[HEED_ARG_FLAG] = "",
                                              [HEED_ARG_COUNT] = " N",
                                              [HEED_ARG_INT] = " N",
                                              [HEED_ARG_NUMBER] = " X",
                                              [HEED_ARG_TEXT] = " TEXT"};
    fprintf(file, "%s [OPTION]...\n%s\n\n", program, about);
    for (int i = 0; i < count; i++) {
        int used = fprintf(file, "  --%s%s", args[i].name, placeholder[args[i].kind]);
        fprintf(file, "%*s%s\n", used < 20 ? 20 - used : 1, "", args[i].help);
    }
    return fflush(file) || ferror(file) ? HEED_ERROR_IO : HEED_OK;
}
