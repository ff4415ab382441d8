#include "emulated/block.h"

#include "emulated/fibre.h"
#include "emulated/sanitize.h"

#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace emulated {

enum class doing { begins, runs, barrier, warp, returned };

struct thread {
    uint3 index;
    unsigned number, lane, warp;
    doing state;
    fibre *on;       /* the stack that it runs on; NULL until it begins */
    void *sanitized; /* what ThreadSanitizer knows it by */
    place at;        /* where it waits, and for whom */
    unsigned mask;
};

/* ---- what runs ---- */

thread *current;
uint3 thread_index, block_index;
dim3 block_size, grid_size;

static launch running;
static thread threads[MOST_THREADS];
static unsigned count;    /* of the block's threads */
static unsigned returned; /* of those */

/* ---- failing ---- */

static const char *in_words(const thread *t) {
    switch (t->state) {
    case doing::barrier:
        return "waits at the barrier";
    case doing::warp:
        return "waits for lanes of its warp";
    case doing::returned:
        return "has returned";
    default:
        return "runs";
    }
}

static void say_where() {
    if (!running.kernel) {
        fputc('\n', stderr);
        return;
    }
    fprintf(stderr, ": kernel %s, block (%u, %u, %u) of (%u, %u, %u)", running.kernel, block_index.x,
            block_index.y, block_index.z, grid_size.x, grid_size.y, grid_size.z);
    if (current)
        fprintf(stderr, ", thread (%u, %u, %u) of (%u, %u, %u)", thread_index.x, thread_index.y,
                thread_index.z, block_size.x, block_size.y, block_size.z);
    fputc('\n', stderr);
}

void fail(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    fputs("emulated CUDA: ", stderr);
    vfprintf(stderr, format, arguments);
    va_end(arguments);
    say_where();
    abort();
}

void fail_at(place at, const char *format, ...) {
    char text[512];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    fail("%s:%d: %s", at.file, at.line, text);
}

/* Nobody can go on. */
[[noreturn]] static void deadlock() {
    enum { SHOWN = 8 };
    int shown = 0;
    current = NULL;
    for (unsigned i = 0; i < count && shown < SHOWN; i++) {
        const thread *t = &threads[i];
        if (t->state == doing::returned) continue;
        fprintf(stderr, "emulated CUDA: thread (%u, %u, %u) %s (mask %08x), %s:%d\n", t->index.x, t->index.y,
                t->index.z, in_words(t), t->mask, t->at.file, t->at.line);
        shown++;
    }
    fail("no thread can go on, and %u of %u have not returned", count - returned, count);
}

/* ---- whose turn it is ---- */

static unsigned long seed;
static uint64_t random_state;

