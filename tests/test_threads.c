/* The thread pool: every tile once, private workers, many small jobs, nested jobs, forks, and how many
 * processors. */
#include "harness.h"
#include "tensor/threads.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static struct heed_threads *pool_of(int count) {
    struct heed_threads *threads = heed_threads_new(count);
    ck_assert_ptr_nonnull(threads);
    return threads;
}

/* ---- tiles ---- */

struct job {
    struct heed_threads *threads;
    int64_t *runs;        /* per tile; not atomic, since only one thread may have a tile */
    atomic_int busy[256]; /* per worker */
    atomic_bool wrong;
    int count;
    int64_t tiles;
};

static struct job *job_new(struct heed_threads *threads, int64_t tiles) {
    struct job *job = calloc(1, sizeof *job);
    ck_assert_ptr_nonnull(job);
    job->runs = calloc((size_t)tiles + 1, sizeof *job->runs);
    ck_assert_ptr_nonnull(job->runs);
    job->threads = threads;
    job->count = heed_threads_count(threads);
    job->tiles = tiles;
    return job;
}

static void job_free(struct job *job) {
    free(job->runs);
    free(job);
}

static void count_tile(void *arg, int64_t tile, int worker) {
    struct job *job = arg;
    if (tile < 0 || tile >= job->tiles || worker < 0 || worker >= job->count) {
        atomic_store(&job->wrong, true);
        return;
    }
    if (atomic_fetch_add(&job->busy[worker], 1) != 0) atomic_store(&job->wrong, true);
    job->runs[tile]++;
    atomic_fetch_sub(&job->busy[worker], 1);
}

static bool all_ran(const struct job *job, int64_t times) {
    for (int64_t tile = 0; tile < job->tiles; tile++)
        if (job->runs[tile] != times) return false;
    return !atomic_load(&job->wrong);
}

static const int counts[] = {1, 2, 3, 8, 40};

START_TEST(every_tile_once) {
    struct heed_threads *threads = pool_of(counts[_i]);
    ck_assert_int_eq(heed_threads_count(threads), counts[_i]);
    const int64_t tiles[] = {0, 1, 2, 3, 7, 64, 1000, 50000};
    for (size_t i = 0; i < sizeof tiles / sizeof *tiles; i++) {
        struct job *job = job_new(threads, tiles[i]);
        heed_threads_run(threads, tiles[i], count_tile, job);
        ck_assert_msg(all_ran(job, 1), "%d tiles", (int)tiles[i]);
        job_free(job);
    }
    heed_threads_free(threads);
}
END_TEST

START_TEST(many_small_jobs) {
    struct heed_threads *threads = pool_of(counts[_i]);
    struct job *job = job_new(threads, 5);
    const int64_t jobs = test_size(20000, 3000);
    for (int64_t i = 0; i < jobs; i++) {
        heed_threads_run(threads, 5, count_tile, job);
        if (job->runs[i % 5] != i + 1) ck_abort_msg("job %d ended before its tiles", (int)i);
    }
    ck_assert(all_ran(job, jobs));
    job_free(job);
    heed_threads_free(threads);
}
END_TEST

static void sleep_microseconds(long microseconds) {
    const struct timespec time = {microseconds / 1000000, microseconds % 1000000 * 1000};
    nanosleep(&time, NULL);
}

/* Between jobs workers fall asleep; no job is overslept. */
START_TEST(jobs_after_pauses) {
    struct heed_threads *threads = pool_of(counts[_i]);
    struct job *job = job_new(threads, 9);
    const int jobs = 200;
    for (int i = 0; i < jobs; i++) {
        heed_threads_run(threads, 9, count_tile, job);
        sleep_microseconds(i % 20 * 20);
    }
    ck_assert(all_ran(job, jobs));
    job_free(job);
    heed_threads_free(threads);
}
END_TEST

struct meeting {
    pthread_mutex_t mutex;
    pthread_cond_t condition;
    int64_t arrived, expected;
    bool late;
};

static void meet(void *arg, int64_t tile, int worker) {
    (void)tile;
    (void)worker;
    struct meeting *meeting = arg;
    struct timespec deadline;
    clock_gettime(CLOCK_REALTIME, &deadline);
    deadline.tv_sec += 30;
    pthread_mutex_lock(&meeting->mutex);
    meeting->arrived++;
    pthread_cond_broadcast(&meeting->condition);
    while (meeting->arrived < meeting->expected && !meeting->late)
        if (pthread_cond_timedwait(&meeting->condition, &meeting->mutex, &deadline) == ETIMEDOUT)
            meeting->late = true;
    pthread_mutex_unlock(&meeting->mutex);
}

