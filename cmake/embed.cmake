# Writes text files into a C++ source, as src/backend/cuda/sources.cuh declares it: cmake -DOUTPUT=FILE -P embed.cmake NAME=PATH…
set(names "")
set(texts "")
set(count 0)
foreach(i RANGE ${CMAKE_ARGC})
    if("${CMAKE_ARGV${i}}" MATCHES "^([a-z_/.]+)=(/.+)$")
        set(name "${CMAKE_MATCH_1}")
        file(READ "${CMAKE_MATCH_2}" text)
        if(text MATCHES "\\)source\"")
            message(FATAL_ERROR "${name} has the end of a raw string literal")
        endif()
        string(APPEND names "    \"${name}\",\n")
        string(APPEND texts "    R\"source(${text})source\",\n")
        math(EXPR count "${count} + 1")
    endif()
endforeach()
file(WRITE "${OUTPUT}" "#include \"backend/cuda/sources.cuh\"

const int cuda_source_count = ${count};
const char *const cuda_source_name[] = {
${names}};
const char *const cuda_source_text[] = {
${texts}};
")
