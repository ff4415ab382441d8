/* heed's own thread pool: one per context, the caller takes part.
 *
 * A job is a number of tiles, cut by shape alone and never by the number of threads, so that results do
 * not depend on it. A job ends when its *tiles* are done, not when every thread has reported, so a
 * thread that the system does not let run cannot stall the others. Nobody spins for long. */
#ifndef HEED_SRC_TENSOR_THREADS_H
#define HEED_SRC_TENSOR_THREADS_H

#include <heed/base.h>

struct heed_threads;

/* `worker` is in 0 … count − 1 and unique among tiles that run at the same time: the index of a private
 * scratch area. */
typedef void heed_tile_fn(void *arg, int64_t tile, int worker);

/* A pool of `count` threads with the caller's; 0: as many as the process may use (affinity and cgroup).
 * NULL when there is no memory. If threads cannot be started it has fewer. */
struct heed_threads *heed_threads_new(int count);

/* NULL is fine. */
void heed_threads_free(struct heed_threads *threads);

/* Workers with the caller, ≥ 1. */
int heed_threads_count(const struct heed_threads *threads);

/* Runs fn for every tile 0 … tiles − 1 in any order and returns when all are done. Serial when called
 * from inside a tile, in a child process after fork, or with one tile. */
void heed_threads_run(struct heed_threads *threads, int64_t tiles, heed_tile_fn *fn, void *arg);

#endif
