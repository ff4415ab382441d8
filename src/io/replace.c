#include "io/replace.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

/* ---- signals ---- */

static void block_signals(struct heed_replace *r) {
    sigset_t both, pending;
    sigemptyset(&both);
    sigaddset(&both, SIGXFSZ);
    sigaddset(&both, SIGPIPE);
    sigpending(&pending);
    sigemptyset(&r->quiet);
    if (!sigismember(&pending, SIGXFSZ)) sigaddset(&r->quiet, SIGXFSZ);
    if (!sigismember(&pending, SIGPIPE)) sigaddset(&r->quiet, SIGPIPE);
    pthread_sigmask(SIG_BLOCK, &both, &r->mask);
}

/* Takes back the signals that our own writes caused, then lets others through again. */
static void restore_signals(struct heed_replace *r) {
    const struct timespec now = {0, 0};
    while (sigtimedwait(&r->quiet, NULL, &now) > 0 || errno == EINTR) {
    }
    pthread_sigmask(SIG_SETMASK, &r->mask, NULL);
}

/* ---- names ---- */

/* The path with symbolic links resolved, so that a link stays one; NULL without memory. A path that does not
 * exist is taken as it is. */
static char *resolve(const char *path) {
    char *real = realpath(path, NULL);
    if (real || errno == ENOMEM) return real;
    return strdup(path);
}

/* Splits r->real into an open directory and two names in it. */
static heed_status open_directory(struct heed_replace *r, struct heed_io_error *error) {
    char *slash = strrchr(r->real, '/');
    r->name = slash ? slash + 1 : r->real;
    if (*r->name == '\0') return heed_io_fail(error, HEED_ERROR_IO, "is the path of a directory");
    const size_t bytes = strlen(r->name) + sizeof ".tmp";
    r->temp = malloc(bytes);
    if (!r->temp) return heed_io_fail(error, HEED_ERROR_MEMORY, "out of memory");
    stpcpy(stpcpy(r->temp, r->name), ".tmp");

    const char *directory = ".";
    if (slash == r->real) directory = "/";
    if (slash > r->real) {
        *slash = '\0';
        directory = r->real;
    }
    r->directory = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (r->directory < 0) return heed_io_fail_errno(error, "cannot open its directory");
    return HEED_OK;
}

/* ---- the temporary file ---- */

/* Whether the name still belongs to the file that is open. */
static bool has_name(const struct heed_replace *r, const struct stat *open_file) {
    struct stat named;
    return fstatat(r->directory, r->temp, &named, AT_SYMLINK_NOFOLLOW) == 0 &&
           named.st_dev == open_file->st_dev && named.st_ino == open_file->st_ino;
}

