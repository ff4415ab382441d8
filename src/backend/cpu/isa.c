#include "backend/cpu/cpu.h"

#if defined(__x86_64__)
#include <cpuid.h>

/* Bits of extended control register 0: what state the operating system saves (Intel SDM volume 1, chapter
 * 13). */
enum { STATE_AVX = 0x06, STATE_AVX512 = 0xe6 };

/* CPUID leaf 1, ECX. */
enum { FMA = 1 << 12, OSXSAVE = 1 << 27, AVX = 1 << 28 };

/* CPUID leaf 7, EBX. */
enum { AVX2 = 1 << 5, AVX512F = 1 << 16, AVX512DQ = 1 << 17, AVX512BW = 1 << 30 };
#define AVX512VL (1u << 31)

static bool has(unsigned word, unsigned bits) {
    return (word & bits) == bits;
}

static unsigned saved_states(void) {
    unsigned low, high;
    __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return low;
}

enum heed_isa heed_cpu_isa_detect(void) {
    unsigned a, b, c, d;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !has(c, OSXSAVE | AVX | FMA)) return HEED_ISA_BASELINE;
    const unsigned states = saved_states();
    if (!has(states, STATE_AVX)) return HEED_ISA_BASELINE;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || !has(b, AVX2)) return HEED_ISA_BASELINE;
    if (!has(states, STATE_AVX512) || !has(b, AVX512F | AVX512DQ | AVX512BW | AVX512VL)) return HEED_ISA_AVX2;
    return HEED_ISA_AVX512;
}

#else

enum heed_isa heed_cpu_isa_detect(void) {
    return HEED_ISA_BASELINE;
}

#endif
