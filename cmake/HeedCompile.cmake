# How every file of heed is compiled: the interface target `heed_flags`, linked privately by all of them.
set(CMAKE_C_STANDARD 11)
set(CMAKE_C_STANDARD_REQUIRED ON)
set(CMAKE_C_EXTENSIONS OFF)
set(CMAKE_C_VISIBILITY_PRESET hidden)
set(CMAKE_POSITION_INDEPENDENT_CODE ON)
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)
if(PROJECT_IS_TOP_LEVEL)
    # NDEBUG would change nothing: the library has no assert.
    set(CMAKE_C_FLAGS_RELEASE "-O3 -g")
endif()

add_library(heed_flags INTERFACE)
target_compile_options(heed_flags INTERFACE -Wall -Wextra -Wshadow -Wno-missing-field-initializers
                                            $<$<COMPILE_LANGUAGE:C>:-Wstrict-prototypes>
                                            $<$<COMPILE_LANGUAGE:C>:-Wmissing-prototypes>)
if(HEED_WERROR)
    target_compile_options(heed_flags INTERFACE -Werror)
endif()

# A product and a sum are rounded each, with every compiler and for every instruction set: the reference kernels
# are the specification, and clang would otherwise fuse them where gcc does not. The vector kernels write fused ones
# as such (vf_fma). Nothing is compiled with -ffast-math.
target_compile_options(heed_flags INTERFACE -ffp-contract=off)

# Signals of errno and floating-point traps are not looked at: lets sqrt and the like be instructions.
target_compile_options(heed_flags INTERFACE -fno-math-errno -fno-trapping-math)

if(HEED_SANITIZE)
    # -O1: the checks make everything else take minutes to compile, and find the same.
    target_compile_options(heed_flags INTERFACE -fsanitize=${HEED_SANITIZE} -fno-sanitize-recover=all
                                                -fno-omit-frame-pointer -O1 -Wno-maybe-uninitialized -Wno-format-truncation)
    target_link_options(heed_flags INTERFACE -fsanitize=${HEED_SANITIZE})
endif()

# Instruction sets beyond the machine's baseline that the vector kernels are compiled for: NAME, suffix, vector bytes,
# flags. One row is one object library; chosen at run time.
set(HEED_VECTOR_SETS "baseline")
set(HEED_VECTOR_baseline_BYTES 16)
set(HEED_VECTOR_baseline_FLAGS "")
if(CMAKE_SYSTEM_PROCESSOR MATCHES "^(x86_64|AMD64|amd64)$" AND CMAKE_SIZEOF_VOID_P EQUAL 8)
    list(APPEND HEED_VECTOR_SETS avx2 avx512)
    set(HEED_VECTOR_avx2_BYTES 32)
    set(HEED_VECTOR_avx2_FLAGS -mavx2 -mfma)
    set(HEED_VECTOR_avx512_BYTES 64)
    set(HEED_VECTOR_avx512_FLAGS -mavx512f -mavx512dq -mavx512bw -mavx512vl -mfma -mprefer-vector-width=512)
    target_compile_definitions(heed_flags INTERFACE HEED_HAVE_AVX2=1 HEED_HAVE_AVX512=1)
endif()

# What plugins compile of heed itself: they have no undefined symbols of it (src/backend/plugin.h).
set(HEED_PLUGIN_SOURCES
    ${PROJECT_SOURCE_DIR}/src/backend/sequences.c ${PROJECT_SOURCE_DIR}/src/backend/unary.c
    ${PROJECT_SOURCE_DIR}/src/backend/views.c ${PROJECT_SOURCE_DIR}/src/backend/widened.c
    ${PROJECT_SOURCE_DIR}/src/tensor/philox.c
    ${PROJECT_SOURCE_DIR}/src/tensor/status.c ${PROJECT_SOURCE_DIR}/src/tensor/view.c)

# Makes NAME (shared, versioned) and NAME_static out of one set of objects.
function(heed_library name)
    add_library(${name} SHARED ${ARGN})
    add_library(${name}_static STATIC ${ARGN})
    set_target_properties(${name} PROPERTIES VERSION ${PROJECT_VERSION} SOVERSION ${PROJECT_VERSION_MAJOR})
    set_target_properties(${name}_static PROPERTIES OUTPUT_NAME ${name})
    foreach(target ${name} ${name}_static)
        set_target_properties(${target} PROPERTIES LINKER_LANGUAGE C)
        target_include_directories(${target} PUBLIC $<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}/include>
                                                    $<INSTALL_INTERFACE:${CMAKE_INSTALL_INCLUDEDIR}>)
        target_link_libraries(${target} PRIVATE $<BUILD_INTERFACE:heed_flags>)
    endforeach()
    if(NOT HEED_SANITIZE)
        target_link_options(${name} PRIVATE LINKER:--no-undefined)
    endif()
endfunction()

# An object library of the given sources; nothing if there are none.
function(heed_objects name)
    add_library(${name} OBJECT ${ARGN})
    target_include_directories(${name} PRIVATE ${PROJECT_SOURCE_DIR}/include ${PROJECT_SOURCE_DIR}/src)
    target_compile_definitions(${name} PRIVATE _GNU_SOURCE)
    target_link_libraries(${name} PRIVATE heed_flags)
endfunction()
