# NVIDIA's libraries: fakes of them on the emulation, what the real cuBLASLt says of its descriptors, and the real cuDNN's plans for
# devices that are not there.

# heed_fake(NAME SOVERSION SOURCES...): lib<NAME>.so.<SOVERSION>, as backends open it; in a folder of its own, where only they look.
function(heed_fake name version)
    string(TOLOWER ${name} word)
    add_library(heed_fake_${word} SHARED ${ARGN})
    target_include_directories(heed_fake_${word} PRIVATE ${CMAKE_CURRENT_SOURCE_DIR})
    target_include_directories(heed_fake_${word} SYSTEM PUBLIC ${HEED_CUDA_INCLUDES})
    target_compile_definitions(heed_fake_${word} PRIVATE _GNU_SOURCE)
    target_compile_features(heed_fake_${word} PRIVATE cxx_std_17)
    target_compile_options(heed_fake_${word} PRIVATE -O2 -g -Wall -Wextra -Wno-missing-field-initializers
                                                     $<$<BOOL:${HEED_WERROR}>:-Werror>)
    target_link_libraries(heed_fake_${word} PRIVATE ${CMAKE_DL_LIBS})
    set_target_properties(heed_fake_${word} PROPERTIES OUTPUT_NAME ${name} SOVERSION ${version}
                          LIBRARY_OUTPUT_DIRECTORY ${CMAKE_CURRENT_BINARY_DIR}/fakes)
endfunction()

heed_fake(cublasLt ${HEED_CUBLAS_MAJOR} fakes/cublaslt.cpp)
heed_fake(cudnn 9 fakes/cudnn.cpp fakes/cudnn_graph.cpp)

if(HEED_SANITIZE) # of what follows sanitizers see nothing
    return()
endif()

heed_emulator_test(cuda_cublaslt test_cublaslt.cpp heed_emulator)
target_link_libraries(cuda_cublaslt PRIVATE heed_fake_cublaslt)
set_target_properties(cuda_cublaslt PROPERTIES ENABLE_EXPORTS ON)

# heed_real_library_program(NAME SOURCES...): a program of sources of the backend that opens a library of NVIDIA's.
function(heed_real_library_program name)
    add_executable(${name} ${ARGN})
    target_include_directories(${name} PRIVATE ${CMAKE_CURRENT_SOURCE_DIR} ${PROJECT_SOURCE_DIR}/src)
    target_include_directories(${name} SYSTEM PRIVATE ${HEED_CUDA_INCLUDES})
    target_compile_definitions(${name} PRIVATE _GNU_SOURCE)
    target_compile_features(${name} PRIVATE cxx_std_17)
    target_compile_options(${name} PRIVATE -Wall -Wextra -Wno-missing-field-initializers $<$<BOOL:${HEED_WERROR}>:-Werror>)
    target_link_libraries(${name} PRIVATE Threads::Threads ${CMAKE_DL_LIBS})
endfunction()
set(backend ${PROJECT_SOURCE_DIR}/src/backend/cuda)

heed_real_library_program(cuda_cublaslt_real test_cublaslt_real.cpp ${backend}/lt_library.cu)
if(HEED_CUBLASLT)
    get_filename_component(folder "${HEED_CUBLASLT}" DIRECTORY)
    set_target_properties(cuda_cublaslt_real PROPERTIES BUILD_RPATH "${folder}")
endif()
add_test(NAME cuda_cublaslt_real COMMAND cuda_cublaslt_real)
set_tests_properties(cuda_cublaslt_real PROPERTIES SKIP_RETURN_CODE 77)

heed_real_library_program(cuda_cudnn_plans test_cudnn_plans.cpp ${backend}/cudnn.cu ${backend}/cudnn_graph.cu ${backend}/cudnn_attention.cu)
add_dependencies(cuda_cudnn_plans heed_absent_driver)
set(plans_environment "LD_LIBRARY_PATH=$<TARGET_FILE_DIR:heed_absent_driver>")
if(HEED_CUDNN)
    get_filename_component(folder "${HEED_CUDNN}" DIRECTORY)
    string(APPEND plans_environment ":${folder}")
endif()
foreach(device A100 L4 H100 B200 5090)
    heed_cuda_test(cuda_cudnn_plans_${device} "${plans_environment}" cuda_cudnn_plans ${device})
    set_tests_properties(cuda_cudnn_plans_${device} PROPERTIES SKIP_RETURN_CODE 77)
endforeach()
