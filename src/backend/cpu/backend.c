/* The slots of the CPU backend.
 *
 * What goes to the reference kernels even though a slot has a kernel here: f64 everywhere; i32 in
 * gather and arg max; comparisons of bool, or of two dtypes; adding copies of other dtypes than f32. */
#include "backend/cpu/bf16.h"

#define SLOT(name, kernel)                                                                                   \
    [HEED_PRIMITIVE_##name] = (const struct heed_kernel *const[]) {                                          \
        &(kernel), NULL                                                                                      \
    }

/* And the same for bf16. */
#define SLOT2(name, kernel)                                                                                  \
    [HEED_PRIMITIVE_##name] = (const struct heed_kernel *const[]) {                                          \
        &(kernel), &(kernel##_bf16), NULL                                                                    \
    }

static const struct heed_backend cpu = {
    .name = "cpu",
    .mixed = true,
    .slot =
        {
            SLOT2(COPY, heed_cpu_copy),
            SLOT(FILL, heed_cpu_fill),
            SLOT(RANDOM, heed_cpu_random),
            SLOT2(UNARY, heed_cpu_unary),
            SLOT2(BINARY, heed_cpu_binary),
            SLOT2(WHERE, heed_cpu_where),
            SLOT2(REDUCE, heed_cpu_reduce),
            SLOT2(ARGMAX, heed_cpu_argmax),
            SLOT2(SOFTMAX, heed_cpu_softmax),
            SLOT2(NORM, heed_cpu_norm),
            SLOT2(RESIDUAL_NORM, heed_cpu_residual_norm),
            SLOT2(ROTARY, heed_cpu_rotary),
            SLOT2(MATMUL, heed_cpu_matmul),
            SLOT2(LINEAR, heed_cpu_linear),
            SLOT2(GATHER, heed_cpu_gather),
            SLOT2(DROPOUT, heed_cpu_dropout),
            SLOT2(CROSS_ENTROPY, heed_cpu_cross_entropy),
            SLOT2(PAIR_LOSS, heed_cpu_pair_loss),
            [HEED_PRIMITIVE_ATTENTION] =
                (const struct heed_kernel *const[]){&heed_cpu_attention_short, &heed_cpu_attention_decode,
                                                    &heed_cpu_attention, &heed_cpu_attention_short_bf16,
                                                    &heed_cpu_attention_decode_bf16, &heed_cpu_attention_bf16,
                                                    NULL},
            SLOT(MHA, heed_cpu_mha_short), /* the composite follows */
            SLOT(GRAD_NORM, heed_cpu_grad_norm),
            SLOT(UPDATE, heed_cpu_update),
        },
};

const struct heed_backend *heed_cpu_backend(enum heed_isa isa) {
    (void)isa; /* the kernels look at exec->isa */
    return &cpu;
}
