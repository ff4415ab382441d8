# What of the CUDA backend is built: HEED_CUDA (libheed_cuda.so, by nvcc) and HEED_CUDA_EMULATED (its sources by the host's
# compiler for the tests, by CUDA's headers alone), each AUTO (where what it needs is found), ON (its absence is an
# error) or OFF. Sets HEED_CUDA_BUILT, HEED_CUDA_EMULATED_BUILT, HEED_CUDA_INCLUDES and HEED_CUOBJDUMP, and says in
# cuda-untested.txt of the build folder what will not be tested, and why.
set(HEED_CUDA AUTO CACHE STRING "The CUDA backend: ON, OFF or AUTO (where nvcc is found)")
set(HEED_CUDA_EMULATED OFF CACHE STRING "Tests of the CUDA backend on the CPU: ON, OFF or AUTO (where CUDA's headers are found)")
set(HEED_CUDA_TARGETS "80-real;86-real;89-real;90;100-real;120-real" CACHE STRING
    "What libheed_cuda.so is compiled for, as CMAKE_CUDA_ARCHITECTURES")
set_property(CACHE HEED_CUDA HEED_CUDA_EMULATED PROPERTY STRINGS AUTO ON OFF)

# Where toolkits are: the usual place, and PyPI's packages as script/test --cuda installs them.
file(GLOB heed_cuda_roots "${PROJECT_SOURCE_DIR}/build/venv-cuda/lib/python*/site-packages/nvidia/cu13")
list(INSERT heed_cuda_roots 0 /usr/local/cuda)

function(heed_find_nvcc)
    if(CMAKE_CUDA_COMPILER OR DEFINED ENV{CUDACXX})
        return()
    endif()
    find_program(HEED_NVCC nvcc HINTS ${heed_cuda_roots} PATH_SUFFIXES bin)
    mark_as_advanced(HEED_NVCC)
    if(HEED_NVCC)
        set(CMAKE_CUDA_COMPILER ${HEED_NVCC} PARENT_SCOPE)
    endif()
endfunction()

set(HEED_CUDA_BUILT OFF)
set(HEED_CUDA_NO_SPILLS -Xptxas=-warn-spills,-Werror) # of every kernel
set(heed_cuda_untested "")
if(HEED_CUDA)
    heed_find_nvcc()
    if(HEED_CUDA STREQUAL "AUTO")
        include(CheckLanguage)
        check_language(CUDA)
    endif()
    if(CMAKE_CUDA_COMPILER OR NOT HEED_CUDA STREQUAL "AUTO")
        # Warnings and targets are those of src/backend/cuda.
        if(NOT DEFINED CMAKE_CUDA_ARCHITECTURES)
            set(CMAKE_CUDA_ARCHITECTURES OFF)
        endif()
        enable_language(CUDA)
        enable_language(CXX) # the embedded sources; nvcc uses its compiler anyway
        set(HEED_CUDA_BUILT ON)
        if(HEED_CCACHE AND PROJECT_IS_TOP_LEVEL AND NOT CMAKE_CUDA_COMPILER_LAUNCHER)
            set(CMAKE_CUDA_COMPILER_LAUNCHER "${HEED_CCACHE}")
        endif()
    else()
        list(APPEND heed_cuda_untested "libheed_cuda.so: there is no nvcc")
    endif()
endif()
if(HEED_CUDA_BUILT AND CMAKE_CUDA_COMPILER_VERSION VERSION_LESS 12.8)
    if(NOT HEED_CUDA STREQUAL "AUTO")
        message(FATAL_ERROR "nvcc is ${CMAKE_CUDA_COMPILER_VERSION}; the CUDA backend needs 12.8 or later")
    endif()
    set(HEED_CUDA_BUILT OFF)
    list(APPEND heed_cuda_untested "libheed_cuda.so: nvcc is ${CMAKE_CUDA_COMPILER_VERSION}, which is older than 12.8")
endif()

