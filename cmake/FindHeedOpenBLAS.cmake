# Defines heed::openblas. Installed too: the static library needs the same of its users.
find_library(HeedOpenBLAS_LIBRARY NAMES openblas PATH_SUFFIXES openblas-pthread)
find_path(HeedOpenBLAS_INCLUDE_DIR NAMES openblas_config.h
          PATH_SUFFIXES openblas-pthread ${CMAKE_LIBRARY_ARCHITECTURE}/openblas-pthread openblas
                        ${CMAKE_LIBRARY_ARCHITECTURE})
include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(HeedOpenBLAS REQUIRED_VARS HeedOpenBLAS_LIBRARY HeedOpenBLAS_INCLUDE_DIR)
mark_as_advanced(HeedOpenBLAS_LIBRARY HeedOpenBLAS_INCLUDE_DIR)
if(HeedOpenBLAS_FOUND AND NOT TARGET heed::openblas)
    add_library(heed::openblas UNKNOWN IMPORTED)
    set_target_properties(heed::openblas PROPERTIES IMPORTED_LOCATION "${HeedOpenBLAS_LIBRARY}"
                                                    INTERFACE_INCLUDE_DIRECTORIES "${HeedOpenBLAS_INCLUDE_DIR}")
endif()
