/* Invariants of the pool
 * - `unclaimed` counts the tiles of the job that nobody has taken. Whoever lowers it from r to r − 1 owns
 * tile (tiles − r), and only then reads the job's fields: they cannot change before that tile is reported as
 * done. A worker that comes late finds 0 and reads nothing.
 * - `unfinished` counts the tiles not yet reported as done. A job ends when it is 0.
 * - A worker goes to sleep only after it announced itself in `sleepers` and looked once more at `unclaimed`;
 * the caller publishes first and looks at `sleepers` after. With sequentially consistent order one of the two
 * sees the other, so no job is overslept. */
#include "tensor/threads.h"

#include "tensor/processors.h"

#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum {
    MAX_THREADS = 256,
    STACK_BYTES = 4 << 20,   /* address space; pages never touched cost nothing */
    WAKE_AT_ONCE = 4,        /* sleepers that one thread wakes; these wake others */
    SPIN_NANOSECONDS = 10000 /* about what a sleep and a wake-up cost */
};

struct worker {
    struct heed_threads *pool;
    int index;
    pthread_t thread;
};

struct heed_threads {
    /* The job. Written by the caller before it raises `unclaimed`. */
    heed_tile_fn *fn;
    void *arg;
    int64_t tiles;

    _Alignas(64) atomic_llong unclaimed;
    _Alignas(64) atomic_llong unfinished;
    _Alignas(64) atomic_uint epoch; /* changes with every job; workers sleep on it */
    atomic_int sleepers;
    atomic_bool ending;
    atomic_uint caller_waits; /* 1: the caller sleeps on this word */
    atomic_int caller_cpu;    /* where the caller was when the job began */

    _Alignas(64) int count; /* with the caller */
    bool may_spin;
    unsigned forks;         /* of the process when the pool was made */
    struct worker worker[]; /* count − 1 */
};

/* Whether this thread is running a tile, of which pool, and as which worker. */
static _Thread_local bool inside;
static _Thread_local const struct heed_threads *inside_of;
static _Thread_local int inside_as;

/* ---- forks: a child has none of the workers ---- */

static atomic_uint forks;
static pthread_once_t watch_forks_once = PTHREAD_ONCE_INIT;

static void forked(void) {
    atomic_fetch_add_explicit(&forks, 1, memory_order_relaxed);
}

static bool watched;

static void watch_forks(void) {
    watched = pthread_atfork(NULL, NULL, forked) == 0;
}

static bool is_in_child(const struct heed_threads *threads) {
    return threads->forks != atomic_load_explicit(&forks, memory_order_relaxed);
}

/* ---- waiting ---- */

/* Sleeps while *word is `value`; may return early. */
static void sleep_on(atomic_uint *word, unsigned value) {
    syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, value, NULL, NULL, 0);
}

static void wake(atomic_uint *word, int count) {
    syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, count, NULL, NULL, 0);
}

static void pause_a_little(void) {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("isb" ::: "memory");
#endif
}

static int64_t nanoseconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

/* Looks at a counter for some microseconds. True once it is zero (`until_zero`) or not zero (otherwise). A
 * worker on the caller's own processor would only keep it from going on. */
static bool spin(struct heed_threads *threads, atomic_llong *counter, bool until_zero) {
    if (!threads->may_spin) return false;
    int64_t end = 0;
    for (;;) {
        if (inside_as != 0 &&
            sched_getcpu() == atomic_load_explicit(&threads->caller_cpu, memory_order_relaxed))
            return false;
        for (int i = 0; i < 16; i++) {
            if ((atomic_load_explicit(counter, memory_order_acquire) == 0) == until_zero) return true;
            pause_a_little();
        }
        int64_t now = nanoseconds();
        if (end == 0) end = now + SPIN_NANOSECONDS;
        if (now >= end) return false;
    }
}

/* ---- tiles ---- */

/* Takes and runs tiles until none is left. */
static void run_tiles(struct heed_threads *threads, int worker) {
    long long done = 0, left = atomic_load_explicit(&threads->unclaimed, memory_order_relaxed);
    while (left > 0) {
        if (!atomic_compare_exchange_weak_explicit(&threads->unclaimed, &left, left - 1, memory_order_acquire,
                                                   memory_order_relaxed))
            continue;
        threads->fn(threads->arg, threads->tiles - left, worker);
        done++;
        left = atomic_load_explicit(&threads->unclaimed, memory_order_relaxed);
    }
    if (done == 0) return;
    if (atomic_fetch_sub(&threads->unfinished, done) == done && worker != 0 &&
        atomic_exchange(&threads->caller_waits, 0) == 1)
        wake(&threads->caller_waits, 1);
}

static void wake_workers(struct heed_threads *threads, long long useful) {
    int sleepers = atomic_load(&threads->sleepers);
    if (useful > WAKE_AT_ONCE) useful = WAKE_AT_ONCE;
    if (useful > sleepers) useful = sleepers;
    if (useful > 0) wake(&threads->epoch, (int)useful);
}

