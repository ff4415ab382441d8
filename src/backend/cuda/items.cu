/* Lists of parameters on their way to the device. */
#include "backend/cuda/items.cuh"

static int64_t chunks_of(int64_t elements) {
    return (elements + CUDA_CHUNK - 1) / CUDA_CHUNK;
}

int64_t cuda_chunks(const struct heed_param_item *item, int64_t items) {
    int64_t chunks = 0;
    for (int64_t i = 0; i < items; i++) chunks += chunks_of(item[i].count);
    return chunks;
}

heed_status cuda_items_send(struct heed_exec *exec, enum heed_primitive primitive,
                            const struct heed_param_item *item, int64_t items, struct cuda_item *to) {
    const size_t bytes = (size_t)items * sizeof *to;
    if (items == 0) return HEED_OK;
    struct cuda_item *list = static_cast<struct cuda_item *>(heed_host->block_new(exec->memory, bytes));
    if (!list)
        return heed_host->fail(exec, HEED_ERROR_MEMORY, primitive, "no memory for a list of %lld parameters",
                               (long long)items);
    int64_t chunk = 0;
    for (int64_t i = 0; i < items; i++) {
        list[i] = {item[i].param, item[i].grad,   item[i].moment1, item[i].moment2, item[i].count,
                   chunk,         item[i].number, item[i].rate,    item[i].decay};
        chunk += chunks_of(item[i].count);
    }
    const heed_status status = heed_cuda_device.write(cuda_of(exec), to, list, bytes);
    heed_host->block_free(exec->memory, list);
    return status;
}
