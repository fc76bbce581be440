#!/usr/bin/env bash
# What is verified on a GPU, in stages that each fit in ten minutes and can be repeated alone, in any order.
# usage: bench/gpu.sh STAGE [ARGUMENTS]
#   pack [DATA]             on the machine that has built preset `cuda` (no GPU needed): writes what a bare machine lacks
#   check                   the device, the tools, whether the programs start
#   build                   builds there, for its own GPU, from this tree
#   tests [FILTER]          every suite on the device, in processes that a fault of the device does not outlive
#   sanitize [TOOL [FIRST]] memcheck, racecheck, initcheck or synccheck of compute-sanitizer over every suite with small sizes, in parts:
#                           what does not fit in one call goes on from part FIRST in the next
#   times TYPE [CASE...]    float32 or bfloat16: cases beside PyTorch's best variant on the same card; a call has time for about four
#   profile TYPE [CASE...]  Nsight Compute's figures of the kernels that take the most time
#   data                    gathers the carried parts of CIFAR-10
#   train FIRST-LAST [OPTION...]  trains with these seeds, while there is time, and prints mean and standard error; a later
#                           call goes on with other seeds
#   start                   seconds from process start to the first training step
# Results go to $OUT, or to build/gpu/out where it is not set. Files of other stages are kept in $DATTN_GPU (/tmp/dattn-gpu).
# Several stages in one call: $DATTN_LIMIT is the seconds that each may take (590).
#
# On a bare machine (CUDA toolkit, cuDNN, python3 with PyTorch 2.11 or later, g++, CMake, Ninja; nothing can be fetched) a
# stage needs the tree, and from build/gpu, as `pack` writes it:
#   programs.tar.xz         for all stages but `build`: train, eval, bench, dattn_cuda_tests and the libraries they need
#   packages.tar.xz         for `build` alone: headers and libraries of Debian's packages
#   data-1.tar.xz .. data-3.tar.xz  two files of CIFAR-10 each, for three calls of `data` where a transfer is limited to 64 MiB
# A machine that is lent from call to call may lose $DATTN_GPU half a minute after one: then the calls of `data` and `train`
# follow each other at once.
# What matters most first: check, tests, times, train; then profile, sanitize (memcheck, racecheck, the others), start.
# Times of the layers in three calls: times TYPE; times TYPE dattention_seed_table dattention_7x7 dattn_cnn_2000; times TYPE
# dattention_stride4 dattention_256px_stride8. Alone: times TYPE dattention_1024px_stride8, which PyTorch has no memory for.
# 94 %: bench/gpu.sh train 0-9 --precision bfloat16 --epochs 9 --warm-up
# 96 %: bench/gpu.sh train 0-2 --precision bfloat16 --model dattn_cnn_wide --warm-up
# Of several calls: python3 bench/run_figures.py train-*.csv
set -euo pipefail
cd "$(dirname "$0")/.."
packed=build/gpu
work=${DATTN_GPU:-/tmp/dattn-gpu}
out=${OUT:-$packed/out}
programs=(train eval bench dattn_cuda_tests)
packages=(libfmt-dev libeigen3-dev nlohmann-json3-dev libhwy-dev libopenblas-pthread-dev libcli11-dev libstb-dev
          libcurl4-openssl-dev libarchive-dev libssl-dev libgtest-dev libfmt9 libhwy1 libopenblas0-pthread libgfortran5)
shards=24  # processes of `tests`, twice as many of `sanitize`
limit=${DATTN_LIMIT:-590}  # seconds that a stage may take
side=$(($(nproc) / 2 < 8 ? ($(nproc) + 1) / 2 : 8))  # test processes side by side: most of their work is the host's
most_mib=64  # that may travel in one call
PATH=$PATH:/usr/local/cuda/bin

die() {
  echo "gpu.sh: $*" >&2
  exit 1
}

needs() {  # TOOL
  command -v "$1" > /dev/null || die "$stage: this machine has no $1"
}

