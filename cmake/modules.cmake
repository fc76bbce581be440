# A module is one folder of the tree and one static library: dattn_core, dattn_layers, ... (see docs/design.md).
include(GNUInstallDirs)

add_library(dattn_flags INTERFACE)
# A product and a sum are one rounding only where the code says so: the same arithmetic with and without SIMD.
target_compile_options(dattn_flags INTERFACE "$<$<COMPILE_LANGUAGE:CXX>:-Wall;-Wextra;-Wshadow;-ffp-contract=off;$<$<BOOL:${DATTN_WERROR}>:-Werror>>")
# Instruction sets compiled for x86-64: AVX2, AVX-512, and plain scalar code for whatever has neither. AVX3_DL, which -march=native brings
# in on some machines, is left out: its TruncateTo from 32 to 8 bits is wrong in Highway 1.0.3 (bytes are permuted as if they were words).
# For Arm: NEON. SVE's vectors, whose length the compiler does not know, cannot be in arrays, as blocks of sums are.
target_compile_definitions(dattn_flags INTERFACE
                           "HWY_DISABLED_TARGETS=(HWY_SSSE3|HWY_SSE4|HWY_AVX3_DL|HWY_SVE|HWY_SVE_256|HWY_SVE2|HWY_SVE2_128)")
# Under sanitizers kernels are compiled for this machine alone, as each instruction set takes minutes; and what
# AddressSanitizer sees anyhow is not checked twice.
# GCC warns of uninitialised memory in the standard library where sanitizers have changed the code (GCC bug 105562), and in its own
# header of AVX-512 intrinsics (bug 105593).
if(DATTN_SANITIZE)
  target_compile_options(dattn_flags INTERFACE -march=native -fsanitize=${DATTN_SANITIZE} -fno-sanitize-recover=all
                                               -fno-omit-frame-pointer -Wno-maybe-uninitialized -Wno-uninitialized)
  if(DATTN_SANITIZE MATCHES address)
    target_compile_options(dattn_flags INTERFACE -fno-sanitize=null,object-size,vptr)
  endif()
  target_compile_definitions(dattn_flags INTERFACE HWY_COMPILE_ONLY_STATIC)
  target_link_options(dattn_flags INTERFACE -fsanitize=${DATTN_SANITIZE})
endif()

function(dattn_module name)
  cmake_parse_arguments(MODULE "" "" "DEPENDS;SOURCES" ${ARGN})
  if(NOT MODULE_SOURCES)
    file(GLOB MODULE_SOURCES CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/${name}/*.cpp)
  endif()
  add_library(dattn_${name} STATIC ${MODULE_SOURCES})
  add_library(dattn::${name} ALIAS dattn_${name})
  set_property(GLOBAL APPEND PROPERTY DATTN_MODULES ${name})
  target_include_directories(dattn_${name} PUBLIC $<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}> $<INSTALL_INTERFACE:${CMAKE_INSTALL_INCLUDEDIR}/dattn>)
  target_compile_features(dattn_${name} PUBLIC cxx_std_20)
  target_link_libraries(dattn_${name} PUBLIC ${MODULE_DEPENDS} PRIVATE $<BUILD_INTERFACE:dattn_flags>)
endfunction()

# One program from one source file, in build/*/bin.
function(dattn_program name source)
  add_executable(${name} ${source})
  target_link_libraries(${name} PRIVATE ${ARGN} dattn_flags)
endfunction()
