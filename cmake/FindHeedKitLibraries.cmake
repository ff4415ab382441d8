# Defines heed::jansson and heed::png, what libheed_kit needs. Installed too.
find_library(HeedKitLibraries_JANSSON NAMES jansson)
find_path(HeedKitLibraries_JANSSON_INCLUDE NAMES jansson.h)
find_library(HeedKitLibraries_PNG NAMES png png16)
find_path(HeedKitLibraries_PNG_INCLUDE NAMES png.h PATH_SUFFIXES libpng16 libpng)
include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(
    HeedKitLibraries REQUIRED_VARS HeedKitLibraries_JANSSON HeedKitLibraries_JANSSON_INCLUDE HeedKitLibraries_PNG
                                   HeedKitLibraries_PNG_INCLUDE)
mark_as_advanced(HeedKitLibraries_JANSSON HeedKitLibraries_JANSSON_INCLUDE HeedKitLibraries_PNG
                 HeedKitLibraries_PNG_INCLUDE)
if(HeedKitLibraries_FOUND AND NOT TARGET heed::jansson)
    add_library(heed::jansson UNKNOWN IMPORTED)
    set_target_properties(heed::jansson PROPERTIES IMPORTED_LOCATION "${HeedKitLibraries_JANSSON}"
                                                   INTERFACE_INCLUDE_DIRECTORIES "${HeedKitLibraries_JANSSON_INCLUDE}")
    add_library(heed::png UNKNOWN IMPORTED)
    set_target_properties(heed::png PROPERTIES IMPORTED_LOCATION "${HeedKitLibraries_PNG}"
                                               INTERFACE_INCLUDE_DIRECTORIES "${HeedKitLibraries_PNG_INCLUDE}")
endif()
