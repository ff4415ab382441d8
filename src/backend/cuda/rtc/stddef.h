/* For NVRTC: it knows size_t. */
