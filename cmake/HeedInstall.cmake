# Headers, libraries, the CMake package (heed::heed, heed::kit and their _static forms) and heed.pc.
include(CMakePackageConfigHelpers)
set(package_dir "${CMAKE_INSTALL_LIBDIR}/cmake/heed")

set(targets heed heed_static)
set_target_properties(heed_static PROPERTIES EXPORT_NAME heed_static)
if(TARGET heed_kit)
    list(APPEND targets heed_kit heed_kit_static)
    set_target_properties(heed_kit PROPERTIES EXPORT_NAME kit)
    set_target_properties(heed_kit_static PROPERTIES EXPORT_NAME kit_static)
endif()
install(TARGETS ${targets} EXPORT heed-targets)
install(DIRECTORY "${PROJECT_SOURCE_DIR}/include/heed" DESTINATION "${CMAKE_INSTALL_INCLUDEDIR}"
        FILES_MATCHING PATTERN "*.h")
install(EXPORT heed-targets NAMESPACE heed:: DESTINATION "${package_dir}")

configure_package_config_file("${PROJECT_SOURCE_DIR}/cmake/heedConfig.cmake.in" "${PROJECT_BINARY_DIR}/heedConfig.cmake"
                              INSTALL_DESTINATION "${package_dir}" NO_SET_AND_CHECK_MACRO)
write_basic_package_version_file("${PROJECT_BINARY_DIR}/heedConfigVersion.cmake" COMPATIBILITY SameMinorVersion)
install(FILES "${PROJECT_BINARY_DIR}/heedConfig.cmake" "${PROJECT_BINARY_DIR}/heedConfigVersion.cmake"
              "${PROJECT_SOURCE_DIR}/cmake/FindHeedOpenBLAS.cmake" "${PROJECT_SOURCE_DIR}/cmake/FindHeedKitLibraries.cmake"
        DESTINATION "${package_dir}")

# The prefix is found from the place of the .pc file: `cmake --install --prefix` may choose it, and the package may be moved.
if(IS_ABSOLUTE "${CMAKE_INSTALL_LIBDIR}")
    set(heed_pc_prefix "${CMAKE_INSTALL_PREFIX}")
else()
    file(RELATIVE_PATH heed_pc_up "/${CMAKE_INSTALL_LIBDIR}/pkgconfig" "/")
    string(REGEX REPLACE "/$" "" heed_pc_prefix "\${pcfiledir}/${heed_pc_up}")
endif()
set(heed_pc_libdir "\${prefix}")
set(heed_pc_includedir "\${prefix}")
cmake_path(APPEND heed_pc_libdir "${CMAKE_INSTALL_LIBDIR}") # an absolute folder stays as it is
cmake_path(APPEND heed_pc_includedir "${CMAKE_INSTALL_INCLUDEDIR}")
configure_file("${PROJECT_SOURCE_DIR}/cmake/heed.pc.in" "${PROJECT_BINARY_DIR}/heed.pc" @ONLY)
configure_file("${PROJECT_SOURCE_DIR}/cmake/heed_kit.pc.in" "${PROJECT_BINARY_DIR}/heed_kit.pc" @ONLY)
install(FILES "${PROJECT_BINARY_DIR}/heed.pc" "${PROJECT_BINARY_DIR}/heed_kit.pc"
        DESTINATION "${CMAKE_INSTALL_LIBDIR}/pkgconfig")
