# The libraries that dattn stands on, all from Debian's packages.
find_package(Threads REQUIRED)
find_package(fmt REQUIRED)
find_package(Eigen3 3.4 REQUIRED NO_MODULE)
find_package(nlohmann_json REQUIRED)

find_path(DATTN_HIGHWAY_INCLUDE hwy/highway.h REQUIRED)
find_library(DATTN_HIGHWAY_LIBRARY hwy REQUIRED)
add_library(dattn_highway INTERFACE IMPORTED)
target_include_directories(dattn_highway SYSTEM INTERFACE ${DATTN_HIGHWAY_INCLUDE})
target_link_libraries(dattn_highway INTERFACE ${DATTN_HIGHWAY_LIBRARY})

find_path(DATTN_OPENBLAS_INCLUDE openblas_config.h PATH_SUFFIXES openblas openblas-pthread REQUIRED)
find_library(DATTN_OPENBLAS_LIBRARY openblas PATH_SUFFIXES openblas-pthread REQUIRED)
add_library(dattn_openblas INTERFACE IMPORTED)
target_include_directories(dattn_openblas SYSTEM INTERFACE ${DATTN_OPENBLAS_INCLUDE})
target_link_libraries(dattn_openblas INTERFACE ${DATTN_OPENBLAS_LIBRARY})

# datasets: images of folders (stb_image), and the download of CIFAR-10 (libcurl, libarchive, and MD5 from OpenSSL).
find_package(CURL REQUIRED)
find_package(LibArchive REQUIRED)
find_package(OpenSSL REQUIRED COMPONENTS Crypto)
find_path(DATTN_STB_INCLUDE stb_image.h PATH_SUFFIXES stb REQUIRED)
add_library(dattn_stb INTERFACE IMPORTED)
target_include_directories(dattn_stb SYSTEM INTERFACE ${DATTN_STB_INCLUDE})
