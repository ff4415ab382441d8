#include "harness_guard.h"

#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

/* ---- memory ---- */

static size_t page_bytes(void) {
    return (size_t)sysconf(_SC_PAGESIZE);
}

static size_t round_up(size_t bytes, size_t to) {
    return (bytes + to - 1) / to * to;
}

void *test_guarded(enum test_edge edge, size_t align, size_t bytes) {
    const size_t page = page_bytes(), room = round_up(bytes, page);
    char *base = mmap(NULL, room + 2 * page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (base == MAP_FAILED || mprotect(base + page, room, PROT_READ | PROT_WRITE) != 0)
        ck_abort_msg("no memory for the test");
    memset(base + page, 0xFF, room);
    return base + page + (edge == TEST_EDGE_BEHIND ? room - round_up(bytes, align) : 0);
}

void test_guarded_free(void *memory, size_t bytes) {
    if (!memory) return;
    const size_t page = page_bytes(), before = (uintptr_t)memory % page;
    munmap((char *)memory - before - page, round_up(before + bytes, page) + 2 * page);
}

static void *guarded_alloc(void *user, size_t bytes) {
    (void)user;
    return test_guarded(TEST_EDGE_BEHIND, 16, bytes);
}

static void guarded_free(void *user, void *memory, size_t bytes) {
    (void)user;
    test_guarded_free(memory, bytes);
}

heed_allocator test_guarded_allocator(void) {
    return (heed_allocator){.alloc = guarded_alloc, .free = guarded_free};
}

/* ---- faults ---- */

static const char *volatile fault_text;
static struct sigaction before_segv, before_bus;

static void say(const char *text) {
    if (write(STDERR_FILENO, text, strlen(text)) < 0) return;
}

/* Returns to where it faulted, and that is for whoever was asked before. */
static void on_fault(int signal) {
    if (fault_text) {
        say("an access beyond an operand: ");
        say(fault_text);
        say("\n");
    }
    sigaction(signal, signal == SIGBUS ? &before_bus : &before_segv, NULL);
}

void test_fault_says(const char *text) {
    static bool watching;
    fault_text = text;
    if (watching) return;
    const struct sigaction watch = {.sa_handler = on_fault};
    sigaction(SIGSEGV, &watch, &before_segv);
    sigaction(SIGBUS, &watch, &before_bus);
    watching = true;
}
