#include "harness_masks.h"

const struct heed_mask_kind *const test_mask_kinds[TEST_MASK_KINDS] = {
    &heed_mask_kind_causal,      &heed_mask_kind_window,        &heed_mask_kind_band,
    &heed_mask_kind_key_lengths, &heed_mask_kind_query_lengths, &heed_mask_kind_prefix,
    &heed_mask_kind_segments,    &heed_mask_kind_key_intervals, &heed_mask_kind_tree,
    &heed_mask_kind_blocks,      &heed_mask_kind_block_lists,   &heed_mask_kind_dense,
    &heed_mask_kind_patch,       &heed_mask_kind_random,        &heed_mask_kind_predicate};

static int64_t below(struct test_masks *m, int64_t n) {
    return n > 0 ? (int64_t)(test_bits(&m->random) % (uint64_t)n) : 0;
}

static bool chance(struct test_masks *m, double probability) {
    return test_uniform(&m->random) < probability;
}

/* ---- tensors ---- */

static void *block(struct test_masks *m, size_t align, size_t bytes) {
    void *data = test_guarded(m->edge, align, bytes);
    m->block[m->blocks].data = data;
    m->block[m->blocks++].bytes = bytes;
    return data;
}

/* A tensor of own memory, in which batch and head vary or not. */
static struct heed_view *tensor(struct test_masks *m, struct heed_bound_mask *mask, int i, heed_dtype dtype,
                                int64_t rows, int64_t columns) {
    struct heed_view *v = &mask->tensor[i];
    const int64_t size[4] = {chance(m, 0.5) ? m->batch : 1, chance(m, 0.5) ? m->heads : 1, rows, columns};
    int64_t count = 1;
    *v = (struct heed_view){.dtype = dtype, .rank = 4};
    for (int d = 3; d >= 0; d--) {
        v->size[d] = size[d];
        v->stride[d] = size[d] == 1 ? 0 : count;
        count *= size[d];
    }
    v->data = block(m, heed_dtype_bytes(dtype), (size_t)count * heed_dtype_bytes(dtype));
    return v;
}

/* Queries or keys that a tensor with a row or column for each has, and where those of a sequence begin. */
static int64_t all_queries(const struct test_masks *m) {
    return m->query_starts ? m->query_starts[m->batch] : m->queries;
}

static int64_t all_keys(const struct test_masks *m) {
    return m->key_starts ? m->key_starts[m->batch] : m->keys;
}

static int64_t count_of(const struct heed_view *v) {
    return v->size[0] * v->size[1] * v->size[2] * v->size[3];
}

static void fill_below(struct test_masks *m, const struct heed_view *v, int64_t low, int64_t end) {
    for (int64_t i = 0; i < count_of(v); i++) ((int32_t *)v->data)[i] = (int32_t)(low + below(m, end - low));
}

static void fill_chance(struct test_masks *m, const struct heed_view *v) {
    const double density = chance(m, 0.3) ? 0.05 : chance(m, 0.5) ? 0.95 : 0.5;
    for (int64_t i = 0; i < count_of(v); i++) ((uint8_t *)v->data)[i] = chance(m, density) ? 255 : 0;
}

/* ---- kinds ---- */

static void make_distance(struct test_masks *m, struct heed_bound_mask *mask) {
    int64_t *number = mask->number;
    number[HEED_DISTANCE_ALIGN] = chance(m, 0.5) ? HEED_TOP_LEFT : HEED_BOTTOM_RIGHT;
    number[HEED_DISTANCE_LOW] = chance(m, 0.2) ? -HEED_MASK_FAR : below(m, 2 * m->keys + 1) - m->keys;
    number[HEED_DISTANCE_HIGH] =
        chance(m, 0.2) ? HEED_MASK_FAR : number[HEED_DISTANCE_LOW] + below(m, m->keys + 1);
    if (mask->kind != &heed_mask_kind_causal) return;
    number[HEED_DISTANCE_LOW] = -HEED_MASK_FAR;
    number[HEED_DISTANCE_HIGH] = 0;
}

