#!/usr/bin/env python3
"""Trains several configs with equal budgets and compares their validation losses.

  scripts/compare.py --data data/mine --out runs/compare --tokens 50M --seeds 1,2 \\
      dense=configs/dense_8k.json hash=configs/hash_8k.json hash32=configs/hash_8k.json,attention.buckets=32
  scripts/compare.py --data data/mine --out runs/compare_300s --seconds 300 --set eval.every=50 ...
  scripts/compare.py --out runs/compare --report-only

Configs may differ in model.sequence_length: each length has its own table, baseline and row of plots. --gpus 4 makes four
runs at once, one per GPU.

Each run is ./train with a config, its overrides and a seed, in OUT/runs/NAME-sSEED; runs of one seed have the same data
order. --tokens: as many steps as that many tokens take. --seconds: equal seconds of training, without evaluations; the
steps of a config follow from its speed in a short run first. With both, runs are NAME-sSEED-tokens and -seconds. Schedules
end with the budget. The same command goes on where it was stopped: finished runs are kept, others go on from their
checkpoint. OUT gets quality.csv (every evaluation), segments.csv (effective buckets by layer), table.md, loss.png (loss-tokens.png
and loss-seconds.png with both) and compare.json (the plan and the speeds); OUT/logs has the output of ./train. A finished run that
is in quality.csv stays in the report when its folder is removed.
"""
import argparse
import pathlib
import shlex
import shutil
import sys

from compare_plan import (baseline_of, choose_baseline, fail, gpus_of, jobs_of, join_plans, make_plan, read_plan,
                          refuse_launcher, steps_of, suffix_of)
from compare_report import by_length, earlier_runs, run_of_folder, write_report
from compare_run import Runner, has_all_steps, state_of
from files import lock_folder


class Parser(argparse.ArgumentParser):
    def error(self, message):
        fail(f"{message} (--help lists the options)")


def finished_runs(plan, out, earlier):
    """{budget: (suffix of names, finished runs)}. earlier: earlier_runs(out), for those whose folder is gone or is not whole."""
    sets = {}
    for budget, config, seed, name in jobs_of(plan):
        suffix, runs = sets.setdefault(budget, (suffix_of(plan, budget), []))
        steps, folder, known = steps_of(plan, budget, config), out / "runs" / name, earlier.get((config + suffix, seed))
        if state_of(folder, steps) == "skip":
            runs.append(run_of_folder(folder, config + suffix, seed))
        elif has_all_steps(known, steps):  # and stays so until the run that its folder may hold has finished
            runs.append(known)
    order = [config + suffix_of(plan, budget) for budget, config, *_ in jobs_of(plan)]
    for _, runs in sets.values():
        runs.sort(key=lambda run: order.index(run.config))
    return sets


def baselines_of(plan, sets):
    """{sequence length: config to compare with}. Configs whose runs are not finished yet count too."""
    lengths = {config: entry.get("sequence_length") for config, entry in plan["configs"].items()}
    for suffix, runs in sets.values():
        lengths.update((run.config[:len(run.config) - len(suffix)], run.length) for run in runs)
    return {length: baseline_of([config for config in lengths if lengths[config] == length], plan["baseline"])
            for length in lengths.values()}


def report(plan, out, earlier, plots=True):
    """Writes the report of the finished runs; returns the tables and what was plotted."""
    sets = finished_runs(plan, out, earlier)
    return write_report(out, sets, baselines_of(plan, sets), plots)


def warn(text):
    print(f"compare.py: warning: {text}", file=sys.stderr)


def warn_of_differences(plan, sets):
    """Names runs that missed their budget, and settings that make losses or batches of the configs not comparable."""
    baselines = baselines_of(plan, sets)
    for length in sorted({run.length for _, runs in sets.values() for run in runs}):
        if not baselines[length]:
            warn(f"no baseline for T = {length}: no config there has a name that starts with {plan['baseline']}")
    for budget, (_, runs) in sets.items():
        for run in runs if budget == "seconds" else []:
            if abs(run.last[2] / plan["seconds"] - 1) > 0.05:
                warn(f"{run.config}, seed {run.seed}: trained for {run.last[2]:.1f} s, not {plan['seconds']:g}: its speed "
                     "was not that of the run that measured it")
        for of_length in by_length(runs).values():
            warn_of_settings(of_length)


def warn_of_settings(runs):
    for key, meaning in (("train.batch_size", "the data order differs"), ("data.order", "the data order differs"),
                         ("eval.windows", "losses are of other windows"), ("train.init_from", "some have been trained before")):
        values = {}
        for run in runs:
            if run.settings is None:
                continue
            value = run.settings
            for part in key.split("."):
                value = value.get(part, "")
            if key == "train.init_from":  # from which run does not matter
                value = "another run's parameters" if value else "random parameters"
            values.setdefault(str(value), run.config)
        if len(values) > 1:
            warn(f"{key} is " + ", ".join(f"{v} in {c}" for v, c in values.items()) + f": {meaning}")


