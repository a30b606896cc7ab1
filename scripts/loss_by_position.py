#!/usr/bin/env python3
"""The loss by position in the context of each finished run of scripts/compare.py.

  scripts/loss_by_position.py --out runs/compare

Evaluates the last checkpoint of each run in OUT/runs on the validation windows of its config and writes OUT/positions.csv: config, seed,
step, first and last position, tokens, loss. Rows of runs whose folder was removed since stay while quality.csv has the run.
"""
import argparse
import pathlib
import re
import shutil
import sys
import tempfile

import children
from compare_plan import gpus_of
from compare_report import earlier_runs, read_rows
from files import csv_text, read_csv, write_whole

COLUMNS = ("config", "seed", "step", "first", "last", "tokens", "loss")


def main(words):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    parser.add_argument("--out", type=pathlib.Path, required=True, metavar="DIR", help="the --out of compare.py")
    parser.add_argument("--configs", metavar="NAME,...", help="only these; default: all")
    parser.add_argument("--seeds", metavar="N,...", help="only these; default: all")
    parser.add_argument("--gpus", metavar="N or N,N,...", help="as for compare.py: one run at a time on each; default: one at a time")
    parser.add_argument("--evaluate", default="./evaluate", metavar="PROGRAM", help="default: %(default)s")
    args = parser.parse_args(words)
    if not shutil.which(args.evaluate):
        sys.exit(f"loss_by_position.py: --evaluate: {args.evaluate}: there is no such program; scripts/setup.sh builds it")
    finished = {key: run.last[0] for key, run in earlier_runs(args.out).items()}  # with their last steps
    file = args.out / "positions.csv"
    rows = [row for of_run in read_rows(file).values() for row in of_run
            if finished.get((row["config"], int(row["seed"]))) == int(row["step"])]
    known = {(row["config"], int(row["seed"])) for row in rows}
    wanted = []  # (run, key)
    for run in sorted((args.out / "runs").glob("*-s*")):
        match = re.fullmatch(r"(.+)-s(\d+)(|-tokens|-seconds)", run.name)
        key = (match[1] + match[3], int(match[2])) if match else None
        if key not in finished or key in known or not list(run.glob("checkpoint-*")):
            continue
        if (args.seeds and match[2] not in args.seeds.split(",")) or (args.configs and match[1] not in args.configs.split(",")):
            continue
        wanted.append((run, key))
    with tempfile.TemporaryDirectory() as folder:
        tables = [pathlib.Path(folder) / f"{run.name}.csv" for run, _ in wanted]
        def add(number):
            key = wanted[number][1]
            rows.extend(dict(zip(COLUMNS, (*key, finished[key], row["first"], row["last"], row["tokens"], row["loss"])))
                        for row in read_csv(tables[number]) if row["table"] == "positions")
            write_whole(file, csv_text(COLUMNS, rows))
        code, failed = children.run_each([[args.evaluate, "--checkpoint", run, "--csv", table] for (run, _), table in zip(wanted, tables)],
                                         gpus_of(args.gpus), quiet=True, ended=add)
        children.end_if_stopped(code)
        if code != 0:
            sys.exit(f"loss_by_position.py: evaluating {wanted[failed][0]} failed")
    if not rows:
        sys.exit(f"loss_by_position.py: {args.out}: has no finished runs with checkpoints; --out is that of compare.py")
    print(f"wrote {file}")


if __name__ == "__main__":
    children.main(main, sys.argv[1:])