/* splitmix64 (Steele et al. 2014). */
static uint64_t random_bits() {
    uint64_t z = random_state += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

/* Threads that can go on, in the order in which they could. */
static thread *waiting[MOST_THREADS];
static unsigned oldest, waiting_count;

static thread **waiting_at(unsigned i) {
    return &waiting[(oldest + i) % MOST_THREADS];
}

static void turns_add(thread *t) {
    *waiting_at(waiting_count++) = t;
}

static thread *turns_take() {
    if (waiting_count == 0) return NULL;
    if (seed > 1) {
        thread **one = waiting_at((unsigned)(random_bits() % waiting_count)),
               **last = waiting_at(waiting_count - 1);
        thread *other = *one;
        *one = *last;
        *last = other;
    }
    waiting_count--;
    return seed == 0 ? waiting[oldest++ % MOST_THREADS] : *waiting_at(waiting_count);
}

/* ---- stacks ----
 *
 * A thread that never waits needs no stack of its own: it runs on the one that the thread before it ran on.
 * But ThreadSanitizer would take what two threads do on one stack for a race. */

enum { ONE_THREAD_PER_STACK = EMULATED_THREAD };

static fibre host;     /* the stack of who launches */
static fibre *idle;    /* on which no thread runs */
static thread *begins; /* what runs first on a stack that is switched to */

static void push(fibre **list, fibre *f) {
    f->next = *list;
    *list = f;
}

static fibre *pop(fibre **list) {
    fibre *f = *list;
    if (f) *list = f->next;
    return f;
}

static void carry();

static fibre *idle_stack() {
    fibre *f = pop(&idle);
    return f ? f : fibre_new(carry);
}

/* What ThreadSanitizer knows threads by costs it most of a megabyte each, so it is kept, with the stack: two
 * sets in turns, so that nothing orders a block and the next. */
static struct {
    void *sanitized;
    fibre *stack;
} kept[2][MOST_THREADS];
static unsigned kept_set;

static fibre *stack_for(const thread *t) {
    if (!ONE_THREAD_PER_STACK) return idle_stack();
    fibre **own = &kept[kept_set][t->number].stack;
    if (!*own) *own = fibre_new(carry);
    return *own;
}

/* Leaves a stack for that of a thread that can go on. */
static void turn_to(fibre *from, thread *next) {
    if (!next) deadlock();
    if (!next->on) {
        next->on = stack_for(next);
        begins = next;
    }
    fibre_switch(from, next->on);
}

static void sanitizer_follow(void *fiber) {
#if EMULATED_THREAD
    enum { NO_ORDER = 1 }; /* a switch is not something that the kernel may rely on */
    __tsan_switch_to_fiber(fiber, NO_ORDER);
#else
    (void)fiber;
#endif
}

static void goes_on(thread *t) {
    t->state = doing::runs;
    current = t;
    thread_index = t->index;
    sanitizer_follow(t->sanitized);
}

/* Lets others run until somebody has put the current thread among those that can go on. */
static void wait() {
    thread *me = current, *next = turns_take();
    if (next != me) turn_to(me->on, next);
    goes_on(me);
}

static void returns(thread *t);

static char begin_token; /* what threads acquire first: what the host did */
static char end_token;   /* what the host acquires when a kernel has ended */

/* What every stack runs: threads from their beginning. */
static void carry() {
    fibre_begun();
    for (;;) {
        thread *t = begins;
        fibre *self = t->on;
        for (;;) {
            goes_on(t);
            acquire(&begin_token);
            running.run(running.arguments);
            returns(t);
            t = turns_take();
            if (!t || t->on || ONE_THREAD_PER_STACK) break;
            t->on = self;
        }
        if (!ONE_THREAD_PER_STACK) push(&idle, self);
        if (returned == count)
            fibre_switch(self, &host);
        else
            turn_to(self, t);
    }
}

/* ---- what ThreadSanitizer sees ----
 *
 * Every thread of every block is a thread to it, and only barriers and __syncwarp order what they do: each
 * has a token that is released by those who come and acquired by those who go on. Two in turn, because who is
 * fast may be at the next barrier when others have not left the one before. Tokens are new memory in each
 * block: nothing orders two blocks, one after the other. */

enum { GROUPS = 8, WARPS = MOST_THREADS / LANES };

struct tokens {
    char barrier[2], warp[WARPS][GROUPS][2];
};

static tokens *token; /* NULL without ThreadSanitizer */

#if EMULATED_THREAD
static void *host_sanitized;
#endif

static void sanitizer_begin() {
#if EMULATED_THREAD
    host_sanitized = __tsan_get_current_fiber();
    token = static_cast<tokens *>(calloc(1, sizeof *token));
    if (!token) fail("out of memory");
    kept_set ^= 1;
    for (unsigned i = 0; i < count; i++) {
        void **own = &kept[kept_set][i].sanitized;
        if (!*own) *own = __tsan_create_fiber(0);
        threads[i].sanitized = *own;
    }
    release(&begin_token);
#endif
}

static void sanitizer_end() {
#if EMULATED_THREAD
    sanitizer_follow(host_sanitized);
    free(token);
    token = NULL;
#endif
}

/* ---- barriers ---- */

static struct {
    unsigned come;
    unsigned number; /* of barriers so far */
    int counted[2];
    place at;
} gate;

static bool same(place a, place b) {
    return a.line == b.line && (a.file == b.file || strcmp(a.file, b.file) == 0);
}

static void wake(thread *t) {
    t->mask = 0;
    turns_add(t);
}

/* The last of those who were waited for: it goes on itself, now or in its turn. */
static void last_comes() {
    if (seed <= 1) return;
    turns_add(current);
    wait();
}

int barrier(bool counted, place at) {
    thread *me = current;
    const unsigned side = gate.number % 2;
    if (returned) fail_at(at, "%u threads have returned without coming to this barrier", returned);
    if (gate.come == 0) {
        gate.at = at;
        gate.counted[side] = 0;
    }
    if (!same(gate.at, at))
        fail_at(at, "%u threads wait at another barrier, %s:%d", gate.come, gate.at.file, gate.at.line);
    gate.come++;
    gate.counted[side] += counted;
    if (token) release(&token->barrier[side]);
    if (gate.come < count) {
        me->state = doing::barrier;
        me->at = at;
        wait();
    } else {
        gate.come = 0;
        gate.number++;
        for (unsigned i = 0; i < count; i++)
            if (&threads[i] != me) wake(&threads[i]);
        last_comes();
    }
    if (token) acquire(&token->barrier[side]);
    return gate.counted[side];
}

/* ---- lanes of a warp ---- */

/* The lanes that one mask names. */
struct group {
    unsigned mask;
    unsigned come;   /* those who wait */
    unsigned unread; /* the number of those who were let go and have not yet looked */
    unsigned
        number; /* of meetings so far; who is fast may be at the next when others look at the one before */
    meeting_kind kind;
    place at;
    unsigned present[2];
    uint64_t given[2][LANES];
};

struct warp {
    unsigned living; /* lanes that exist and have not returned */
    unsigned used;
    group groups[GROUPS];
};

static warp warps[WARPS];

static group *group_of(warp *w, unsigned mask, place at) {
    for (unsigned i = 0; i < w->used; i++)
        if (w->groups[i].mask == mask) return &w->groups[i];
    group *g = NULL;
    for (unsigned i = 0; i < w->used && !g; i++)
        if (!w->groups[i].come && !w->groups[i].unread) g = &w->groups[i];
    if (!g && w->used == GROUPS) fail_at(at, "lanes of a warp meet with more than %d masks at once", GROUPS);
    if (!g) g = &w->groups[w->used++];
    g->mask = mask;
    g->come = g->unread = 0;
    return g;
}

static unsigned lowest(unsigned lanes) {
    return (unsigned)__builtin_ctz(lanes);
}

static void check_meeting(const warp *w, const group *g, meeting_kind kind, place at) {
    for (unsigned i = 0; i < w->used; i++) {
        const group *other = &w->groups[i];
        if (other == g || !(other->come & g->mask)) continue;
        fail_at(at, "mask %08x names lane %u, which waits with mask %08x, %s:%d", g->mask,
                lowest(other->come & g->mask), other->mask, other->at.file, other->at.line);
    }
    /* Lanes may come to __syncwarp in different places, but values are exchanged by one instruction. */
    if (g->come && (g->kind != kind || (kind != meeting_kind::sync && !same(g->at, at))))
        fail_at(at, "lane %u, which the mask %08x names, waits elsewhere, %s:%d", lowest(g->come), g->mask,
                g->at.file, g->at.line);
}

/* Lets those go who wait, except the current thread, if no other is to come. */
static bool group_complete(warp *w, group *g, const thread *except) {
    if (!g->come || g->come != (g->mask & w->living)) return false;
    g->present[g->number % 2] = g->come;
    g->unread = (unsigned)__builtin_popcount(g->come);
    g->number++;
    thread *lane = &threads[(w - warps) * LANES];
    for (unsigned come = g->come; come; come &= come - 1)
        if (lane + lowest(come) != except) wake(lane + lowest(come));
    g->come = 0;
    return true;
}

meeting meet(unsigned mask, uint64_t given, meeting_kind kind, place at) {
    thread *me = current;
    warp *w = &warps[me->warp];
    if (!(mask >> me->lane & 1))
        fail_at(at, "the mask %08x does not name lane %u, which gives it", mask, me->lane);
    group *g = group_of(w, mask, at);
    check_meeting(w, g, kind, at);
    const unsigned side = g->number % 2;
    char *const order =
        token && kind == meeting_kind::sync ? &token->warp[me->warp][g - w->groups][side] : NULL;
    g->kind = kind;
    g->at = at;
    g->given[side][me->lane] = given;
    g->come |= 1u << me->lane;
    if (order) release(order);
    if (group_complete(w, g, me)) {
        last_comes();
    } else {
        me->state = doing::warp;
        me->at = at;
        me->mask = mask;
        wait();
    }
    if (order) acquire(order);
    g->unread--;
    return {me->lane, g->present[side], g->given[side]};
}

/* ---- from beginning to end ---- */

static void returns(thread *t) {
    warp *w = &warps[t->warp];
    if (gate.come)
        fail("the thread returns, and %u threads wait for it at a barrier, %s:%d", gate.come, gate.at.file,
             gate.at.line);
    t->state = doing::returned;
    returned++;
    w->living &= ~(1u << t->lane);
    for (unsigned i = 0; i < w->used; i++) group_complete(w, &w->groups[i], NULL);
    release(&end_token);
    current = NULL;
}

static void threads_begin() {
    for (unsigned i = 0; i < count; i++) {
        threads[i].on = NULL;
        threads[i].state = doing::begins;
        turns_add(&threads[i]);
    }
    for (unsigned i = 0; i < (count + LANES - 1) / LANES; i++) {
        const unsigned lanes = count - i * LANES;
        warps[i].living = lanes < LANES ? (1u << lanes) - 1 : ~0u;
        warps[i].used = 0;
    }
    gate.come = 0;
    returned = 0;
}

static void run_block() {
    shared_begin(running.dynamic_shared);
    threads_begin();
    sanitizer_begin();
    turn_to(&host, turns_take());
    sanitizer_end();
    shared_end();
}

/* The block that runs as the i-th of so many. */
static uint64_t in_order(uint64_t i, uint64_t blocks) {
    if (seed == 0 || blocks > UINT32_MAX) return i;
    if (seed == 1) return blocks - 1 - i;
    enum { PRIME = 1000003 };
    return blocks % PRIME ? (i * PRIME + seed) % blocks : i;
}

static void check_launch(const launch &l) {
    const uint64_t size = (uint64_t)l.block.x * l.block.y * l.block.z;
    if (size == 0 || size > MOST_THREADS || l.block.z > 64)
        fail("a block of (%u, %u, %u) threads cannot be launched", l.block.x, l.block.y, l.block.z);
    if (!l.grid.x || !l.grid.y || !l.grid.z || l.grid.x > INT32_MAX || l.grid.y > 65535 || l.grid.z > 65535)
        fail("a grid of (%u, %u, %u) blocks cannot be launched", l.grid.x, l.grid.y, l.grid.z);
    if (l.dynamic_shared > l.most_dynamic_shared)
        fail("%zu bytes of dynamic shared memory, and the kernel was allowed %zu", l.dynamic_shared,
             l.most_dynamic_shared);
}

static void threads_number() {
    count = block_size.x * block_size.y * block_size.z;
    for (unsigned i = 0; i < count; i++) {
        threads[i].index = {i % block_size.x, i / block_size.x % block_size.y,
                            i / (block_size.x * block_size.y)};
        threads[i].number = i;
        threads[i].lane = i % LANES;
        threads[i].warp = i / LANES;
    }
}

void launch_run(const launch &l) {
    const char *chosen = getenv("HEED_CUDA_SEED");
    running = l;
    grid_size = l.grid;
    block_size = l.block;
    block_index = {0, 0, 0};
    check_launch(l);
    seed = random_state = chosen ? strtoul(chosen, NULL, 10) : 0;
    threads_number();
    const uint64_t blocks = (uint64_t)l.grid.x * l.grid.y * l.grid.z;
    for (uint64_t i = 0; i < blocks; i++) {
        const uint64_t n = in_order(i, blocks);
        block_index = {(unsigned)(n % l.grid.x), (unsigned)(n / l.grid.x % l.grid.y),
                       (unsigned)(n / l.grid.x / l.grid.y)};
        run_block();
    }
    acquire(&end_token);
    running = {};
}

} // namespace emulated