static void make_length(struct test_masks *m, struct heed_bound_mask *mask) {
    const int64_t most = mask->kind == &heed_mask_kind_query_lengths ? m->queries : m->keys;
    fill_below(m, tensor(m, mask, 0, HEED_I32, 1, 1), 0, most + 1);
    mask->number[HEED_DISTANCE_ALIGN] = chance(m, 0.5) ? HEED_TOP_LEFT : HEED_BOTTOM_RIGHT;
}

static void sort(const struct heed_view *v) {
    int32_t *id = v->data;
    const int64_t n = v->size[3];
    for (int64_t row = 0; row < v->size[0] * v->size[1]; row++, id += n)
        for (int64_t i = 1; i < n; i++)
            for (int64_t j = i; j > 0 && id[j] < id[j - 1]; j--) {
                const int32_t other = id[j];
                id[j] = id[j - 1];
                id[j - 1] = other;
            }
}

/* Mostly in order, as packed documents are. */
static void make_segments(struct test_masks *m, struct heed_bound_mask *mask) {
    const bool sorted = chance(m, 0.7);
    const int64_t least = chance(m, 0.3) ? -1 : 0;
    for (int i = 0; i < 2; i++) {
        struct heed_view *v = tensor(m, mask, i, HEED_I32, 1, i ? all_keys(m) : all_queries(m));
        mask->column_starts[i] = i ? m->key_starts : m->query_starts;
        fill_below(m, v, least, 5);
        if (sorted) sort(v);
    }
}

static void make_intervals(struct test_masks *m, struct heed_bound_mask *mask) {
    for (int i = 0; i < 2; i++) {
        fill_below(m, tensor(m, mask, i, HEED_I32, 1, all_keys(m)), 0, m->queries + 1);
        mask->column_starts[i] = m->key_starts;
    }
    if (!chance(m, 0.5)) return;
    for (int i = 0; i < 2; i++) sort(&mask->tensor[i]); /* a moving window */
}

/* Nodes lie behind a prefix that may be empty; more keys than nodes are needed. */
static void make_tree(struct test_masks *m, struct heed_bound_mask *mask) {
    const int64_t prefix = below(m, m->keys + 1), nodes = m->keys - prefix;
    struct heed_view *v = tensor(m, mask, 0, HEED_I32, 1, nodes);
    mask->number[HEED_TREE_PREFIX] = prefix;
    for (int64_t i = 0; i < count_of(v); i++) {
        const int64_t node = i % nodes;
        ((int32_t *)v->data)[i] = (int32_t)(node + 1 + below(m, nodes - node));
    }
}

static void make_blocks(struct test_masks *m, struct heed_bound_mask *mask) {
    const int64_t queries = 1 + below(m, 50), keys = chance(m, 0.2) ? HEED_MASK_FAR : 1 + below(m, 100);
    const int64_t rows = (m->queries + queries - 1) / queries, columns = (m->keys + keys - 1) / keys;
    mask->number[HEED_BLOCK_QUERIES] = queries;
    mask->number[HEED_BLOCK_KEYS] = keys;
    if (mask->kind == &heed_mask_kind_blocks)
        fill_chance(m, tensor(m, mask, 0, HEED_BOOL, rows, columns));
    else
        fill_below(m, tensor(m, mask, 0, HEED_I32, rows, below(m, 4)), -1, columns);
}

static void make_cells(struct test_masks *m, struct heed_bound_mask *mask) {
    if (mask->kind == &heed_mask_kind_dense) {
        fill_chance(m, tensor(m, mask, 0, HEED_BOOL, chance(m, 0.2) ? 1 : all_queries(m),
                              chance(m, 0.2) ? 1 : all_keys(m)));
        mask->row_starts[0] = m->query_starts;
        mask->column_starts[0] = m->key_starts;
        return;
    }
    fill_chance(m, tensor(m, mask, 0, HEED_BOOL, below(m, m->queries + 3), below(m, m->keys + 3)));
    mask->number[HEED_PATCH_QUERY] = below(m, m->queries + 8) - 4;
    mask->number[HEED_PATCH_KEY] = below(m, m->keys + 8) - 4;
    mask->number[HEED_PATCH_OUTSIDE] = chance(m, 0.5);
}

