/* For NVRTC: bool is of the language. */
