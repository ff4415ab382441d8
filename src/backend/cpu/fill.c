/* Fill: a value everywhere, or counting up. */
#include <string.h>

#include "backend/cpu/walk.h"
#include "tensor/bf16.h"

/* ---- fill ---- */

struct fill {
    const struct heed_view *y;
    uint64_t bits; /* the value, in the first bytes */
    struct heed_dim line;
    int64_t line_length;
    int line_place;
    struct heed_cpu_walk outer;
    int64_t positions, tile_positions;
};

static void set_value(struct fill *f, heed_dtype dtype, double value) {
    const float as_f32 = (float)value;
    const bool below = value <= INT32_MIN, above = value >= INT32_MAX;
    const int32_t as_i32 = below ? INT32_MIN : above ? INT32_MAX : value == value ? (int32_t)value : 0;
    const uint16_t as_bf16 = heed_bf16_of_double(value);
    const uint8_t as_bool = value != 0;
    f->bits = 0;
    if (dtype == HEED_F32)
        memcpy(&f->bits, &as_f32, sizeof as_f32);
    else if (dtype == HEED_F64)
        memcpy(&f->bits, &value, sizeof value);
    else if (dtype == HEED_I32)
        memcpy(&f->bits, &as_i32, sizeof as_i32);
    else if (dtype == HEED_BF16)
        memcpy(&f->bits, &as_bf16, sizeof as_bf16);
    else
        memcpy(&f->bits, &as_bool, sizeof as_bool);
}

static void plan(struct fill *f, const struct heed_fill_args *a) {
    memset(f, 0, sizeof *f);
    f->y = &a->y;
    set_value(f, a->y.dtype, a->value);
    const struct heed_view *const views[HEED_WALK_VIEWS] = {&a->y};
    struct heed_dim dims[HEED_MAX_RANK];
    int rank = heed_cpu_dims_merge(dims, heed_cpu_dims(views, dims), 0);
    f->line = (struct heed_dim){.size = 1};
    if (rank > 0) f->line = dims[--rank];
    f->line_length = f->line.size < HEED_CPU_GRAIN ? f->line.size : HEED_CPU_GRAIN;
    for (int d = 0; d < rank; d++) f->outer.dim[f->outer.rank++] = dims[d];
    f->line_place = heed_cpu_walk_segments(&f->outer, &f->line, f->line_length);
    f->positions = heed_cpu_walk_positions(&f->outer);
    f->tile_positions = heed_cpu_rows_per_tile(f->line_length, HEED_CPU_GRAIN);
}

static void fill_line(const struct fill *f, void *y, int64_t n) {
    const int64_t stride = f->line.stride[0];
    const size_t bytes = heed_dtype_bytes(f->y->dtype);
    if (f->bits == 0 && (stride == 1 || n == 1)) {
        memset(y, 0, (size_t)n * bytes);
    } else if (bytes == 4) {
        uint32_t value, *as_u32 = y;
        memcpy(&value, &f->bits, sizeof value);
        for (int64_t j = 0; j < n; j++) as_u32[j * stride] = value;
    } else if (bytes == 8) {
        uint64_t *as_u64 = y;
        for (int64_t j = 0; j < n; j++) as_u64[j * stride] = f->bits;
    } else if (bytes == 2) {
        uint16_t value, *as_u16 = y;
        memcpy(&value, &f->bits, sizeof value);
        for (int64_t j = 0; j < n; j++) as_u16[j * stride] = value;
    } else {
        uint8_t value, *as_u8 = y;
        memcpy(&value, &f->bits, sizeof value);
        for (int64_t j = 0; j < n; j++) as_u8[j * stride] = value;
    }
}

static void fill_tile(void *arg, int64_t tile, int worker) {
    (void)worker;
    const struct fill *f = arg;
    struct heed_cpu_walk walk = f->outer;
    heed_cpu_walk_to(&walk, tile * f->tile_positions);
    const int64_t positions = heed_cpu_part(f->positions, f->tile_positions, tile);
    for (int64_t i = 0; i < positions; i++) {
        fill_line(f, heed_view_at(f->y, walk.offset[0]),
                  heed_cpu_walk_extent(&walk, f->line_place, &f->line, f->line_length));
        heed_cpu_walk_next(&walk);
    }
}

static void count_up(const struct heed_view *y) {
    const int64_t n = y->size[0], stride = y->stride[0];
    if (y->dtype == HEED_F32)
        for (int64_t i = 0; i < n; i++) ((float *)y->data)[i * stride] = (float)i;
    else if (y->dtype == HEED_F64)
        for (int64_t i = 0; i < n; i++) ((double *)y->data)[i * stride] = (double)i;
    else if (y->dtype == HEED_I32)
        for (int64_t i = 0; i < n; i++)
            ((int32_t *)y->data)[i * stride] = i < INT32_MAX ? (int32_t)i : INT32_MAX;
    else if (y->dtype == HEED_BF16)
        for (int64_t i = 0; i < n; i++) ((uint16_t *)y->data)[i * stride] = heed_bf16_of_double((double)i);
    else
        for (int64_t i = 0; i < n; i++) ((uint8_t *)y->data)[i * stride] = i != 0;
}

static heed_status fill_forward(struct heed_exec *exec, const void *args, void *saved, void *scratch) {
    (void)saved;
    (void)scratch;
    const struct heed_fill_args *a = args;
    if (heed_view_count(&a->y) == 0) return HEED_OK;
    if (a->arange) {
        count_up(&a->y);
        return HEED_OK;
    }
    struct fill f;
    plan(&f, a);
    heed_threads_run(exec->threads, heed_cpu_tiles(f.positions, f.tile_positions), fill_tile, &f);
    return HEED_OK;
}

const struct heed_kernel heed_cpu_fill = {.name = "cpu", .forward = fill_forward};
