/**
 * @file io.h
 * @brief Files: tensors in the safetensors format, parameters, checkpoints. Part of libheed_kit.
 *
 * A file is checked completely (header, names, dtypes, shapes, places of the data, its length) before memory
 * for any tensor is taken, and what is written replaces the old file only when it is complete. Errors name
 * the file, the place and both sides of what clashed:
 *
 *     model.safetensors: tensor "a.weight": data is 12 bytes, shape [2,2] of F32 needs 16
 *
 * All functions keep their error in the context as every operation does, and do nothing while it keeps one.
 * `docs/files.md` describes the files.
 */
#ifndef HEED_IO_H
#define HEED_IO_H

#include <heed/context.h>
#include <heed/module.h>
#include <heed/optim.h>
#include <heed/tensor.h>

#ifdef __cplusplus
extern "C" {
#endif

/* ---- parameters of a model ---- */

/** Writes all parameters of a module under their names, as heed_tensors_save() does. */
HEED_API heed_status heed_params_save(const heed_module *module, const char *path);

/**
 * Reads all parameters of a module. The file must hold exactly the module's names, with their shapes and
 * dtypes; everything is checked and read before the first weight changes. Not inside a step.
 */
HEED_API heed_status heed_params_load(heed_module *module, const char *path);

/* ---- checkpoints: to go on training later as if nothing had happened ---- */

/** What a checkpoint holds besides model, optimiser and random state. */
typedef struct heed_checkpoint_info {
    int64_t position; /**< where the program's data stand: whatever it counts; 0 or more */
    const char *text; /**< the program's own words, in UTF-8. Saving: may be NULL, is copied. After loading:
                           never NULL, belongs to the struct: heed_checkpoint_info_clear() */
    int64_t optim_steps;  /**< after loading: updates done, 0 without an optimiser; ignored in saving */
    int64_t version;      /**< after loading: of the file's format; ignored in saving */
    uint64_t reserved[4]; /**< must be zero */
} heed_checkpoint_info;

/**
 * Writes parameters, optimiser state, random state and `info` into one safetensors file.
 *
 * The file is written under the name `path`.tmp in the same directory, synced and renamed, and the
 * directory is synced: whenever the program or the machine stops, `path` is the old file or the new one.
 * After an error the old file is as it was and the temporary one is gone (a killed program may leave it; the
 * next save replaces it). Of two programs that save to one path at the same time, one gets an error.
 * Not inside a step.
 *
 * @param optim of this module; NULL: without
 * @param info NULL: position 0, no text
 */
HEED_API heed_status heed_checkpoint_save(const heed_module *module, const heed_optim *optim,
                                          const char *path, const heed_checkpoint_info *info);

/**
 * Reads a checkpoint back. Parameters are checked as in heed_params_load(); the optimiser must be of the kind
 * that was saved. Model, optimiser and random state change only after the whole file was checked and
 * read; after an error all three are untouched. Not inside a step.
 *
 * @param optim NULL: parameters, random state and info only
 * @param[out] info NULL: not wanted. Overwritten without looking at what it held; zero after an error
 */
HEED_API heed_status heed_checkpoint_load(heed_module *module, heed_optim *optim, const char *path,
                                          heed_checkpoint_info *info);

/** Frees what a load put into the struct and zeroes it. NULL and a zero struct are fine. */
HEED_API void heed_checkpoint_info_clear(heed_checkpoint_info *info);

/* ---- tensors by name ---- */

/** A pair of strings in UTF-8 kept beside the tensors. */
typedef struct heed_metadata {
    const char *key;   /**< unique within a file */
    const char *value; /**< any text without NUL */
} heed_metadata;

/**
 * Writes tensors (of any dtype and strides) into a safetensors file, as safely as
 * heed_checkpoint_save(). The same tensors and metadata give the same bytes in whatever order they come:
 * wide elements before narrow ones, then by name, every tensor at a multiple of its element size.
 * A path that is a device or a pipe is written directly.
 *
 * @param names not empty, each once, in UTF-8; not "__metadata__"
 * @param metadata NULL if metadata_count is 0
 */
HEED_API heed_status heed_tensors_save(heed_ctx *ctx, const char *path, int64_t count,
                                       const char *const *names, const heed_tensor *tensors,
                                       int64_t metadata_count, const heed_metadata *metadata);

/** A safetensors file that is open for reading. */
typedef struct heed_file heed_file;

/**
 * Opens a safetensors file and checks all of it but the elements: a header of at most 100,000,000 bytes, in
 * JSON without duplicate names; for every tensor a known dtype, at most 8 sizes, and as many bytes as shape
 * and dtype need; data without overlap and without gap, up to the last byte of the file.
 * @return NULL after an error. All functions below accept NULL
 */
HEED_API heed_file *heed_file_open(heed_ctx *ctx, const char *path);

/** Closes the file. Tensors read from it live on. To be called before the context ends. */
HEED_API void heed_file_free(heed_file *file);

/** What the header says about one tensor. */
typedef struct heed_file_entry {
    const char *name;            /**< lives as long as the file is open */
    const char *dtype_name;      /**< as the format spells it: "F32", "BF16", "U8", … */
    bool readable;               /**< whether heed has tensors of this dtype */
    heed_dtype dtype;            /**< if readable */
    int rank;                    /**< number of dimensions */
    int64_t size[HEED_MAX_RANK]; /**< elements per dimension */
    int64_t bytes;               /**< of the data */
} heed_file_entry;

/** The number of tensors; 0 for NULL. */
HEED_API int64_t heed_file_count(const heed_file *file);

/** Describes the i-th tensor, in the order of the data. @return false (and zeroes) if there is none */
HEED_API bool heed_file_info(const heed_file *file, int64_t i, heed_file_entry *entry);

/** The index of a tensor; −1 (and no error) if there is none of this name. */
HEED_API int64_t heed_file_find(const heed_file *file, const char *name);

/** Reads a tensor; it belongs to the innermost scope. A missing name, a dtype that heed has not and a bool
 *  that is neither 0 nor 1 are errors. */
HEED_API heed_tensor heed_file_tensor(heed_file *file, const char *name);

/** The value of a metadata key; NULL if there is none. Lives as long as the file is open. */
HEED_API const char *heed_file_metadata(const heed_file *file, const char *key);

/** The i-th pair of metadata, ordered by key. @return false (and zeroes) if there is none */
HEED_API bool heed_file_metadata_at(const heed_file *file, int64_t i, heed_metadata *pair);

#ifdef __cplusplus
}
#endif
#endif
