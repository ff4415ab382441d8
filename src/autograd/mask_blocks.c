/* Masks of whole blocks. */
#include "autograd/mask.h"

static int64_t blocks_of(int64_t length, int64_t size) {
    return length / size + (length % size != 0);
}

static int64_t block_rows(const heed_mask *mask, const struct heed_problem *problem) {
    return blocks_of(heed_most_queries(problem), mask->bound.number[HEED_BLOCK_QUERIES]);
}

static void describe_blocks(struct heed_mask_text *text, const heed_mask *mask) {
    heed_mask_say(text, "%s(", mask->form->kind->name);
    heed_mask_say_number(text, mask->bound.number[HEED_BLOCK_QUERIES]);
    heed_mask_say(text, ", ");
    heed_mask_say_number(text, mask->bound.number[HEED_BLOCK_KEYS]);
    heed_mask_say(text, ")");
}

static heed_mask *block_mask(const char *where, const struct heed_mask_form *form, heed_tensor t,
                             int64_t query_block, int64_t key_block) {
    heed_ctx *ctx = heed_ctx_of(t);
    if (!heed_mask_enter(ctx)) return heed_mask_refused();
    heed_mask *mask = NULL;
    if (query_block < 1 || key_block < 1)
        heed_fail(ctx, HEED_ERROR_ARGUMENT, where, "a block of %lld queries and %lld keys",
                  (long long)query_block, (long long)key_block);
    else
        mask = heed_mask_of_tensors(
            where, form, &t,
            (const int64_t[HEED_MASK_NUMBERS]){
                [HEED_BLOCK_QUERIES] = query_block < HEED_MASK_FAR ? query_block : HEED_MASK_FAR,
                [HEED_BLOCK_KEYS] = key_block < HEED_MASK_FAR ? key_block : HEED_MASK_FAR});
    return heed_mask_made(ctx, mask);
}

/* ---- a grid ---- */

static bool prepare_grid(struct heed_prepare *p, const heed_mask *mask) {
    return heed_prepare_by_batch(p, "blocks", mask->tensor[0], block_rows(mask, p->problem),
                                 blocks_of(heed_most_keys(p->problem), mask->bound.number[HEED_BLOCK_KEYS]));
}

static const struct heed_mask_form form_grid = {.kind = &heed_mask_kind_blocks,
                                                .tensors = 1,
                                                .dtype = HEED_BOOL,
                                                .prepare = prepare_grid,
                                                .describe = describe_blocks};

heed_mask *heed_mask_blocks(heed_tensor allowed, int64_t query_block, int64_t key_block) {
    return block_mask("mask_blocks", &form_grid, allowed, query_block, key_block);
}

/* ---- lists ---- */

static bool prepare_lists(struct heed_prepare *p, const heed_mask *mask) {
    const int64_t rank = heed_rank(mask->tensor[0]);
    return heed_prepare_by_batch(p, "lists of blocks", mask->tensor[0], block_rows(mask, p->problem),
                                 rank > 0 ? heed_size(mask->tensor[0], -1) : 1);
}

static bool check_lists(struct heed_call *c, struct heed_bound_mask *bound,
                        const struct heed_problem *problem) {
    return heed_mask_values(c, "block", bound, 0, -1,
                            blocks_of(heed_most_keys(problem), bound->number[HEED_BLOCK_KEYS]) - 1);
}

static const struct heed_mask_form form_lists = {.kind = &heed_mask_kind_block_lists,
                                                 .tensors = 1,
                                                 .dtype = HEED_I32,
                                                 .prepare = prepare_lists,
                                                 .check = check_lists,
                                                 .describe = describe_blocks};

heed_mask *heed_mask_block_lists(heed_tensor blocks, int64_t query_block, int64_t key_block) {
    return block_mask("mask_block_lists", &form_lists, blocks, query_block, key_block);
}
