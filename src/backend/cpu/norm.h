/* What the norms of rows share: how rows are cut into tiles, and the gradients of weight and bias, which are
 * summed per tile of rows, and then over tiles in order. */
#ifndef HEED_SRC_BACKEND_CPU_NORM_H
#define HEED_SRC_BACKEND_CPU_NORM_H

#include "backend/cpu/rows.h"

struct heed_norm_tiles {
    int64_t rows, n, tile_rows, tiles;
    const struct heed_grad_view *dweight, *dbias; /* each absent if it is not wanted */
};

/* Tiles begin at multiples of `multiple` rows. */
struct heed_norm_tiles heed_norm_tiles_of(int64_t rows, int64_t n, int64_t multiple,
                                          const struct heed_grad_view *dweight,
                                          const struct heed_grad_view *dbias);

/* Bytes of scratch for those sums, a multiple of HEED_ALIGN. */
size_t heed_norm_sums_bytes(const struct heed_norm_tiles *t);

/* Where tile `tile` sums them. */
struct heed_norm_gradients heed_norm_sums_of(const struct heed_norm_tiles *t, int64_t tile, float *scratch);

/* Adds up what the tiles have summed. */
void heed_norm_sums_fold(const struct heed_exec *exec, const struct heed_norm_tiles *t, float *scratch);

#endif
