#!/usr/bin/env python3
"""How far back do attention patterns recall? Trains small models on synthetic sequences and tells accuracy by distance.

  scripts/recall.py --out runs/recall --lengths 1024 --patterns dense,near_dense,near_far,hash16 --seeds 1,2 --tokens 300M --batch 16384
  scripts/recall.py --out runs/needle --task needle --lengths 16384 --tokens 500M --gpus 2
  scripts/recall.py --out runs/recall_16k --lengths 16384 --patterns near_dense,near_far --rotary-theta 1e6 --batch 16384 \
      --init-from 'runs/recall/mqar/1024/runs/near_dense-s{seed}'   # train on short sequences, go on with long ones

For each length the sequences are made by ./prepare_data synthetic, models of each pattern and seed are trained by
scripts/compare.py with equal tokens, and ./evaluate tells what each recalls when it is trained. The same command goes on where it was
stopped. OUT gets TASK.csv (accuracy by distance, and all distances together, of the models of each length when they are trained, or of those
that are when the command is stopped), TASK_T.svg, configs/, and for each length data and runs. A command with the same OUT and other lengths,
patterns or seeds adds to them.
"""
import argparse
import json
import math
import os
import pathlib
import shlex
import statistics
import sys

import children
from attention_patterns import MEANINGS, attention_of, shares_keys
from compare_plan import gpus_of, parse_count, parse_seeds
from files import csv_text, lock_folder, read_csv, write_json, write_whole
from svg_plot import line_plot

SCRIPTS = pathlib.Path(__file__).resolve().parent
TASKS = ("mqar", "induction", "needle")
ROTARY_THETA = 10_000.0  # that of ./train
COLUMNS = ("task", "T", "pattern", "seed", "first", "last", "answers", "accuracy", "loss")


def fail(message):
    sys.exit(f"recall.py: {message}")


def run(command, what):
    """Ends this program as the command ended, if that was not well; it has said why."""
    code = children.run(command)
    children.end_if_stopped(code)
    if code != 0:
        fail(f"{what} failed")


