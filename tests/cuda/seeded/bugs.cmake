# What a test of the backend must find. Each row is a bug in a file of src/backend/cuda: a text, which is there once, becomes
# another. CMakeLists.txt builds the backend with it, the rest unchanged, and has a test that only passes if SAYS (a regular
# expression) is printed where the bug is; seed.cmake makes the changed file.
#
# heed_bug(NAME ON FILE file [SOURCE file] TEST program [CASE case] SAYS expression [ENVIRONMENT variable=value…]
#          FROM text TO text)
#   ON      kernel     the sources on the emulation; kernel_address, kernel_thread: where sanitizers are in it, and only there
#           shipped    what nvcc made of the host's code, on the simulated runtime
#           absent     the same, where there is no GPU
#           planned    the graphs of cuDNN, planned by the real library
#   SOURCE  where FILE is a header: the source that is compiled with it
#   TEST    the suite, without "test_"; for "absent" and "planned" the argument of their programs
#   CASE    the only case of the suite, or problem of "planned", that runs

# ---- kernels ----

# The last element of a ragged row is never written.
heed_bug(norm_tail kernel FILE norm.cu TEST ops_rows CASE "cpu against ref" SAYS "layer_norm.*: output 0: element"
    FROM [[auto row = cuda_read<HELD>(at.lane * N, at.end(j.n), group * N,]]
    TO [[auto row = cuda_read<HELD>(at.lane * N, at.end(j.n - 1), group * N,]])

# The last part of a long sum reads on behind its end.
heed_bug(fold_tail kernel FILE fold.cuh SOURCE reduce.cu TEST ops_rows CASE "cpu against ref" SAYS "sum, long.*: output 0: element"
    FROM [[begin + (left < p.part ? left : p.part), group * N),]]
    TO [[begin + p.part, group * N),]])

# Warps read what other warps have not written yet.
heed_bug(join_barrier kernel FILE reduce.cuh SOURCE softmax.cu TEST ops_rows CASE "cpu against ref" SAYS "softmax.*: output 0: element"
    ENVIRONMENT HEED_CUDA_SEED=7
    FROM [[part[threadIdx.x / HEED_WARP] = v;
    __syncthreads();]]
    TO [[part[threadIdx.x / HEED_WARP] = v;]])

# The second operand is read where the first one lies.
heed_bug(operand_stride kernel FILE binary.cu TEST ops_elementwise CASE "cpu against ref" SAYS "add, row.*: output 0: element"
    FROM [[cuda_load(a, spot, 0, y);
        cuda_load(b, spot, 1, other);]]
    TO [[cuda_load(a, spot, 0, y);
        cuda_load(b, spot, 0, other);]])

# A gradient takes the place of the one that it should be added to.
heed_bug(overwrites kernel FILE norm.cuh SOURCE norm.cu TEST goldens SAYS "encoder_layers.*pre.grad.x: element"
    FROM [[if (before) b.g.at[k] += (T)p.before.at[k];]]
    TO [[]])

# Two blocks of random words are passed over for each that is used.
heed_bug(dropout_block kernel FILE philox.cuh SOURCE dropout.cu TEST ops_choose CASE "cpu against ref" SAYS "dropout.*: output 0: element"
    FROM [[cuda_random_block(random, (uint32_t)(element >> 3), word);]]
    TO [[cuda_random_block(random, (uint32_t)(element >> 2), word);]])

# A tile at the border of a mask is taken for one that it leaves whole.
heed_bug(tile_class kernel FILE attention_mask.cuh SOURCE attention_forward.cu TEST ops_masks CASE "cpu against ref" SAYS "lengths.*: output 0: element"
    FROM [[if (least >= low && most <= high) return HEED_COVER_ALL;]]
    TO [[if (least >= low || most <= high) return HEED_COVER_ALL;]])

# Documents that a tile shares some of are taken for ones that it shares none of.
heed_bug(tile_documents kernel FILE attention_mask.cuh SOURCE attention_forward.cu TEST ops_masks CASE "cpu against ref" SAYS "tiles, documents.*: output 0: element"
    FROM [[if (q.most < k.least || k.most < q.least) return HEED_COVER_NONE;]]
    TO [[if (q.most <= k.least || k.most <= q.least) return HEED_COVER_NONE;]])

# Of a tile's blocks only the last row decides.
heed_bug(tile_blocks kernel FILE attention_mask.cuh SOURCE attention_forward.cu TEST ops_masks CASE "cpu against ref" SAYS "tiles, block.*: output 0: element"
    FROM [[seen.all = seen.all && word ==]]
    TO [[seen.all = word ==]])

# Sums of values stay as they were when a larger score is found.
heed_bug(rescaling kernel FILE attention_forward.cu TEST ops_attention CASE "cpu against ref" SAYS "two tiles.*: output 0: element"
    FROM [[sums->at[i][n] *= factor;]]
    TO [[sums->at[i][n] *= T(1);]])

# cuBLASLt is told a leading dimension that is shorter than the rows.
heed_bug(leading_dimension kernel FILE lt_problem.cu TEST ops_product CASE "cpu against ref" SAYS "cublasLtMatmul.* has a leading dimension of"
    FROM [[*ld = slow > 1 ? slow_stride : fast;
    return *ld >= fast;]]
    TO [[*ld = slow > 1 ? slow_stride : 1;
    return true;]])

# The second moment is corrected as in the first step.
heed_bug(adam_correction kernel FILE update.cu TEST update_kernels SAYS "steps:.*variant 1[2-7]: part 0, place"
    FROM [[pow(a->beta2, (double)a->step)]]
    TO [[pow(a->beta2, 1.0)]])

