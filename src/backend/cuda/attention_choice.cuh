/* Which kernels of attention a call has: specialised ones for what it computes, or the general ones. */
#ifndef HEED_SRC_BACKEND_CUDA_ATTENTION_CHOICE_CUH
#define HEED_SRC_BACKEND_CUDA_ATTENTION_CHOICE_CUH

#include <tuple>

#include "backend/cuda/attention.cuh"
#include "backend/cuda/specialise.cuh"

/* The files of kernels: each is compiled when it is needed. */
enum cuda_attention_part { CUDA_ATTENTION_FORWARD, CUDA_ATTENTION_BACKWARD, CUDA_ATTENTION_SCORES };

/* What a call computes. */
struct cuda_choice {
    bool special; /* specialised kernels are to run: they are wanted, or */
    bool custom;  /* there is a stage of the user's, which the general ones cannot do */
    int stages;
    const heed_stage_rule *rule[HEED_MAX_STAGES]; /* of the user's stages */
    char constants[640];
    struct cuda_hash hash;
};

void cuda_attention_choose(const struct heed_exec *exec, const struct heed_attention_args *a,
                           struct cuda_choice *choice);

/* The specialised kernel of this name. NULL: the general one is to run. An error where that cannot be. */
heed_status cuda_attention_kernel(struct heed_exec *exec, const struct cuda_choice *choice,
                                  enum cuda_attention_part part, const char *name, cudaKernel_t *kernel);

/* Starts a kernel that was found by its name; `general` says the types of its parameters. */
template <typename... Parameters, typename... Arguments>
static heed_status cuda_start_special(struct heed_exec *exec, cudaKernel_t kernel,
                                      void (*general)(Parameters...), dim3 grid, int threads,
                                      const Arguments &...arguments) {
    (void)general;
    std::tuple<Parameters...> parameters(static_cast<Parameters>(arguments)...);
    void *at[sizeof...(Parameters)];
    int n = 0;
    std::apply([&](Parameters &...each) { ((at[n++] = &each), ...); }, parameters);
    const cudaError_t status = cudaLaunchKernel(reinterpret_cast<const void *>(kernel), grid,
                                                dim3((unsigned)threads), at, 0, cuda_stream(cuda_of(exec)));
    return cuda_check(exec, HEED_PRIMITIVE_ATTENTION, status);
}

/* Starts kernel `name` of a part: that of the choice, or name<T>. Returns from the function if it cannot. */
#define ATTENTION_RUN(exec, choice, part, name, grid, threads, ...)                                          \
    do {                                                                                                     \
        cudaKernel_t special;                                                                                \
        heed_status found = cuda_attention_kernel(exec, choice, part, #name, &special);                      \
        if (found == HEED_OK && special)                                                                     \
            found = cuda_start_special(exec, special, name<T>, grid, threads, __VA_ARGS__);                  \
        if (found != HEED_OK) return found;                                                                  \
        if (!special) CUDA_RUN(exec, name<T>, grid, threads, 0, __VA_ARGS__);                                \
    } while (0)

#endif
