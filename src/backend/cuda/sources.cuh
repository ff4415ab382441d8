/* The sources of specialised kernels, as they were when the backend was built (cmake/embed.cmake). */
#ifndef HEED_SRC_BACKEND_CUDA_SOURCES_CUH
#define HEED_SRC_BACKEND_CUDA_SOURCES_CUH

extern const int cuda_source_count;
extern const char *const cuda_source_name[]; /* as #include has it */
extern const char *const cuda_source_text[];

#endif
