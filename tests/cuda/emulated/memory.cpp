#include "emulated/memory.h"

#include "emulated/block.h"
#include "emulated/sanitize.h"

#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <map>
#include <mutex>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace emulated {

struct allocation {
    char *pages; /* what is opened and closed; a page before and one behind are never */
    size_t page_bytes;
    char *memory;
    size_t bytes;
    bool arrived, leaves;
};

static const size_t PAGE = 4096, ALIGNMENT = 256; /* what cudaMalloc guarantees */
static const size_t QUARANTINE = 1024;            /* freed allocations whose addresses are not used again */

static std::recursive_mutex mutex;
static int inside;
static std::map<uintptr_t, allocation> living, freed; /* by their first page */
static std::deque<uintptr_t> freed_order;
static std::map<uintptr_t, size_t> pinned; /* memory of the host: bytes by where it begins */

static size_t rounded(size_t bytes, size_t unit) {
    return (bytes + unit - 1) / unit * unit;
}

locked::locked() {
    mutex.lock();
}

locked::~locked() {
    mutex.unlock();
}

/* ---- pages ---- */

/* Not by the C library's function: ThreadSanitizer would mark each byte, and the memory may be large. */
static void *map(void *at, size_t bytes, int rights, int flags, int file) {
    return reinterpret_cast<void *>(
        syscall(SYS_mmap, at, bytes, rights, MAP_PRIVATE | MAP_NORESERVE | flags, file, 0));
}

/* A file of NaN. Memory is this file mapped again and again, each page copied when it is first written: what
 * is never touched costs nothing. */
static const size_t NAN_BYTES = (size_t)2 << 20;

