/* Fibres: stacks that code of one thread of the host runs on, one at a time.
 *
 * AddressSanitizer is told of every switch. ThreadSanitizer is not: it is to see the threads of a kernel, of
 * which several may run one after another on one stack; block.cpp tells it. */
#ifndef HEED_TESTS_CUDA_EMULATED_FIBRE_H
#define HEED_TESTS_CUDA_EMULATED_FIBRE_H

#include <cstddef>

namespace emulated {

struct fibre {
    void *top;   /* where it was left: its registers lie there */
    char *stack; /* its lowest byte; a page below it is inaccessible */
    size_t bytes;
    char *end;   /* where it begins to be used, downwards */
    fibre *next; /* in the list that it is in */
};

/* A stack of its own on which main() begins at the first switch to it; main never returns. */
fibre *fibre_new(void (*main)());

/* Goes on with `to`, and returns when something switches to `from`, whose stack is the present one. */
void fibre_switch(fibre *from, fibre *to);

/* What main() calls first. */
void fibre_begun();

} // namespace emulated

#endif
