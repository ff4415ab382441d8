/* Needs more registers than its launch bounds leave it: the compiler says so, which is an error. */
__global__ void __launch_bounds__(1024) spills(float *x) {
    float part[128];
#pragma unroll
    for (int i = 0; i < 128; i++) part[i] = x[i * 1024 + threadIdx.x];
    __syncthreads();
#pragma unroll
    for (int i = 0; i < 128; i++) x[threadIdx.x * 128 + i] = part[127 - i] * part[i];
}
