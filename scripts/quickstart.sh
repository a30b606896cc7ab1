#!/usr/bin/env bash
# From a fresh clone to a trained model: sets up, prepares the sample text, trains on it, evaluates and generates.
# Arguments go to ./train, for example: scripts/quickstart.sh --train.steps 100
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. scripts/common.sh

case ${1-} in
  -h | --help)
    printf 'Usage: scripts/quickstart.sh [OPTION OF ./train...]\n'
    printf '  Sets up, trains configs/quickstart.json on assets/moby-dick.txt, and generates a sample.\n'
    exit 0
    ;;
esac

data=data/quickstart run=runs/quickstart prompt="The whale"

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
./train --config configs/quickstart.json --overwrite "$@" --name quickstart --runs runs

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
another sample    ./generate --checkpoint $run --prompt "..."
END
awk -v a="${loss:-1}" -v b="${bigram:-0}" 'BEGIN { exit !(a < b) }' ||
  say "note: the validation loss is not below the bigram model's: it has not been trained for long enough"
