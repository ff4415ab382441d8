# The backend as it is shipped, on the emulation: a libcudart whose kernels are the twins of those that nvcc compiled;
# libheed_cuda.so, unchanged, is loaded with it.

add_library(heed_simulated SHARED ${emulated_sources} simulated/abi.cpp simulated/twin.cpp ${cuda_sources} ${HEED_PLUGIN_SOURCES})
heed_cuda_embed(heed_simulated)
target_include_directories(heed_simulated PRIVATE ${PROJECT_SOURCE_DIR}/include ${PROJECT_SOURCE_DIR}/src
                                                  ${CMAKE_CURRENT_SOURCE_DIR})
target_include_directories(heed_simulated SYSTEM PRIVATE ${HEED_CUDA_INCLUDES})
target_compile_definitions(heed_simulated PRIVATE _GNU_SOURCE HEED_EMULATED EMULATED_TWINS EMULATED_ADDRESS=0
                                                  EMULATED_THREAD=0)
target_compile_features(heed_simulated PRIVATE cxx_std_17)
# What would launch kernels is there for their sake, and does not use what it computes.
target_compile_options(heed_simulated PRIVATE $<$<COMPILE_LANGUAGE:CXX>:-Wno-unused> -Wno-unused-but-set-variable)
target_link_libraries(heed_simulated PRIVATE heed_flags Threads::Threads)
target_link_options(heed_simulated PRIVATE LINKER:--no-undefined
                    LINKER:--version-script=${CMAKE_CURRENT_SOURCE_DIR}/simulated/exports.map)
set_target_properties(heed_simulated PROPERTIES OUTPUT_NAME cudart SOVERSION 13 CXX_VISIBILITY_PRESET default
                      LIBRARY_OUTPUT_DIRECTORY ${CMAKE_CURRENT_BINARY_DIR}/simulated)
heed_emulated_nvrtc(heed_simulated)
set(simulated_libraries "$<TARGET_FILE_DIR:heed_simulated>:$<TARGET_FILE_DIR:heed_fake_cublaslt>")
set(simulated_environment "HEED_NVRTC=$<TARGET_FILE:heed_simulated_nvrtc>;HEED_CUDA_SPECIALISE=0;${code_cache}-simulated"
    "HEED_BACKEND_PATH=$<TARGET_FILE_DIR:heed_cuda>;LD_LIBRARY_PATH=${simulated_libraries};HEED_TEST_SCALE=small")
# heed_simulated_test(NAME ENVIRONMENT COMMAND...): there, with copies and kernels that lag as far behind as they can if no other
# schedule is said.
function(heed_simulated_test name environment)
    heed_cuda_test(${name} "${simulated_environment};HEED_TEST_DEVICE=cuda;HEED_CUDA_SCHEDULE=1;${environment}" ${ARGN})
endfunction()

set(with_cudnn "LD_LIBRARY_PATH=$<TARGET_FILE_DIR:heed_simulated>:${CMAKE_CURRENT_BINARY_DIR}/fakes")
heed_simulated_test(cuda_simulated_runtime "" cuda_runtime)
heed_simulated_test(cuda_simulated_steps "" cuda_steps)
add_dependencies(cuda_special heed_simulated_nvrtc)
heed_simulated_test(cuda_simulated_special HEED_CUDA_SPECIALISE=1 cuda_special)
heed_simulated_test(cuda_simulated_cudnn "${with_cudnn}" cuda_cudnn)
heed_simulated_test(cuda_simulated_cudnn_dropout "${with_cudnn};HEED_CUDA_SCHEDULE=3" cuda_cudnn_dropout)
heed_simulated_test(cuda_simulated_mixed HEED_CUDA_SCHEDULE=2 cuda_mixed)

set(number 0)
foreach(suite ${cuda_suites})
    math(EXPR number "${number} + 1") # another schedule each
    math(EXPR seed "(${number} + 1) % 3")
    heed_simulated_test(cuda_simulated_${suite} "HEED_CUDA_SCHEDULE=${number};HEED_CUDA_SEED=${seed}" test_${suite})
endforeach()

# In percent of what a driver tells.
if(TARGET heed-bench)
    heed_cuda_test(cuda_simulated_bench
        "${simulated_environment};HEED_TEST_DRIVER=h200;LD_LIBRARY_PATH=${simulated_libraries}:$<TARGET_FILE_DIR:heed_absent_driver>"
        heed-bench --device cuda --case softmax_seed --seconds 0 --json)
    set_tests_properties(cuda_simulated_bench PROPERTIES PASS_REGULAR_EXPRESSION
        "\"peak_gb_per_s\": 4916.7, \"peak_gflop_per_s\": 66908.2, \"peak_source\": \"driver\"")
endif()

# The examples, with few steps, beside the CPU. The stage of custom_attention's is compiled anew each time.
if(HEED_BUILD_EXAMPLES)
    # heed_simulated_example(TEST NAME VARIABLE=VALUE...)
    function(heed_simulated_example test name)
        heed_cuda_test(cuda_simulated_example_${test} "${simulated_environment};HEED_CUDA_SCHEDULE=1;HEED_CUDA_CACHE=;${ARGN}"
                       sh ${CMAKE_CURRENT_SOURCE_DIR}/examples.sh $<TARGET_FILE:example_${name}> cuda)
    endfunction()
    foreach(name mlp sort translate gpt custom_layer custom_attention)
        heed_simulated_example(${name} ${name})
    endforeach()
    # What must be found: that the stage is left out.
    heed_simulated_example(seeded custom_attention "HEED_FAKE_NVRTC=STAGES 0")
    set_tests_properties(cuda_simulated_example_seeded PROPERTIES PASS_REGULAR_EXPRESSION "the gradient is wrong")
endif()
