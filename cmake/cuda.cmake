# Whether the module `cuda` is compiled for a device: DATTN_CUDA_BUILT. Without it the module is one file that says so, and everything
# else is the same; its kernels run in the tests on the host all the same (tests/cuda_emulation).
set(DATTN_CUDA AUTO CACHE STRING "CUDA kernels: ON, OFF, or AUTO (where both nvcc and an NVIDIA driver are found)")
set_property(CACHE DATTN_CUDA PROPERTY STRINGS AUTO ON OFF)

option(DATTN_CUDNN "Convolutions by cuDNN where it is found, and by own kernels elsewhere" ON)

set(DATTN_CUDA_BUILT OFF)
if(DATTN_CUDA AND NOT DATTN_SANITIZE)
  # The user's choice comes first, where there is one.
  find_program(DATTN_NVCC NAMES ${CMAKE_CUDA_COMPILER} $ENV{CUDACXX} nvcc HINTS $ENV{CUDA_PATH}/bin PATHS /usr/local/cuda/bin)
  if(NOT DATTN_NVCC AND NOT DATTN_CUDA STREQUAL "AUTO")
    message(FATAL_ERROR "CUDA: -DDATTN_CUDA=ON needs nvcc, which was not found: install the CUDA toolkit and put nvcc on PATH, or leave the option out")
  elseif(NOT DATTN_NVCC)
    message(STATUS "CUDA: nvcc was not found, this build is for the CPU alone")
  elseif(DATTN_CUDA STREQUAL "AUTO" AND NOT EXISTS /proc/driver/nvidia AND NOT EXISTS /dev/dxg)
    message(STATUS "CUDA: no NVIDIA driver here, this build is for the CPU alone (-DDATTN_CUDA=ON builds the kernels all the same)")
  else()
    set(DATTN_CUDA_BUILT ON)
  endif()
endif()

if(DATTN_CUDA_BUILT)
  if(NOT CMAKE_CUDA_COMPILER)
    set(CMAKE_CUDA_COMPILER ${DATTN_NVCC})
  endif()
  if(NOT CMAKE_CUDA_ARCHITECTURES)  # code for A100 and H100, and PTX for what comes later
    set(CMAKE_CUDA_ARCHITECTURES 80-real 90)
  endif()
  enable_language(CUDA)
  find_package(CUDAToolkit REQUIRED)
  set(CMAKE_CUDA20_STANDARD_COMPILE_OPTION -std=c++20)  # which CMake 3.25 does not know of nvcc
  set(CMAKE_CUDA_STANDARD 20)
  set(CMAKE_CUDA_EXTENSIONS OFF)
  # The compiler's table of registers, shared memory and spills goes to a file beside each object, for cuda/kernel_table.
  set(CMAKE_CUDA_COMPILER_LAUNCHER ${PROJECT_SOURCE_DIR}/cmake/keep_ptxas_table ${DATTN_CCACHE})
endif()

# Adds module `cuda`.
function(dattn_cuda_module)
  if(NOT DATTN_CUDA_BUILT)
    dattn_module(cuda SOURCES cuda/not_built.cpp DEPENDS dattn_core)
    return()
  endif()
  file(GLOB sources CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/cuda/*.cu)
  if(DATTN_CUDNN)
    find_path(DATTN_CUDNN_INCLUDE cudnn_graph.h HINTS ${CUDAToolkit_INCLUDE_DIRS})  # from version 9 on
    find_library(DATTN_CUDNN_LIBRARY NAMES cudnn libcudnn.so.9 HINTS ${CUDAToolkit_LIBRARY_DIR})  # the second where there is no -dev package
  endif()
  if(DATTN_CUDNN AND DATTN_CUDNN_INCLUDE AND DATTN_CUDNN_LIBRARY)
    list(REMOVE_ITEM sources ${PROJECT_SOURCE_DIR}/cuda/conv2d_no_cudnn.cu)
    set(cudnn ${DATTN_CUDNN_LIBRARY})
  else()
    message(STATUS "CUDA: without cuDNN, all convolutions are by own kernels")
    list(REMOVE_ITEM sources ${PROJECT_SOURCE_DIR}/cuda/conv2d_cudnn.cu)
  endif()
  dattn_module(cuda SOURCES ${sources} DEPENDS dattn_layers dattn_optim dattn_datasets CUDA::cudart_static CUDA::cublasLt ${cudnn})
  set_target_properties(dattn_cuda PROPERTIES OPTIMIZE_DEPENDENCIES ON)  # compiles without the other modules being built first
  if(cudnn)
    target_include_directories(dattn_cuda SYSTEM PRIVATE ${DATTN_CUDNN_INCLUDE})
  endif()
  # {fmt} 9 holds nvcc for a compiler without constexpr.
  target_compile_definitions(dattn_cuda PRIVATE FMT_USE_CONSTEXPR=1)
  # Warning 3189: nvcc looks twice at a variable named `module`. Line numbers are for compute-sanitizer and Nsight Compute.
  target_compile_options(dattn_cuda PRIVATE -lineinfo -Xptxas=-v -diag-suppress=3189 -Xcompiler=-Wall,-Wextra,-ffp-contract=off)
  if(DATTN_WERROR)
    target_compile_options(dattn_cuda PRIVATE -Werror=all-warnings)
  endif()
endfunction()
