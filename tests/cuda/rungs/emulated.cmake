# The backend's own sources on the emulation: the device "cudaemu", and what runs on it.

# Its own sources, by the host's compiler, which warns of less where C++ is stricter than C: names of functions and structs may be
# the same, and constants of an enum be numbers.
file(GLOB cuda_sources CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/src/backend/cuda/*.cu)
# GCC 12's vectoriser of straight code takes it that a load is aligned since that of another branch is.
set(emulated_options "-Wno-shadow;-Wno-extra;-Wno-unknown-pragmas;-fno-tree-slp-vectorize")
set_source_files_properties(${cuda_sources} PROPERTIES LANGUAGE CXX COMPILE_OPTIONS "${emulated_options}")
add_library(heed_cudaemu MODULE ${cuda_sources} ${HEED_PLUGIN_SOURCES})
heed_cuda_embed(heed_cudaemu)
target_include_directories(heed_cudaemu PRIVATE ${PROJECT_SOURCE_DIR}/include ${PROJECT_SOURCE_DIR}/src)
target_compile_definitions(heed_cudaemu PRIVATE HEED_EMULATED HEED_CUDA_SPECIALS=8
    HEED_NVRTC_LIBRARY="$<TARGET_FILE:heed_cudaemu_nvrtc>")
target_compile_options(heed_cudaemu PRIVATE -fvisibility=hidden)
target_link_libraries(heed_cudaemu PRIVATE heed_flags heed_emulator Threads::Threads ${CMAKE_DL_LIBS})
# It opens the fakes, and by no means the libraries of a toolkit.
add_dependencies(heed_cudaemu heed_fake_cublaslt)
set_target_properties(heed_cudaemu PROPERTIES BUILD_RPATH $<TARGET_FILE_DIR:heed_fake_cublaslt>)
if(NOT HEED_SANITIZE)
    target_link_options(heed_cudaemu PRIVATE LINKER:--no-undefined)
endif()
# In the place of NVRTC: compiles specialised kernels for the emulation that is in `library`, by the host's compiler.
string(REGEX MATCH "address" address "${HEED_SANITIZE}")
string(REGEX MATCH "thread" thread "${HEED_SANITIZE}")
set(twin_flags -std=c++17 -O1 -shared -fPIC -fvisibility=hidden -Wno-unknown-pragmas -DHEED_EMULATED -D_GNU_SOURCE
    -DEMULATED_ADDRESS=$<BOOL:${address}> -DEMULATED_THREAD=$<BOOL:${thread}> -ffp-contract=off -fno-math-errno -I${CMAKE_CURRENT_SOURCE_DIR}
    -isystem ${HEED_CUDA_INCLUDE})
if(HEED_SANITIZE)
    list(APPEND twin_flags -g -fsanitize=${HEED_SANITIZE} -fno-sanitize-recover=all -fno-omit-frame-pointer)
endif()
list(JOIN twin_flags " " twin_flags)
function(heed_emulated_nvrtc library)
    add_library(${library}_nvrtc MODULE emulated/nvrtc.cpp)
    target_compile_definitions(${library}_nvrtc PRIVATE TWIN_COMPILER="${CMAKE_CXX_COMPILER}" TWIN_FLAGS="${twin_flags}"
        TWIN_LIBRARY="$<TARGET_FILE:${library}>" _GNU_SOURCE)
    target_include_directories(${library}_nvrtc PRIVATE ${CMAKE_CURRENT_SOURCE_DIR})
    target_compile_features(${library}_nvrtc PRIVATE cxx_std_17)
    target_link_libraries(${library}_nvrtc PRIVATE heed_flags ${CMAKE_DL_LIBS})
    add_dependencies(${library}_nvrtc ${library})
endfunction()
heed_emulated_nvrtc(heed_cudaemu)
# What such kernels are compiled against is no part of what the backend knows them by: each state of it has a folder.
file(GLOB emulated_headers CONFIGURE_DEPENDS emulated/*.h)
set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS ${emulated_headers})
set(all "${twin_flags}")
foreach(header ${emulated_headers})
    file(SHA256 ${header} one)
    string(APPEND all ${one})
endforeach()
string(SHA256 all "${all}")
string(SUBSTRING ${all} 0 16 all)
set(code_cache "HEED_CUDA_CACHE=${CMAKE_CURRENT_BINARY_DIR}/code-${all}")

set(cudaemu_environment "HEED_BACKEND_PATH=$<TARGET_FILE_DIR:heed_cudaemu>;HEED_TEST_DEVICE=cudaemu;HEED_CUDA_BLOCKING=1"
    "HEED_TEST_SCALE=small;HEED_CUDA_SPECIALISE=0;${code_cache}")
if(HEED_SANITIZE) # they open libraries in the place of the caller, whose run path is then not looked at
    list(APPEND cudaemu_environment "LD_LIBRARY_PATH=${CMAKE_CURRENT_BINARY_DIR}/fakes")
    # One process makes what sanitizers need once. Suppressions of libraries end a process that opens another.
    list(APPEND cudaemu_environment "CK_FORK=no;TSAN_OPTIONS=atexit_sleep_ms=0")
endif()
if(address) # blocks of memory each with its own red zones
    list(APPEND cudaemu_environment "HEED_TEST_CHUNK_BYTES=1")
endif()

# ---- programs about the backend ----

foreach(subject runtime steps)
    heed_cuda_program(cuda_${subject} test_${subject}.c)
    if(NOT HEED_SANITIZE)
        heed_cuda_test(cuda_${subject} "HEED_BACKEND_PATH=$<TARGET_FILE_DIR:heed_cudaemu>;HEED_CUDA_SPECIALISE=0;${code_cache}" cuda_${subject})
    endif()
endforeach()

heed_cuda_program(cuda_products test_products.c)
target_compile_definitions(cuda_products PRIVATE HEED_TEST_CUBLAS="${HEED_CUBLAS_MAJOR}")
if(NOT HEED_SANITIZE)
    # A library that cannot be opened.
    file(WRITE ${CMAKE_CURRENT_BINARY_DIR}/broken/libcublasLt.so.${HEED_CUBLAS_MAJOR} "not a library\n")
    heed_cuda_test(cuda_products
        "HEED_BACKEND_PATH=$<TARGET_FILE_DIR:heed_cudaemu>;HEED_TEST_BROKEN=${CMAKE_CURRENT_BINARY_DIR}/broken" cuda_products)
endif()

# Specialised kernels; with seeded bugs, which a specialisation must show; and, where NVIDIA's compiler is found, that it makes
# them for all targets.
add_dependencies(cuda_special heed_cudaemu heed_cudaemu_nvrtc)
set(special_environment "HEED_BACKEND_PATH=$<TARGET_FILE_DIR:heed_cudaemu>;HEED_CUDA_BLOCKING=1;HEED_TEST_SCALE=small")
function(heed_seeded_special name bug specialisation)
    heed_cuda_test(cuda_special_seeded_${name} "${special_environment};HEED_CUDA_CACHE=;HEED_FAKE_NVRTC=${bug}"
                   cuda_special ${specialisation})
    set_tests_properties(cuda_special_seeded_${name} PROPERTIES PASS_REGULAR_EXPRESSION
                         ": result [0-9]+: |which is no memory of the device")
endfunction()
if(NOT HEED_SANITIZE)
    heed_cuda_test(cuda_special "${special_environment};${code_cache}" cuda_special)
    heed_seeded_special(stages "STAGES 0" relu)
    heed_seeded_special(stage_kinds "STAGE_KINDS 0x12" "soft cap, bias, dropout")
    heed_seeded_special(params "PARAMS 0x300" "own stages among others")
    heed_seeded_special(masks "MASKS 0" causal)
    heed_seeded_special(mask_kinds "MASK_KINDS 0xd00" masks)
    heed_seeded_special(normalizer "NORMALIZER HEED_NORMALIZER_SOFTMAX" relu)
    heed_seeded_special(drops "DROPS 0" "own stage in f64")
    heed_seeded_special(slices "SLICES 1" causal)
    heed_seeded_special(value_slices "VALUE_SLICES 0" nothing)
    if(HEED_NVRTC)
        heed_cuda_test(cuda_special_nvrtc "${special_environment};HEED_CUDA_CACHE=;HEED_TEST_NVRTC=${HEED_NVRTC}" cuda_special)
        set_tests_properties(cuda_special_nvrtc PROPERTIES TIMEOUT 1800)
    endif()
endif()

# cuDNN.
add_dependencies(heed_cudaemu heed_fake_cudnn)
foreach(program cuda_cudnn cuda_cudnn_dropout cuda_mixed)
    add_dependencies(${program} heed_cudaemu)
endforeach()
# heed_cudnn_test(NAME PROGRAM FOLDER MODE REASON): cuDNN as it is found in a folder, and as HEED_FAKE_CUDNN says.
function(heed_cudnn_test name program folder mode)
    heed_cuda_test(${name}
        "${cudaemu_environment};LD_LIBRARY_PATH=${CMAKE_CURRENT_BINARY_DIR}/${folder};HEED_FAKE_CUDNN=${mode}" ${program} ${ARGN})
endfunction()
heed_cudnn_test(cuda_mixed cuda_mixed fakes "")
if(NOT HEED_SANITIZE)
    heed_cudnn_test(cuda_cudnn cuda_cudnn fakes "")
    # A file in the library's place, so that none that is installed is found.
    file(WRITE ${CMAKE_CURRENT_BINARY_DIR}/no_cudnn/libcudnn.so.9 "no library\n")
    heed_cudnn_test(cuda_cudnn_missing cuda_cudnn no_cudnn "" "libcudnn.so.9 cannot be opened")
    heed_cudnn_test(cuda_cudnn_not_run cuda_cudnn no_cudnn "")
    set_tests_properties(cuda_cudnn_not_run PROPERTIES PASS_REGULAR_EXPRESSION
                         "^not run: no cuDNN .libcudnn.so.9 cannot be opened.\n$")
    heed_cudnn_test(cuda_cudnn_old cuda_cudnn fakes old "cuDNN is older than 9.18")
    heed_cudnn_test(cuda_cudnn_no_engine cuda_cudnn fakes none "cuDNN has no plan for it")
    heed_cudnn_test(cuda_cudnn_wavering cuda_cudnn fakes wavering "cuDNN has no plan for it")
    heed_cudnn_test(cuda_cudnn_large cuda_cudnn fakes large "cuDNN has no plan for it")
    heed_cudnn_test(cuda_cudnn_sliced cuda_cudnn fakes sliced sliced)
    heed_cudnn_test(cuda_cudnn_seeded cuda_cudnn fakes careless)
    set_tests_properties(cuda_cudnn_seeded PROPERTIES PASS_REGULAR_EXPRESSION "plain: y: ")
    heed_cudnn_test(cuda_cudnn_unsteady cuda_cudnn fakes unsteady)
    set_tests_properties(cuda_cudnn_unsteady PROPERTIES PASS_REGULAR_EXPRESSION "plain: y has other bits in a second run")
    heed_cudnn_test(cuda_cudnn_dropout cuda_cudnn_dropout fakes "")
    heed_cudnn_test(cuda_cudnn_dropout_seeded cuda_cudnn_dropout fakes fickle)
    set_tests_properties(cuda_cudnn_dropout_seeded PROPERTIES PASS_REGULAR_EXPRESSION "plain: dq: ")
endif()

# ---- suites ----

# The suites that pass there, with "cpu" standing for it; script/gpu-check has them too.
set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS suites.txt)
file(STRINGS suites.txt cuda_suites)
# With sanitizers: those that are quick; a problem for every kernel, but with ThreadSanitizer small ones only.
if(address)
    set(cuda_suites backward bf16 errors goldens init kernels layers mask_kinds masks ops_attention ops_choose ops_elementwise
                    ops_heads ops_masks ops_mha ops_product ops_residual ops_rotary ops_rows optim optim_gradients product_kernels
                    update_kernels)
elseif(thread)
    set(cuda_suites backward goldens layers mask_kinds ops_product ops_rotary optim update_kernels)
endif()
# Threads and blocks take turns in another order each (emulated/block.h), and again in another on the shipped library.
set(number 0)
foreach(suite ${cuda_suites})
    math(EXPR number "${number} + 1")
    math(EXPR seed "${number} % 3")
    heed_cuda_test(cuda_${suite} "${cudaemu_environment};HEED_CUDA_SEED=${seed}" test_${suite})
endforeach()
if(NOT HEED_SANITIZE)
    # By specialised kernels; where they are off, users' stages are by them nonetheless.
    foreach(suite ops_attention score_values)
        heed_cuda_test(cuda_special_${suite} "${cudaemu_environment};HEED_CUDA_SPECIALISE=1" test_${suite})
    endforeach()
    # Those whose programs must not notice mixed precision.
    foreach(suite ${mixed_suites})
        heed_cuda_test(cuda_mixed_${suite} "${cudaemu_environment};HEED_TEST_PRECISION=bf16" test_${suite})
    endforeach()
endif()

# Products of every kind: by heed's own kernels, in TF32 — which the fake does not round to — with what is fused only then,
# and where cuBLASLt lacks algorithms.
# heed_products_test(NAME SUITE VARIABLE=VALUE...)
function(heed_products_test name suite)
    heed_cuda_test(cuda_${suite}_${name} "${cudaemu_environment};${ARGN}" test_${suite})
endfunction()
heed_products_test(own ops_product HEED_CUDA_PRODUCTS=own)
if(NOT HEED_SANITIZE)
    heed_products_test(own ops_mha HEED_CUDA_PRODUCTS=own)
    heed_products_test(tf32 ops_product HEED_CUDA_PRODUCTS=tf32)
    heed_products_test(plain ops_product HEED_CUDA_PRODUCTS=tf32 HEED_FAKE_CUBLASLT=plain)
    heed_products_test(none ops_product HEED_FAKE_CUBLASLT=none)
endif()