# Headers of cuBLAS and cuDNN, of which no library is needed: they are opened when a device is. cuDNN is no part of a toolkit.
set(HEED_CUDA_INCLUDES "")
if(HEED_CUDA_BUILT OR (HEED_CUDA_EMULATED AND HEED_BUILD_TESTS))
    find_path(HEED_CUDA_INCLUDE cublasLt.h HINTS ${CMAKE_CUDA_TOOLKIT_INCLUDE_DIRECTORIES} ${heed_cuda_roots}
              PATH_SUFFIXES include)
    find_path(HEED_CUDNN_INCLUDE cudnn.h HINTS ${HEED_CUDA_INCLUDE} ${heed_cuda_roots} PATH_SUFFIXES include ../cudnn/include)
    mark_as_advanced(HEED_CUDA_INCLUDE HEED_CUDNN_INCLUDE)
    set(heed_cudnn_version 0)
    if(EXISTS "${HEED_CUDNN_INCLUDE}/cudnn_version.h")
        file(STRINGS "${HEED_CUDNN_INCLUDE}/cudnn_version.h" heed_cudnn_version REGEX "^#define CUDNN_(MAJOR|MINOR) ")
        string(REGEX REPLACE "[^0-9;]" "" heed_cudnn_version "${heed_cudnn_version}")
        list(JOIN heed_cudnn_version "." heed_cudnn_version)
    endif()
    set(heed_cudnn_how "cuDNN is no part of a CUDA toolkit: PyPI has it as nvidia-cudnn-cu13, and -DHEED_CUDNN_INCLUDE=FOLDER says where its headers are")
    if(NOT HEED_CUDA_INCLUDE)
        set(heed_cuda_lacks "there is no cublasLt.h, a header of cuBLAS's")
    elseif(NOT EXISTS "${HEED_CUDNN_INCLUDE}/cudnn.h")
        set(heed_cuda_lacks "there is no cudnn.h (${heed_cudnn_how})")
    elseif(heed_cudnn_version VERSION_LESS 9.18)
        set(heed_cuda_lacks "${HEED_CUDNN_INCLUDE}/cudnn.h is not of cuDNN 9.18 or later (${heed_cudnn_how})")
    else()
        set(heed_cuda_lacks "")
        set(HEED_CUDA_INCLUDES ${HEED_CUDA_INCLUDE} ${HEED_CUDNN_INCLUDE})
        list(REMOVE_DUPLICATES HEED_CUDA_INCLUDES)
    endif()
endif()
if(HEED_CUDA_BUILT AND heed_cuda_lacks)
    if(NOT HEED_CUDA STREQUAL "AUTO")
        message(FATAL_ERROR "the CUDA backend cannot be built: ${heed_cuda_lacks}")
    endif()
    message(STATUS "The CUDA backend is left out: ${heed_cuda_lacks}")
    set(HEED_CUDA_BUILT OFF)
    list(APPEND heed_cuda_untested "libheed_cuda.so: ${heed_cuda_lacks}")
endif()

# Registers and shared memory of compiled kernels.
if(HEED_CUDA_BUILT)
    get_filename_component(heed_cuda_bin "${CMAKE_CUDA_COMPILER}" DIRECTORY)
    find_program(HEED_CUOBJDUMP cuobjdump HINTS ${heed_cuda_bin} ${heed_cuda_roots} PATH_SUFFIXES bin)
    find_package(Python3 COMPONENTS Interpreter QUIET)
    if(NOT HEED_CUOBJDUMP OR NOT Python3_FOUND)
        list(APPEND heed_cuda_untested "registers and shared memory of its kernels: there is no cuobjdump or no Python")
    endif()
endif()

set(HEED_CUDA_EMULATED_BUILT OFF)
if(HEED_CUDA_EMULATED AND HEED_BUILD_TESTS)
    if(NOT heed_cuda_lacks)
        set(HEED_CUDA_EMULATED_BUILT ON)
    elseif(HEED_CUDA_EMULATED STREQUAL "AUTO")
        list(APPEND heed_cuda_untested "the CUDA backend on the CPU: ${heed_cuda_lacks}")
    else()
        message(FATAL_ERROR "HEED_CUDA_EMULATED is not possible: ${heed_cuda_lacks}")
    endif()
endif()

# Libraries of which only tests need to know where they are: the backend finds them as it can.
# heed_cuda_library(VARIABLE NAME TESTED): its file; where there is none, what is then not tested.
macro(heed_cuda_library variable name tested)
    find_library(${variable} NAMES ${name} HINTS ${HEED_CUDA_INCLUDE}/.. ${HEED_CUDNN_INCLUDE}/.. ${heed_cuda_roots}
                 PATH_SUFFIXES lib64 lib targets/x86_64-linux/lib)
    mark_as_advanced(${variable})
    if(NOT ${variable})
        list(APPEND heed_cuda_untested "${tested}: there is no ${name}")
    endif()
