# The emulation of CUDA on the CPU, and programs that must find seeded bugs with it.

set(emulated_sources emulated/block.cpp emulated/fibre.cpp emulated/library.cpp emulated/memory.cpp emulated/runtime.cpp
                     emulated/shared.cpp emulated/stream.cpp)

# NAME, told of the sanitizers that kernels are built with. It is itself never instrumented (emulated/sanitize.h).
function(heed_emulator name sanitizers)
    add_library(${name} STATIC ${emulated_sources})
    target_include_directories(${name} PUBLIC ${CMAKE_CURRENT_SOURCE_DIR})
    target_include_directories(${name} SYSTEM PUBLIC ${HEED_CUDA_INCLUDES})
    string(REGEX MATCH "address" address "${sanitizers}")
    string(REGEX MATCH "thread" thread "${sanitizers}")
    target_compile_definitions(${name} PUBLIC _GNU_SOURCE EMULATED_ADDRESS=$<BOOL:${address}>
                                              EMULATED_THREAD=$<BOOL:${thread}>)
    target_compile_features(${name} PUBLIC cxx_std_17)
    # initial-exec: LeakSanitizer of GCC 12 takes what the loader allocates for thread_local variables of a plugin, at certain
    # addresses, for something else, and crashes.
    target_compile_options(${name} PRIVATE -O2 -g -fvisibility=hidden -ftls-model=initial-exec -Wall -Wextra
                                           $<$<BOOL:${HEED_WERROR}>:-Werror>)
endfunction()

heed_emulator(heed_emulator "${HEED_SANITIZE}")

# heed_emulator_test(NAME SOURCE EMULATOR OPTION...): a program on the emulation, which must find seeded bugs: each build those
# that it can.
function(heed_emulator_test name source emulator)
    add_executable(${name} ${source})
    target_include_directories(${name} PRIVATE ${CMAKE_CURRENT_SOURCE_DIR} ${heed_check_include})
    target_compile_options(${name} PRIVATE -O1 -g -Wall -Wextra -Wno-missing-field-initializers
                                           $<$<BOOL:${HEED_WERROR}>:-Werror> ${ARGN})
    target_link_options(${name} PRIVATE ${ARGN})
    target_link_libraries(${name} PRIVATE ${emulator} ${heed_check_library} Threads::Threads m rt)
    if(heed_subunit_library)
        target_link_libraries(${name} PRIVATE ${heed_subunit_library})
    endif()
    add_test(NAME ${name} COMMAND ${name})
    set_tests_properties(${name} PROPERTIES TIMEOUT 600)
endfunction()

if(NOT HEED_SANITIZE)
    heed_emulator_test(cuda_emulator test_emulator.cpp heed_emulator)
    heed_emulator_test(cuda_streams test_streams.cpp heed_emulator)
    foreach(sanitizers "address,undefined" "thread")
        string(REGEX MATCH "^[a-z]+" word ${sanitizers})
        heed_emulator(heed_emulator_${word} ${sanitizers})
        heed_emulator_test(cuda_emulator_${word} test_emulator.cpp heed_emulator_${word} -fsanitize=${sanitizers} -fno-sanitize-recover=all
                           -fno-omit-frame-pointer)
    endforeach()
    # It would wait a second at every exit for the emulated threads that are kept.
    set_tests_properties(cuda_emulator_thread PROPERTIES ENVIRONMENT TSAN_OPTIONS=atexit_sleep_ms=0)
endif()
