/* What a GPU gives at most, by what its driver tells of it. */
#include "bench.h"

#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>

/* Where the driver no longer tells the memory's clock: bytes in a second by NVIDIA's data sheets. */
static const struct {
    const char *name;
    double bytes;
} sheets[] = {
    {"NVIDIA A100-SXM4-80GB", 2039e9}, {"NVIDIA L4", 300e9},    {"NVIDIA H100 80GB HBM3", 3350e9},
    {"NVIDIA H200", 4800e9},           {"NVIDIA B200", 8000e9}, {"NVIDIA GeForce RTX 5090", 1792e9},
};

/* Lanes for f32 in a multiprocessor, by compute capability: the programming guide's table of throughputs. */
static int lanes_of(int capability) {
    switch (capability) {
    case 80:
        return 64;
    case 86:
    case 89:
    case 90:
    case 100:
    case 103:
    case 120:
    case 121:
        return 128;
    default:
        return 0;
    }
}

/* Attributes of devices, as cuda.h numbers them; clocks are in kHz. */
enum {
    CLOCK = 13,
    PROCESSORS = 16,
    MEMORY_CLOCK = 36,
    MEMORY_BITS = 37,
    CAPABILITY_MAJOR = 75,
    CAPABILITY_MINOR = 76
};

typedef int init_function(unsigned flags);
typedef int get_function(int *device, int ordinal);
typedef int attribute_function(int *value, int attribute, int device);

struct driver {
    attribute_function *attribute;
    int device;
};

static bool find(void *library, const char *name, void *function) {
    void *found = dlsym(library, name);
    memcpy(function, &found, sizeof found);
    return found != NULL;
}

static bool open_driver(int ordinal, struct driver *driver) {
    void *library = dlopen("libcuda.so.1", RTLD_NOW);
    init_function *init;
    get_function *get;
    return library && find(library, "cuInit", &init) && find(library, "cuDeviceGet", &get) &&
           find(library, "cuDeviceGetAttribute", &driver->attribute) && init(0) == 0 &&
           get(&driver->device, ordinal) == 0;
}

/* 0: the driver does not tell. */
static double attribute(const struct driver *driver, int which) {
    int value = 0;
    return driver->attribute(&value, which, driver->device) == 0 && value > 0 ? value : 0;
}

struct bench_peaks bench_peaks_of(const char *device, const char *name) {
    struct bench_peaks peaks = {0, 0, ""};
    struct driver driver;
    if (strncmp(device, "cuda", 4) != 0) return peaks;
    const char *colon = strchr(device, ':');
    if (open_driver(colon ? atoi(colon + 1) : 0, &driver)) {
        const int capability =
            (int)(10 * attribute(&driver, CAPABILITY_MAJOR) + attribute(&driver, CAPABILITY_MINOR));
        /* Memory sends twice in a cycle, multiplying and adding are two operations. */
        peaks.bytes = 2 * 1e3 * attribute(&driver, MEMORY_CLOCK) * attribute(&driver, MEMORY_BITS) / 8;
        peaks.operations =
            2 * 1e3 * attribute(&driver, CLOCK) * attribute(&driver, PROCESSORS) * lanes_of(capability);
        if (peaks.bytes > 0) peaks.source = "driver";
    }
    for (size_t i = 0; i < sizeof sheets / sizeof *sheets && peaks.bytes == 0; i++) {
        if (strcmp(sheets[i].name, name) != 0) continue;
        peaks.bytes = sheets[i].bytes;
        peaks.source = "data sheet";
    }
    return peaks;
}
