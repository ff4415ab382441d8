#include "backend/cuda/code_cache.cuh"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* ---- names ---- */

/* False: code is not to be kept. */
static bool find_folder(char *path, size_t bytes) {
    const char *own = getenv("HEED_CUDA_CACHE"), *cache = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
    int n = 0;
    if (own)
        n = snprintf(path, bytes, "%s", own);
    else if (cache && *cache)
        n = snprintf(path, bytes, "%s/heed", cache);
    else if (home && *home)
        n = snprintf(path, bytes, "%s/.cache/heed", home);
    return n > 0 && (size_t)n < bytes;
}

/* The file of a key, or one of this process's own beside it. */
static bool file_of(struct cuda_hash key, bool own, char *path, size_t bytes) {
    char folder[PATH_MAX];
    if (!find_folder(folder, sizeof folder)) return false;
    const int n = snprintf(path, bytes, "%s/%016llx%016llx.cubin", folder, (unsigned long long)key.half[0],
                           (unsigned long long)key.half[1]);
    if (n <= 0 || (size_t)n >= bytes) return false;
    if (!own) return true;
    const int m = snprintf(path + n, bytes - (size_t)n, ".XXXXXX");
    return m > 0 && (size_t)m < bytes - (size_t)n;
}

/* Makes the folders of a path. */
static void make_folders(char *path) {
    for (char *slash = strchr(path + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
        *slash = 0;
        mkdir(path, 0700); /* is there already, or opening the file will fail */
        *slash = '/';
    }
}

/* ---- files ---- */

struct header {
    char magic[8];
    struct cuda_hash key, check;
    uint64_t size;
};

static const char magic[8] = {'h', 'e', 'e', 'd', 'c', 'u', 'b', '1'};

static struct cuda_hash check_of(const struct cuda_image *image) {
    struct cuda_hash h = cuda_hash_new();
    cuda_hash_add(&h, image->bytes, image->size);
    return h;
}

static bool read_all(int file, void *to, size_t bytes) {
    for (size_t done = 0; done < bytes;) {
        const ssize_t n = read(file, static_cast<char *>(to) + done, bytes - done);
        if (n <= 0 && !(n < 0 && errno == EINTR)) return false;
        if (n > 0) done += (size_t)n;
    }
    return true;
}

static bool write_all(int file, const void *from, size_t bytes) {
    for (size_t done = 0; done < bytes;) {
        const ssize_t n = write(file, static_cast<const char *>(from) + done, bytes - done);
        if (n < 0 && errno != EINTR) return false;
        if (n > 0) done += (size_t)n;
    }
    return true;
}

static void say(char *why, const char *what, const char *path) {
    snprintf(why, CUDA_WHY_BYTES, "%s %.160s: %s", what, path, strerror(errno));
}

/* The size that the header says must be that of the file: nobody's number is believed. */
static bool read_image(struct heed_exec *exec, int file, struct cuda_hash key, struct cuda_image *image) {
    struct header header;
    struct stat status;
    if (fstat(file, &status) != 0 || !read_all(file, &header, sizeof header)) return false;
    if (memcmp(header.magic, magic, sizeof magic) != 0 || !cuda_hash_same(header.key, key) ||
        header.size == 0 || (uint64_t)status.st_size != header.size + sizeof header)
        return false;
    image->size = (size_t)header.size;
    image->bytes = cuda_code_block(exec, image->size);
    if (!image->bytes) return false;
    if (read_all(file, image->bytes, image->size) && cuda_hash_same(check_of(image), header.check))
        return true;
    heed_host->block_free(exec->memory, image->bytes);
    return false;
}

bool cuda_cache_load(struct heed_exec *exec, struct cuda_hash key, struct cuda_image *image, char *why) {
    char path[PATH_MAX];
    *image = {};
    if (!file_of(key, false, path, sizeof path)) return false;
    const int file = open(path, O_RDONLY | O_CLOEXEC);
    if (file < 0) {
        if (errno != ENOENT && errno != ENOTDIR) say(why, "cannot read", path);
        return false;
    }
    const bool found = read_image(exec, file, key, image);
    close(file);
    if (found) return true;
    *image = {};
    if (!cuda_of(exec)->starved) snprintf(why, CUDA_WHY_BYTES, "%.200s is damaged", path);
    return false;
}

void cuda_cache_store(struct cuda_hash key, const struct cuda_image *image, char *why) {
    char path[PATH_MAX], own[PATH_MAX];
    struct header header = {};
    if (!file_of(key, false, path, sizeof path) || !file_of(key, true, own, sizeof own)) return;
    make_folders(own);
    const int file = mkostemp(own, O_CLOEXEC);
    if (file < 0) {
        say(why, "cannot write", path);
        return;
    }
    memcpy(header.magic, magic, sizeof magic);
    header.key = key;
    header.check = check_of(image);
    header.size = image->size;
    bool whole = write_all(file, &header, sizeof header) && write_all(file, image->bytes, image->size);
    if (close(file) != 0) whole = false;
    if (whole && rename(own, path) == 0) return;
    say(why, "cannot write", path);
    unlink(own);
}
