#!/usr/bin/env bash
# Sets up, then runs every test; --all adds what continuous integration checks.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. scripts/common.sh

usage() {
  cat <<'END'
Usage: scripts/test.sh [--all] [CTEST OPTION...]
  Sets up (scripts/setup.sh), then runs the tests; options such as -R NAME go to ctest.
  --all   also: warnings as errors, GPU code for sm_80 and sm_90a without register spills, attention's without local
          memory (if nvcc is there), all tests under the address and undefined-behaviour sanitizers, formatting,
          includes, clang-tidy, generated docs, the tests of scripts
END
}

all=''
case ${1-} in
  --all) all=1; shift ;;
  -h | --help) usage; exit 0 ;;
esac

# Test cases run side by side, each with the few threads that CMakeLists.txt gives it.
run_ctest() {
  local preset=$1
  shift
  ctest --preset "$preset" -j "$(nproc)" --no-tests=error "$@"
}

if [[ -z $all ]]; then
  scripts/setup.sh
  preset=$(readlink train | cut -d/ -f2)
  run_ctest "$preset" "$@"
  exit
fi

start=$SECONDS failed=()

# step NAME COMMAND...: runs one check and goes on after a failure, so that one run shows all that is wrong.
step() {
  local name=$1 begun=$SECONDS
  shift
  printf '\n==== %s\n' "$name"
  if "$@"; then
    say "$name: ok ($(minutes_since "$begun"))"
  else
    say "$name: FAILED ($(minutes_since "$begun"))"
    failed+=("$name")
  fi
}

finish() {
  if ((${#failed[@]})); then
    printf '\n'
    say "FAILED after $(minutes_since "$start"):"
    printf '  %s\n' "${failed[@]}"
    exit 1
  fi
  say "everything passed in $(minutes_since "$start")"
}

check_gpu_code() {
  if ! find_nvcc >/dev/null; then
    say "no nvcc: the GPU code was not compiled"
  elif [[ -z $(find src -name '*.cu') ]]; then
    say "there is no GPU code"
  else
    scripts/ptxas_summary.py build/ci.log && scripts/check_sass.py --nvcc "$(find_nvcc)"
  fi
}

check_docs() {
  ./train --print-config-docs | diff -u docs/configuration.md - ||
    { say "out of date: ./train --print-config-docs > docs/configuration.md"; return 1; }
}

# Only files of this build: which of two files stands for a missing GPU is CMake's choice.
check_tidy() {
  local database=build/ci files
  mapfile -t files < <(find src -name '*.cpp' | sort | while read -r file; do
    ! grep -q "/$file\"" "$database/compile_commands.json" || printf '%s\n' "$file"
  done)
  printf '%s\n' "${files[@]}" |
    xargs -P "$(build_jobs)" -n 1 clang-tidy -p "$database" --quiet 2>build/tidy.log ||
    { grep -v 'warnings generated\|Suppressed\|Use -header-filter' build/tidy.log | head -n 40 || true; return 1; }
  say "${#files[@]} files are clean"
}

run_sanitized() {
  (build asan) || return 1
  # Quiet on success: the last test run is the one to read.
  ASAN_OPTIONS=print_legend=0 UBSAN_OPTIONS=print_stacktrace=1 logged build/asan-tests.log run_ctest asan || return 1
  grep 'tests passed' build/asan-tests.log
}

printf '==== packages and build\n'
scripts/setup.sh --checks --packages-only
# ptxas reports only when it runs; with ccache this costs seconds.
[[ ! -d build/ci ]] || find build/ci -name '*.cu.o' -delete
if ! scripts/setup.sh --checks --preset ci; then
  failed+=("build with warnings as errors")
  finish
fi
step "GPU code" check_gpu_code
step "formatting" scripts/check_format.sh
step "includes" scripts/check_includes.py --self-test
step "links of the docs" scripts/check_links.py
step "comparison of configs" scripts/compare.py --self-test
step "preparing public data sets" scripts/prepare_dataset_test.py
step "recall by distance" scripts/recall_test.py
step "reproduction, scale smoke" scripts/reproduce_test.py
step "generated docs" check_docs
step "clang-tidy" check_tidy
step "tests under address and undefined-behaviour sanitizers" run_sanitized
step "tests" run_ctest ci "$@"
finish
