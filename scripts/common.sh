# Functions shared by the scripts; sourced from the top of the repository.
# shellcheck shell=bash

say() { printf '[%s] %s\n' "$(basename "$0" .sh)" "$*"; }
die() {
  printf '[%s] error: %s\n' "$(basename "$0" .sh)" "$*" >&2
  exit 1
}

# minutes_since START: time since START (a value of SECONDS), for people.
minutes_since() {
  local seconds=$((SECONDS - $1))
  printf '%d min %02d s' $((seconds / 60)) $((seconds % 60))
}

# build_jobs: one compiler a core, but 2 GiB of memory for each: CUDA and template-heavy files need it.
build_jobs() {
  local kib limit jobs cores
  kib=$(awk '/^MemTotal:/ {print $2}' /proc/meminfo)
  if limit=$(cat /sys/fs/cgroup/memory.max 2>/dev/null) && [[ $limit =~ ^[0-9]+$ ]]; then
    ((limit / 1024 >= kib)) || kib=$((limit / 1024))
  fi
  cores=$(nproc)
  jobs=$((kib / (2 * 1024 * 1024)))
  ((jobs <= cores)) || jobs=$cores
  ((jobs >= 1)) || jobs=1
  printf '%s' "$jobs"
}

# find_nvcc: prints the path of an nvcc that can compile this project (12.0 or newer), or fails.
find_nvcc() {
  local nvcc release
  nvcc=$(command -v nvcc || true)
  [[ -n $nvcc || ! -x /usr/local/cuda/bin/nvcc ]] || nvcc=/usr/local/cuda/bin/nvcc
  [[ -n $nvcc ]] || return 1
  release=$("$nvcc" --version 2>/dev/null | sed -n 's/.*release \([0-9]*\)\..*/\1/p')
  if ((${release:-0} < 12)); then
    say "ignoring $nvcc: CUDA 12.0 or newer is needed, it says ${release:-nothing}" >&2
    return 1
  fi
  printf '%s' "$nvcc"
}

# logged LOG COMMAND...: runs quietly; on failure shows the end of its output. A terminal gets the build's progress.
logged() {
  local log=$1
  shift
  mkdir -p "$(dirname "$log")"
  if [[ -t 1 ]]; then
    if NINJA_STATUS='[%f/%t] ' "$@" 2>&1 | tee "$log" |
      awk '/^\[[0-9]+\/[0-9]+\]/ { printf "\r  %s\033[K", $1; fflush() } END { printf "\r\033[K" }'; then
      return 0
    fi
  elif "$@" >"$log" 2>&1; then
    return 0
  fi
  { printf '%s\n' "---- end of $log"; tail -n 150 "$log"; printf '%s\n' "---- failed: $*"; } >&2
  return 1
}

# build PRESET [TARGET...]: configures and builds quietly; the log is build/PRESET.log.
build() {
  local preset=$1 log
  shift
  log=build/$preset.log
  say "configuring build/$preset"
  logged "$log" cmake --preset "$preset" || die "configuring failed; the whole log is $log"
  say "building build/$preset with $(build_jobs) jobs (some minutes the first time)"
  logged "$log" cmake --build --preset "$preset" -j "$(build_jobs)" ${1:+--target "$@"} ||
    die "building failed; the whole log is $log"
}
