# `cmake --install`: headers, libraries, and the package that find_package(dattn) reads. Targets: dattn::core, dattn::layers, ...
# and dattn::dattn for all of them.
include(CMakePackageConfigHelpers)

add_library(dattn INTERFACE)
add_library(dattn::dattn ALIAS dattn)
get_property(modules GLOBAL PROPERTY DATTN_MODULES)
foreach(module ${modules})
  set_target_properties(dattn_${module} PROPERTIES EXPORT_NAME ${module})
  target_link_libraries(dattn INTERFACE dattn_${module})
  install(TARGETS dattn_${module} EXPORT dattnTargets ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR})
  install(DIRECTORY ${PROJECT_SOURCE_DIR}/${module} DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}/dattn FILES_MATCHING PATTERN "*.h")
endforeach()
install(TARGETS dattn EXPORT dattnTargets)

set(package ${CMAKE_INSTALL_LIBDIR}/cmake/dattn)
install(EXPORT dattnTargets NAMESPACE dattn:: DESTINATION ${package})
write_basic_package_version_file(${PROJECT_BINARY_DIR}/dattnConfigVersion.cmake COMPATIBILITY SameMinorVersion)
configure_file(${PROJECT_SOURCE_DIR}/cmake/dattnConfig.cmake.in ${PROJECT_BINARY_DIR}/dattnConfig.cmake @ONLY)
install(FILES ${PROJECT_BINARY_DIR}/dattnConfigVersion.cmake ${PROJECT_BINARY_DIR}/dattnConfig.cmake
              ${PROJECT_SOURCE_DIR}/cmake/dependencies.cmake DESTINATION ${package})
