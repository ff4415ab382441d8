/* Rotary positions.
 *
 * First a table of cosines and sines is made, a row for each position and not for each head; then every row
 * of x is turned by its row of the table. Angles are large and need double precision, in which sine and
 * cosine are slow: a position is split into a multiple of BLOCK and a rest, whose rotations multiply
 * (cos and sin of a sum), so that positions side by side share all but a product. What a position gives
 * depends on nothing but itself, so that a row is the same whatever came before it in the call. */
#include "backend/cpu/rotary.h"

#include "backend/cpu/walk.h"

#include <math.h>

enum { BLOCK = 32 }; /* a power of 2 */

/* Rotations that are worth a task of their own, each a sine and a cosine. */
enum { ANGLE_GRAIN = 512 };

struct turn {
    double c, s;
};

struct job {
    const struct heed_rotary_args *args;
    const struct heed_rotary_vectors *vectors;
    const struct heed_view *from;
    const struct heed_grad_view *to;
    double direction; /* of turning: 1 forward, −1 backward */
    int64_t pairs, positions, row_floats;
    uint32_t rests;    /* bit r: some position leaves the rest r */
    double *frequency; /* [pairs] */
    struct turn *rest; /* [BLOCK, pairs] */
    struct turn *base; /* [worker, pairs] */
    float *table;      /* [positions, row_floats] */
    int64_t table_tile, row_tile, rows;
    struct heed_cpu_walk walk; /* rows: places in from, in to, in the table */
};

enum { FROM, TO, TABLE };

/* ---- the table ---- */

static int64_t position_at(const struct job *job, int64_t row) {
    const int32_t *given = job->args->positions.data;
    return job->args->offset + (given ? given[row] : row);
}

static void fill_turns(const struct job *job, int64_t position, struct turn *to) {
    for (int64_t i = 0; i < job->pairs; i++) {
        const double angle = (double)position * job->frequency[i];
        to[i] = (struct turn){cos(angle), sin(angle)};
    }
}

static void rest_tile(void *arg, int64_t tile, int worker) {
    (void)worker;
    const struct job *job = arg;
    if (job->rests >> tile & 1) fill_turns(job, tile, job->rest + tile * job->pairs);
}

static void write_row(const struct job *job, const struct turn *base, const struct turn *rest, float *row) {
    for (int64_t i = 0; i < job->pairs; i++) {
        const double c = base[i].c * rest[i].c - base[i].s * rest[i].s;
        const double s = job->direction * (base[i].s * rest[i].c + base[i].c * rest[i].s);
        if (job->args->half) {
            row[i] = (float)c;
            row[job->pairs + i] = (float)s;
        } else {
            row[2 * i] = row[2 * i + 1] = (float)c;
            row[2 * job->pairs + 2 * i] = (float)-s;
            row[2 * job->pairs + 2 * i + 1] = (float)s;
        }
    }
}

static void table_tile(void *arg, int64_t tile, int worker) {
    const struct job *job = arg;
    struct turn *base = job->base + worker * job->pairs;
    const int64_t first = tile * job->table_tile,
                  end = first + heed_cpu_part(job->positions, job->table_tile, tile);
    int64_t known = 1; /* the position that base holds; at first none, since 1 is no multiple */
    for (int64_t row = first; row < end; row++) {
        const int64_t position = position_at(job, row), rest = position & (BLOCK - 1);
        if (position - rest != known) fill_turns(job, known = position - rest, base);
        write_row(job, base, job->rest + rest * job->pairs, job->table + row * job->row_floats);
    }
}

static void make_table(struct heed_exec *exec, struct job *job) {
    for (int64_t i = 0; i < job->pairs; i++)
        job->frequency[i] = pow(job->args->base, -2.0 * (double)i / (double)job->args->rotated);
    for (int64_t row = 0; row < job->positions; row++)
        job->rests |= UINT32_C(1) << (position_at(job, row) & (BLOCK - 1));
    if (job->positions > 1) {
        heed_threads_run(exec->threads, BLOCK, rest_tile, job);
    } else {
        for (int64_t tile = 0; tile < BLOCK; tile++) rest_tile(job, tile, 0);
    }
    heed_threads_run(exec->threads, heed_cpu_tiles(job->positions, job->table_tile), table_tile, job);
}

/* ---- the rows ---- */

