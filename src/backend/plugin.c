/* Finding and opening backends in shared objects. */
#include "backend/plugin.h"

#include <ctype.h>
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backend/composite/mha.h"
#include "tensor/internal.h"

#define OPENED_BY "ctx_new"

enum { NAME_BYTES = 24, PATH_BYTES = 4096 };

static const struct heed_kernel *const composite[HEED_PRIMITIVES] = {[HEED_PRIMITIVE_MHA] =
                                                                         &heed_composite_mha};

static const struct heed_services services = {
    .version = HEED_PLUGIN_VERSION,
    .fail = heed_exec_fail,
    .block_new = heed_block_new,
    .block_free = heed_block_free,
    .select = heed_exec_select,
    .forward = heed_exec_forward,
    .backward = heed_exec_backward,
    .ref = heed_ref_kernels,
    .composite = composite,
};

/* "name" or "name:number": small letters, digits and '_'. */
static bool parse(const char *device, char name[NAME_BYTES], int *ordinal) {
    size_t n = 0;
    while (n + 1 < NAME_BYTES &&
           (islower((unsigned char)device[n]) || isdigit((unsigned char)device[n]) || device[n] == '_')) {
        name[n] = device[n];
        n++;
    }
    name[n] = '\0';
    *ordinal = 0;
    if (n == 0) return false;
    if (device[n] == '\0') return true;
    char *end;
    if (device[n] != ':' || !isdigit((unsigned char)device[n + 1])) return false;
    const long number = strtol(device + n + 1, &end, 10);
    if (*end || number > 255) return false;
    *ordinal = (int)number;
    return true;
}

/* ---- where it may be ---- */

/* The folder of libheed itself, with the last '/'; none where heed is linked into the program. */
static void own_folder(char *path, size_t bytes) {
    Dl_info info;
    path[0] = '\0';
    if (!dladdr((const void *)&services, &info) || !info.dli_fname) return;
    const char *slash = strrchr(info.dli_fname, '/');
    if (slash) snprintf(path, bytes, "%.*s", (int)(slash + 1 - info.dli_fname), info.dli_fname);
}

static void *open_in(const char *folder, const char *slash, const char *name, char *why, size_t bytes) {
    char path[PATH_BYTES];
    if (snprintf(path, sizeof path, "%s%slibheed_%s.so", folder, slash, name) >= (int)sizeof path)
        return NULL;
    void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
    const char *error = library ? NULL : dlerror();
    if (error) snprintf(why, bytes, "%s", error);
    return library;
}

static void *open_library(const char *name, char *why, size_t bytes) {
    char folder[PATH_BYTES];
    const char *wish = getenv("HEED_BACKEND_PATH");
    if (wish && *wish) return open_in(wish, "/", name, why, bytes);
    own_folder(folder, sizeof folder);
    void *library = *folder ? open_in(folder, "", name, why, bytes) : NULL;
    return library ? library : open_in("", "", name, why, bytes);
}

heed_status heed_plugin_find(struct heed_exec *exec, const char *device, const struct heed_backend **backend,
                             int *ordinal) {
    char name[NAME_BYTES], why[300] = "";
    if (!parse(device, name, ordinal))
        return heed_fail(exec->ctx, HEED_ERROR_DEVICE, OPENED_BY,
                         "\"%.40s\" is not a name of a device; built in are \"cpu\" and \"ref\"", device);
    void *library = open_library(name, why, sizeof why);
    if (!library)
        return heed_fail(exec->ctx, HEED_ERROR_DEVICE, OPENED_BY,
                         "no device \"%.40s\": built in are \"cpu\" and \"ref\"; libheed_%s.so could not be "
                         "opened (%.200s); see HEED_BACKEND_PATH",
                         device, name, why);
    heed_plugin_entry *entry;
    void *symbol = dlsym(library, HEED_PLUGIN_ENTRY);
    memcpy(&entry, &symbol, sizeof entry); /* ISO C knows no way from data to functions */
    if (!symbol)
        return heed_fail(exec->ctx, HEED_ERROR_DEVICE, OPENED_BY,
                         "device \"%.40s\": libheed_%s.so is not a backend of heed", device, name);
    *backend = entry(&services);
    if (*backend) return HEED_OK;
    return heed_fail(exec->ctx, HEED_ERROR_DEVICE, OPENED_BY,
                     "device \"%.40s\": libheed_%s.so is of another version of heed", device, name);
}
