/* Copies: dimensions are put into the order of the output's memory, so that writes run forward; where reads
 * then do not, a square block is transposed within cache. With `add` it is a map. */
#include <string.h>

#include "backend/cpu/bf16.h"
#include "backend/cpu/map.h"
#include "backend/cpu/walk.h"
#include "tensor/bf16.h"

enum { X, Y };

/* Elements of a transposed block along each side. */
enum { SIDE = 64 };

struct copy {
    struct heed_view x, y;
    size_t bytes; /* of an element, if both have one dtype; else 0 */
    const struct heed_bf16_vectors *bf16;
    struct heed_dim row, line;
    int64_t box_rows, box_lines;
    int row_place, line_place;
    struct heed_cpu_walk outer;
    int64_t positions, tile_positions;
};

/* ---- planning ---- */

static void move_dim(struct heed_dim *dims, int from, int to) {
    const struct heed_dim dim = dims[from];
    for (; from < to; from++) dims[from] = dims[from + 1];
    for (; from > to; from--) dims[from] = dims[from - 1];
    dims[to] = dim;
}

/* Larger strides of y first (insertion sort: equal ones stay in order). */
static void sort_by_output(struct heed_dim *dims, int rank) {
    for (int d = 1; d < rank; d++) {
        int to = d;
        while (to > 0 && dims[to - 1].stride[Y] < dims[d].stride[Y]) to--;
        move_dim(dims, d, to);
    }
}

/* The dimension along which x lies side by side; the last if there is none other. */
static int input_line(const struct heed_dim *dims, int rank) {
    if (dims[rank - 1].stride[X] <= 1) return rank - 1;
    for (int d = rank - 2; d >= 0; d--)
        if (dims[d].stride[X] == 1) return d;
    return rank - 1;
}

static void plan(struct copy *c, const struct heed_copy_args *a) {
    memset(c, 0, sizeof *c);
    c->x = a->x;
    c->y = a->y.view;
    c->bytes = c->x.dtype == c->y.dtype ? heed_dtype_bytes(c->x.dtype) : 0;
    const struct heed_view *const views[HEED_WALK_VIEWS] = {[X] = &c->x, [Y] = &c->y};
    struct heed_dim dims[HEED_MAX_RANK];
    int rank = heed_cpu_dims(views, dims);
    sort_by_output(dims, rank);
    rank = heed_cpu_dims_merge(dims, rank, Y);
    c->row = c->line = (struct heed_dim){.size = 1};
    int64_t side = HEED_CPU_GRAIN;
    if (rank > 0) {
        const int from = input_line(dims, rank);
        if (from != rank - 1) {
            move_dim(dims, from, rank - 2);
            side = SIDE;
        }
        c->line = dims[--rank];
        if (rank > 0) c->row = dims[--rank];
    }
    c->box_lines = c->line.size < side ? c->line.size : side;
    const int64_t most_rows = side == SIDE ? SIDE : HEED_CPU_GRAIN / c->box_lines;
    c->box_rows = c->row.size < most_rows ? c->row.size : most_rows;
    for (int d = 0; d < rank; d++) c->outer.dim[c->outer.rank++] = dims[d];
    c->row_place = heed_cpu_walk_segments(&c->outer, &c->row, c->box_rows);
    c->line_place = heed_cpu_walk_segments(&c->outer, &c->line, c->box_lines);
    c->positions = heed_cpu_walk_positions(&c->outer);
    c->tile_positions = heed_cpu_rows_per_tile(c->box_rows * c->box_lines, HEED_CPU_GRAIN);
}

/* ---- boxes of one dtype ---- */

static void copy_lines(const char *x, int64_t x_row, char *y, int64_t y_row, int64_t rows, size_t bytes) {
    if (bytes == 16) /* the head of width 4 */
        for (int64_t i = 0; i < rows; i++) memcpy(y + i * y_row, x + i * x_row, 16);
    else if (bytes == 128)
        for (int64_t i = 0; i < rows; i++) memcpy(y + i * y_row, x + i * x_row, 128);
    else if (bytes == 256)
        for (int64_t i = 0; i < rows; i++) memcpy(y + i * y_row, x + i * x_row, 256);
    else
        for (int64_t i = 0; i < rows; i++) memcpy(y + i * y_row, x + i * x_row, bytes);
}

#define COPY_STRIDED(type)                                                                                   \
    static void copy_##type(const type *x, const struct copy *c, type *y, int64_t rows, int64_t lines) {     \
        const int64_t x_line = c->line.stride[X], y_line = c->line.stride[Y];                                \
        for (int64_t i = 0; i < rows; i++, x += c->row.stride[X], y += c->row.stride[Y])                     \
            for (int64_t j = 0; j < lines; j++) y[j * y_line] = x[j * x_line];                               \
    }
COPY_STRIDED(uint8_t)
COPY_STRIDED(uint16_t)
COPY_STRIDED(uint32_t)
COPY_STRIDED(uint64_t)