static void *work(void *arg) {
    struct worker *self = arg;
    struct heed_threads *threads = self->pool;
    inside = true;
    inside_of = threads;
    inside_as = self->index;
    for (;;) {
        unsigned epoch = atomic_load(&threads->epoch);
        if (atomic_load(&threads->ending)) return NULL;
        run_tiles(threads, self->index);
        if (spin(threads, &threads->unclaimed, false)) continue;
        atomic_fetch_add(&threads->sleepers, 1);
        bool slept = atomic_load(&threads->unclaimed) == 0;
        if (slept) sleep_on(&threads->epoch, epoch);
        atomic_fetch_sub(&threads->sleepers, 1);
        /* Of a large pool only some are woken by the caller. */
        if (slept) wake_workers(threads, atomic_load(&threads->unclaimed) - 1);
    }
}

/* Returns when all tiles are reported. In a child that a tile made by fork() nobody is left who could report
 * those of the workers. */
static void wait_for_the_rest(struct heed_threads *threads) {
    if (atomic_load(&threads->unfinished) == 0 || spin(threads, &threads->unfinished, true)) return;
    for (;;) {
        atomic_store(&threads->caller_waits, 1);
        if (atomic_load(&threads->unfinished) == 0 || is_in_child(threads)) break;
        sleep_on(&threads->caller_waits, 1);
    }
    atomic_store(&threads->caller_waits, 0);
}

static void run_serially(int64_t tiles, heed_tile_fn *fn, void *arg, int worker) {
    for (int64_t tile = 0; tile < tiles; tile++) fn(arg, tile, worker);
}

static void run_with_workers(struct heed_threads *threads, int64_t tiles, heed_tile_fn *fn, void *arg) {
    threads->fn = fn;
    threads->arg = arg;
    threads->tiles = tiles;
    atomic_store_explicit(&threads->caller_cpu, sched_getcpu(), memory_order_relaxed);
    atomic_store_explicit(&threads->unfinished, tiles, memory_order_relaxed);
    atomic_store(&threads->unclaimed, tiles);
    atomic_fetch_add(&threads->epoch, 1);
    wake_workers(threads, tiles - 1);
    run_tiles(threads, 0);
    wait_for_the_rest(threads);
}

void heed_threads_run(struct heed_threads *threads, int64_t tiles, heed_tile_fn *fn, void *arg) {
    if (inside) {
        run_serially(tiles, fn, arg, inside_of == threads ? inside_as : 0);
        return;
    }
    inside = true;
    inside_of = threads;
    inside_as = 0;
    if (!threads || tiles <= 1 || threads->count == 1 || is_in_child(threads))
        run_serially(tiles, fn, arg, 0);
    else
        run_with_workers(threads, tiles, fn, arg);
    inside = false;
}

/* ---- the pool ---- */

/* Workers leave signals to the program's own threads, except those that a thread raises by its own fault. */
static void block_signals(sigset_t *before) {
    static const int own[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGABRT, SIGSYS, SIGPROF};
    sigset_t blocked;
    sigfillset(&blocked);
    for (size_t i = 0; i < sizeof own / sizeof *own; i++) sigdelset(&blocked, own[i]);
    pthread_sigmask(SIG_SETMASK, &blocked, before);
}

/* Starts one worker, with the system's own choice of stack if it refuses ours. */
static bool start(struct worker *worker) {
    pthread_attr_t attributes;
    int error = pthread_attr_init(&attributes);
    if (error == 0) {
        pthread_attr_setstacksize(&attributes, STACK_BYTES);
        error = pthread_create(&worker->thread, &attributes, work, worker);
        pthread_attr_destroy(&attributes);
    }
    if (error == EINVAL) error = pthread_create(&worker->thread, NULL, work, worker);
    return error == 0;
}

struct heed_threads *heed_threads_new(int count) {
    int processors = heed_processors();
    if (count <= 0) count = processors;
    pthread_once(&watch_forks_once, watch_forks);
    if (!watched) count = 1; /* a child could not tell that it has no workers */
    if (count > MAX_THREADS) count = MAX_THREADS;
    size_t bytes = sizeof(struct heed_threads) + (size_t)(count - 1) * sizeof(struct worker);
    struct heed_threads *threads = aligned_alloc(64, (bytes + 63) / 64 * 64);
    if (!threads) return NULL;

    threads->fn = NULL;
    threads->arg = NULL;
    threads->tiles = 0;
    atomic_init(&threads->unclaimed, 0);
    atomic_init(&threads->unfinished, 0);
    atomic_init(&threads->epoch, 0);
    atomic_init(&threads->sleepers, 0);
    atomic_init(&threads->ending, false);
    atomic_init(&threads->caller_waits, 0);
    atomic_init(&threads->caller_cpu, -1);
    threads->may_spin = count <= processors;
    threads->forks = atomic_load(&forks);
    threads->count = 1;

    sigset_t before;
    block_signals(&before);
    while (threads->count < count) {
        struct worker *worker = &threads->worker[threads->count - 1];
        worker->pool = threads;
        worker->index = threads->count;
        if (!start(worker)) break;
        threads->count++;
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return threads;
}

void heed_threads_free(struct heed_threads *threads) {
    if (!threads) return;
    if (!is_in_child(threads)) {
        atomic_store(&threads->ending, true);
        atomic_fetch_add(&threads->epoch, 1);
        wake(&threads->epoch, INT_MAX);
        for (int i = 0; i < threads->count - 1; i++) pthread_join(threads->worker[i].thread, NULL);
    }
    free(threads);
}

int heed_threads_count(const struct heed_threads *threads) {
    return threads ? threads->count : 1;
}
