# The package of an installed dattn: first the libraries that it stands on, then its own.
if(NOT TARGET dattn::core)
  include(${CMAKE_CURRENT_LIST_DIR}/dependencies.cmake)
  include(${CMAKE_CURRENT_LIST_DIR}/dattnTargets.cmake)
endif()