static void make_random(struct test_masks *m, struct heed_bound_mask *mask) {
    mask->number[HEED_RANDOM_KEY] = (int64_t)test_bits(&m->random);
    mask->number[HEED_RANDOM_THRESHOLD] = chance(m, 0.2) ? 65536 * below(m, 2) : below(m, 65536);
    mask->number[HEED_RANDOM_BATCH_LINES] = chance(m, 0.5) ? m->heads : 0;
    mask->number[HEED_RANDOM_HEAD_LINES] = chance(m, 0.5);
}

/* Every third diagonal, and everything from query and key 40 on. */
static bool user_test(void *user, int64_t batch, int64_t head, int64_t query, int64_t key) {
    const int64_t *shift = user;
    return (query >= 40 && key >= 40) || (query + 2 * key + batch + head + *shift) % 3 == 0;
}

static heed_cover user_cover(void *user, const heed_mask_tile *tile) {
    (void)user;
    return tile->query >= 40 && tile->key >= 40 ? HEED_COVER_ALL : HEED_COVER_SOME;
}

static void make_predicate(struct test_masks *m, struct heed_bound_mask *mask) {
    int64_t *shift = block(m, sizeof *shift, sizeof *shift);
    *shift = below(m, 3);
    mask->predicate.test = user_test;
    mask->predicate.cover = chance(m, 0.5) ? user_cover : NULL;
    mask->predicate.user = shift;
}

static struct heed_bound_mask *node(struct test_masks *m, const struct heed_mask_kind *kind) {
    ck_assert_int_lt(m->nodes, TEST_MASK_NODES);
    struct heed_bound_mask *mask = &m->node[m->nodes++];
    *mask = (struct heed_bound_mask){.kind = kind};
    return mask;
}

const struct heed_bound_mask *test_mask(struct test_masks *m, const struct heed_mask_kind *kind) {
    static void (*const make[TEST_MASK_KINDS])(struct test_masks *, struct heed_bound_mask *) = {
        make_distance, make_distance, make_distance,  make_length, make_length,
        make_length,   make_segments, make_intervals, make_tree,   make_blocks,
        make_blocks,   make_cells,    make_cells,     make_random, make_predicate};
    struct heed_bound_mask *mask = node(m, kind);
    for (int i = 0; i < TEST_MASK_KINDS; i++)
        if (test_mask_kinds[i] == kind) make[i](m, mask);
    return mask;
}

/* ---- trees ---- */

const struct heed_bound_mask *test_mask_tree(struct test_masks *m, int depth) {
    if (depth == 0 || chance(m, 0.2)) {
        const struct heed_mask_kind *kind = test_mask_kinds[below(m, TEST_MASK_KINDS)];
        const bool does_not_fit = m->query_starts && kind == &heed_mask_kind_tree;
        return test_mask(m, does_not_fit ? &heed_mask_kind_key_intervals : kind);
    }
    const int64_t which = below(m, 5);
    struct heed_bound_mask *mask = node(m, which == 0   ? &heed_mask_kind_not
                                           : which <= 2 ? &heed_mask_kind_and
                                                        : &heed_mask_kind_or);
    mask->a = test_mask_tree(m, depth - 1);
    if (which > 0) mask->b = test_mask_tree(m, depth - 1);
    return mask;
}

static bool bare_test(const struct heed_bound_mask *self, const struct heed_box *box, int64_t q, int64_t k) {
    return heed_mask_test(self->a, box, q, k);
}

static heed_cover bare_cover(const struct heed_bound_mask *self, const struct heed_box *box) {
    (void)self, (void)box;
    return HEED_COVER_SOME;
}

static void bare_bits(const struct heed_bound_mask *self, const struct heed_box *box, uint64_t *row) {
    heed_mask_bits(self->a, box, row);
}

static const struct heed_mask_kind bare = {"without proofs", bare_test, bare_cover, bare_bits, NULL};

const struct heed_bound_mask *test_mask_without_proofs(struct test_masks *m,
                                                       const struct heed_bound_mask *mask) {
    struct heed_bound_mask *wrapped = node(m, &bare);
    wrapped->a = mask;
    return wrapped;
}

void test_masks_free(struct test_masks *m) {
    for (int i = 0; i < m->blocks; i++) test_guarded_free(m->block[i].data, m->block[i].bytes);
    m->blocks = m->nodes = 0;
}