static int nan_file() {
    static int file = -1;
    if (file >= 0) return file;
    file = memfd_create("emulated CUDA", MFD_CLOEXEC);
    if (file < 0 || ftruncate(file, NAN_BYTES) != 0) fail("no memory for the device");
    void *all = mmap(NULL, NAN_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    if (all == MAP_FAILED) fail("no memory for the device");
    memset(all, 0xff, NAN_BYTES);
    munmap(all, NAN_BYTES);
    return file;
}

static bool map_nan(char *pages, size_t bytes, int rights) {
    for (size_t at = 0; at < bytes; at += NAN_BYTES) {
        const size_t piece = bytes - at < NAN_BYTES ? bytes - at : NAN_BYTES;
        if (map(pages + at, piece, rights, MAP_FIXED, nan_file()) == MAP_FAILED) return false;
    }
    return true;
}

static void protect(const allocation &a, int rights) {
    if (mprotect(a.pages, a.page_bytes, rights) != 0) fail("mprotect of the device's memory failed");
}

static const int OPEN = PROT_READ | PROT_WRITE, CLOSED = PROT_NONE;

/* ---- what is where ---- */

/* The allocation whose pages, with those before and behind, hold an address. */
static const allocation *find(const std::map<uintptr_t, allocation> &all, const void *address) {
    auto next = all.upper_bound(reinterpret_cast<uintptr_t>(address) + PAGE);
    if (next == all.begin()) return NULL;
    const allocation *a = &(--next)->second;
    return static_cast<const char *>(address) < a->pages + a->page_bytes + PAGE ? a : NULL;
}

bool memory_is(const void *address) {
    locked lock;
    return find(living, address) || find(freed, address);
}

memory_sum memory_living() {
    locked lock;
    memory_sum sum = {living.size(), 0, pinned.size()};
    for (const auto &a : living) sum.bytes += a.second.bytes;
    return sum;
}

/* Where an address lies, in words. */
static const char *describe(const void *address, char *text, size_t bytes) {
    const allocation *a = find(living, address);
    const char *freed_already = !a || a->leaves ? " that was freed"
                                : a->arrived    ? ""
                                                : " that is still to come";
    if (!a) a = find(freed, address);
    if (!a) {
        snprintf(text, bytes, "%p, which is no memory of the device", address);
        return text;
    }
    const long long offset = static_cast<const char *>(address) - a->memory, size = (long long)a->bytes;
    const long long distance = offset < 0 ? -offset : offset >= size ? offset - size : offset;
    snprintf(text, bytes, "%p, %lld bytes %s an allocation of %lld%s", address, distance,
             offset < 0       ? "before"
             : offset >= size ? "behind the end of"
                              : "into",
             size, freed_already);
    return text;
}

void memory_check(const char *who, const void *memory, size_t bytes) {
    locked lock;
    char text[160];
    const allocation *a = find(living, memory);
    const char *from = static_cast<const char *>(memory);
    if (!a || a->leaves || from < a->memory || from >= a->memory + a->bytes)
        fail("%s: %s", who, describe(memory, text, sizeof text));
    if (bytes > (size_t)(a->memory + a->bytes - from))
        fail("%s: %zu bytes from %s", who, bytes, describe(memory, text, sizeof text));
}

/* ---- accesses that must not be ---- */

/* Called on a stack of its own: it may be the stack that overflowed. */
static void on_fault(int, siginfo_t *info, void *) {
    char text[160];
    signal(SIGSEGV, SIG_DFL);
    signal(SIGBUS, SIG_DFL);
    if (current) fail("access to %s", describe(info->si_addr, text, sizeof text));
    if (!memory_is(info->si_addr)) return; /* the host's own trouble: comes again, and ends the process */
    fail("the host's code touches memory of the device: %s", describe(info->si_addr, text, sizeof text));
}

/* A stack of a thread's for that, where it has none. */
struct fault_stack {
    enum { BYTES = 64 * 1024 };
    char *memory = NULL;

    void open() {
        stack_t before, own = {};
        if (sigaltstack(NULL, &before) != 0 || !(before.ss_flags & SS_DISABLE)) return;
        memory = static_cast<char *>(malloc(BYTES));
        own.ss_sp = memory;
        own.ss_size = BYTES;
        if (memory) sigaltstack(&own, NULL);
    }
    ~fault_stack() {
        stack_t none = {};
        none.ss_flags = SS_DISABLE;
        if (memory) sigaltstack(&none, NULL);
        free(memory);
    }
};

static void watch_faults() {
    static thread_local fault_stack stack;
    static thread_local bool watches;
    if (watches) return;
    watches = true;
    stack.open();
    struct sigaction action = {};
    action.sa_sigaction = on_fault;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK;
    sigaction(SIGSEGV, &action, NULL);
    sigaction(SIGBUS, &action, NULL);
}

void enter() {
    mutex.lock();
    watch_faults();
    if (inside++ > 0) return;
    for (const auto &a : living)
        if (a.second.arrived) protect(a.second, OPEN);
}

void leave() {
    if (--inside == 0)
        for (const auto &a : living) protect(a.second, CLOSED);
    mutex.unlock();
}

/* ---- allocations ---- */

/* What of an allocation's pages is not its memory. */
template <typename Visit> static void visit_rest(const allocation &a, Visit visit) {
    visit(a.pages, (size_t)(a.memory - a.pages));
    visit(a.memory + a.bytes, (size_t)(a.pages + a.page_bytes - (a.memory + a.bytes)));
}

static void *new_memory(size_t bytes, bool arrived) {
    locked lock;
    const size_t page_bytes = rounded(bytes, PAGE), all_bytes = page_bytes + 2 * PAGE;
    watch_faults();
    if (bytes > (size_t)1 << 40) return NULL;
    void *all = map(NULL, all_bytes, PROT_NONE, MAP_ANONYMOUS, -1);
    if (all == MAP_FAILED) return NULL;
    allocation a = {static_cast<char *>(all) + PAGE, page_bytes, NULL, bytes, arrived, false};
    if (!map_nan(a.pages, page_bytes, inside && arrived ? OPEN : CLOSED)) {
        munmap(all, all_bytes);
        return NULL;
    }
    a.memory = a.pages + page_bytes - rounded(bytes, ALIGNMENT);
    allow(a.pages, page_bytes);
    visit_rest(a, [](char *from, size_t rest) { forbid(from, rest); });
    living[reinterpret_cast<uintptr_t>(a.pages)] = a;
    return a.memory;
}

void *memory_new(size_t bytes) {
    return new_memory(bytes, true);
}

void *memory_new_later(size_t bytes) {
    return new_memory(bytes, false);
}

/* The allocation that begins here. */
static allocation *allocation_at(const char *who, void *memory) {
    char text[160];
    const allocation *found = find(living, memory);
    if (!found || found->memory != memory) fail("%s: %s", who, describe(memory, text, sizeof text));
    return const_cast<allocation *>(found);
}

void memory_arrive(void *memory) {
    locked lock;
    allocation *a = allocation_at("memory that arrives", memory);
    a->arrived = true;
    if (inside) protect(*a, OPEN);
}

void memory_leave(const char *who, void *memory) {
    locked lock;
    char text[160];
    allocation *a = allocation_at(who, memory);
    if (a->leaves) fail("%s: %s", who, describe(memory, text, sizeof text));
    a->leaves = true;
}

static void check_rest(const allocation &a) {
    visit_rest(a, [&](const char *from, size_t rest) {
        for (size_t i = 0; i < rest; i++)
            if ((unsigned char)from[i] != 0xff)
                fail("a kernel wrote %s an allocation of %zu bytes", from < a.memory ? "before" : "behind",
                     a.bytes);
    });
}

static void end_quarantine() {
    const auto oldest = freed.find(freed_order.front());
    munmap(oldest->second.pages - PAGE, oldest->second.page_bytes + 2 * PAGE);
    freed.erase(oldest);
    freed_order.pop_front();
}

void memory_free(const char *who, void *memory) {
    locked lock;
    const allocation a = *allocation_at(who, memory);
    const uintptr_t key = reinterpret_cast<uintptr_t>(a.pages);
    protect(a, OPEN);
    allow(a.pages, a.page_bytes);
    check_rest(a);
    map(a.pages, a.page_bytes, PROT_NONE, MAP_ANONYMOUS | MAP_FIXED, -1);
    living.erase(key);
    freed[key] = a;
    freed_order.push_back(key);
    if (freed.size() > QUARANTINE) end_quarantine();
}

/* ---- pinned memory of the host ----
 *
 * It is full of NaN too, and ends where a page does. */

static char *pinned_pages(void *memory, size_t bytes) {
    return static_cast<char *>(memory) - (rounded(bytes, PAGE) - rounded(bytes, ALIGNMENT));
}

void *memory_pinned_new(size_t bytes) {
    locked lock;
    if (bytes == 0) bytes = 1;
    const size_t page_bytes = rounded(bytes, PAGE), all_bytes = page_bytes + 2 * PAGE;
    void *all = map(NULL, all_bytes, PROT_NONE, MAP_ANONYMOUS, -1);
    if (all == MAP_FAILED) return NULL;
    if (!map_nan(static_cast<char *>(all) + PAGE, page_bytes, OPEN)) {
        munmap(all, all_bytes);
        return NULL;
    }
    void *memory = static_cast<char *>(all) + PAGE + page_bytes - rounded(bytes, ALIGNMENT);
    pinned[reinterpret_cast<uintptr_t>(memory)] = bytes;
    return memory;
}

void memory_pinned_free(const char *who, void *memory) {
    locked lock;
    const auto found = pinned.find(reinterpret_cast<uintptr_t>(memory));
    if (found == pinned.end()) fail("%s: %p is no pinned memory", who, memory);
    munmap(pinned_pages(memory, found->second) - PAGE, rounded(found->second, PAGE) + 2 * PAGE);
    pinned.erase(found);
}

bool memory_is_pinned(const void *address) {
    locked lock;
    auto next = pinned.upper_bound(reinterpret_cast<uintptr_t>(address));
    if (next == pinned.begin()) return false;
    --next;
    return reinterpret_cast<uintptr_t>(address) < next->first + next->second;
}

} // namespace emulated
