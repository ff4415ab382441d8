/* Packed sequences in tiled attention.
 *
 * A task is a part of one sequence, and gets a plan in which sizes and places are that sequence's: the vector
 * code knows nothing of packing, and no tile reaches over an end. Which tasks there are follows from the
 * lengths; the longest come first, so that threads end together. */
#include "backend/cpu/attention.h"

void heed_attention_plan_packed(struct heed_attention_plan *p) {
    const struct heed_packed *packed = &p->args->packed;
    p->queries = packed->most_queries;
    p->keys = packed->most_keys;
    for (int64_t i = 0; i < packed->sequences; i++) {
        const struct heed_sequence s = heed_sequence_at(packed, i);
        p->cells += (double)s.queries * (double)s.keys;
    }
}

static int64_t key_blocks_of(const struct heed_attention_plan *p, const struct heed_sequence *s) {
    return p->key_block > 0 ? heed_ceil_div(s->keys, p->key_block) : 0;
}

int64_t heed_attention_strips_of(const struct heed_attention_plan *p, const struct heed_sequence *s) {
    const int64_t blocks = key_blocks_of(p, s), kv_heads = p->heads_inside ? 1 : p->kv_heads;
    if (blocks == 0 || kv_heads == 0 || !(p->cells > 0)) return 1;
    const double share = (double)s->queries * (double)s->keys / p->cells;
    const int64_t wanted = 1 + (int64_t)(HEED_ATTENTION_TASKS * share / (double)kv_heads);
    return wanted < blocks ? wanted : blocks;
}

/* ---- the list of tasks ---- */

struct items {
    const struct heed_attention_plan *plan;
    bool strips; /* rather than chunks of queries */
};

static int64_t parts_of(const struct items *items, const struct heed_sequence *s) {
    const struct heed_attention_plan *p = items->plan;
    return items->strips ? heed_attention_strips_of(p, s) : heed_ceil_div(s->queries, p->query_chunk);
}

/* The number of binary digits of a part's work. */
enum { SIZES = 64 };
static int size_of(const struct items *items, const struct heed_sequence *s, int64_t part) {
    const struct heed_attention_plan *p = items->plan;
    const int64_t work = items->strips ? s->queries * s->keys / parts_of(items, s)
                                       : heed_cpu_part(s->queries, p->query_chunk, part) * s->keys;
    return work > 0 ? 64 - __builtin_clzll((unsigned long long)work) : 0;
}

static int64_t count_items(const struct items *items) {
    const struct heed_packed *packed = &items->plan->args->packed;
    int64_t count = 0;
    for (int64_t i = 0; i < packed->sequences; i++) {
        const struct heed_sequence s = heed_sequence_at(packed, i);
        count += parts_of(items, &s);
    }
    return count;
}

/* Sorted by size, large ones first; the later of a sequence before the earlier, since under a causal mask
 * they see more. With list NULL it only counts, into place[size]; else it puts them to place[size]. */
static void each_item(const struct items *items, int64_t place[SIZES], struct heed_attention_item *list) {
    const struct heed_packed *packed = &items->plan->args->packed;
    for (int64_t i = 0; i < packed->sequences; i++) {
        const struct heed_sequence s = heed_sequence_at(packed, i);
        for (int64_t part = parts_of(items, &s) - 1; part >= 0; part--) {
            int64_t *at = &place[size_of(items, &s, part)];
            if (list) list[*at] = (struct heed_attention_item){i, part};
            ++*at;
        }
    }
}

static void list_items(const struct items *items, struct heed_attention_item *list) {
    int64_t place[SIZES] = {0}, before = 0;
    each_item(items, place, NULL);
    for (int size = SIZES - 1; size >= 0; size--) {
        const int64_t count = place[size];
        place[size] = before;
        before += count;
    }
    each_item(items, place, list);
}

void heed_attention_items_count(struct heed_attention_plan *p, bool backward) {
    p->chunk_items = count_items(&(struct items){p, false});
    if (!backward) return;
    p->strip_items = count_items(&(struct items){p, true});
    for (int64_t i = 0; i < p->args->packed.sequences; i++) {
        const struct heed_sequence s = heed_sequence_at(&p->args->packed, i);
        const int64_t strips = heed_attention_strips_of(p, &s);
        if (strips > p->strips) p->strips = strips;
    }
}

void heed_attention_items_list(const struct heed_attention_plan *p, bool backward) {
    list_items(&(struct items){p, false}, p->chunk_item);
    if (backward) list_items(&(struct items){p, true}, p->strip_item);
}

/* ---- one sequence ---- */

static const struct heed_grad_view *target_of(const struct heed_attention_args *args, int sum) {
    if (sum == HEED_SUM_OF_SINK) return &args->dsink;
    return sum < HEED_SUM_OF_PARAMS ? &args->stage[sum].dtensor
                                    : &args->param[sum - HEED_SUM_OF_PARAMS].dtensor;
}

static void cut_sum(const struct heed_sequence *s, bool by_distance, struct heed_attention_sum *sum) {
    if (sum->scope == HEED_SUM_KEY) {
        sum->data += s->key;
        sum->count = s->keys;
    } else if (sum->scope == HEED_SUM_QUERY) {
        sum->data += s->query;
        sum->count = s->queries;
    } else if (sum->scope == HEED_SUM_VECTOR && by_distance) {
        sum->data += s->query + s->key;
        sum->count = sum->to->view.size[3];
    }
}

void heed_attention_plan_of_sequence(const struct heed_attention_plan *p, int64_t i,
                                     struct heed_attention_plan *own, struct heed_attention_args *args) {
    const struct heed_sequence s = heed_sequence_at(&p->args->packed, i);
    heed_sequence_args(p->args, i, args);
    *own = *p;
    own->args = args;
    own->queries = s.queries;
    own->keys = s.keys;
    own->key_blocks = key_blocks_of(p, &s);
    own->query_chunks = heed_ceil_div(s.queries, p->query_chunk);
    own->strips = heed_attention_strips_of(p, &s);
    if (p->maximum) {
        own->maximum += s.query;
        own->reciprocal += s.query;
    }
    if (!p->delta) return; /* forward */
    own->delta += s.query;
    own->slabs += s.query * p->width;
    for (int j = 0; j < HEED_SUMS; j++) {
        if (p->sum[j].scope == HEED_SUM_NONE) continue;
        own->sum[j].to = target_of(args, j);
        cut_sum(&s, j < HEED_SUM_OF_PARAMS, &own->sum[j]);
    }
}
