#!/usr/bin/env python3
"""The loss by position in the context of each finished run of scripts/compare.py.

  scripts/loss_by_position.py --out runs/compare

Evaluates the newest checkpoint of each run in OUT/runs on the validation windows of its config and writes OUT/positions.csv: config, seed, first
and last position, tokens, loss. Rows of runs whose folder was removed since stay.
"""
import argparse
import csv
import pathlib
import re
import sys
import tempfile

import children

COLUMNS = ("config", "seed", "first", "last", "tokens", "loss")


def main(words):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    parser.add_argument("--out", type=pathlib.Path, required=True, metavar="DIR", help="the --out of compare.py")
    parser.add_argument("--evaluate", default="./evaluate", metavar="PROGRAM", help="default: %(default)s")
    args = parser.parse_args(words)
    file, rows = args.out / "positions.csv", []
    if file.exists():
        with open(file, encoding="utf-8", newline="") as table:
            rows = list(csv.DictReader(table))
    known = {(row["config"], row["seed"]) for row in rows}
    for run in sorted((args.out / "runs").glob("*-s*")):
        match = re.fullmatch(r"(.+)-s(\d+)", run.name)
        if not match or match.groups() in known or not list(run.glob("checkpoint-*/checkpoint.xxh3")):
            continue
        with tempfile.TemporaryDirectory() as folder:
            table = pathlib.Path(folder) / "evaluation.csv"
            code = children.run([args.evaluate, "--checkpoint", run, "--csv", table], quiet=True)
            children.end_if_stopped(code)
            if code != 0:
                sys.exit(f"loss_by_position.py: evaluating {run} failed")
            with open(table, encoding="utf-8", newline="") as evaluation:
                rows += [dict(zip(COLUMNS, (*match.groups(), row["first"], row["last"], row["tokens"], row["loss"])))
                         for row in csv.DictReader(evaluation) if row["table"] == "positions"]
        partial = file.with_name(file.name + ".partial")
        with open(partial, "w", encoding="utf-8", newline="") as table:
            writer = csv.DictWriter(table, COLUMNS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
        partial.replace(file)
    if not rows:
        sys.exit(f"loss_by_position.py: {args.out}: has no runs with checkpoints; --out is that of compare.py")


if __name__ == "__main__":
    main(sys.argv[1:])