typedef float quad __attribute__((vector_size(16)));
typedef float quad_memory __attribute__((vector_size(16), aligned(4), may_alias));

/* y[i, j] = x[j, i] of 4 × 4 elements. */
static inline void transpose_4(const float *x, int64_t x_row, float *y, int64_t y_row) {
    const quad a = *(const quad_memory *)x, b = *(const quad_memory *)(x + x_row);
    const quad c = *(const quad_memory *)(x + 2 * x_row), d = *(const quad_memory *)(x + 3 * x_row);
    const quad ab0 = __builtin_shufflevector(a, b, 0, 4, 1, 5),
               ab1 = __builtin_shufflevector(a, b, 2, 6, 3, 7);
    const quad cd0 = __builtin_shufflevector(c, d, 0, 4, 1, 5),
               cd1 = __builtin_shufflevector(c, d, 2, 6, 3, 7);
    *(quad_memory *)y = __builtin_shufflevector(ab0, cd0, 0, 1, 4, 5);
    *(quad_memory *)(y + y_row) = __builtin_shufflevector(ab0, cd0, 2, 3, 6, 7);
    *(quad_memory *)(y + 2 * y_row) = __builtin_shufflevector(ab1, cd1, 0, 1, 4, 5);
    *(quad_memory *)(y + 3 * y_row) = __builtin_shufflevector(ab1, cd1, 2, 3, 6, 7);
}

/* x lies side by side along the rows, y along the lines. */
static void transpose(const float *x, int64_t x_line, float *y, int64_t y_row, int64_t rows, int64_t lines) {
    const int64_t even_rows = rows / 4 * 4, even_lines = lines / 4 * 4;
    for (int64_t i = 0; i < even_rows; i += 4) {
        for (int64_t j = 0; j < even_lines; j += 4)
            transpose_4(x + j * x_line + i, x_line, y + i * y_row + j, y_row);
        for (int64_t j = even_lines; j < lines; j++)
            for (int64_t k = i; k < i + 4; k++) y[k * y_row + j] = x[j * x_line + k];
    }
    for (int64_t i = even_rows; i < rows; i++)
        for (int64_t j = 0; j < lines; j++) y[i * y_row + j] = x[j * x_line + i];
}

static void copy_box(const struct copy *c, const void *x, void *y, int64_t rows, int64_t lines) {
    const struct heed_dim *row = &c->row, *line = &c->line;
    const int64_t bytes = (int64_t)c->bytes;
    if (line->stride[Y] == 1 && line->stride[X] == 1)
        copy_lines(x, row->stride[X] * bytes, y, row->stride[Y] * bytes, rows, (size_t)(lines * bytes));
    else if (bytes == 4 && lines <= SIDE && line->stride[Y] == 1 && row->stride[X] == 1)
        transpose(x, line->stride[X], y, row->stride[Y], rows, lines);
    else if (bytes == 1)
        copy_uint8_t(x, c, y, rows, lines);
    else if (bytes == 2)
        copy_uint16_t(x, c, y, rows, lines);
    else if (bytes == 4)
        copy_uint32_t(x, c, y, rows, lines);
    else
        copy_uint64_t(x, c, y, rows, lines);
}

/* ---- boxes that change dtype: through double, which holds them all, or between f32 and bf16 ---- */

enum { CONVERTED = 256 };

static void load(const struct heed_view *v, const void *x, int64_t stride, int64_t n, double *to) {
    const float *as_f32 = x;
    const double *as_f64 = x;
    const int32_t *as_i32 = x;
    const uint16_t *as_bf16 = x;
    const uint8_t *as_bool = x;
    if (v->dtype == HEED_F32)
        for (int64_t j = 0; j < n; j++) to[j] = as_f32[j * stride];
    else if (v->dtype == HEED_F64)
        for (int64_t j = 0; j < n; j++) to[j] = as_f64[j * stride];
    else if (v->dtype == HEED_I32)
        for (int64_t j = 0; j < n; j++) to[j] = as_i32[j * stride];
    else if (v->dtype == HEED_BF16)
        for (int64_t j = 0; j < n; j++) to[j] = (double)heed_bf16_value(as_bf16[j * stride]);
    else
        for (int64_t j = 0; j < n; j++) to[j] = as_bool[j * stride] != 0;
}

/* Towards zero and within range; NaN is 0. */
static int32_t to_i32(double value) {
    if (value >= INT32_MAX) return INT32_MAX;
    if (value <= INT32_MIN) return INT32_MIN;
    return value == value ? (int32_t)value : 0;
}

