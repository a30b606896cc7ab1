#!/usr/bin/env bash
# Downloads and prepares a public data set; scripts/prepare_dataset.py says what, and --help how.
exec python3 "$(dirname "${BASH_SOURCE[0]}")/prepare_dataset.py" openwebtext "$@"
