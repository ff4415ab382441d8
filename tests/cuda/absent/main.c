/* usage: cuda_absent PART: a context for "cuda", where there can be none, keeps an error of one line that has
 * PART, and everything after it does nothing. Ends with 77 (skipped) where there is a GPU after all. */
#include <heed/heed.h>

#include <stdio.h>
#include <string.h>

int main(int arguments, char **argument) {
    if (arguments != 2) return 2;
    heed_ctx *ctx = heed_ctx_new(&(heed_ctx_options){.device = "cuda"});
    if (!heed_failed(ctx)) {
        heed_ctx_free(ctx);
        puts("there is a GPU");
        return 77;
    }
    const int64_t size[1] = {3};
    heed_tensor x = heed_zeros(ctx, HEED_F32, 1, size);
    const char *text = heed_error(ctx);
    puts(text);
    const bool ok = heed_error_status(ctx) == HEED_ERROR_DEVICE && strstr(text, argument[1]) &&
                    !strchr(text, '\n') && !heed_is_valid(heed_add(x, x)) &&
                    heed_sync(ctx) == HEED_ERROR_DEVICE;
    if (!ok) printf("that is not one line with \"%s\", or something went on after it\n", argument[1]);
    heed_ctx_free(ctx);
    return ok ? 0 : 1;
}
