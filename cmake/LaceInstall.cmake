# `cmake --install`: the command line, the libraries, the public headers, and what
# find_package(lace) reads. A project then links lace::lace.
include(CMakePackageConfigHelpers)

# All that the public headers declare.
add_library(lace_lace INTERFACE)
target_link_libraries(lace_lace INTERFACE lace_ops lace_model lace_train lace_generate)
set_target_properties(lace_lace PROPERTIES EXPORT_NAME lace)

set(package_dir ${CMAKE_INSTALL_LIBDIR}/cmake/lace)
get_property(rooms GLOBAL PROPERTY LACE_ROOMS)
install(TARGETS ${rooms} lace_lace EXPORT laceTargets
        ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR})
install(TARGETS lace RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
install(TARGETS lace_torch LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR})
install(DIRECTORY ${CMAKE_SOURCE_DIR}/include/lace DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
install(EXPORT laceTargets NAMESPACE lace:: DESTINATION ${package_dir})
configure_package_config_file(${CMAKE_SOURCE_DIR}/cmake/laceConfig.cmake.in
  ${CMAKE_BINARY_DIR}/laceConfig.cmake INSTALL_DESTINATION ${package_dir})
write_basic_package_version_file(${CMAKE_BINARY_DIR}/laceConfigVersion.cmake
  VERSION ${PROJECT_VERSION} COMPATIBILITY SameMinorVersion)
install(FILES ${CMAKE_BINARY_DIR}/laceConfig.cmake ${CMAKE_BINARY_DIR}/laceConfigVersion.cmake
              ${CMAKE_SOURCE_DIR}/cmake/FindLibtorch.cmake
              ${CMAKE_SOURCE_DIR}/cmake/FindMpg123.cmake
              ${CMAKE_SOURCE_DIR}/cmake/FindSampleRate.cmake
              ${CMAKE_SOURCE_DIR}/cmake/FindSndFile.cmake
        DESTINATION ${package_dir})
