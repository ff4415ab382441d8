/* For libFuzzer: opens any bytes as a safetensors file and reads whatever it holds. script/fuzz builds and
 * runs it.
 *
 * An even first byte: the rest is a file. An odd one: the second byte is the length of the data, the rest the
 * header, so that the length field needs no guessing. */
#include <heed/heed.h>
#include <heed/io.h>

#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

static void put(int fd, const void *data, size_t bytes) {
    if (write(fd, data, bytes) != (ssize_t)bytes) abort();
}

static void fill(int fd, const uint8_t *data, size_t bytes) {
    static const uint8_t zeros[255];
    if (data[0] % 2 == 0) {
        put(fd, data + 1, bytes - 1);
        return;
    }
    const uint64_t header = bytes - 2;
    put(fd, &header, sizeof header);
    put(fd, data + 2, header);
    put(fd, zeros, data[1]);
}

static void read_everything(heed_ctx *ctx, const char *path) {
    heed_file *file = heed_file_open(ctx, path);
    heed_file_entry entry;
    for (int64_t i = 0; heed_file_info(file, i, &entry); i++) {
        const heed_tensor t = heed_file_tensor(file, entry.name);
        if (heed_is_valid(t) && heed_count(t) * (int64_t)heed_dtype_bytes(entry.dtype) != entry.bytes)
            abort();
        heed_free(t);
        heed_error_clear(ctx);
    }
    heed_metadata pair;
    for (int64_t i = 0; heed_file_metadata_at(file, i, &pair); i++) {
        if (heed_file_metadata(file, pair.key) != pair.value) abort();
    }
    heed_file_free(file);
    heed_error_clear(ctx);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes) {
    static heed_ctx *ctx;
    if (!ctx) ctx = heed_ctx_new(&(heed_ctx_options){.device = "ref", .threads = 1});
    if (heed_failed(ctx)) {
        fprintf(stderr, "%s\n", heed_error(ctx));
        abort();
    }
    if (bytes < 2) return 0;
    char path[64];
    const int fd = memfd_create("heed-fuzz", MFD_CLOEXEC);
    if (fd < 0) abort();
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    fill(fd, data, bytes);
    read_everything(ctx, path);
    close(fd);
    return 0;
}
