/* Rotary positions (Su et al. 2021, "RoFormer", eq. 34): y = x, whose pairs are turned by position ·
 * base^(−2i / rotated); dx = dy turned back.
 *
 * The sines and cosines of all positions go into a table in scratch first, each made of its position alone,
 * in double; the rows of all heads and batches then read them from the second-level cache. Memory traffic in
 * f32: 8 bytes an element, 12 to add, in bf16 half of that, and the table (8 bytes a pair and position)
 * twice.
 */
#include "backend/cuda/map.cuh"

/* ---- the table ---- */

constexpr int64_t FREQUENCIES = 256;

/* Made by the host, so that they are the reference's to the last bit. */
struct frequencies {
    double of[FREQUENCIES];
};

/* Cosine and sine. Whole turns are taken off in two steps whose first is exact, so that no angle takes the
 * way through local memory which cos() and sin() keep for large ones. */
__device__ inline void cosine_sine(double angle, double *c, double *s) {
    const double turns = rint(angle * 0.15915494309189533577);      /* 1/2π */
    const double rough = fma(-turns, 6.283185307179586232, angle);  /* 2π in double … */
    const double rest = fma(-turns, 2.4492935982947064e-16, rough); /* … and what it lacks */
    sincospi(rest * 0.31830988618379067154, s, c);
}

/* The pairs from `first` on, as many as there are frequencies. */
template <typename T>
static __global__ void fill_table(cuda_pack<T, 2> *table, int64_t rows, int64_t pairs, int64_t first,
                                  struct frequencies frequencies, const int32_t *positions, int64_t offset) {
    const int64_t left = pairs - first, columns = left < FREQUENCIES ? left : FREQUENCIES;
    for (int64_t i = CUDA_FIRST; i < rows * columns; i += CUDA_STEP) {
        const int64_t row = i / columns, column = i % columns;
        const int64_t position = offset + (positions ? positions[row] : row);
        double c, s;
        cosine_sine((double)position * frequencies.of[column], &c, &s);
        table[row * pairs + first + column] = {{(T)c, (T)s}};
    }
}

/* ---- the rows ---- */

enum { FROM, TO, TABLE, VIEWS };

template <typename T, typename M> struct turning {
    cuda_walk<VIEWS> rows;
    const M *from;
    M *to;
    const cuda_pack<T, 2> *table; /* [positions, pairs] */
    int64_t pairs, width;
    T direction; /* 1 forward, −1 backward */
    bool half, add;
    bool packs; /* pairs lie side by side and are aligned */
};

template <typename T, typename M>
__device__ inline void turn_pair(const turning<T, M> &t, const int64_t *at, int64_t i) {
    const int64_t a = t.half ? i : 2 * i, b = t.half ? i + t.pairs : 2 * i + 1;
    const cuda_pack<T, 2> turn = t.table[at[TABLE] * t.pairs + i];
    const M *from = t.from + at[FROM];
    M *to = t.to + at[TO];
    const T c = turn.at[0], s = t.direction * turn.at[1];
    T x[2], y[2];
    if (t.packs) {
        cuda_load_pack(from + a, x);
    } else {
        x[0] = (T)from[a];
        x[1] = (T)from[b];
    }
    y[0] = x[0] * c - x[1] * s;
    y[1] = x[0] * s + x[1] * c;
    if (t.add) {
        y[0] += (T)to[a];
        y[1] += (T)to[b];
    }
    if (t.packs) {
        cuda_store_pack(to + a, y);
    } else {
        to[a] = (M)y[0];
        to[b] = (M)y[1];
    }
}

/* A thread turns a pair, or copies an element of what is not rotated. */
template <typename T, typename M> static __global__ void turn_rows(turning<T, M> t) {
    const int64_t units = t.width - t.pairs;
    for (int64_t job = CUDA_FIRST; job < t.rows.count * units; job += CUDA_STEP) {
        const int64_t row = job / units, unit = job % units;
        int64_t at[VIEWS];
        cuda_walk_to(t.rows, row, at);
        if (unit < t.pairs) {
            turn_pair(t, at, unit);
            continue;
        }
        const T x = (T)t.from[at[FROM] + unit + t.pairs];
        M *to = t.to + at[TO] + unit + t.pairs;
        *to = (M)(t.add ? (T)*to + x : x);
    }
}

/* ---- the kernel ---- */

/* Which row of the table each row of x uses. */
static struct heed_view table_rows(const struct heed_rotary_args *a) {
    struct heed_view v = a->positions;
    if (heed_has(&v)) return v;
    v = a->y;
    v.rank--;
    for (int d = 0; d < v.rank; d++) v.stride[d] = d == v.rank - 1;
    v.data = const_cast<struct heed_rotary_args *>(a); /* any but NULL: only its strides count */
    return v;
}