endmacro()
if(HEED_CUDA_EMULATED_BUILT)
    file(STRINGS ${HEED_CUDA_INCLUDE}/cublas_api.h HEED_CUBLAS_MAJOR REGEX "define CUBLAS_VER_MAJOR")
    string(REGEX MATCH "[0-9]+$" HEED_CUBLAS_MAJOR "${HEED_CUBLAS_MAJOR}")
    heed_cuda_library(HEED_NVRTC libnvrtc.so.13 "that NVRTC compiles specialised kernels")
    heed_cuda_library(HEED_CUBLASLT libcublasLt.so.${HEED_CUBLAS_MAJOR} "that the real cuBLASLt takes heed's descriptors")
    heed_cuda_library(HEED_CUDNN libcudnn.so.9 "that the real cuDNN plans attention")
endif()

if(heed_cuda_untested)
    list(JOIN heed_cuda_untested "\n" heed_cuda_untested_text)
    file(WRITE ${PROJECT_BINARY_DIR}/cuda-untested.txt "${heed_cuda_untested_text}\n")
else()
    file(REMOVE ${PROJECT_BINARY_DIR}/cuda-untested.txt)
endif()

# How `target` is compiled for HEED_CUDA_TARGETS: one PTX, of which ptxas makes the code of several targets. From PTX for compute_86
# or compute_89 the same code comes out as from compute_80; from that for compute_100 and compute_120 (nvcc 13.0) twice the
# instructions of that from compute_90, most of them for addresses.
function(heed_cuda_code target)
    set(architectures OFF)
    set(ptx 80 90)
    foreach(one ${HEED_CUDA_TARGETS})
        if(NOT one MATCHES "^([0-9]+)(-real|-virtual)?$" OR CMAKE_MATCH_1 LESS 80)
            set(architectures ${HEED_CUDA_TARGETS}) # as nvcc does it
            set(ptx "")
            break()
        endif()
        if(CMAKE_MATCH_1 LESS 90)
            set(from 80)
        else()
            set(from 90)
        endif()
        if(NOT CMAKE_MATCH_2 STREQUAL "-virtual")
            list(APPEND code_${from} sm_${CMAKE_MATCH_1})
        endif()
        if(NOT CMAKE_MATCH_2 STREQUAL "-real")
            list(APPEND code_${from} compute_${from})
        endif()
    endforeach()
    set_target_properties(${target} PROPERTIES CUDA_ARCHITECTURES "${architectures}")
    foreach(from ${ptx})
        list(REMOVE_DUPLICATES code_${from})
        list(JOIN code_${from} "," code)
        if(code)
            target_compile_options(${target} PRIVATE
                "$<$<COMPILE_LANGUAGE:CUDA>:--generate-code=arch=compute_${from}$<COMMA>code=[${code}]>")
        endif()
    endforeach()
endfunction()

# What NVRTC reads when it makes specialised kernels (src/backend/cuda/specialise.cuh), in a source of `target`'s.
set(HEED_CUDA_EMBEDDED
    include/heed/base.h include/heed/mask.h include/heed/ops.h include/heed/score.h src/backend/masks.h
    src/backend/primitives.h src/backend/cuda/attention.cuh src/backend/cuda/attention_backward.cu
    src/backend/cuda/attention_forward.cu src/backend/cuda/attention_mask.cuh src/backend/cuda/attention_scores.cu
    src/backend/cuda/attention_tile.cuh src/backend/cuda/choice.cuh src/backend/cuda/kernel.cuh
    src/backend/cuda/pack.cuh src/backend/cuda/philox.cuh src/backend/cuda/stage.cuh
    src/backend/cuda/rtc/math.h
    src/backend/cuda/rtc/stdbool.h src/backend/cuda/rtc/stddef.h src/backend/cuda/rtc/stdint.h
    src/backend/cuda/rtc/stdio.h src/tensor/everywhere.h src/tensor/philox.h src/tensor/view.h)
function(heed_cuda_embed target)
    set(output ${CMAKE_CURRENT_BINARY_DIR}/${target}_sources.cpp)
    set(arguments "")
    set(files "")
    foreach(file ${HEED_CUDA_EMBEDDED})
        string(REGEX REPLACE "^(include/|src/backend/cuda/rtc/|src/)" "" name ${file})
        list(APPEND arguments ${name}=${PROJECT_SOURCE_DIR}/${file})
        list(APPEND files ${PROJECT_SOURCE_DIR}/${file})
    endforeach()
    add_custom_command(OUTPUT ${output} DEPENDS ${files} ${PROJECT_SOURCE_DIR}/cmake/embed.cmake
                       COMMAND ${CMAKE_COMMAND} -DOUTPUT=${output} -P ${PROJECT_SOURCE_DIR}/cmake/embed.cmake ${arguments}
                       VERBATIM)
    target_sources(${target} PRIVATE ${output})
endfunction()