def main():
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    parser.add_argument("configs", nargs="*", metavar="NAME=CONFIG[,key=value,...]", help="what to train")
    parser.add_argument("--data", type=pathlib.Path, metavar="DIR", help="a folder made by prepare_data")
    parser.add_argument("--out", type=pathlib.Path, metavar="DIR", help="where runs and report go")
    parser.add_argument("--tokens", metavar="N", help="tokens of each run: 50000000, 500k, 50M, 1.5G")
    parser.add_argument("--seconds", type=float, metavar="S", help="seconds of training of each run")
    parser.add_argument("--seeds", default="1,2", metavar="N,...", help="default: %(default)s")
    parser.add_argument("--train", default="./train", metavar="COMMAND",
                        help="the program, or a command like 'mpirun -n 8 ./train'; default: %(default)s")
    parser.add_argument("--gpus", metavar="N or N,N,...",
                        help="how many GPUs, or which: one run on each at a time, or several on one that is named several times (0,0,0; "
                        "not with --seconds); default: one run at a time")
    parser.add_argument("--baseline", metavar="NAME",
                        help="config to compare with at each sequence length: the one of that name, or the first whose name "
                        "starts with it (dense: dense8k, dense16k); default: dense, or the first config")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE",
                        help="override for all configs; can be given several times")
    parser.add_argument("--then", default="", metavar="COMMAND",
                        help="a command after each run that ends well, on the same GPU; {run} in it is the run's folder, {name} its name")
    parser.add_argument("--timing-steps", type=int, default=40, metavar="N",
                        help="with --seconds: steps of the run that measures the speed; default: %(default)s")
    parser.add_argument("--report-only", action="store_true", help="train nothing, report the finished runs of --out")
    parser.add_argument("--self-test", action="store_true", help="check this script itself")
    args = parser.parse_args()
    if args.self_test:
        import compare_test
        return compare_test.run()
    if not args.out:
        fail("--out: say where runs and report go")
    file, failed, stopped = args.out / "compare.json", [], 0
    if args.report_only:
        plan, earlier = read_plan(file), earlier_runs(args.out)
        plan["baseline"] = choose_baseline(plan, args.baseline or plan["baseline"])
    else:
        if not args.configs or not args.data:
            fail("--data and at least one NAME=CONFIG are needed, as in dense=configs/dense_8k.json")
        if not args.tokens and args.seconds is None:
            fail("say how long to train: --tokens 50M, --seconds 300, or both")
        if args.seconds is not None and not args.seconds > 0:
            fail(f"--seconds: must be above 0, not {args.seconds:g}")
        if args.timing_steps < 4:
            fail(f"--timing-steps: must be at least 4, not {args.timing_steps}")
        train = shlex.split(args.train)
        if not train or not shutil.which(train[0]):
            fail(f"--train: {args.train}: there is no such program; scripts/setup.sh builds ./train")
        refuse_launcher(train, args.gpus)
        gpus = gpus_of(args.gpus)
        shared = len(set(gpus)) < len(gpus) and gpus[0] not in ("", "-1")  # no GPU to be seen: runs on the CPU
        if shared and args.seconds is not None:
            fail(f"--gpus: {args.gpus} has a GPU twice, and --seconds needs runs that have one for themselves")
        then = shlex.split(args.then)
        if then and not shutil.which(then[0]):
            fail(f"--then: {args.then}: there is no such program")
        plan = make_plan(args)
        wanted = list(jobs_of(plan))
        try:
            (args.out / "runs").mkdir(parents=True, exist_ok=True)
        except OSError as error:
            fail(f"--out: {args.out}: {error.strerror}")
        lock = lock_folder(args.out)  # until the program ends
        if lock is None:
            fail(f"--out: {args.out}: another compare.py is at work there")
        earlier = earlier_runs(args.out)
        if file.exists():
            plan = join_plans(plan, read_plan(file), file, earlier)
        elif earlier:
            fail(f"{args.out}/quality.csv: has runs, but there is no compare.json that says how they were made; use another --out or remove it")
        plan["baseline"] = choose_baseline(plan, args.baseline)
        runner = Runner(plan, wanted, args.out, train, gpus, earlier, then)
        failed = runner.run_all(args.timing_steps, lambda: report(plan, args.out, earlier, plots=False))
        stopped = runner.signal
        if shared:
            warn(f"seconds and tokens/s are those of runs that shared a GPU (--gpus {args.gpus})")
    warn_of_differences(plan, finished_runs(plan, args.out, earlier))
    table, lines = report(plan, args.out, earlier)
    print(table or "no run is finished yet")
    print("\n".join([f"wrote {args.out}/quality.csv and {args.out}/table.md", *lines]), flush=True)
    for wrong in failed:
        print(f"compare.py: {wrong}", file=sys.stderr)
    return 128 + stopped if stopped else 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
