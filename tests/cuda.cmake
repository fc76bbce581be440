# The CUDA module's tests: on the host against an emulation of the device wherever there is a compiler, and on a device
# where nvcc built the module. Both programs have the same sources but those of the emulation.
file(GLOB device_tests CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/cuda/*.cpp)
list(APPEND device_tests program.cpp)

if(NOT DATTN_SANITIZE MATCHES thread)  # which knows nothing of fibers
  file(GLOB emulation CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/cuda_emulation/*.cpp)
  file(GLOB emulation_tests CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/cuda_emulation/*_test.cpp)
  list(REMOVE_ITEM emulation ${emulation_tests})
  file(GLOB kernels CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/cuda/*.cu)
  # What only nvcc can compile; its twins are among the emulation's sources.
  list(REMOVE_ITEM kernels ${PROJECT_SOURCE_DIR}/cuda/launch.cu ${PROJECT_SOURCE_DIR}/cuda/gemm_cublas.cu
                              ${PROJECT_SOURCE_DIR}/cuda/conv2d_cudnn.cu)
  set_source_files_properties(${kernels} PROPERTIES LANGUAGE CXX COMPILE_OPTIONS "-xc++")

  if(DATTN_SANITIZE)  # every step of every thread goes through these: they are not what is to be checked
    set_source_files_properties(cuda_emulation/execution.cpp cuda_emulation/shared_memory.cpp cuda_emulation/device.cpp
                                PROPERTIES COMPILE_OPTIONS "-O3;-fno-sanitize=all")
  endif()

  add_library(dattn_cuda_emulated STATIC ${kernels} ${emulation})
  target_link_libraries(dattn_cuda_emulated PUBLIC dattn_layers dattn_optim dattn_datasets PRIVATE dattn_flags)
  target_include_directories(dattn_cuda_emulated PUBLIC ${CMAKE_CURRENT_SOURCE_DIR})
  target_compile_definitions(dattn_cuda_emulated PUBLIC DATTN_CUDA_EMULATED)
  target_compile_options(dattn_cuda_emulated PUBLIC -Wno-unknown-pragmas)

  add_executable(dattn_cuda_emulated_tests ${device_tests} ${emulation_tests})
  target_link_libraries(dattn_cuda_emulated_tests PRIVATE dattn_train dattn_cuda_emulated dattn_op_cases GTest::gtest_main dattn_test_flags)
  gtest_discover_tests(dattn_cuda_emulated_tests TEST_PREFIX cuda_emulated. DISCOVERY_TIMEOUT 60)
endif()

if(DATTN_CUDA_BUILT)
  add_executable(dattn_cuda_tests ${device_tests})
  target_include_directories(dattn_cuda_tests PRIVATE ${CMAKE_CURRENT_SOURCE_DIR})
  target_link_libraries(dattn_cuda_tests PRIVATE dattn_train dattn_cuda dattn_op_cases GTest::gtest_main dattn_test_flags)
  if(EXISTS /proc/driver/nvidia)  # a test is no failure where it cannot run
    # Before the tests run, not when they are linked: where it is built it may lack a library that it is started with.
    gtest_discover_tests(dattn_cuda_tests TEST_PREFIX cuda. DISCOVERY_MODE PRE_TEST DISCOVERY_TIMEOUT 60
                         PROPERTIES RUN_SERIAL ON)
  endif()
endif()
