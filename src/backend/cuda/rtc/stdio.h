/* For NVRTC: files are only named. */
typedef struct heed_no_file FILE;
