/* Replacing a file as a whole: whenever it stops, the path is the old file or the new one.
 *
 *     struct heed_replace r;
 *     status = heed_replace_begin(&r, path, &error);
 *     if (status == HEED_OK) status = … heed_io_write(r.fd, …) …
 *     if (status == HEED_OK) status = heed_replace_commit(&r, &error);
 *     else heed_replace_abort(&r);
 *
 * Invariants
 * 1. The new content has the name `path`.tmp until it is complete and synced.
 * 2. That name's file is locked by whoever writes it, from before the first byte until after the rename. A
 * lock only counts on the file that still has the name. (On a file system without locks nothing keeps two
 * writers apart.)
 * 3. Between begin and commit or abort, SIGXFSZ and SIGPIPE are blocked in this thread, so that a limit on
 * file sizes and a closed pipe are errors of write() and do not end the process.
 * 4. After any failure before the rename the temporary file is gone and the old one was not touched. */
#ifndef HEED_SRC_IO_REPLACE_H
#define HEED_SRC_IO_REPLACE_H

#include <signal.h>

#include "io/io.h"

struct heed_replace {
    int fd;         /* to be written to */
    int directory;  /* −1: a device or a pipe, written directly */
    char *real;     /* the path with symbolic links resolved */
    char *name;     /* last step of `real`, within it */
    char *temp;     /* name of the temporary file in the directory */
    sigset_t mask;  /* of the thread before */
    sigset_t quiet; /* of the blocked signals, those that were not pending before */
};

heed_status heed_replace_begin(struct heed_replace *r, const char *path, struct heed_io_error *error);

/* Syncs, renames, syncs the directory, and ends the replacement; after a failure too. */
heed_status heed_replace_commit(struct heed_replace *r, struct heed_io_error *error);

/* Ends a replacement that was begun and not committed. */
void heed_replace_abort(struct heed_replace *r);

#endif
