# Toolchain file of the preset aarch64: 64-bit Arm from a Debian machine of another kind, with the packages of architecture arm64
# beside its own, and programs run by qemu-user. Needed, after `dpkg --add-architecture arm64`: g++-aarch64-linux-gnu, qemu-user, and
# of what `run` lists the -dev packages of libraries, with :arm64 behind their names.
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR aarch64)
set(CMAKE_CXX_COMPILER aarch64-linux-gnu-g++)
set(CMAKE_LIBRARY_ARCHITECTURE aarch64-linux-gnu)
set(CMAKE_CROSSCOMPILING_EMULATOR qemu-aarch64)
set(CMAKE_CXX_FLAGS_INIT -Wno-psabi)  # GCC tells of pairs that are passed otherwise since version 10
set(ENV{PKG_CONFIG_LIBDIR} /usr/lib/aarch64-linux-gnu/pkgconfig:/usr/share/pkgconfig)
