/* The slots of the CPU backend.
 *
 * What goes to the reference kernels even though a slot has a kernel here: f64 and bf16 everywhere; i32 in
 * gather and arg max; comparisons of bool, or of two dtypes; adding copies of other dtypes than f32. */
#include "backend/cpu/cpu.h"

#define SLOT(name, kernel)                                                                                   \
    [HEED_PRIMITIVE_##name] = (const struct heed_kernel *const[]) {                                          \
        &(kernel), NULL                                                                                      \
    }

static const struct heed_backend cpu = {
    .name = "cpu",
    .slot =
        {
            SLOT(COPY, heed_cpu_copy),
            SLOT(FILL, heed_cpu_fill),
            SLOT(RANDOM, heed_cpu_random),
            SLOT(UNARY, heed_cpu_unary),
            SLOT(BINARY, heed_cpu_binary),
            SLOT(WHERE, heed_cpu_where),
            SLOT(REDUCE, heed_cpu_reduce),
            SLOT(ARGMAX, heed_cpu_argmax),
            SLOT(SOFTMAX, heed_cpu_softmax),
            SLOT(NORM, heed_cpu_norm),
            SLOT(ROTARY, heed_cpu_rotary),
            SLOT(MATMUL, heed_cpu_matmul),
            SLOT(LINEAR, heed_cpu_linear),
            SLOT(GATHER, heed_cpu_gather),
            SLOT(DROPOUT, heed_cpu_dropout),
            SLOT(CROSS_ENTROPY, heed_cpu_cross_entropy),
            SLOT(PAIR_LOSS, heed_cpu_pair_loss),
            [HEED_PRIMITIVE_ATTENTION] =
                (const struct heed_kernel *const[]){&heed_cpu_attention_short, &heed_cpu_attention_decode,
                                                    &heed_cpu_attention, NULL},
            SLOT(MHA, heed_cpu_mha_short), /* the composite follows */
            SLOT(GRAD_NORM, heed_cpu_grad_norm),
            SLOT(UPDATE, heed_cpu_update),
        },
};

const struct heed_backend *heed_cpu_backend(enum heed_isa isa) {
    (void)isa; /* the kernels look at exec->isa */
    return &cpu;
}