/* Opens and locks the temporary file once. *again: it was renamed or removed by its last owner in between. */
static heed_status open_temp_once(struct heed_replace *r, bool *again, struct heed_io_error *error) {
    *again = false;
    r->fd = openat(r->directory, r->temp, O_WRONLY | O_CREAT | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY,
                   0666);
    if (r->fd < 0) return heed_io_fail_errno(error, "cannot create its temporary file");
    struct stat file;
    /* A file system without locks is no reason not to save. */
    if (flock(r->fd, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK) {
        return heed_io_fail(error, HEED_ERROR_IO, "is being written by another program");
    }
    if (fstat(r->fd, &file) != 0) return heed_io_fail_errno(error, "cannot look at its temporary file");
    *again = !has_name(r, &file);
    if (*again) return HEED_OK;
    if (!S_ISREG(file.st_mode) || file.st_nlink != 1) {
        return heed_io_fail(error, HEED_ERROR_IO, "its temporary file %s is in the way", r->temp);
    }
    if (ftruncate(r->fd, 0) == 0) return HEED_OK;
    heed_io_fail_errno(error, "cannot empty its temporary file");
    unlinkat(r->directory, r->temp, 0);
    return error->status;
}

static heed_status open_temp(struct heed_replace *r, struct heed_io_error *error) {
    for (;;) {
        bool again;
        const heed_status status = open_temp_once(r, &again, error);
        if (status == HEED_OK && !again) return HEED_OK;
        if (r->fd >= 0) close(r->fd);
        r->fd = -1;
        if (status != HEED_OK) return status;
    }
}

/* ---- begin, commit, abort ---- */

static void finish(struct heed_replace *r) {
    if (r->fd >= 0) close(r->fd);
    if (r->directory >= 0) close(r->directory);
    free(r->real);
    free(r->temp);
    restore_signals(r);
}

/* A device or a pipe has no old content to keep and cannot be renamed over. */
static heed_status open_direct(struct heed_replace *r, const char *path, struct heed_io_error *error) {
    r->fd = open(path, O_WRONLY | O_CLOEXEC | O_NOCTTY);
    return r->fd < 0 ? heed_io_fail_errno(error, "cannot open") : HEED_OK;
}

static heed_status open_target(struct heed_replace *r, const char *path, struct heed_io_error *error) {
    struct stat old;
    if (stat(path, &old) == 0 && !S_ISREG(old.st_mode)) {
        if (S_ISDIR(old.st_mode)) return heed_io_fail(error, HEED_ERROR_IO, "is a directory");
        return open_direct(r, path, error);
    }
    r->real = resolve(path);
    if (!r->real) return heed_io_fail(error, HEED_ERROR_MEMORY, "out of memory");
    const heed_status status = open_directory(r, error);
    return status == HEED_OK ? open_temp(r, error) : status;
}

heed_status heed_replace_begin(struct heed_replace *r, const char *path, struct heed_io_error *error) {
    *r = (struct heed_replace){.fd = -1, .directory = -1};
    if (!path || !*path) return heed_io_fail(error, HEED_ERROR_ARGUMENT, "no path given");
    block_signals(r);
    const heed_status status = open_target(r, path, error);
    if (status != HEED_OK) finish(r);
    return status;
}

void heed_replace_abort(struct heed_replace *r) {
    if (r->directory >= 0) unlinkat(r->directory, r->temp, 0);
    finish(r);
}

/* Closes a second descriptor of the file: what a file system tells only on closing comes before the rename,
 * while the first descriptor holds the lock. */
static heed_status close_checked(int fd, struct heed_io_error *error) {
    const int second = fcntl(fd, F_DUPFD_CLOEXEC, 0);
    if (second < 0 || close(second) != 0) return heed_io_fail_errno(error, "closing failed");
    return HEED_OK;
}

static heed_status commit_direct(struct heed_replace *r, struct heed_io_error *error) {
    /* Devices and pipes that have nothing to sync say EINVAL. */
    if (fsync(r->fd) != 0 && errno != EINVAL && errno != EROFS)
        return heed_io_fail_errno(error, "syncing failed");
    return close_checked(r->fd, error);
}

static heed_status commit_renamed(struct heed_replace *r, struct heed_io_error *error) {
    if (fsync(r->fd) != 0) return heed_io_fail_errno(error, "syncing failed");
    const heed_status status = close_checked(r->fd, error);
    if (status != HEED_OK) return status;
    if (renameat(r->directory, r->temp, r->directory, r->name) != 0)
        return heed_io_fail_errno(error, "renaming failed");
    free(r->temp);
    r->temp = NULL;
    if (fsync(r->directory) != 0)
        return heed_io_fail_errno(error, "was written, but syncing its directory failed");
    return HEED_OK;
}

heed_status heed_replace_commit(struct heed_replace *r, struct heed_io_error *error) {
    const heed_status status = r->directory >= 0 ? commit_renamed(r, error) : commit_direct(r, error);
    if (status != HEED_OK && r->directory >= 0 && r->temp) unlinkat(r->directory, r->temp, 0);
    finish(r);
    return status;
}
