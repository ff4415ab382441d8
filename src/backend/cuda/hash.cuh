/* A hash of 128 bits, for names of files and for noticing damage; not for those who mean harm. */
#ifndef HEED_SRC_BACKEND_CUDA_HASH_CUH
#define HEED_SRC_BACKEND_CUDA_HASH_CUH

#include <stddef.h>
#include <stdint.h>
#include <string.h>

struct cuda_hash {
    uint64_t half[2];
};

/* FNV-1a (Fowler, Noll, Vo) twice: the second begins elsewhere and sees each byte turned around. */
static inline struct cuda_hash cuda_hash_new() {
    return {{0xcbf29ce484222325u, 0x84222325cbf29ce4u}};
}

static inline void cuda_hash_add(struct cuda_hash *h, const void *bytes, size_t count) {
    const unsigned char *byte = static_cast<const unsigned char *>(bytes);
    for (size_t i = 0; i < count; i++) {
        h->half[0] = (h->half[0] ^ byte[i]) * 0x100000001b3u;
        h->half[1] = (h->half[1] ^ (uint64_t)(unsigned char)~byte[i] ^ h->half[1] >> 29) * 0x100000001b3u;
    }
}

/* With its end, so that "a", "bc" is not "ab", "c". */
static inline void cuda_hash_text(struct cuda_hash *h, const char *text) {
    cuda_hash_add(h, text, strlen(text) + 1);
}

static inline bool cuda_hash_same(struct cuda_hash a, struct cuda_hash b) {
    return a.half[0] == b.half[0] && a.half[1] == b.half[1];
}

#endif
