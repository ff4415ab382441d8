/* For NVRTC, which has no headers of the system: the types as the host has them. */
#ifndef HEED_SRC_BACKEND_CUDA_RTC_STDINT_H
#define HEED_SRC_BACKEND_CUDA_RTC_STDINT_H
typedef signed char int8_t;
typedef unsigned char uint8_t;
typedef short int16_t;
typedef unsigned short uint16_t;
typedef int int32_t;
typedef unsigned uint32_t;
typedef long int64_t;
typedef unsigned long uint64_t;
typedef unsigned long uintptr_t;
#define INT32_MAX 2147483647
#define INT64_C(x) x##l
#define UINT64_C(x) x##ul
#endif