static void store(const struct heed_view *v, void *y, int64_t stride, int64_t n, const double *from) {
    float *as_f32 = y;
    double *as_f64 = y;
    int32_t *as_i32 = y;
    uint16_t *as_bf16 = y;
    uint8_t *as_bool = y;
    if (v->dtype == HEED_F32)
        for (int64_t j = 0; j < n; j++) as_f32[j * stride] = (float)from[j];
    else if (v->dtype == HEED_F64)
        for (int64_t j = 0; j < n; j++) as_f64[j * stride] = from[j];
    else if (v->dtype == HEED_I32)
        for (int64_t j = 0; j < n; j++) as_i32[j * stride] = to_i32(from[j]);
    else if (v->dtype == HEED_BF16)
        for (int64_t j = 0; j < n; j++) as_bf16[j * stride] = heed_bf16_of_double(from[j]);
    else
        for (int64_t j = 0; j < n; j++) as_bool[j * stride] = from[j] != 0;
}

static void convert_box(const struct copy *c, int64_t x, int64_t y, int64_t rows, int64_t lines) {
    double number[CONVERTED];
    for (int64_t i = 0; i < rows; i++, x += c->row.stride[X], y += c->row.stride[Y]) {
        for (int64_t j = 0; j < lines; j += CONVERTED) {
            const int64_t n = lines - j < CONVERTED ? lines - j : CONVERTED;
            const int64_t x_line = c->line.stride[X], y_line = c->line.stride[Y];
            load(&c->x, heed_view_at(&c->x, x + j * x_line), x_line, n, number);
            store(&c->y, heed_view_at(&c->y, y + j * y_line), y_line, n, number);
        }
    }
}

/* Whether lines of the two are converted as vectors. */
static bool is_vector_line(const struct copy *c) {
    const heed_dtype x = c->x.dtype, y = c->y.dtype;
    return c->line.stride[X] == 1 && c->line.stride[Y] == 1 &&
           ((x == HEED_F32 && y == HEED_BF16) || (x == HEED_BF16 && y == HEED_F32));
}

static void convert_lines(const struct copy *c, int64_t x, int64_t y, int64_t rows, int64_t lines) {
    for (int64_t i = 0; i < rows; i++, x += c->row.stride[X], y += c->row.stride[Y]) {
        if (c->y.dtype == HEED_F32)
            c->bf16->widen(lines, heed_view_at(&c->x, x), heed_view_at(&c->y, y));
        else
            c->bf16->round(lines, heed_view_at(&c->x, x), heed_view_at(&c->y, y));
    }
}

/* ---- the kernel ---- */

static void copy_tile(void *arg, int64_t tile, int worker) {
    (void)worker;
    const struct copy *c = arg;
    struct heed_cpu_walk walk = c->outer;
    heed_cpu_walk_to(&walk, tile * c->tile_positions);
    const int64_t positions = heed_cpu_part(c->positions, c->tile_positions, tile);
    for (int64_t i = 0; i < positions; i++) {
        const int64_t rows = heed_cpu_walk_extent(&walk, c->row_place, &c->row, c->box_rows);
        const int64_t lines = heed_cpu_walk_extent(&walk, c->line_place, &c->line, c->box_lines);
        if (is_vector_line(c))
            convert_lines(c, walk.offset[X], walk.offset[Y], rows, lines);
        else if (c->bytes == 0)
            convert_box(c, walk.offset[X], walk.offset[Y], rows, lines);
        else
            copy_box(c, heed_view_at(&c->x, walk.offset[X]), heed_view_at(&c->y, walk.offset[Y]), rows,
                     lines);
        heed_cpu_walk_next(&walk);
    }
}

static struct heed_map adding_map(const struct heed_copy_args *a) {
    return (struct heed_map){.inputs = 1, .in = {a->x}, .out = a->y, .scale = 1.0f};
}

static bool applies(const struct heed_exec *exec, const void *args, struct heed_why *why) {
    (void)exec;
    const struct heed_copy_args *a = args;
    if (!a->y.add || (a->x.dtype == HEED_F32 && a->y.view.dtype == HEED_F32)) return true;
    why->reason = "adding a dtype that is not f32";
    return false;
}

static void sizes(const struct heed_exec *exec, const void *args, struct heed_sizes *sizes) {
    (void)exec;
    const struct heed_copy_args *a = args;
    if (!a->y.add) return;
    const struct heed_map map = adding_map(a);
    sizes->forward_scratch = heed_map_scratch(&map);
}

static heed_status forward(struct heed_exec *exec, const void *args, void *saved, void *scratch) {
    (void)saved;
    const struct heed_copy_args *a = args;
    if (a->y.add) {
        const struct heed_map map = adding_map(a);
        heed_map_run(exec, &map, scratch);
        return HEED_OK;
    }
    if (heed_view_count(&a->x) == 0) return HEED_OK;
    struct copy c;
    plan(&c, a);
    c.bf16 = heed_bf16_vectors(exec->isa);
    heed_threads_run(exec->threads, heed_cpu_tiles(c.positions, c.tile_positions), copy_tile, &c);
    return HEED_OK;
}

const struct heed_kernel heed_cpu_copy = {
    .name = "cpu",
    .applies = applies,
    .sizes = sizes,
    .forward = forward,
};
