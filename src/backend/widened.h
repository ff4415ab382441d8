/* Kernels for operands of which some are bf16, made of kernels of f32: what the kernel reads is widened into
 * scratch, and what it writes there is rounded once it is complete. Sums are those of f32, and a gradient
 * that is f32 already is written or added to where it lies. */
#ifndef HEED_SRC_BACKEND_WIDENED_H
#define HEED_SRC_BACKEND_WIDENED_H

#include "backend/backend.h"

struct heed_widened {
    enum heed_primitive primitive;
    const struct heed_kernel *kernel; /* of f32 */
    const struct heed_kernel *copy;   /* between f32 and bf16, without scratch */
};

/* For arguments of which some, not none, are bf16, if the kernel would apply to them as f32. */
bool heed_widened_applies(const struct heed_widened *of, const struct heed_exec *exec, const void *args,
                          struct heed_why *why);
void heed_widened_sizes(const struct heed_widened *of, const struct heed_exec *exec, const void *args,
                        struct heed_sizes *sizes);
heed_status heed_widened_forward(const struct heed_widened *of, struct heed_exec *exec, const void *args,
                                 void *saved, void *scratch);
heed_status heed_widened_backward(const struct heed_widened *of, struct heed_exec *exec, const void *args,
                                  void *saved, void *scratch);

/* The functions of such a kernel: name_applies, name_sizes, name_forward. */
#define HEED_WIDENED(name, primitive, kernel, copy)                                                          \
    static const struct heed_widened of_##name = {primitive, &(kernel), &(copy)};                            \
    static bool name##_applies(const struct heed_exec *exec, const void *args, struct heed_why *why) {       \
        return heed_widened_applies(&of_##name, exec, args, why);                                            \
    }                                                                                                        \
    static void name##_sizes(const struct heed_exec *exec, const void *args, struct heed_sizes *sizes) {     \
        heed_widened_sizes(&of_##name, exec, args, sizes);                                                   \
    }                                                                                                        \
    static heed_status name##_forward(struct heed_exec *exec, const void *args, void *saved,                 \
                                      void *scratch) {                                                       \
        return heed_widened_forward(&of_##name, exec, args, saved, scratch);                                 \
    }

/* And name_backward. */
#define HEED_WIDENED_BACKWARD(name)                                                                          \
    static heed_status name##_backward(struct heed_exec *exec, const void *args, void *saved,                \
                                       void *scratch) {                                                      \
        return heed_widened_backward(&of_##name, exec, args, saved, scratch);                                \
    }

#endif
