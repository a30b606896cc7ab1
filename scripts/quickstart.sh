#!/usr/bin/env bash
# From a fresh clone to a trained model: sets up, prepares the sample text, trains on it, evaluates and generates.
# Arguments go to ./train, for example: scripts/quickstart.sh --train.steps 100
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. scripts/common.sh

data=data/quickstart run=runs/quickstart prompt="The whale" overwrite=(--overwrite)
for word; do
  case $word in
    -h | --help)
      printf 'Usage: scripts/quickstart.sh [OPTION OF ./train...]\n'
      printf '  Sets up, trains configs/quickstart.json on assets/moby-dick.txt into runs/quickstart, and generates a sample.\n'
      printf '  With --resume it goes on with that run; without, it replaces it.\n'
      exit 0
      ;;
    --resume) overwrite=() ;;
    --name | --name=* | --runs | --runs=* | --dry-run | --config | --config=*)
      die "${word%%=*}: not here: this trains configs/quickstart.json into $run; ./train takes it"
      ;;
  esac
done

# last_value KEY TYPE: the value of KEY in the last record of TYPE in the run's metrics.
last_value() {
  { grep "\"type\": *\"$2\"" "$run/metrics.jsonl" || true; } | tail -n 1 |
    sed -n "s/.*\"$1\": *\([-+.0-9eE]*\).*/\1/p" | awk '{ printf "%.4f", $1 }'
}

scripts/setup.sh --programs-only
start=$SECONDS

say "preparing the sample text"
./prepare_data --input assets/moby-dick.txt --tokenizer bytes --val-fraction 0.1 --output "$data" --overwrite
info=$(./prepare_data info "$data" --bigram)
bigram=$(sed -n 's/.*[Bb]igram[^0-9]*\([0-9][0-9]*\.[0-9]*\).*/\1/p' <<<"$info" | tail -n 1)

say "training"
./train --config configs/quickstart.json "${overwrite[@]}" "$@" --name quickstart --runs runs

say "generating"
sample=$(./generate --checkpoint "$run" --prompt "$prompt" --seed 1)
elapsed=$(minutes_since "$start")

loss=$(last_value loss eval) perplexity=$(last_value perplexity eval)
cat <<END

---- done in $elapsed (building not counted)
validation loss   ${loss:-unknown}, perplexity ${perplexity:-unknown} per byte
bigram model      ${bigram:-unknown} (loss of the same text when only the byte before is known)
sample            $sample
metrics           $run/metrics.jsonl
checkpoint        $run
the run           ./inspect $run
its curve         scripts/plot_metrics.py $run -o loss.png   # needs matplotlib: apt-get install python3-matplotlib
another sample    ./generate --checkpoint $run --prompt "..."
END
awk -v a="${loss:-1}" -v b="${bigram:-0}" 'BEGIN { exit !(a < b) }' ||
  say "note: the validation loss is not below the bigram model's: it has not been trained for long enough"
