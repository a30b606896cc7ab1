#!/usr/bin/env bash
# Runs the paper's experiments and ours, and writes one report; --help says how.
exec python3 "$(dirname "${BASH_SOURCE[0]}")/reproduce.py" "$@"
