#!/usr/bin/env python3
"""Runs the paper's experiments, and ours, and writes one report: scripts/reproduce.sh calls this.

  scripts/reproduce.sh --scale smoke                        minutes on a CPU: that everything runs; its figures mean nothing
  scripts/reproduce.sh --scale small --data data/mine       124 M parameters, 49 M tokens a run, two seeds: two hours on one H200
  scripts/reproduce.sh --scale small --data data/mine --all  more patterns and lengths: eight hours
  scripts/reproduce.sh --scale paper --gpus 8               the paper's setting, 7.9 G tokens a run, on data/openwebtext2
  scripts/reproduce.sh --scale paper --only quality_8k --ranks 8    each run on 8 GPUs
  scripts/reproduce.sh --only quality_8k,recall --gpus 2    some of them; --list names them

The same command goes on where it was stopped, by a signal too. OUT (default results/reproduce_SCALE) gets a folder for each
experiment, with configs, tables and runs, and report.html: one file with every plot and table, to be read offline, which begins with
OUT/about.txt where there is one. Folders of finished runs (OUT/*/runs) may be removed when trained_buckets and the losses by position
have been measured on them; results stay.
"""
import argparse
import datetime
import os
import pathlib
import re
import shlex
import sys
import tempfile
import time

import children
import reproduce_experiments
import reproduce_report
from files import lock_folder, read_json, write_json

TOP = pathlib.Path(__file__).resolve().parent.parent


def fail(message):
    sys.exit(f"reproduce.py: {message}")


def is_done(context, folder, name, command):
    return read_json(folder / f"{name}.done.json").get("command") == context.recorded(command)


def check_scale(args):
    """OUT/reproduce.json says at which scale and on what data OUT was made."""
    path = args.out / "reproduce.json"
    made = read_json(path)
    if args.report_only:
        if not made:
            fail(f"--out: {args.out}: is not a folder of an earlier run: it has no reproduce.json")
        args.scale, args.data = made["scale"], made["data"]
        return
    if made and made["scale"] != args.scale:
        fail(f"--scale: {args.out} was made with {made['scale']}, not {args.scale}; give another --out")
    write_json(path, {"scale": args.scale, "data": str(args.data) if args.data else made.get("data")})


def report(context):
    reproduce_report.write_report(context.out, context.scale_name, context.data, reproduce_experiments.EXPERIMENTS)
    reproduce_experiments.write_figures(context.out)


def run_all(context, experiments):
    plan = []
    for name, experiment in experiments.items():
        folder = context.out / (experiment.home or name)
        plan += [(name, folder, *step) for step in experiment.steps(context, folder)]
    waiting = [entry for entry in plan if not is_done(context, entry[1], entry[2], entry[3])]
    whole, done, began = sum(entry[4] for entry in waiting), 0, time.monotonic()
    if waiting and context.scale_name == "small":
        print(f"reproduce.py: {len(waiting)} of {len(plan)} steps to do, about {reproduce_report.minutes(whole)} on one H200", flush=True)
    for number, (name, folder, step, command, cost) in enumerate(waiting, len(plan) - len(waiting) + 1):
        spent = time.monotonic() - began
        left = f", about {reproduce_report.minutes(spent / done * (whole - done))} left" if done else ""
        problem = experiments[name].problem(context, step)
        if problem:
            print(f"reproduce.py: {name} ({step}) is left out: {problem}", file=sys.stderr)
            continue
        print(f"reproduce.py: {name} ({step}), {number} of {len(plan)} steps; {reproduce_report.minutes(spent)} so far{left}", flush=True)
        folder.mkdir(parents=True, exist_ok=True)
        stamp = folder / f"{step}.done.json"
        start, before = time.time(), read_json(stamp).get("seconds", 0) + read_json(folder / f"{step}.begun.json").get("seconds", 0)
        code = children.run(command)
        seconds = {"seconds": round(before + time.time() - start, 1)}
        if code != 0:
            write_json(folder / f"{step}.begun.json", seconds)
            report(context)
            children.end_if_stopped(code)
            fail(f"{name} ({step}) failed; the same command goes on from there. It was: {shlex.join(map(str, command))}")
        write_json(stamp, {
            "command": context.recorded(command), **seconds, "date": datetime.date.today().isoformat(),
            "commit": reproduce_report.commit_of(context.program("train")), "machine": reproduce_report.machine()})
        folder.joinpath(f"{step}.begun.json").unlink(missing_ok=True)
        done += cost
        report(context)
    report(context)