static void row_tile(void *arg, int64_t tile, int worker) {
    (void)worker;
    const struct job *job = arg;
    const int64_t width = job->from->size[job->from->rank - 1];
    struct heed_cpu_walk walk = job->walk;
    heed_cpu_walk_to(&walk, tile * job->row_tile);
    for (int64_t left = heed_cpu_part(job->rows, job->row_tile, tile); left > 0; left--) {
        const float *table = job->table + walk.offset[TABLE] * job->row_floats,
                    *x = (const float *)job->from->data + walk.offset[FROM];
        float *y = (float *)job->to->view.data + walk.offset[TO];
        if (job->args->half)
            job->vectors->half_apart(job->pairs, width, table, x, job->to->add, y);
        else
            job->vectors->side_by_side(job->pairs, width, table, x, job->to->add, y);
        heed_cpu_walk_next(&walk);
    }
}

/* ---- planning ---- */

/* Which row of the table each row of x uses, and how many there are. */
static struct heed_view table_rows(const struct heed_rotary_args *a, int64_t *count) {
    struct heed_view v = a->positions;
    *count = 1;
    if (!heed_has(&v)) {
        v = (struct heed_view){.rank = a->y.rank - 1};
        for (int d = 0; d < v.rank; d++) v.size[d] = a->y.size[d];
        v.stride[v.rank - 1] = 1;
    }
    for (int d = 0; d < v.rank; d++)
        if (v.stride[d] != 0) *count *= v.size[d];
    return v;
}

static struct job job_of(const struct heed_exec *exec, const struct heed_rotary_args *a) {
    struct job job = {.args = a,
                      .vectors = heed_rotary_vectors(exec->isa),
                      .pairs = a->rotated / 2,
                      .row_floats = a->half ? a->rotated : 2 * a->rotated};
    table_rows(a, &job.positions);
    job.table_tile = heed_cpu_rows_per_tile(job.pairs, ANGLE_GRAIN * BLOCK / 4);
    return job;
}

static size_t turn_count(const struct heed_exec *exec, const struct job *job) {
    return (size_t)(BLOCK + heed_threads_count(exec->threads)) * (size_t)job->pairs;
}

static void rotary_sizes(const struct heed_exec *exec, const void *args, struct heed_sizes *sizes) {
    const struct job job = job_of(exec, args);
    sizes->forward_scratch = (size_t)job.pairs * sizeof(double) +
                             turn_count(exec, &job) * sizeof(struct turn) +
                             (size_t)(job.positions * job.row_floats) * sizeof(float);
    sizes->backward_scratch = sizes->forward_scratch;
}

static bool rotary_applies(const struct heed_exec *exec, const void *args, struct heed_why *why) {
    (void)exec;
    return heed_cpu_takes_f32(HEED_PRIMITIVE_ROTARY, args, why);
}

static void plan_rows(struct job *job) {
    struct heed_view from = *job->from, to = job->to->view, table = table_rows(job->args, &job->positions);
    const struct heed_view *const views[HEED_WALK_VIEWS] = {[FROM] = &from, [TO] = &to, [TABLE] = &table};
    from.rank--;
    to.rank--;
    job->walk.rank = heed_cpu_dims(views, job->walk.dim);
    job->rows = heed_cpu_walk_positions(&job->walk);
    job->row_tile = heed_cpu_rows_per_tile(job->from->size[job->from->rank - 1], HEED_CPU_GRAIN);
}

static heed_status run(struct heed_exec *exec, const struct heed_rotary_args *a, double direction,
                       const struct heed_view *from, const struct heed_grad_view *to, void *scratch) {
    struct job job = job_of(exec, a);
    if (heed_view_count(from) == 0) return HEED_OK;
    job.direction = direction;
    job.from = from;
    job.to = to;
    job.rest = scratch;
    job.base = job.rest + BLOCK * job.pairs;
    job.frequency = (double *)(job.rest + turn_count(exec, &job));
    job.table = (float *)(job.frequency + job.pairs);
    plan_rows(&job);
    make_table(exec, &job);
    heed_threads_run(exec->threads, heed_cpu_tiles(job.rows, job.row_tile), row_tile, &job);
    return HEED_OK;
}

static heed_status rotary_forward(struct heed_exec *exec, const void *args, void *saved, void *scratch) {
    (void)saved;
    const struct heed_rotary_args *a = args;
    return run(exec, a, 1, &a->x, &(struct heed_grad_view){.view = a->y}, scratch);
}

static heed_status rotary_backward(struct heed_exec *exec, const void *args, void *saved, void *scratch) {
    (void)saved;
    const struct heed_rotary_args *a = args;
    return heed_has(&a->dx.view) ? run(exec, a, -1, &a->dy, &a->dx, scratch) : HEED_OK;
}

const struct heed_kernel heed_cpu_rotary = {.name = "cpu",
                                            .applies = rotary_applies,
                                            .sizes = rotary_sizes,
                                            .forward = rotary_forward,
                                            .backward = rotary_backward};
