# Builds the backend with each bug of bugs.cmake, and has a test that must find it. Only the source with the bug is compiled; the
# other objects are those of the backend without.
set(seeded_root ${PROJECT_SOURCE_DIR}/src/backend/cuda)

# seeded_changed(NAME FILE): the changed file, as a variable `changed`, in a folder of its own among the includes.
function(seeded_changed name file)
    set(output ${CMAKE_CURRENT_BINARY_DIR}/seeded/${name}/src/backend/cuda/${file})
    set(table ${CMAKE_CURRENT_SOURCE_DIR}/seeded/bugs.cmake)
    set(script ${CMAKE_CURRENT_SOURCE_DIR}/seeded/seed.cmake)
    add_custom_command(OUTPUT ${output} DEPENDS ${seeded_root}/${file} ${table} ${script}
                       COMMAND ${CMAKE_COMMAND} -DNAME=${name} -DROOT=${seeded_root} -DOUTPUT=${output} -P ${script}
                       COMMENT "Seeding the bug ${name}" VERBATIM)
    set(changed ${output} PARENT_SCOPE)
endfunction()

# seeded_target(TARGET KIND FROM CHANGED SOURCE): what FROM is, a library or a program (KIND), but for the object of SOURCE, which
# is compiled with the changed file.
function(seeded_target target kind from changed source)
    set(own ${changed})
    if(NOT changed MATCHES "/${source}$")
        list(APPEND own ${seeded_root}/${source})
    endif()
    add_library(${target}_object OBJECT ${own})
    # It comes first: inline functions that others have too are its own.
    string(REPLACE "." "\\." object "/${source}.o$")
    set(objects $<TARGET_OBJECTS:${target}_object> "$<FILTER:$<TARGET_OBJECTS:${from}>,EXCLUDE,${object}>")
    if(kind STREQUAL "program")
        add_executable(${target} ${objects})
    else()
        add_library(${target} MODULE ${objects})
    endif()
    foreach(property INCLUDE_DIRECTORIES COMPILE_DEFINITIONS COMPILE_OPTIONS COMPILE_FEATURES LINK_LIBRARIES LINK_OPTIONS
                     BUILD_RPATH CUDA_RUNTIME_LIBRARY)
        get_target_property(value ${from} ${property})
        if(value)
            set_property(TARGET ${target} ${target}_object PROPERTY ${property} "${value}")
        endif()
    endforeach()
    string(REGEX REPLACE "/backend/cuda/[^/]*$" "" includes ${changed})
    target_include_directories(${target}_object BEFORE PRIVATE ${includes})
    target_compile_options(${target}_object PRIVATE $<$<COMPILE_LANGUAGE:CXX>:-w>) # a bug may leave something unused
    get_filename_component(folder ${includes} DIRECTORY)
    set_target_properties(${target} PROPERTIES LINKER_LANGUAGE CXX LIBRARY_OUTPUT_DIRECTORY ${folder}
                                               RUNTIME_OUTPUT_DIRECTORY ${folder})
    set_target_properties(${target}_object PROPERTIES CUDA_ARCHITECTURES OFF) # the options have them
    add_dependencies(${target} ${from})
endfunction()

# seeded_test(NAME SAYS COMMAND… ENVIRONMENT…)
function(seeded_test name says)
    cmake_parse_arguments(PARSE_ARGV 2 test "" "" "COMMAND;ENVIRONMENT")
    add_test(NAME cuda_seeded_${name} COMMAND ${test_COMMAND})
    set_tests_properties(cuda_seeded_${name} PROPERTIES TIMEOUT 900 PASS_REGULAR_EXPRESSION "${says}"
                                                        ENVIRONMENT "${test_ENVIRONMENT}")
endfunction()

# Whether this build is one for bugs of that kind.
function(seeded_here on result)
    if(on MATCHES "^kernel_(.*)$")
        string(FIND "${HEED_SANITIZE}" ${CMAKE_MATCH_1} at)
        set(here ON)
        if(at EQUAL -1)
            set(here OFF)
        endif()
    elseif(HEED_SANITIZE OR (on MATCHES "^(shipped|absent)$" AND NOT HEED_CUDA_BUILT))
        set(here OFF)
    else()
        set(here ON)
    endif()
    set(${result} ${here} PARENT_SCOPE)
endfunction()

function(heed_bug name on)
    cmake_parse_arguments(PARSE_ARGV 2 bug "" "FILE;SOURCE;TEST;CASE;SAYS;FROM;TO" "ENVIRONMENT")
    seeded_here(${on} here)
    if(NOT here)
        return()
    endif()
    if(NOT bug_SOURCE)
        set(bug_SOURCE ${bug_FILE})
    endif()
    if(bug_CASE AND NOT on STREQUAL "planned")
        list(APPEND bug_ENVIRONMENT "CK_RUN_CASE=${bug_CASE}")
    endif()
    set(target seeded_${name})
    seeded_changed(${name} ${bug_FILE})
    if(bug_FILE MATCHES "\\.cuh$")
        set_source_files_properties(${changed} PROPERTIES HEADER_FILE_ONLY ON)
    elseif(NOT on MATCHES "^(shipped|absent)$")
        set_source_files_properties(${changed} PROPERTIES LANGUAGE CXX COMPILE_OPTIONS "${emulated_options}")
    endif()
    if(on MATCHES "^kernel")
        seeded_target(${target} library heed_cudaemu ${changed} ${bug_SOURCE})
        set_target_properties(${target} PROPERTIES OUTPUT_NAME heed_cudaemu)
        seeded_test(${name} "${bug_SAYS}" COMMAND test_${bug_TEST}
                    ENVIRONMENT ${cudaemu_environment} HEED_BACKEND_PATH=$<TARGET_FILE_DIR:${target}> ${bug_ENVIRONMENT})
    elseif(on STREQUAL "planned")
        seeded_target(${target} program cuda_cudnn_plans ${changed} ${bug_SOURCE})
        seeded_test(${name} "${bug_SAYS}" COMMAND ${target} ${bug_TEST} ${bug_CASE} ENVIRONMENT ${plans_environment})
        set_tests_properties(cuda_seeded_${name} PROPERTIES SKIP_RETURN_CODE 77)
    else()
        seeded_target(${target} library heed_cuda ${changed} ${bug_SOURCE})
        set_target_properties(${target} PROPERTIES OUTPUT_NAME heed_cuda)
        set(path HEED_BACKEND_PATH=$<TARGET_FILE_DIR:${target}>)
        if(on STREQUAL "absent")
            seeded_test(${name} "${bug_SAYS}" COMMAND cuda_absent ${bug_TEST}
                        ENVIRONMENT ${absent_driver} ${path} ${bug_ENVIRONMENT})
        else()
            seeded_test(${name} "${bug_SAYS}" COMMAND ${bug_TEST}
                        ENVIRONMENT ${simulated_environment} HEED_TEST_DEVICE=cuda HEED_CUDA_SCHEDULE=1 ${path} ${bug_ENVIRONMENT})
        endif()
    endif()
endfunction()

include(seeded/bugs.cmake)
