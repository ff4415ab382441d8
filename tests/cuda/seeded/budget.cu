/* Kernels that break the rules of budget.py, each another: budget.txt beside this file allows them less than
 * they need. */

/* More registers than its row has. */
__global__ void many_registers(float *x) {
    float part[32];
#pragma unroll
    for (int i = 0; i < 32; i++) part[i] = x[i * 64 + threadIdx.x];
    __syncthreads();
#pragma unroll
    for (int i = 0; i < 32; i++) x[threadIdx.x * 64 + i] = part[31 - i] * part[i];
}

__global__ void much_shared(float *x) {
    __shared__ float part[1024];
    part[threadIdx.x] = x[threadIdx.x];
    __syncthreads();
    x[threadIdx.x] = part[1023 - threadIdx.x];
}

/* An array that is indexed by what is known only when it runs lies in local memory. */
__global__ void local_array(float *x, const int *order) {
    float part[64];
    for (int i = 0; i < 64; i++) part[order[i]] = x[i];
    for (int i = 0; i < 64; i++) x[threadIdx.x] += part[order[64 + i]];
}

__global__ void no_row(float *x) {
    x[threadIdx.x] = 1;
}