def list_experiments(args):
    """With the time that all of their steps take, where that is known."""
    seconds = {}
    with tempfile.TemporaryDirectory() as nothing:
        out = pathlib.Path(nothing)
        context = reproduce_experiments.Context(args.scale, out, args.programs, args.data, args.bytes, seeds=args.seeds, everything=args.all,
                                                experiments=args.experiments)
        for name, experiment in args.experiments.items():
            seconds[name] = sum(cost for _, _, cost in experiment.steps(context, out / name))
        for name, experiment in args.experiments.items():
            expected = f"{reproduce_report.minutes(seconds[name]):>11}  " if args.scale == "small" else ""
            print(f"{name:16}{expected}{experiment.title}: {' '.join(experiment.__doc__.split())}")
    if args.scale == "small":
        print(f"{'all':16}{reproduce_report.minutes(sum(seconds.values())):>11}  on one H200, with seeds {context.seeds}")


def prepare_smoke(context):
    context.data = context.bytes_data = context.out / "data"
    if not (context.data / "manifest.json").exists():
        command = [context.program("prepare_data"), "--input", "assets/moby-dick.txt", "--tokenizer", "bytes", "--val-fraction", "0.1",
                   "--output", context.data]
        code = children.run(command, quiet=True)
        children.end_if_stopped(code)
        if code != 0:
            fail("preparing the sample text failed")


def relative_to_top(path):
    """Relative to the top of the repository where it is inside."""
    path = pathlib.Path(path).resolve()
    return path.relative_to(TOP) if path.is_relative_to(TOP) else path


