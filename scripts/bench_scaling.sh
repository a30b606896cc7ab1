#!/usr/bin/env bash
# Trains on 1, 2, ... GPUs of this machine with the same work for each GPU, and prints tokens/s, how they grow, and how
# long a step waited for other ranks. To be run on an otherwise idle machine.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. scripts/common.sh

usage() {
  cat <<'END'
Usage: scripts/bench_scaling.sh [OPTION...] [-- KEY VALUE...]
  --programs FOLDER   where train and prepare_data are; default: the top of the repository
  --ranks "N..."      default: "1 2"
  --configs "C..."    default: "dense_8k hash_8k"
  --micro N           sequences for each GPU and step; default: 8 (65,536 tokens at 8k)
  --steps N           default: 60; the first ten do not count
  --data FOLDER       a set made by prepare_data; default: made from assets/moby-dick.txt
  --csv FILE          also write the table there
  --plain             also without mpirun on one GPU, before and after
What is behind -- goes to train: -- --train.zero 1
END
}

programs=. ranks='1 2' configs='dense_8k hash_8k' micro=8 steps=60 data='' csv='' plain='' more=()
while (($#)); do
  case $1 in
    --programs) programs=${2:?}; shift ;;
    --ranks) ranks=${2:?}; shift ;;
    --configs) configs=${2:?}; shift ;;
    --micro) micro=${2:?}; shift ;;
    --steps) steps=${2:?}; shift ;;
    --data) data=${2:?}; shift ;;
    --csv) csv=${2:?}; shift ;;
    --plain) plain=1 ;;
    -h | --help) usage; exit 0 ;;
    --) shift; more=("$@"); break ;;
    *) usage >&2; die "unknown option $1" ;;
  esac
  shift
done

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
if [[ -z $data ]]; then
  data=$folder/data
  "$programs/prepare_data" --input assets/moby-dick.txt --tokenizer gpt2 --val-fraction 0.2 --output "$data" >/dev/null
fi
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1

# measure CONFIG RANKS(0: without mpirun): prints median tokens/s of the steps, then the waiting of the last profile, ms.
measure() {
  local config=$1 n=$2 launch=() batch
  ((n == 0)) || launch=(mpirun -n "$n" --bind-to none)
  batch=$((micro * (n == 0 ? 1 : n)))
  "${launch[@]}" "$programs/train" --config "configs/$config.json" --device gpu --data.directory "$data" \
    --runs "$folder/runs" --name "$config-$n" --overwrite --train.steps "$steps" --train.batch_size "$batch" \
    --train.micro_batch_size "$micro" --eval.every 0 --eval.windows 1 --checkpoint.every 0 --log.every 20 \
    --train.check_replicas 0 "${more[@]}" >"$folder/log" 2>&1 || { tail -n 5 "$folder/log" >&2; return 1; }
  python3 - "$folder/runs/$config-$n/metrics.jsonl" <<'END'
import json, statistics, sys
records = [json.loads(line) for line in open(sys.argv[1])]
steps = [r for r in records if r["type"] == "step" and r["step"] > 10 and r["step"] % 20]
times = [r["times"] for r in records if r["type"] == "profile"][-1]
rate = steps[0]["tokens_per_s"] * steps[0]["seconds"] / statistics.median(r["seconds"] for r in steps)
print(f'{rate:.0f} {1e3 * times.get("communication_exposed", 0):.2f} {1e3 * times.get("communication", 0):.2f} '
      f'{steps[-1]["loss"]:.4f}')
END
}

table=$folder/table.csv
echo "config,ranks,tokens_per_s,scaling,exposed_ms,communication_ms,loss" >"$table"
for config in $configs; do
  first=''
  for n in ${plain:+0} $ranks ${plain:+0}; do
    read -r rate exposed busy loss < <(measure "$config" "$n") || die "$config on $n ranks failed"
    [[ -n $first || $n == 0 ]] || first=$rate
    awk -v c="$config" -v n="$n" -v r="$rate" -v f="${first:-$rate}" -v e="$exposed" -v b="$busy" -v l="$loss" \
      'BEGIN { printf "%s,%s,%d,%.3f,%s,%s,%s\n", c, n == 0 ? "plain" : n, r, r / f, e, b, l }' | tee -a "$table"
  done
done
[[ -z $csv ]] || cp "$table" "$csv"
