#!/usr/bin/env bash
# What a change to GPU code must pass, on a machine with a GPU: all tests, those with NCCL ranks, every config for a few
# steps, and the attention kernels' tests under compute-sanitizer.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. scripts/common.sh

usage() {
  cat <<'END'
Usage: scripts/check_gpu.sh [--build FOLDER] [--only PART,...] [--shards N] [--memcheck GLOB]
  --build FOLDER   a build folder; default: build/h100
  --only PART,...  of tests, nccl, smoke, memcheck; default: all of them, one after another
  --shards N       run the tests in N processes at once; default: three quarters of the cores
  --memcheck GLOB  the tests that run under compute-sanitizer, as for --gtest_filter; default: some of attention's
tests and nccl fail where a GPU is missing (SCFA_REQUIRE_GPU=1). Logs are in FOLDER/check_gpu.
END
}

build=build/h100 parts=tests,nccl,smoke,memcheck shards=$(((3 * $(nproc) + 3) / 4))
memcheck="SegmentsGpu.EqualTheCpu:SegmentsGpu.RangesEqualTheCpu:SegmentsGpu.EachHead*:PatternsGpu.*:NormaliseGpu.*:DecodeGpu.*"
memcheck+=":AttentionGpu.ShapesAroundATile:AttentionGpu.NarrowHeads:AttentionGpu.GroupedHeads:AttentionGpu.DocumentsApart"
while (($#)); do
  case $1 in
    --build) build=${2:?--build needs a folder}; shift ;;
    --only) parts=${2:?--only needs parts}; shift ;;
    --shards) shards=${2:?--shards needs a number}; shift ;;
    --memcheck) memcheck=${2:?--memcheck needs a filter}; shift ;;
    -h | --help) usage; exit 0 ;;
    *) usage >&2; die "unknown option $1" ;;
  esac
  shift
done
[[ $shards =~ ^[1-9][0-9]*$ ]] || die "--shards: must be a number of at least 1, not $shards"
IFS=, read -ra parts <<<"$parts"
for part in "${parts[@]}"; do
  [[ $part =~ ^(tests|nccl|smoke|memcheck)$ ]] || die "--only: there is no $part; there are tests, nccl, smoke and memcheck"
done
tests=$build/scfa_tests logs=$build/check_gpu
[[ -x $tests ]] || die "$tests: not there; cmake --preset h100 && cmake --build --preset h100 makes it"
mkdir -p "$logs"
export SCFA_REQUIRE_GPU=1 OMP_NUM_THREADS=2 OMP_WAIT_POLICY=passive

# summed PATTERN FILE...: the sum of the numbers that PATTERN (of sed, with one group) finds.
summed() {
  local pattern=$1
  shift
  sed -n "s/$pattern/\1/p" "$@" | awk '{ sum += $1 } END { print sum + 0 }'
}

# report WHAT START STATUS LOG...: a line with what GoogleTest counted; the failed tests, or the end of a log without any.
report() {
  local what=$1 start=$2 status=$3 passed failed
  shift 3
  passed=$(summed '^\[  PASSED  \] \([0-9]*\) tests*\.' "$@")
  ((passed > 0)) || status=1
  printf '%-9s %s passed, %s skipped, %s failed, %s\n' "$what" "$passed" \
    "$(summed '^\[  SKIPPED \] \([0-9]*\) tests*, listed below:' "$@")" \
    "$(summed '^\[  FAILED  \] \([0-9]*\) tests*, listed below:' "$@")" "$(minutes_since "$start")"
  ((status != 0)) || return 0
  failed=$(sed -n 's/^\[  FAILED  \] \([^ ,]*\)\( (.*\|,.*\)$/  FAILED \1/p' "$@" | grep -v 'FAILED [0-9]' | sort -u)
  if [[ -n $failed ]]; then printf '%s\n' "$failed"; else tail -n 5 "$@"; fi
  return 1
}

trap 'kill $(jobs -p) 2>/dev/null || true' EXIT  # what & starts ignores Ctrl-C

check_tests() {
  local start=$SECONDS status=0 processes=() files=() i
  for ((i = 0; i < shards; ++i)); do
    files+=("$logs/tests.$i.log")
    GTEST_TOTAL_SHARDS=$shards GTEST_SHARD_INDEX=$i "$tests" --gtest_filter=-Nccl.* >"$logs/tests.$i.log" 2>&1 &
    processes+=($!)
  done
  for i in "${processes[@]}"; do wait "$i" || status=1; done
  report tests "$start" "$status" "${files[@]}"
}

check_nccl() {
  local start=$SECONDS status=0
  "$tests" --gtest_filter='Nccl.*' >"$logs/nccl.log" 2>&1 || status=1
  report nccl "$start" "$status" "$logs/nccl.log"
}

check_smoke() {
  scripts/smoke_gpu.sh --programs "$build/bin" | tee "$logs/smoke.log"
}

check_memcheck() {
  local start=$SECONDS status=0
  compute-sanitizer --tool memcheck --error-exitcode 1 "$tests" --gtest_filter="$memcheck" \
    >"$logs/memcheck.log" 2>&1 || status=1
  grep 'ERROR SUMMARY' "$logs/memcheck.log" || true
  report memcheck "$start" "$status" "$logs/memcheck.log"
}

passed=0 failed=0
for part in "${parts[@]}"; do
  if "check_$part"; then passed=$((passed + 1)); else failed=$((failed + 1)); fi
done
printf '%d of %d parts passed, %d failed\n' "$passed" "${#parts[@]}" "$failed"
((failed == 0))
