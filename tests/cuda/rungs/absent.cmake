# Where there is no GPU, no driver or no backend file: each ends with a line that says so.

# The driver is one of ours, since a machine may have another.
if(HEED_CUDA_BUILT OR HEED_CUDA_EMULATED_BUILT)
    add_library(heed_absent_driver SHARED absent/driver.c)
    target_link_libraries(heed_absent_driver PRIVATE heed_flags)
    set_target_properties(heed_absent_driver PROPERTIES OUTPUT_NAME cuda SOVERSION 1 C_VISIBILITY_PRESET default
                          LIBRARY_OUTPUT_DIRECTORY ${CMAKE_CURRENT_BINARY_DIR}/absent)
endif()

if(HEED_CUDA_BUILT)
    add_executable(cuda_absent absent/main.c)
    target_link_libraries(cuda_absent PRIVATE heed heed_flags)
    # heed_absent_test(NAME PART VARIABLE=VALUE...)
    function(heed_absent_test name part)
        add_test(NAME cuda_absent_${name} COMMAND cuda_absent ${part})
        set_tests_properties(cuda_absent_${name} PROPERTIES SKIP_RETURN_CODE 77 ENVIRONMENT "${ARGN}")
    endfunction()
    set(absent_driver "LD_LIBRARY_PATH=$<TARGET_FILE_DIR:heed_absent_driver>")
    heed_absent_test(file "/nonexistent/libheed_cuda.so: cannot open" "HEED_BACKEND_PATH=/nonexistent")
    heed_absent_test(driver "no CUDA device: there is no NVIDIA driver")
    heed_absent_test(stub "no CUDA device: CUDA driver is a stub library" "${absent_driver}" "HEED_TEST_DRIVER=stub")
    heed_absent_test(device "no CUDA device: no CUDA-capable device is detected" "${absent_driver}"
                     "HEED_TEST_DRIVER=no device")
    heed_absent_test(old_driver "the NVIDIA driver is for CUDA 11.0, and 13.0 is needed" "${absent_driver}"
                     "HEED_TEST_DRIVER=old")
endif()