def config_of(args, pattern, T):
    batch = max(1, args.batch // T)
    # Configs of results from before --rotary-theta do not have the key: they must stay the same.
    theta = {} if args.rotary_theta == ROTARY_THETA else {"rotary_theta": args.rotary_theta}
    return {
        "model": {"n_layer": args.layers, "n_head": args.heads, "n_embd": args.width, "sequence_length": T, "bias": False,
                  "positions": "rotary", **theta, "shared_qk": shares_keys(pattern)},
        "attention": attention_of(pattern, args.heads, window=max(8, min(128, T // 8)), block=max(8, T // 16)),
        "train": {"batch_size": batch, "micro_batch_size": batch},
        "optimizer": {"clip": 1.0},
        "schedule": {"schedule": "cosine", "lr": args.lr, "warmup": 0.1, "final_ratio": 0.1},
        # For the loss curve; the final accuracy uses all windows. Long ones take a larger part of the time of a run.
        "eval": {"windows": 512 if T <= 4096 else max(32, 2**19 // T)},
        "checkpoint": {"every": 0},
    }


def has_runs(results, pattern="*"):
    return bool(list(results.glob(f"runs/{pattern}-s*")) or list(results.glob(f"evaluations/{pattern}-s*.csv")))


def write_config(path, config, results, pattern):
    """Not over one that runs were made with."""
    try:
        same = json.loads(path.read_text(encoding="utf-8")) == config
    except (OSError, ValueError):
        same = not path.exists()
    if not same and has_runs(results, pattern):
        fail(f"{path}: there are runs with other settings; give another --out")
    write_json(path, config)


def earlier_rows(args):
    """What earlier commands have measured."""
    return [{**row, "T": int(row["T"]), "first": int(row["first"]), "last": int(row["last"]), "answers": int(row["answers"])}
            for row in read_csv(args.out / f"{args.task}.csv")]


def merged(rows, new):
    """rows, with new ones in place of those of the same runs."""
    runs = {(row["T"], row["pattern"], row["seed"]) for row in new}
    return sorted([row for row in rows if (row["T"], row["pattern"], row["seed"]) not in runs] + new, key=lambda row: row["T"])


def make_data(args, T, folder, results):
    """As many sequences as the runs take, so that none comes twice; nothing where all runs have been evaluated. results: the folder of this
    length, whose data.json says what its results, and the data, were made with."""
    needed = not all((results / "evaluations" / f"{name}.csv").exists() for *_, name in all_runs(args))
    sequences = math.ceil(args.tokens_count / T) + max(1, args.batch // T) + 1
    wanted = {"task": args.task, "length": T, "sequences": sequences, "pairs": args.pairs, "vocabulary": args.vocabulary,
              **{name: getattr(args, name) for name in ("batch", "layers", "heads", "width", "lr", "rotary_theta")},
              "init_from": args.init_from and os.path.normpath(args.init_from).replace(os.path.normpath(args.out), "OUT")}
    stamp, made = results / "data.json", {}
    if stamp.exists():
        try:
            made = {"init_from": None, "rotary_theta": ROTARY_THETA, **json.loads(stamp.read_text(encoding="utf-8"))}  # which older ones do not have
        except (OSError, TypeError, ValueError):
            fail(f"{stamp}: cannot be read; give another --out")
    others = [name for name, value in wanted.items() if name in made and made[name] != value]
    if others and has_runs(results):
        option = {"sequences": "tokens"}.get(others[-1], others[-1].replace("_", "-"))  # sequences follow from the batch too
        fail(f"{results}: was made with another --{option}; give another --out")
    if not needed or (made and not others and (folder / "manifest.json").exists()):
        return
    results.mkdir(parents=True, exist_ok=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    command = [args.prepare, "synthetic", args.task, "--length", T, "--sequences", sequences, "--vocabulary", args.vocabulary,
               "--output", folder, "--overwrite"]
    run(command + (["--pairs", args.pairs] if args.pairs is not None else []), "making the sequences")
    write_json(stamp, wanted)


def all_runs(args):
    return [(pattern, seed, f"{pattern}-s{seed}") for pattern in args.patterns for seed in args.seeds.split(",")]


def table_of(folder, name):
    return folder / "evaluations" / f"{name}.csv"


def evaluation_of(args, run, table):
    return [args.evaluate, "--checkpoint", run, "--windows", 0, "--csv", table]


def is_evaluated(folder, name):
    """Since it was last saved. A run that was evaluated stays so when its folder is removed."""
    run, table = folder / "runs" / name, table_of(folder, name)
    checkpoints = sorted(run.glob("checkpoint-*/checkpoint.xxh3"))
    return table.exists() and (table.stat().st_mtime >= checkpoints[-1].stat().st_mtime if checkpoints else not run.exists())


def train_and_evaluate(args, data, folder, configs):
    """Returns compare.py's exit code."""
    (folder / "evaluations").mkdir(parents=True, exist_ok=True)
    then = shlex.join(map(str, evaluation_of(args, "{run}", table_of(folder, "{name}"))))
    code = children.run([sys.executable, SCRIPTS / "compare.py", "--data", data, "--out", folder, "--tokens", args.tokens, "--seeds", args.seeds,
                         "--train", shlex.quote(str(args.programs / "train")), *(["--gpus", args.gpus] if args.gpus else []), "--then", then,
                         *configs])
    if code == 0:
        evaluate_missing(args, folder)
    return code


def evaluate_missing(args, folder):
    """Of runs that had been trained before this command, and were not evaluated since."""
    missing = [name for *_, name in all_runs(args) if not is_evaluated(folder, name)]
    if missing:
        print(f"evaluating {', '.join(missing)}", flush=True)
        code, failed = children.run_each([evaluation_of(args, folder / "runs" / name, table_of(folder, name)) for name in missing],
                                         gpus_of(args.gpus), quiet=True)
        children.end_if_stopped(code)
        if code != 0:
            fail(f"evaluating {folder / 'runs' / missing[failed]} failed")


def collect(args, T, folder):
    """Rows of TASK.csv of the runs that have been evaluated."""
    rows = []
    for pattern, seed, name in all_runs(args):
        for row in read_csv(table_of(folder, name)) if is_evaluated(folder, name) else []:
            if row["table"] not in ("distances", "total"):
                continue
            whole = row["table"] == "total"
            rows.append({"task": args.task, "T": T, "pattern": pattern, "seed": seed, "first": 1 if whole else int(row["first"]),
                         "last": T - 1 if whole else int(row["last"]), "answers": int(row["tokens"]),
                         "accuracy": float(row["accuracy"]), "loss": float(row["loss"])})
    return rows


def accuracies(rows):
    """Of rows of TASK.csv of one length, in %, means over seeds: {pattern: of all answers}, {pattern: {(first, last): by distance}}."""
    found = {}
    for row in rows:
        by_bounds = found.setdefault(row["pattern"], {})
        by_bounds.setdefault((int(row["first"]), int(row["last"])), []).append(100 * float(row["accuracy"]))
    means = {pattern: {bounds: statistics.fmean(values) for bounds, values in its.items()} for pattern, its in found.items()}
    whole = (1, int(rows[0]["T"]) - 1)
    return {pattern: its.pop(whole) for pattern, its in means.items()}, means


def ordered(measured, patterns):
    """The names of what is measured, those of patterns first."""
    return [name for name in patterns if name in measured] + [name for name in measured if name not in patterns]


def print_table(rows, patterns):
    for T in sorted({row["T"] for row in rows}):
        whole, by_distance = accuracies([row for row in rows if row["T"] == T])
        ranges = sorted({bounds for its in by_distance.values() for bounds in its})
        print(f"\nT = {T:,}: accuracy in % by distance, means over seeds")
        width = max(12, *map(len, whole))
        print("  " + " ".join([f"{'pattern':{width}}", f"{'all':>6}", *(f"{first:>6}-" for first, _ in ranges)]))
        for pattern in ordered(whole, patterns):
            cells = (by_distance[pattern].get(bounds, math.nan) for bounds in ranges)
            print("  " + f"{pattern:{width}} {whole[pattern]:6.1f} " + " ".join(f"{cell:7.1f}" for cell in cells))


def plot(rows, patterns, path):
    """Means over seeds."""
    _, by_distance = accuracies(rows)
    lines = {pattern: [(first, accuracy) for (first, _), accuracy in by_distance[pattern].items()] for pattern in ordered(by_distance, patterns)}
    path.write_text(line_plot(lines, f"{rows[0]['task']}, {rows[0]['T']:,} tokens", "tokens between the key and its question, at least",
                              "accuracy, %", 2, 0), encoding="utf-8")
    print(f"wrote {path}")


def parse(words):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    parser.add_argument("--out", type=pathlib.Path, required=True, metavar="DIR")
    parser.add_argument("--task", choices=TASKS, default="mqar")
    parser.add_argument("--lengths", default="1024", metavar="T,...", help="default: %(default)s")
    parser.add_argument("--patterns", default="dense,window,hash16,balanced16,near_far,drop50,reformer,blocks", metavar="NAME,...",
                        help=f"of {', '.join(MEANINGS)}, with a number for N, a pattern for NAME; default: %(default)s")
    parser.add_argument("--seeds", default="1,2", metavar="N,...", help="default: %(default)s")
    parser.add_argument("--tokens", default="100M", metavar="N", help="of each run; default: %(default)s")
    parser.add_argument("--batch", type=int, default=65536, metavar="N", help="tokens of a step; default: %(default)s")
    parser.add_argument("--pairs", type=int, metavar="N", help="keys of a sequence; default: that of ./prepare_data")
    parser.add_argument("--vocabulary", type=int, default=8192, metavar="N", help="default: %(default)s")
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--rotary-theta", type=float, default=ROTARY_THETA, metavar="X", help="base of the rotary frequencies "
                        "(model.rotary_theta); default: %(default)s")
    parser.add_argument("--init-from", metavar="RUN", help="a run, or a checkpoint, whose parameters models begin with, instead of random ones "
                        "(train.init_from); {pattern} and {seed} in it are those of each model")
    parser.add_argument("--gpus", metavar="N or N,N,...", help="one run at a time on each, or several on one that is named "
                        "several times (0,0,0); default: one run at a time")
    parser.add_argument("--programs", type=pathlib.Path, default=pathlib.Path("."), metavar="DIR",
                        help="where train, evaluate and prepare_data are; default: %(default)s")
    args = parser.parse_args(words)
    args.patterns, args.programs = args.patterns.split(","), args.programs.resolve()
    if len(set(args.patterns)) < len(args.patterns):
        fail(f"--patterns: {','.join(args.patterns)} has one twice")
    if args.batch < 1:
        fail(f"--batch: must be at least 1, not {args.batch}")
    for pattern in args.patterns:
        if attention_of(pattern, args.heads) is None:
            fail(f"--patterns: there is no {pattern}; there are {', '.join(MEANINGS)}, with a number for N, a pattern for NAME")
    args.tokens_count = parse_count(args.tokens)
    parse_seeds(args.seeds)
    try:
        args.lengths = [int(T) for T in args.lengths.split(",")]
    except ValueError:
        fail(f"--lengths: must be whole numbers like 1024,4096, not {args.lengths}")
    for T in args.lengths:
        if T < 16 or args.tokens_count < max(T, args.batch):
            fail(f"--tokens: {args.tokens} is less than a step of {max(T, args.batch)} tokens" if T >= 16
                 else f"--lengths: must be at least 16, not {T}")
    for name in ("train", "evaluate", "prepare_data"):
        if not os.access(args.programs / name, os.X_OK):
            fail(f"{args.programs / name}: not there; scripts/setup.sh builds it, --programs says where it is")
    args.prepare, args.evaluate = args.programs / "prepare_data", args.programs / "evaluate"
    return args


def main(words):
    args = parse(words)
    try:
        (args.out / "configs").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        fail(f"--out: {args.out}: {error.strerror}")
    earlier_rows(args)  # a file that cannot be read is an error before anything is trained
    for number, T in enumerate(args.lengths, 1):
        folder, data = args.out / args.task / str(T), args.out / "data" / f"{args.task}_{T}"
        print(f"T = {T:,}, {number} of {len(args.lengths)} lengths", flush=True)
        make_data(args, T, data, folder)
        configs = []
        for pattern in args.patterns:
            path = args.out / "configs" / f"{pattern}_{T}.json"
            write_config(path, config_of(args, pattern, T), folder, pattern)
            init_from = args.init_from and args.init_from.replace("{pattern}", pattern)
            configs.append(f"{pattern}={path}" + (f",train.init_from={init_from}" if init_from else ""))
        code = train_and_evaluate(args, data, folder, configs)
        with lock_folder(args.out, wait=True):
            rows = merged(earlier_rows(args), collect(args, T, folder))  # read anew: another command may have added to it meanwhile
            if rows:
                write_whole(args.out / f"{args.task}.csv", csv_text(COLUMNS, rows))
        children.end_if_stopped(code)
        if code != 0:
            fail("training, or evaluating what was trained, failed")
    print_table([row for row in rows if row["T"] in args.lengths], args.patterns)
    print(f"\nwrote {args.out / args.task}.csv")
    for T in args.lengths:
        plot([row for row in rows if row["T"] == T], args.patterns, args.out / f"{args.task}_{T}.svg")


if __name__ == "__main__":
    children.main(main, sys.argv[1:])