/* Tiles that wait for each other end only if every thread takes one: all sleepers are woken, also of a large
 * pool. */
START_TEST(all_threads_take_part) {
    struct heed_threads *threads = pool_of(counts[_i]);
    for (int round = 0; round < 3; round++) {
        struct meeting meeting = {PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, 0, counts[_i], false};
        sleep_microseconds(2000);
        heed_threads_run(threads, counts[_i], meet, &meeting);
        ck_assert(!meeting.late);
    }
    heed_threads_free(threads);
}
END_TEST

/* ---- jobs within jobs ---- */

struct nest {
    struct heed_threads *threads, *other;
    atomic_llong sum;
    atomic_bool wrong;
};

struct inner {
    struct nest *nest;
    int worker;
    int64_t next;
    pthread_t thread;
};

static void inner_tile(void *arg, int64_t tile, int worker) {
    struct inner *inner = arg;
    if (tile != inner->next++ || worker != inner->worker || !pthread_equal(pthread_self(), inner->thread))
        atomic_store(&inner->nest->wrong, true);
    atomic_fetch_add(&inner->nest->sum, tile);
}

static void outer_tile(void *arg, int64_t tile, int worker) {
    (void)tile;
    struct nest *nest = arg;
    struct inner inner = {nest, worker, 0, pthread_self()};
    heed_threads_run(nest->threads, 10, inner_tile, &inner);
    struct inner elsewhere = {nest, 0, 0, pthread_self()};
    heed_threads_run(nest->other, 10, inner_tile, &elsewhere);
}

START_TEST(nested_jobs_are_serial) {
    struct nest nest = {.threads = pool_of(counts[_i]), .other = pool_of(2)};
    for (int i = 0; i < 50; i++) heed_threads_run(nest.threads, 20, outer_tile, &nest);
    ck_assert(!atomic_load(&nest.wrong));
    ck_assert_int_eq(atomic_load(&nest.sum), 50 * 20 * 2 * 45);
    /* After nested jobs the pool is as it was. */
    struct job *job = job_new(nest.threads, 100);
    heed_threads_run(nest.threads, 100, count_tile, job);
    ck_assert(all_ran(job, 1));
    job_free(job);
    heed_threads_free(nest.threads);
    heed_threads_free(nest.other);
}
END_TEST

START_TEST(no_pool) {
    struct job *job = job_new(NULL, 10);
    ck_assert_int_eq(heed_threads_count(NULL), 1);
    heed_threads_run(NULL, 10, count_tile, job);
    ck_assert(all_ran(job, 1));
    heed_threads_free(NULL);
    job_free(job);
    struct heed_threads *all = pool_of(0);
    ck_assert_int_ge(heed_threads_count(all), 1);
    ck_assert_int_le(heed_threads_count(all), 256);
    heed_threads_free(all);
}
END_TEST

START_TEST(pools_come_and_go) {
    for (int i = 0; i < 100; i++) {
        struct heed_threads *threads = pool_of(1 + i % 4);
        if (i % 2) {
            struct job *job = job_new(threads, 4);
            heed_threads_run(threads, 4, count_tile, job);
            ck_assert(all_ran(job, 1));
            job_free(job);
        }
        heed_threads_free(threads);
    }
}
END_TEST

static void *own_pool(void *arg) {
    struct heed_threads *threads = heed_threads_new(2);
    struct job *job = arg;
    if (!threads) return NULL;
    for (int i = 0; i < 500; i++) heed_threads_run(threads, job->tiles, count_tile, job);
    heed_threads_free(threads);
    return job;
}

/* Contexts in different threads do not meet. */
START_TEST(pools_of_two_threads) {
    pthread_t thread[2];
    struct job *job[2];
    for (int i = 0; i < 2; i++) {
        job[i] = job_new(NULL, 6);
        job[i]->count = 2;
        ck_assert_int_eq(pthread_create(&thread[i], NULL, own_pool, job[i]), 0);
    }
    for (int i = 0; i < 2; i++) {
        void *result;
        pthread_join(thread[i], &result);
        ck_assert_ptr_nonnull(result);
        ck_assert(all_ran(job[i], 500));
        job_free(job[i]);
    }
}
END_TEST

/* ---- signals ---- */

struct masks {
    struct meeting meeting;
    pthread_t caller;
    atomic_int blocked, unblocked;
};