def parse(arguments):
    parser = argparse.ArgumentParser(prog="reproduce.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    scales, names = reproduce_experiments.SCALES, reproduce_experiments.EXPERIMENTS
    parser.add_argument("--scale", choices=scales, default="small")
    parser.add_argument("--only", default=",".join(names), metavar="NAME,...", help="default: all")
    parser.add_argument("--all", action="store_true", help="all patterns and lengths of each experiment, not just its main ones (smoke: always)")
    parser.add_argument("--data", help="a set made by ./prepare_data (smoke makes its own; paper: data/openwebtext2)")
    parser.add_argument("--bytes", default=TOP / "data/enwik8", metavar="DIR", help="a set of bytes, for bytes_8k (default: data/enwik8)")
    parser.add_argument("--out", metavar="DIR", help="default: results/reproduce_SCALE")
    parser.add_argument("--seeds", metavar="N,...", help="default: that of the scale, 1,2 (smoke: 1)")
    parser.add_argument("--gpus", metavar="N or N,N,...", help="one training run at a time on each; 0,0,0, for --only recall, makes three at once on one")
    parser.add_argument("--ranks", type=int, metavar="N", help="instead: each run of quality_*, mixtures_8k and bytes_8k on N GPUs, by mpirun")
    parser.add_argument("--programs", default=TOP, metavar="DIR", help="where train and the others are; default: the top of the repository")
    parser.add_argument("--report-only", action="store_true", help="run nothing, write the report of what is in OUT")
    parser.add_argument("--list", action="store_true", help="name the experiments; at scale small with the time on one H200")
    args = parser.parse_args(arguments)
    if args.seeds and not re.fullmatch(r"\d+(,\d+)*", args.seeds):
        fail(f"--seeds: must be whole numbers like 1,2, not {args.seeds}")
    if args.gpus and not re.fullmatch(r"\d+(,\d+)*", args.gpus):
        fail(f"--gpus: must be how many, as in 4, or which, as in 0,2,3, not {args.gpus}")
    numbers = (args.gpus or "").split(",")
    if len(set(numbers)) < len(numbers) and args.only != "recall":
        fail(f"--gpus: {args.gpus} has a GPU twice, which only --only recall may have: the others measure the time of their runs")
    if args.ranks is not None and (args.ranks < 1 or args.gpus):
        fail(f"--ranks: must be at least 1, not {args.ranks}" if args.ranks < 1 else "--ranks: goes without --gpus, which gives each run one GPU")
    args.programs = relative_to_top(args.programs)
    args.experiments = {}
    for name in args.only.split(","):
        if name not in names:
            fail(f"--only: there is no {name}; there are {', '.join(names)}")
        args.experiments[name] = names[name]
    args.out = relative_to_top(args.out or TOP / "results" / f"reproduce_{args.scale}")
    if args.scale == "paper" and not args.data:
        args.data = TOP / "data/openwebtext2"
    args.data, args.bytes = args.data and relative_to_top(args.data), relative_to_top(args.bytes)
    return args


def has_set(folder):
    return bool(folder) and (pathlib.Path(folder) / "manifest.json").exists()


def check(args):
    scale = reproduce_experiments.SCALES[args.scale]
    for program in ("train", "bench", "evaluate", "prepare_data"):
        if not os.access(args.programs / program, os.X_OK):
            fail(f"{args.programs / program}: not there; scripts/setup.sh builds it, --programs says where it is")
    if args.scale == "smoke" and args.data:
        fail(f"--data: {args.data}: smoke takes assets/moby-dick.txt, which it prepares itself; leave --data out, or give --scale small")
    if args.scale != "smoke":
        if reproduce_report.machine() == "no GPU":
            fail(f"--scale: {args.scale} needs a GPU, and nvidia-smi shows none; smoke runs on a CPU")
        if any(experiment.data == "data" for experiment in args.experiments.values()) and not has_set(args.data):
            fail(f"--data: {args.data or 'name a prepared set'}{' holds no prepared set' if args.data else ''}; scripts/prepare_openwebtext2.sh makes one")
        for name, experiment in args.experiments.items():
            sequences = scale.sequences(experiment.length) if experiment.data and hasattr(experiment, "length") else 0
            if args.ranks and sequences % args.ranks:
                fail(f"--ranks: the {sequences} sequences a step of {name} cannot be shared out over {args.ranks}")
        if has_set(args.bytes) and read_json(pathlib.Path(args.bytes) / "manifest.json")["tokenizer"] != "bytes":
            fail(f"--bytes: {args.bytes} holds tokens of another kind; prepare it with --tokenizer bytes")
        if not has_set(args.bytes):
            missing = [name for name, experiment in args.experiments.items() if experiment.data == "bytes_data"]
            for name in missing:
                print(f"reproduce.py: {name} is left out: {args.bytes} holds no prepared set; scripts/prepare_enwik8.sh makes one", file=sys.stderr)
                del args.experiments[name]
            if missing and not args.experiments:
                fail("nothing is left to run")
    try:
        args.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        fail(f"--out: {args.out}: {'is not a folder' if args.out.exists() else error.strerror}")


def main(arguments):
    args = parse(arguments)
    os.chdir(TOP)  # so that commands and configs name files of the repository the same way everywhere
    if args.list:
        return list_experiments(args)
    if not args.report_only:
        check(args)
    check_scale(args)
    lock = lock_folder(args.out)  # until the program ends
    if lock is None:
        fail(f"--out: {args.out}: another reproduce.sh is at work there")
    context = reproduce_experiments.Context(args.scale, args.out, args.programs, args.data, args.bytes, args.gpus, args.ranks, args.seeds, args.all,
                                            args.experiments)
    if args.report_only:
        report(context)
    else:
        if args.scale == "smoke":
            prepare_smoke(context)
        run_all(context, args.experiments)
    print(f"wrote {args.out / 'report.html'}")


if __name__ == "__main__":
    children.main(main, sys.argv[1:])
