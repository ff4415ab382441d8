# What kernels need, as the machine code of libheed_cuda.so has it, and what is written about them.

# The compiler finds registers that are spilled.
if(HEED_CUDA_BUILT)
    heed_cuda_test(cuda_seeded_spill "" ${CMAKE_CUDA_COMPILER} -arch=sm_90 ${HEED_CUDA_NO_SPILLS} -c
                   ${CMAKE_CURRENT_SOURCE_DIR}/seeded/spill.cu -o ${CMAKE_CURRENT_BINARY_DIR}/spill.o)
    set_tests_properties(cuda_seeded_spill PROPERTIES PASS_REGULAR_EXPRESSION "Registers are spilled to local memory")
endif()

if(HEED_CUDA_BUILT AND HEED_CUOBJDUMP AND Python3_FOUND)
    set(budget ${Python3_EXECUTABLE} ${CMAKE_CURRENT_SOURCE_DIR}/budget.py --cuobjdump ${HEED_CUOBJDUMP}
        --doc ${PROJECT_SOURCE_DIR}/docs/cuda-kernels.md)
    add_test(NAME cuda_budget COMMAND ${budget} $<TARGET_FILE:heed_cuda>)
    # The same on kernels of which each breaks a rule: all of it must be said.
    add_library(heed_seeded_budget MODULE seeded/budget.cu)
    set_target_properties(heed_seeded_budget PROPERTIES CUDA_ARCHITECTURES 90-real CUDA_RUNTIME_LIBRARY Shared)
    function(heed_seeded_budget name said)
        add_test(NAME cuda_budget_seeded_${name} COMMAND ${budget} --table ${CMAKE_CURRENT_SOURCE_DIR}/seeded/budget.txt
                                                         $<TARGET_FILE:heed_seeded_budget>)
        set_tests_properties(cuda_budget_seeded_${name} PROPERTIES PASS_REGULAR_EXPRESSION "${said}")
    endfunction()
    heed_seeded_budget(registers "many_registers needs [0-9]+ registers .* and its row allows 16")
    heed_seeded_budget(shared "much_shared needs [0-9]+ shared .* and its row allows 2048")
    heed_seeded_budget(local "local_array needs [0-9]+ bytes of local memory")
    heed_seeded_budget(instruction "local_array.* has the instruction (STL|LDL)")
    heed_seeded_budget(no_row "no_row has no row")
    heed_seeded_budget(no_words "no_row is not in cuda-kernels.md")
    heed_seeded_budget(no_kernel "a row for no_kernel, and there is no such kernel")
endif()
