#!/usr/bin/env bash
# Trains every config of configs/ for a few steps on a GPU, at its own sequence length and heads, on the best kernels,
# on the portable ones, and some of them in fp8. To be run before a change to GPU code is called done; takes about three minutes.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. scripts/common.sh

usage() {
  cat <<'END'
Usage: scripts/smoke_gpu.sh [--programs FOLDER] [--steps N] [CONFIG...]
  --programs FOLDER   where train and prepare_data are; default: the top of the repository
  --steps N           steps of each run; default: 8
  CONFIG...           names of configs; default: all of configs/
Of each run every loss must be finite and the last one below the first. The learning rate is constant and the batch is
one micro-batch, as large as the config says or as fits.
END
}

programs=. steps=8 configs=()
while (($#)); do
  case $1 in
    --programs) programs=${2:?--programs needs a folder}; shift ;;
    --steps) steps=${2:?--steps needs a number}; shift ;;
    -h | --help) usage; exit 0 ;;
    -*) usage >&2; die "unknown option $1" ;;
    *) configs+=("$1") ;;
  esac
  shift
done
((${#configs[@]})) || mapfile -t configs < <(basename -s .json configs/*.json)
for program in train prepare_data; do
  [[ -x $programs/$program ]] || die "$programs/$program: not there; scripts/setup.sh builds it, --programs says where it is"
done

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
for tokenizer in gpt2 bytes; do
  "$programs/prepare_data" --input assets/moby-dick.txt --tokenizer "$tokenizer" --val-fraction 0.2 \
    --output "$folder/$tokenizer" >/dev/null
done

# value_in CONFIG KEY: the number of a key that stands once in a config file.
value_in() { sed -n "s/.*\"$2\": *\([0-9][0-9]*\).*/\1/p" "configs/$1.json" | head -n 1; }

in_fp8=(quickstart gpt2_124m near_far_8k drop_8k)  # on the best kernels

# train_once CONFIG MICRO_BATCH PRECISION: writes $folder/runs/CONFIG/metrics.jsonl and $folder/log.
train_once() {
  local config=$1 micro=$2 precision=$3 tokenizer=gpt2
  grep -q 'tokenizer bytes' "configs/$config.json" && tokenizer=bytes
  rm -rf "$folder/runs"
  timeout 100 "$programs/train" --config "configs/$config.json" --device gpu --data.directory "$folder/$tokenizer" \
    --runs "$folder/runs" --train.steps "$steps" --train.batch_size "$micro" --train.micro_batch_size "$micro" \
    --schedule.schedule constant --schedule.warmup 0 --schedule.lr 6e-4 --optimizer.clip 1 \
    --eval.every 0 --eval.windows 1 --checkpoint.every 0 --log.every 1 --train.watchdog_seconds 60 --train.precision "$precision" >"$folder/log" 2>&1
}

# smoke CONFIG KERNELS: one run; prints its row, fails if anything is not as it should be.
smoke() {
  local config=$1 kernels=$2 precision=auto micro begun=$SECONDS fits losses
  micro=$(value_in "$config" micro_batch_size)
  export SCFA_ATTENTION=
  [[ $kernels != portable ]] || export SCFA_ATTENTION=portable
  [[ $kernels != fp8 ]] || precision=fp8
  if ! train_once "$config" "$micro" "$precision"; then
    if [[ $kernels == fp8 ]] && grep -q 'fp8 needs a GPU of compute capability' "$folder/log"; then
      printf '%-12s %-9s skipped: %s\n' "$config" "$kernels" "$(tail -n 1 "$folder/log")"
      return 0
    fi
    fits=$(sed -n 's/.*train.micro_batch_size \([0-9]*\) would fit.*/\1/p' "$folder/log")
    if [[ -z $fits ]] || ! train_once "$config" "$((micro = fits))" "$precision"; then
      printf '%-12s %-9s FAILED: %s\n' "$config" "$kernels" "$(tail -n 1 "$folder/log")"
      return 1
    fi
  fi
  losses=$(sed -n 's/^{"type":"step".*"loss":\([^,]*\),.*/\1/p' "$folder/runs/$config/metrics.jsonl")
  awk -v config="$config" -v kernels="$kernels" -v micro="$micro" -v steps="$steps" -v seconds=$((SECONDS - begun)) \
    -v rate="$(sed -n 's/^{"type":"step".*"tokens_per_s":\([0-9]*\).*/\1/p' "$folder/runs/$config/metrics.jsonl" | tail -n 1)" '
    { if ($1 !~ /^[0-9.eE+-]+$/) bad = 1; if (NR == 1) first = $1; last = $1 }
    END {
      verdict = bad ? "FAILED: a loss is not finite" : NR != steps ? "FAILED: " NR " steps" : \
        last + 0 >= first + 0 ? "FAILED: the loss does not fall" : "ok"
      printf "%-12s %-9s micro-batch %2d  loss %7.4f to %7.4f  %7d tokens/s  %3d s  %s\n", config, kernels, micro, first, last, rate, seconds, verdict
      exit verdict != "ok"
    }' <<<"$losses"
}

passed=0 failed=0 start=$SECONDS
for kernels in best portable fp8; do
  for config in "${configs[@]}"; do
    [[ $kernels != fp8 || " ${in_fp8[*]} " == *" $config "* ]] || continue
    if smoke "$config" "$kernels"; then passed=$((passed + 1)); else failed=$((failed + 1)); fi
  done
done
say "$(minutes_since "$start") in all"
printf '%d passed, %d failed\n' "$passed" "$failed"
((failed == 0))
