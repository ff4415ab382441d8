#include "cudnn_in_use.h"

#include "emulation.h"

struct fake_cudnn *cudnn_fake(void) {
    void *library = dlopen("libcudnn.so.9", RTLD_NOW);
    void *found = library ? dlsym(library, "heed_fake_cudnn") : NULL;
    heed_fake_cudnn_function *function;
    memcpy(&function, &found, sizeof function);
    return function ? function() : NULL;
}

/* What heed_explain() says of the device. False where there is none, which a line said. */
static bool explain(char *text, size_t bytes) {
    heed_ctx *ctx = heed_ctx_new(&(heed_ctx_options){.device = emulation_device()});
    const bool fine = !heed_failed(ctx);
    if (fine)
        heed_explain(ctx, text, bytes);
    else
        printf("%s\n", heed_error(ctx));
    heed_ctx_free(ctx);
    return fine;
}

int cudnn_begin(void) {
    char text[4000];
    if (cudnn_fake()) return 0;
    setenv("CK_FORK", "no", 1);
    if (!explain(text, sizeof text)) return 1;
    const char *missing = strstr(text, "no cuDNN ("), *line = strstr(text, "cuda:");
    if (missing) {
        printf("not run: %.*s\n", (int)strcspn(missing, "\n"), missing);
        return 77;
    }
    if (emulation()) {
        puts("libcudnn.so.9 is not the fake, which the emulated device needs");
        return 1;
    }
    printf("%.*s\n", line ? (int)strcspn(line, "\n") : 0, line ? line : "");
    return 0;
}

static int number_behind(const char *text, const char *word) {
    const char *found = strstr(text, word);
    return found ? atoi(found + strlen(word)) : 0;
}

bool cudnn_has_gradient(bool sums) {
    enum { BLACKWELL = 10, MOST_VERSION = 22 }; /* of cuDNN 9, whose engine there is known */
    static char text[4000];
    if (cudnn_fake()) return true;
    if (!text[0] && !explain(text, sizeof text)) return false;
    if (number_behind(text, " of sm_") / 10 != BLACKWELL) return true;
    return !sums && number_behind(text, ", cuDNN 9.") <= MOST_VERSION;
}