# --- on the machine that builds ---

# Shared libraries of a program that neither the C library nor CUDA brings.
needed_libraries() {
  ldd "$@" | awk '$2 == "=>" && $3 ~ /^\// {print $3}' | sort -u |
    grep -Ev '/(ld-linux[^/]*|lib(c|m|dl|rt|pthread|resolv|stdc\+\+|gcc_s|cuda|cudart|cublas|cublasLt|cudnn[a-z_]*))\.so'
}

stage_pack() {
  local folder
  folder=$(mktemp -d)
  trap 'rm -rf "$folder"' RETURN
  mkdir -p "$packed" "$folder/bin" "$folder/lib"
  for program in "${programs[@]}"; do
    [ -x "build/cuda/bin/$program" ] || die "build/cuda/bin/$program is missing (cmake --preset cuda && cmake --build --preset cuda)"
    strip -o "$folder/bin/$program" "build/cuda/bin/$program"
  done
  needed_libraries "${programs[@]/#/build/cuda/bin/}" | xargs -I{} cp -L {} "$folder/lib/"
  # All programs hold the same kernels, 70 MB apart: a window that long finds it.
  tar -C "$folder" -c bin lib | xz --lzma2=preset=9,dict=192MiB > "$packed/programs.tar.xz"
  # Static libraries that a shared one stands beside are left out.
  {
    dpkg -L "${packages[@]}" | grep -E '^/usr/(include|lib|share/(cmake|eigen3))' |
      grep -Ev '/lib(openblas[^/]*|blas|lapack|crypto|ssl|curl|archive)\.a$'
    needed_libraries build/cuda/bin/train | while read -r file; do printf '%s\n' "$file" "$(readlink -f "$file")"; done
  } | sed 's,^/lib/,/usr/lib/,' | sort -u | while read -r file; do [ -d "$file" ] || echo "${file#/}"; done > "$folder/list"
  tar -C / -c -T "$folder/list" | xz -9 > "$packed/packages.tar.xz"
  if [ -n "${1:-}" ]; then
    local i files=("$1"/*.bin)
    files=("${files[@]##*/}")
    for ((i = 0; i < ${#files[@]}; i += 2)); do tar -C "$1" -c "${files[@]:i:2}" | xz -3 > "$packed/data-$((i / 2 + 1)).tar.xz"; done
  fi
  du -shc "$packed"/*
  local tree archive
  tree=$(git ls-files -z | xargs -0 du -cm | tail -1 | cut -f1)
  for archive in "$packed"/*.tar.xz; do
    (($(du -m "$archive" | cut -f1) + tree <= most_mib)) || die "$archive and the tree's $tree MiB are more than $most_mib MiB"
  done
}

# --- what every other stage begins with ---

# unpack FILE FOLDER
unpack() {
  if command -v xz > /dev/null; then
    tar -C "$2" -xJf "$1"
  else
    python3 -c 'import sys, tarfile; tarfile.open(sys.argv[1]).extractall(sys.argv[2])' "$1" "$2"
  fi
}

# Folders with the libraries that the programs name and the system does not find by itself.
library_path() {
  local path=$work/lib:$work/packages/usr/lib/x86_64-linux-gnu name file python
  python=$(python3 -c 'import sys; print(sys.prefix)')/lib
  for name in $(LD_LIBRARY_PATH=$path ldd "${programs[@]/#/$work/bin/}" | awk '/not found/ {print $1}' | sort -u); do
    file=$(find /usr/local/cuda*/ /usr/lib /opt /usr/local/lib "$python" -name "$name" -print -quit 2> /dev/null || true)
    [ -n "$file" ] || die "the programs need $name, which this machine does not have"
    path=$path:$(dirname "$file")
  done
  echo "$path"
}

# Makes the programs ready in $work/bin: carried, from an earlier call, or built; and in $work/run what starts them. The
# carried libraries are for them alone, not for the machine's own tools.
prepare() {
  mkdir -p "$work" "$out"
  if [ -f "$packed/programs.tar.xz" ]; then
    local sum
    sum=$(sha256sum < "$packed/programs.tar.xz")
    if [ "$sum" != "$(cat "$work/programs.sum" 2> /dev/null)" ]; then
      unpack "$packed/programs.tar.xz" "$work"
      echo "$sum" > "$work/programs.sum"
    fi
  elif [ ! -x "$work/bin/train" ]; then
    if [ -x build/cuda/bin/train ]; then ln -sfn "$PWD/build/cuda/bin" "$work/bin"; else stage_build; fi
  fi
  local program
  libraries=$(library_path)
  mkdir -p "$work/run"
  for program in "${programs[@]}"; do
    # shellcheck disable=SC2016  # what the machine's tools add is added when it starts
    printf '#!/bin/bash\nexport LD_LIBRARY_PATH=%q${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}\nexec %q "$@"\n' "$libraries" "$work/bin/$program" \
      > "$work/run/$program"
    chmod +x "$work/run/$program"
  done
}

# --- stages ---

# Where cuDNN lies that PyTorch has brought, as options of CMake; nothing where there is none.
cudnn_of_python() {
  local folder
  folder=$(python3 -c 'import nvidia.cudnn; print(list(nvidia.cudnn.__path__)[0])' 2> /dev/null) || return 0
  [ ! -f "$folder/include/cudnn_graph.h" ] || [ ! -f "$folder/lib/libcudnn.so.9" ] ||
    printf '%s\n' "-DDATTN_CUDNN_INCLUDE=$folder/include" "-DDATTN_CUDNN_LIBRARY=$folder/lib/libcudnn.so.9"
}

stage_build() {
  mkdir -p "$work/packages" "$out"
  [ ! -f "$packed/packages.tar.xz" ] || unpack "$packed/packages.tar.xz" "$work/packages"
  local libraries=$work/packages/usr/lib/x86_64-linux-gnu cudnn
  mapfile -t cudnn < <(cudnn_of_python)
  cmake -S . -B "$work/build" -G Ninja -DCMAKE_BUILD_TYPE=Release -DDATTN_CUDA=ON -DCMAKE_CUDA_ARCHITECTURES=native \
    -DCMAKE_PREFIX_PATH="$work/packages/usr" -DCMAKE_LIBRARY_ARCHITECTURE=x86_64-linux-gnu "${cudnn[@]}" \
    -DCMAKE_EXE_LINKER_FLAGS="-Wl,-rpath-link,$libraries,--allow-shlib-undefined" > "$out/configure.log" ||
    { tail -20 "$out/configure.log"; die "CMake failed"; }
  cmake --build "$work/build" -j "$(nproc)" --target "${programs[@]}" > "$out/build.log" || { grep -A20 FAILED "$out/build.log" | head -60; die "the build failed"; }
  mkdir -p "$work/bin"
  cp "${programs[@]/#/$work/build/bin/}" "$work/bin/"
  cuda/kernel_table "$work/build" > "$out/kernels.txt" || tail -1 "$out/kernels.txt"
}

# What the machine is comes first: it is of use most where the programs do not start.
stage_check() {
  nvidia-smi --query-gpu=name,compute_cap,driver_version,persistence_mode,memory.total,clocks.sm,clocks.mem --format=csv || true
  for tool in nvcc ncu compute-sanitizer cmake ninja g++ python3; do printf '%-18s %s\n' "$tool" "$(command -v $tool || echo missing)"; done
  python3 -c 'import torch; print("torch", torch.__version__, torch.cuda.get_device_name(0))' || true
  prepare
  LD_LIBRARY_PATH=$libraries ldd "${programs[@]/#/$work/bin/}" | grep 'not found' || true
  LD_LIBRARY_PATH=$libraries ldd "$work/bin/bench" | grep cudnn || echo 'the programs are without cuDNN: convolutions by own kernels'
  "$work/run/bench" --device cuda --case conv_24_64_31 --precision bfloat16
}

# Runs `COMMAND PART` for parts FIRST to LAST, several side by side; status[PART] is what it ended with.
side_by_side() {  # COMMAND FIRST LAST
  local part pids=()
  for ((part = $2; part <= $3; ++part)); do "$1" "$part" & pids[part]=$!; done
  for part in "${!pids[@]}"; do wait "${pids[part]}" && status[part]=0 || status[part]=$?; done
}

# Names of the tests that a filter leaves and a shard runs: every $shards-th of the list.
tests_of_shard() {  # FILTER SHARD
  "$work/run/dattn_cuda_tests" --gtest_filter="$1" --gtest_list_tests |
    awk -v shards="$shards" -v shard="$2" '/^[^ ]+\.( |$)/ {suite = $1}
      /^  / && suite $1 !~ /DISABLED_/ && n++ % shards == shard {print suite $1}'
}

# The tests of a shard to look at alone: those that failed, or all where the process did not come to its end.
tests_to_repeat() {  # FILTER SHARD
  if grep -q '^\[  PASSED  \]' "$work/shard-$2.log"; then
    awk '/^\[  FAILED  \] [^ ]+\./ {sub(",$", "", $4); print $4}' "$work/shard-$2.log" | sort -u
  else
    tests_of_shard "$1" "$2"
  fi
}

run_shard() {  # SHARD
  GTEST_TOTAL_SHARDS=$shards GTEST_SHARD_INDEX=$1 timeout -k 5 $((SECONDS < limit - 110 ? limit - 110 - SECONDS : 1)) \
    "$work/run/dattn_cuda_tests" --gtest_filter="$filter" --gtest_brief=1 > "$work/shard-$1.log" 2>&1
}

# After a fault of the device everything else in the process fails too: so there are many processes, and the tests that fail
# run again alone, with launches that are waited for.
stage_tests() {
  local filter=${1:-*} shard status=() failed=() tests
  for ((shard = 0; shard < shards; shard += side)); do
    side_by_side run_shard "$shard" $((shard + side < shards ? shard + side - 1 : shards - 1))
  done
  for ((shard = 0; shard < shards; ++shard)); do
    cat "$work/shard-$shard.log"
  done | tee "$out/tests.log"
  for shard in "${!status[@]}"; do ((status[shard] == 0)) || failed+=("$shard"); done
  for shard in "${failed[@]}"; do
    echo "== shard $shard has failed; its tests one by one:" | tee -a "$out/tests.log"
    mapfile -t tests < <(tests_to_repeat "$filter" "$shard")
    for test in "${tests[@]}"; do
      ((SECONDS < limit - 20)) || die "no time is left; $out/tests.log has what failed so far"
      CUDA_LAUNCH_BLOCKING=1 timeout -k 5 $((limit - 19 - SECONDS)) "$work/run/dattn_cuda_tests" --gtest_filter="$test" --gtest_brief=1 \
        > "$work/test.log" 2>&1 || { echo "FAILED alone: $test"; cat "$work/test.log"; } | tee -a "$out/tests.log"
    done
  done
  [ ${#failed[@]} = 0 ] || die "${#failed[@]} of $shards shards have failed; $out/tests.log says which tests do alone"
}

sanitize_part() {  # PART
  DATTN_SMALL=1 DATTN_CUDA_NO_CACHING=1 GTEST_TOTAL_SHARDS=$parts GTEST_SHARD_INDEX=$1 timeout -k 5 $((limit - SECONDS)) \
    compute-sanitizer --tool "$tool" "${options[@]}" --port $((49152 + 16 * ($1 % side))) --target-processes all \
    --error-exitcode 9 --print-limit 20 --log-file "$work/$tool-$1.log" \
    "$work/run/dattn_cuda_tests" --gtest_brief=1 > "$work/$tool-$1.tests" 2>&1
}

# Without the pool every tensor is a block of the driver's, whose ends and contents the tools know. Kernels of the libraries
# are left out, except where the tool has to see what they write.
stage_sanitize() {
  local tool=${1:-memcheck} first=${2:-0} parts=$((2 * shards)) part last options=() status=() failed=() help
  needs compute-sanitizer
  case $tool in
    memcheck | racecheck | synccheck)
      help=$(compute-sanitizer --help 2>&1 || true)
      if [[ $help == *--kernel-name* ]]; then options=(--kernel-name kns=dattn); else options=(--kernel-regex kns=dattn); fi ;;
    initcheck) ;;
    *) die "sanitize: expected memcheck, racecheck, initcheck or synccheck, found '$tool'" ;;
  esac
  [ "$tool" != memcheck ] || options+=(--report-api-errors no)  # the program checks each call, and tests provoke refusals
  for (( ; first < parts && SECONDS < limit * 3 / 4; first = last + 1)); do
    last=$((first + side < parts ? first + side - 1 : parts - 1))
    side_by_side sanitize_part "$first" "$last"
    ((SECONDS < limit - 5)) || break  # which has cut some of them
    for ((part = first; part <= last; ++part)); do
      ((status[part] != 0)) || continue
      failed+=("$part")
      { echo "== part $part"; cat "$work/$tool-$part.log" "$work/$tool-$part.tests"; } >> "$out/$tool.log"
      echo "part $part: $(tail -1 "$work/$tool-$part.tests"); $(tail -1 "$work/$tool-$part.log")"
    done
  done
  ((first == parts)) || echo "parts up to $first of $parts are done; go on with: bench/gpu.sh sanitize $tool $first"
  [ ${#failed[@]} = 0 ] || die "$tool has found errors, or tests have failed, in parts ${failed[*]}: $out/$tool.log"
}

stage_times() {
  local precision=${1:?gpu.sh: times float32|bfloat16 [CASE...]} calls=30
  shift
  [ $# -gt 0 ] || set -- dattention_seed dattention_15x15 dattn_cnn
  [ "$*" != dattention_1024px_stride8 ] || calls=1  # which takes seconds
  mkdir -p "$work/peer"
  printf '#!/bin/sh\nexec python3 "$@"\n' > "$work/peer/torch-python"
  chmod +x "$work/peer/torch-python"
  export TORCHINDUCTOR_CACHE_DIR=$work/inductor
  timeout -k 5 $((limit - SECONDS)) python3 bench/against_torch.py "$work/run/bench" "$work/peer" --device cuda --precision "$precision" --rounds 1 --calls "$calls" \
    --raw "$out/times-$precision.jsonl" "${@/#/--case=}"
}

stage_profile() {
  local precision=${1:?gpu.sh: profile float32|bfloat16 [CASE...]} case failed=()
  shift
  needs ncu
  [ $# -gt 0 ] || set -- dattention_seed dattention_seed_table dattention_15x15 dattn_cnn
  "$work/run/bench" --device cuda --precision "$precision" --rounds 1 "${@/#/--case=}"  # times without ncu, and floors
  local each=$(((limit - SECONDS) / $#))
  for case in "$@"; do
    timeout -k 5 "$each" ncu --profile-from-start off --clock-control none --cache-control none --csv --page raw --print-units base \
      --target-processes all \
      --section SpeedOfLight --section ComputeWorkloadAnalysis --section Occupancy --section LaunchStats \
      "$work/run/bench" --device cuda --precision "$precision" --case "$case" --profile > "$out/ncu-$precision-$case.csv" || true
    echo "$case:"
    python3 bench/kernel_figures.py "$out/ncu-$precision-$case.csv" || failed+=("$case")
  done
  [ ${#failed[@]} = 0 ] || die "no figures of ${failed[*]}: $out/ncu-$precision-*.csv say why"
}

stage_data() {
  local part
  mkdir -p "$work/data"
  for part in "$packed"/data-*.tar.xz; do
    [ -f "$part" ] || die "data: no $packed/data-*.tar.xz here (bench/gpu.sh pack DATA writes them)"
    unpack "$part" "$work/data"
  done
  ls -l "$work/data"
}

# The folder with CIFAR-10, where all of it has been carried.
data_folder() {
  local folder
  for folder in "$work/data" ../shared/cifar-10-batches-bin shared/cifar-10-batches-bin; do
    if [ "$(find -L "$folder" -name '*_batch*.bin' 2> /dev/null | wc -l)" = 6 ]; then
      echo "$folder"
      return
    fi
  done
  die "CIFAR-10 is not here (bench/gpu.sh data, once for each carried part)"
}

stage_train() {
  local seeds=${1:?gpu.sh: train FIRST-LAST [OPTION...]} data seed begin longest=0 folder csv
  [[ $seeds =~ ^[0-9]+-[0-9]+$ ]] || die "train: expected seeds as FIRST-LAST, found '$seeds'"
  shift
  data=$(data_folder)
  folder=$(mktemp -d "$work/runs.XXXX")
  csv=$out/train$(printf '%s' "-$seeds$*" | tr -cs 'A-Za-z0-9_.-' '-').csv
  for ((seed = ${seeds%-*}; seed <= ${seeds#*-}; ++seed)); do
    ((SECONDS + longest < limit)) || { echo "no time is left; go on with: bench/gpu.sh train $seed-${seeds#*-} $*"; break; }
    begin=$SECONDS
    timeout -k 5 $((limit - SECONDS)) "$work/run/train" --device cuda --data "$data" --seed "$seed" --out "$folder/$seed" "$@" \
      > "$folder/$seed.log" || { tail -5 "$folder/$seed.log"; die "seed $seed failed; $csv has those before"; }
    awk -v seed="$seed" -v head="$(test -f "$csv" || echo yes)" \
      'NR == 1 && head {print "seed," $0} NR > 1 {print seed "," $0}' "$folder/$seed/metrics.csv" >> "$csv"
    grep '^epoch' "$folder/$seed.log" | tail -1
    longest=$((SECONDS - begin > longest ? SECONDS - begin : longest))
  done
  python3 bench/run_figures.py "$csv"
}

# Keeps a context open, without which a driver that is not persistent starts the device anew for every process.
hold_device() {
  exec python3 -c '
import ctypes, sys, time
driver, context = ctypes.CDLL("libcuda.so.1"), ctypes.c_void_p()
failed = driver.cuInit(0) or driver.cuDevicePrimaryCtxRetain(ctypes.byref(context), 0)
if failed: sys.exit(f"the driver gives no context: error {failed}")
print("held", flush=True)
time.sleep(600)'
}

# The line of the first step is written as soon as the step is done and its sums are read.
stage_start() {
  local precision i begin
  rm -f "$work/held"
  hold_device > "$work/held" &
  holder=$!
  trap 'kill "$holder" 2> /dev/null || true' EXIT
  until [ -s "$work/held" ]; do
    kill -0 "$holder" 2> /dev/null || die "start: no context could be opened"
    sleep 0.1
  done
  for precision in float32 bfloat16; do
    for ((i = 0; i < 3; ++i)); do
      begin=$(date +%s.%N)
      "$work/run/train" --device cuda --precision "$precision" --max-steps 1 --out "$(mktemp -d "$work/runs.XXXX")/run" |
        { grep -m 1 -q 'step 1/' && awk -v begin="$begin" -v end="$(date +%s.%N)" -v precision="$precision" \
          'BEGIN {printf "%s: %.2f s from process start to the first step on synthetic images\n", precision, end - begin}'; cat > /dev/null; }
    done
  done
}

stage=${1:-}
case $stage in
  pack) shift; stage_pack "$@" ;;
  build) stage_build ;;
  data) stage_data ;;
  check) stage_check ;;
  tests | sanitize | times | profile | train | start) shift; prepare; "stage_$stage" "$@" ;;
  *) sed -n 's/^# \?//; 2,15p' "$0" >&2; exit 2 ;;
esac
