#include "emulated/fibre.h"

#include "emulated/sanitize.h"

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <sys/mman.h>

#if !defined(__x86_64__) || defined(EMULATED_UCONTEXT)
#include <ucontext.h>
#endif

namespace emulated {

/* Instrumented code has large frames. */
static const size_t PAGE = 4096, STACK = (EMULATED_ADDRESS ? 256 : 64) * 1024;

/* ---- stacks ---- */

static void no_memory() {
    perror("emulated CUDA: no memory for the stack of a thread");
    abort();
}

static char *stack_new() {
    char *memory = static_cast<char *>(
        mmap(NULL, PAGE + STACK, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
    if (memory == MAP_FAILED || mprotect(memory + PAGE, STACK, PROT_READ | PROT_WRITE) != 0) no_memory();
    return memory + PAGE;
}

/* ---- registers ---- */

#if defined(__x86_64__) && !defined(EMULATED_UCONTEXT)

/* The registers that a called function keeps, and the modes of the floating-point units, go to the stack. */
extern "C" void heed_emulated_swap(void **from, void *to);
asm(R"(
.text
.local heed_emulated_swap
.type heed_emulated_swap, @function
heed_emulated_swap:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    subq $8, %rsp
    stmxcsr (%rsp)
    fnstcw 4(%rsp)
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    ldmxcsr (%rsp)
    fldcw 4(%rsp)
    addq $8, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
.size heed_emulated_swap, .-heed_emulated_swap
)");

/* What swap finds on a stack that nothing ran on yet: the modes, six registers, and where to begin. */
static void *first_frame(char *end, void (*main)()) {
    uint64_t *top = reinterpret_cast<uint64_t *>(end);
    *--top = 0; /* main() would return here; it also aligns the stack as a call does */
    *--top = reinterpret_cast<uint64_t>(main);
    for (int saved = 0; saved < 6; saved++) *--top = 0;
    *--top = 0x037full << 32 | 0x1f80; /* all floating-point exceptions masked, rounding to nearest */
    return top;
}

static void swap(fibre *from, fibre *to) {
    heed_emulated_swap(&from->top, to->top);
}

#else

static void *first_frame(char *end, void (*main)()) {
    ucontext_t *context = static_cast<ucontext_t *>(calloc(1, sizeof *context));
    if (!context || getcontext(context) != 0) no_memory();
    context->uc_stack.ss_sp = end - STACK;
    context->uc_stack.ss_size = STACK;
    makecontext(context, main, 0);
    return context;
}

static void swap(fibre *from, fibre *to) {
    if (!from->top && !(from->top = calloc(1, sizeof(ucontext_t)))) no_memory();
    swapcontext(static_cast<ucontext_t *>(from->top), static_cast<ucontext_t *>(to->top));
}

#endif

/* ---- fibres ---- */

fibre *fibre_new(void (*main)()) {
    static size_t made;
    fibre *f = static_cast<fibre *>(calloc(1, sizeof *f));
    if (!f) no_memory();
    f->stack = stack_new();
    f->bytes = STACK;
    /* Stacks that all began at the same place of a page would share few sets of the caches. */
    f->end = f->stack + STACK - 64 - made++ % 16 * 128;
    f->top = first_frame(f->end, main);
    return f;
}

/* Whom the present fibre followed: AddressSanitizer tells afterwards which stack was left. */
static fibre *left;

void fibre_begun() {
#if EMULATED_ADDRESS
    const void *stack;
    __sanitizer_finish_switch_fiber(NULL, &stack, &left->bytes);
    left->stack = static_cast<char *>(const_cast<void *>(stack));
#endif
}

void fibre_switch(fibre *from, fibre *to) {
    left = from;
#if EMULATED_ADDRESS
    void *fake_frames;
    __sanitizer_start_switch_fiber(&fake_frames, to->stack, to->bytes);
    swap(from, to);
    const void *stack;
    __sanitizer_finish_switch_fiber(fake_frames, &stack, &left->bytes);
    left->stack = static_cast<char *>(const_cast<void *>(stack));
#else
    swap(from, to);
#endif
}

} // namespace emulated
