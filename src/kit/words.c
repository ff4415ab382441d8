/* What bytes a text is made of, and what words. */
#include "kit/internal.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

double heed_text_entropy(const heed_text *text) {
    size_t size, count[256] = {0};
    const unsigned char *bytes = heed_text_bytes(text, HEED_TEXT_ALL, &size);
    for (size_t i = 0; i < size; i++) count[bytes[i]]++;
    double entropy = 0.0;
    for (int i = 0; i < 256; i++) {
        double share = size ? (double)count[i] / (double)size : 0.0;
        if (share > 0.0) entropy -= share * log(share);
    }
    return entropy;
}

struct word {
    const unsigned char *bytes; /* NULL: an empty place of the set */
    size_t length;
};

/* A set of words by open addressing: capacity is a power of two, and more than half the places are empty. */
struct word_set {
    struct word *place;
    size_t capacity, count;
};

static bool is_letter(unsigned char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c >= 128;
}

/* The next word from *at on, and *at moved behind it. */
static bool next_word(const unsigned char *bytes, size_t size, size_t *at, struct word *word) {
    while (*at < size && !is_letter(bytes[*at])) ++*at;
    size_t first = *at;
    while (*at < size && is_letter(bytes[*at])) ++*at;
    *word = (struct word){bytes + first, *at - first};
    return *at > first;
}

/* Where the word is, or the empty place where it would be. The hash is FNV-1a (Fowler, Noll, Vo). */
static struct word *find_place(const struct word_set *set, struct word word) {
    uint64_t hash = 0xcbf29ce484222325u;
    for (size_t i = 0; i < word.length; i++) hash = (hash ^ word.bytes[i]) * 0x100000001b3u;
    for (size_t i = (size_t)hash & (set->capacity - 1);; i = (i + 1) & (set->capacity - 1)) {
        struct word *place = &set->place[i];
        if (!place->bytes || (place->length == word.length && !memcmp(place->bytes, word.bytes, word.length)))
            return place;
    }
}

static bool grow(struct word_set *set) {
    struct word_set larger = {.capacity = set->capacity ? 2 * set->capacity : 1024, .count = set->count};
    larger.place = calloc(larger.capacity, sizeof *larger.place);
    if (!larger.place) return false;
    for (size_t i = 0; i < set->capacity; i++)
        if (set->place[i].bytes) *find_place(&larger, set->place[i]) = set->place[i];
    free(set->place);
    *set = larger;
    return true;
}

static bool collect(struct word_set *set, const unsigned char *bytes, size_t size) {
    struct word word;
    for (size_t at = 0; next_word(bytes, size, &at, &word);) {
        if (2 * (set->count + 1) > set->capacity && !grow(set)) return false;
        struct word *place = find_place(set, word);
        set->count += !place->bytes;
        *place = word;
    }
    return true;
}

heed_status heed_text_known_words(const heed_text *text, const void *sample, size_t size, int64_t *words,
                                  int64_t *known) {
    *words = *known = 0;
    heed_ctx *ctx = heed_text_ctx(text);
    if (heed_failed(ctx)) return ctx ? heed_error_status(ctx) : HEED_ERROR_ARGUMENT;
    size_t text_size;
    const unsigned char *bytes = heed_text_bytes(text, HEED_TEXT_ALL, &text_size);
    struct word_set set = {0};
    if (!grow(&set) || !collect(&set, bytes, text_size)) {
        free(set.place);
        return heed_kit_fail(ctx, HEED_ERROR_MEMORY, "text_known_words",
                             "no memory for the words of the text");
    }
    struct word word;
    for (size_t at = 0; next_word(sample, size, &at, &word) && at < size;) {
        ++*words;
        *known += find_place(&set, word)->bytes != NULL;
    }
    free(set.place);
    return HEED_OK;
}