static void look_at_mask(void *arg, int64_t tile, int worker) {
    struct masks *masks = arg;
    meet(&masks->meeting, tile, worker);
    if (pthread_equal(pthread_self(), masks->caller)) return;
    sigset_t mask;
    pthread_sigmask(SIG_SETMASK, NULL, &mask);
    atomic_fetch_add(&masks->blocked, sigismember(&mask, SIGINT) && sigismember(&mask, SIGALRM));
    atomic_fetch_add(&masks->unblocked, !sigismember(&mask, SIGSEGV) && !sigismember(&mask, SIGFPE));
}

START_TEST(workers_leave_signals_alone) {
    sigset_t before, after;
    pthread_sigmask(SIG_SETMASK, NULL, &before);
    struct heed_threads *threads = pool_of(3);
    pthread_sigmask(SIG_SETMASK, NULL, &after);
    ck_assert_int_eq(sigismember(&before, SIGINT), sigismember(&after, SIGINT));
    struct masks masks = {
        {PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, 0, 3, false}, pthread_self(), 0, 0};
    heed_threads_run(threads, 3, look_at_mask, &masks);
    ck_assert_int_eq(atomic_load(&masks.blocked), 2);
    ck_assert_int_eq(atomic_load(&masks.unblocked), 2);
    heed_threads_free(threads);
}
END_TEST

/* ---- forks ---- */

/* What a child does with its parent's pool and one of its own. Exits with 0 if all is well. */
static void live_as_child(struct heed_threads *threads, struct job *job) {
    alarm(30);
    heed_threads_run(threads, job->tiles, count_tile, job);
    bool well = all_ran(job, 2);
    heed_threads_free(threads);
    struct heed_threads *own = heed_threads_new(1);
    heed_threads_run(own, job->tiles, count_tile, job);
    well &= own && all_ran(job, 3);
    heed_threads_free(own);
    _exit(well ? 0 : 1);
}

START_TEST(children_run_serially) {
    struct heed_threads *threads = pool_of(counts[_i]);
    struct job *job = job_new(threads, 50);
    heed_threads_run(threads, 50, count_tile, job);
    pid_t child = fork();
    ck_assert_int_ne(child, -1);
    if (child == 0) live_as_child(threads, job);
    int status = -1;
    ck_assert_int_eq(waitpid(child, &status, 0), child);
    ck_assert(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    heed_threads_run(threads, 50, count_tile, job);
    ck_assert(all_ran(job, 2));
    job_free(job);
    heed_threads_free(threads);
}
END_TEST

struct forking {
    struct meeting meeting;
    pthread_t caller;
    pid_t child;
};

static void fork_in_tile(void *arg, int64_t tile, int worker) {
    struct forking *forking = arg;
    meet(&forking->meeting, tile, worker);
    if (!pthread_equal(pthread_self(), forking->caller)) return;
    forking->child = fork();
    if (forking->child == 0) alarm(30);
}

/* A child that comes out of a tile does not wait for workers that it does not have. */
START_TEST(children_made_by_tiles_end) {
    struct heed_threads *threads = pool_of(3);
    struct forking forking = {
        {PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, 0, 3, false}, pthread_self(), -1};
    heed_threads_run(threads, 3, fork_in_tile, &forking);
    if (forking.child == 0) _exit(0);
    ck_assert_int_gt(forking.child, 0);
    int status = -1;
    ck_assert_int_eq(waitpid(forking.child, &status, 0), forking.child);
    ck_assert(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    heed_threads_free(threads);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("threads");
    const int every = (int)(sizeof counts / sizeof *counts);
    TCase *jobs = test_case(suite, "jobs");
    tcase_add_loop_test(jobs, every_tile_once, 0, every);
    tcase_add_loop_test(jobs, many_small_jobs, 0, every);
    tcase_add_loop_test(jobs, jobs_after_pauses, 0, every);
    tcase_add_loop_test(jobs, all_threads_take_part, 0, every);
    tcase_add_loop_test(jobs, nested_jobs_are_serial, 0, every);
    tcase_add_test(jobs, no_pool);
    tcase_add_test(jobs, pools_come_and_go);
    tcase_add_test(jobs, pools_of_two_threads);
    TCase *system = test_case(suite, "system");
    tcase_add_test(system, workers_leave_signals_alone);
    tcase_add_loop_test(system, children_run_serially, 0, every);
    tcase_add_test(system, children_made_by_tiles_end);
    return test_main(suite);
}