static int64_t table_positions(const struct heed_rotary_args *a) {
    const struct heed_view v = table_rows(a);
    int64_t positions = 1;
    for (int d = 0; d < v.rank; d++) positions *= v.stride[d] != 0 ? v.size[d] : 1;
    return positions;
}

template <typename T>
static void make_table(struct heed_exec *exec, const struct heed_rotary_args *a, cuda_pack<T, 2> *table) {
    const int64_t pairs = a->rotated / 2, rows = table_positions(a);
    for (int64_t first = 0; first < pairs; first += FREQUENCIES) {
        struct frequencies frequencies = {};
        const int64_t columns = pairs - first < FREQUENCIES ? pairs - first : FREQUENCIES;
        for (int64_t i = 0; i < columns; i++)
            frequencies.of[i] = pow(a->base, -2.0 * (double)(first + i) / (double)a->rotated);
        CUDA_RUN(exec, fill_table<T>, cuda_blocks(exec, rows * columns), CUDA_BLOCK, 0, table, rows, pairs,
                 first, frequencies, static_cast<const int32_t *>(a->positions.data), a->offset);
    }
}

static bool even_places(const struct heed_view *v, size_t bytes) {
    bool even = reinterpret_cast<uintptr_t>(v->data) % (2 * bytes) == 0;
    for (int d = 0; d < v->rank - 1; d++) even = even && (v->size[d] <= 1 || v->stride[d] % 2 == 0);
    return even;
}

template <typename M>
static void start(struct heed_exec *exec, const struct heed_rotary_args *a, int direction,
                  const struct heed_view *from, const struct heed_grad_view *to, void *scratch) {
    typedef typename cuda_computed<M>::type T;
    struct heed_view rows = *from, to_rows = to->view, of_table = table_rows(a);
    const struct heed_view *const views[] = {&rows, &to_rows, &of_table};
    cuda_pack<T, 2> *table = static_cast<cuda_pack<T, 2> *>(scratch);
    rows.rank--;
    to_rows.rank--;
    turning<T, M> t = {};
    t.rows = cuda_walk_of<VIEWS>(&rows, views);
    t.from = static_cast<const M *>(from->data);
    t.to = static_cast<M *>(to->view.data);
    t.table = table;
    t.pairs = a->rotated / 2;
    t.width = from->size[from->rank - 1];
    t.direction = (T)direction;
    t.half = a->half;
    t.add = to->add;
    t.packs = !a->half && even_places(from, sizeof(M)) && even_places(&to->view, sizeof(M));
    const int64_t jobs = t.rows.count * (t.width - t.pairs);
    if (jobs == 0) return;
    make_table(exec, a, table);
    CUDA_RUN(exec, (turn_rows<T, M>), cuda_blocks(exec, jobs), CUDA_BLOCK, 0, t);
}

static heed_status run(struct heed_exec *exec, const struct heed_rotary_args *a, int direction,
                       const struct heed_view *from, const struct heed_grad_view *to, void *scratch) {
    if (from->dtype == HEED_F64)
        start<double>(exec, a, direction, from, to, scratch);
    else if (from->dtype == HEED_BF16)
        start<cuda_bf16>(exec, a, direction, from, to, scratch);
    else
        start<float>(exec, a, direction, from, to, scratch);
    return cuda_started(exec, HEED_PRIMITIVE_ROTARY);
}

static bool applies(const struct heed_exec *, const void *arguments, struct heed_why *why) {
    const struct heed_rotary_args *a = static_cast<const struct heed_rotary_args *>(arguments);
    return cuda_takes_either(HEED_PRIMITIVE_ROTARY, a, a->x.dtype, why);
}

static heed_status forward(struct heed_exec *exec, const void *arguments, void *, void *scratch) {
    const struct heed_rotary_args *a = static_cast<const struct heed_rotary_args *>(arguments);
    const struct heed_grad_view y = {a->y, false};
    return run(exec, a, 1, &a->x, &y, scratch);
}

static heed_status backward(struct heed_exec *exec, const void *arguments, void *, void *scratch) {
    const struct heed_rotary_args *a = static_cast<const struct heed_rotary_args *>(arguments);
    return heed_has(&a->dx.view) ? run(exec, a, -1, &a->dy, &a->dx, scratch) : HEED_OK;
}

static void sizes(const struct heed_exec *, const void *arguments, struct heed_sizes *sizes) {
    const struct heed_rotary_args *a = static_cast<const struct heed_rotary_args *>(arguments);
    const int64_t numbers = table_positions(a) * a->rotated;
    sizes->forward_scratch = sizes->backward_scratch =
        (size_t)numbers * (a->x.dtype == HEED_F64 ? sizeof(double) : sizeof(float));
}

const struct heed_kernel heed_cuda_rotary = {"cuda", applies, sizes, forward, backward};