# Parameters change though a gradient before was not finite.
heed_bug(fault_ignored kernel FILE update.cu TEST update_kernels SAYS "nothing_after_a_bad_norm.*memcmp"
    ENVIRONMENT HEED_CUDA_BLOCKING=0
    FROM [[j.fault->fault != CUDA_FAULT_NONE || ]]
    TO [[]])

# A loss that is not finite is passed over.
heed_bug(loss_passed_over kernel FILE loss.cu TEST optim_gradients SAYS "bad_loss.*heed_optim_step.optim, 0.1. == HEED_ERROR_NUMERIC"
    ENVIRONMENT HEED_CUDA_BLOCKING=0
    FROM [[if (!std::isfinite(value)) cuda_raise]]
    TO [[if (add && !std::isfinite(value)) cuda_raise]])

# Nobody hears which steps behind an error changed nothing.
heed_bug(steps_counted kernel FILE grad_norm.cu TEST optim_gradients SAYS "bad_loss.*heed_optim_steps.optim. == 3"
    ENVIRONMENT HEED_CUDA_BLOCKING=0
    FROM [[if (fault->fault != CUDA_FAULT_NONE && fault->norm == 0) fault->norm = ticket + 1;]]
    TO [[]])

# Every row is taken for the one before; the last reads behind its tensor.
heed_bug(reads_behind kernel_address FILE softmax.cu TEST ops_rows CASE "cpu against ref"
    SAYS "use-after-poison.*softmax"
    FROM [[const X *from = x + at.row * n;]]
    TO [[const X *from = x + (at.row + 1) * n;]])

# Threads read the sums of others before all have left theirs.
heed_bug(columns_barrier kernel_thread FILE norm.cuh SOURCE norm.cu TEST layers SAYS "data race.*norm_columns"
    FROM [[lane_sums[threadIdx.x] = all;
    __syncthreads();]]
    TO [[lane_sums[threadIdx.x] = all;]])

# ---- the shipped library ----

# Kernels do not wait for what the stream of copies brings them.
heed_bug(copy_not_awaited shipped FILE staging.cu TEST cuda_runtime SAYS "large_copies.*last: element 0"
    FROM [[if (status == cudaSuccess) status = cudaStreamWaitEvent(s->kernels, slot->host_left, 0);]]
    TO [[]])

# The host reads the error word where it lies.
heed_bug(host_reads shipped FILE device.cu TEST cuda_runtime SAYS "the host's code touches memory of the device"
    FROM [[if (device->seen->fault != CUDA_FAULT_NONE) {]]
    TO [[if (device->fault->fault != CUDA_FAULT_NONE) {]])

# Memory goes back to the pool before the kernels that use it have run.
heed_bug(freed_early shipped FILE device.cu TEST cuda_runtime SAYS "into an allocation of [0-9]+ that was freed"
    ENVIRONMENT HEED_CUDA_SCHEDULE=2
    FROM [[cudaFreeAsync(memory, cuda_stream(device));]]
    TO [[cudaFreeAsync(memory, (cuda_stream(device), device->staging.copies));]])

# What a device has is left when it cannot be opened to the end.
heed_bug(leak_on_failure shipped FILE device.cu TEST cuda_steps CASE "making fails" SAYS "call [0-9]+: [1-9][0-9]* streams and [0-9]+ allocations live"
    FROM [[device_close(device);
    cudaGetLastError();]]
    TO [[heed_host->block_free(exec->memory, device);
    cudaGetLastError();]])

# A kernel that could not be started is taken for one that was.
heed_bug(launch_ignored shipped FILE device.cu TEST cuda_steps CASE "steps fail" SAYS "steps_may_fail:0: call [0-9]+ of a step: \"\""
    FROM [[const heed_status status = cuda_check(exec, primitive, cudaGetLastError());]]
    TO [[const heed_status status = cudaGetLastError() == cudaErrorMemoryAllocation ? HEED_ERROR_MEMORY : HEED_OK;]])

# A plan that made room ends before its kernels have run.
heed_bug(retired_early shipped FILE retired.cu TEST cuda_mixed SAYS "cudnnBackendExecute, when it runs: a descriptor of type [0-9]+ was destroyed"
    FROM [[if (mark(device, &done) == cudaSuccess) {]]
    TO [[if (mark(device, &done) == cudaSuccess) {
        end(device, what);
        return;]])

# ---- where there is no GPU ----

# An old driver is said to be none.
heed_bug(driver_unsaid absent FILE device.cu TEST "the NVIDIA driver is for CUDA 11.0, and 13.0 is needed"
    SAYS "there is no NVIDIA driver.*that is not one line with"
    ENVIRONMENT "HEED_TEST_DRIVER=old"
    FROM [[if (driver == 0)]]
    TO [[if (driver < runtime)]])

# ---- plans of cuDNN ----

# The sums that weights are divided by are left out of the graph.
heed_bug(sums_left_out planned FILE cudnn_attention.cu TEST L4 CASE causal SAYS "forward of \"causal\": does not plan, against what is expected"
    FROM [[dnn_reduce(p->g, CUDNN_REDUCE_TENSOR_ADD, &e, &sum);]]
    TO [[]])

# Plans may have more workspace than heed gives them.
heed_bug(workspace planned FILE cudnn_attention.cu TEST A100 CASE long SAYS "backward of \"long\": plans, against what is expected"
    FROM [[return dnn_plan(g, &engine, DNN_MOST_WORKSPACE);]]
    TO [[return dnn_plan(g, &engine, 16 * DNN_MOST_WORKSPACE);]])
