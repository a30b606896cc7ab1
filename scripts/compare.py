#!/usr/bin/env python3
"""Trains several configs with equal budgets and compares their validation losses.

  scripts/compare.py --data data/mine --out runs/compare --tokens 50M --seeds 1,2 \\
      dense=configs/dense_8k.json hash=configs/hash_8k.json hash32=configs/hash_8k.json,attention.buckets=32
  scripts/compare.py --data data/mine --out runs/compare_300s --seconds 300 --set eval.every=50 ...
  scripts/compare.py --out runs/compare --report-only

Each run is ./train with a config, its overrides and a seed, in OUT/runs/NAME-sSEED; runs of one seed have the same data
order. --tokens: as many steps as that many tokens take. --seconds: equal seconds of training, without evaluations; the
steps of a config follow from its speed in a short run first. With both, runs are NAME-sSEED-tokens and -seconds. Schedules
end with the budget. The same command goes on where it was stopped: finished runs are kept, others go on from their
checkpoint. OUT gets quality.csv (every evaluation), table.md, loss.png (loss-tokens.png and loss-seconds.png with both) and
compare.json (the plan and the speeds); OUT/logs has the output of ./train.
"""
import argparse
import json
import pathlib
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time

from compare_plan import fail, jobs_of, join_plans, make_plan, read_plan, steps_of, suffix_of
from compare_report import Run, read_records, write_report, write_whole

NO_CHECKPOINT = "none of its checkpoints can be used"  # as ./train --resume says it
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Parser(argparse.ArgumentParser):
    def error(self, message):
        fail(f"{message} (--help lists the options)")


# ---- runs ---------------------------------------------------------------------------------------------------------------
def state_of(folder, steps):
    """What is to be done with a run: "start", "skip" (it is finished), "resume", or "overwrite" (nothing to resume from)."""
    metrics = folder / "metrics.jsonl"
    checkpoints = list(folder.glob("checkpoint-*"))
    if not metrics.exists():
        return "overwrite" if checkpoints else "start"
    records = read_records(metrics)
    if records:
        planned = records[0].get("config", {}).get("train", {}).get("steps")
        if steps is not None and planned not in (None, steps):
            fail(f"{folder}: was made with train.steps {planned}, not {steps}; remove it, or use another --out")
        ended = {r["type"] for r in records if r.get("step") == planned}
        if {"step", "eval"} <= ended:
            return "skip"
    # The checksums are written last, and a save under way has another name.
    whole = any(re.fullmatch(r"checkpoint-\d+", c.name) and (c / "checkpoint.xxh3").exists() for c in checkpoints)
    return "resume" if whole else "overwrite"


class Follower:
    """Reads what a run appends to its metrics: steps done, and seconds of steps and evaluations per token."""

    def __init__(self, file):
        self.file, self.at, self.step, self.tokens, self.seconds = file, 0, 0, 0, 0.0

    def read(self):
        try:
            with open(self.file, "rb") as file:
                file.seek(0, 2)
                if file.tell() < self.at:  # cut back, or made anew
                    self.__init__(self.file)
                file.seek(self.at)
                lines = file.read().splitlines(keepends=True)
        except OSError:
            return
        for line in lines:
            if not line.endswith(b"\n"):
                break
            self.at += len(line)
            try:
                record = json.loads(line)
            except ValueError:
                continue
            if record.get("type") in ("step", "eval"):
                self.seconds += record["seconds"]
            if record.get("type") == "step":
                self.step, self.tokens = record["step"], record["tokens"]

    def seconds_per_token(self):
        return self.seconds / self.tokens if self.tokens else None


def duration(seconds):
    seconds = round(seconds)
    if seconds < 60:
        return f"{seconds} s"
    return f"{seconds // 60} min" if seconds < 3600 else f"{seconds // 3600} h {seconds % 3600 // 60:02d} min"


class Progress:
    """Time left over all runs: the tokens that are left of each, at its config's seconds per token so far."""

    def __init__(self, plan):
        self.plan, self.left, self.rate, self.shown = plan, {}, {}, 0.0
        self.terminal = sys.stderr.isatty()

    def expect(self, name, config, tokens):
        self.left[name] = (config, tokens)

    def finished(self, name):
        self.left.pop(name, None)

    def seconds_left(self):
        known = list(self.rate.values())
        if not known or not self.left:
            return None
        average = sum(known) / len(known)
        return sum(tokens * self.rate.get(config, average) for config, tokens in self.left.values())

    def show(self, text, now=False):
        """On a terminal in place, elsewhere a line every 30 seconds."""
        if not now and time.monotonic() - self.shown < (0.5 if self.terminal else 30):
            return
        self.shown = time.monotonic()
        left = self.seconds_left()
        text += f"  {duration(left)} left of all runs" if left is not None else ""
        sys.stderr.write(f"\r{text[:shutil.get_terminal_size().columns - 1]}\033[K" if self.terminal else f"  {text}\n")
        sys.stderr.flush()

    def line(self, text):
        if self.terminal:
            sys.stderr.write("\r\033[K")
            sys.stderr.flush()
        print(f"[compare] {text}", flush=True)


class Runner:
    def __init__(self, plan, out, train):
        self.plan, self.out, self.train = plan, out, train
        self.progress, self.child, self.signal = Progress(plan), None, 0

    def on_signal(self, number, _):
        self.signal = self.signal or number
        if self.child:
            self.child.send_signal(number)
            self.progress.line("stopping: the run saves a checkpoint first; the same command goes on from there")

    def options(self, config, seed, extra):
        settings = [["checkpoint.keep", "1"], ["checkpoint.keep_best", "false"], *self.plan["set"],
                    *self.plan["configs"][config]["overrides"], *extra]
        last = {key: value for key, value in settings}  # of a key that is given twice
        return ["--config", self.plan["configs"][config]["file"], "--data.directory", self.plan["data"],
                "--seed", str(seed), *(f"--{key}={value}" for key, value in last.items())]

    def check(self, config):
        """Lets ./train check the config before anything is trained."""
        options = self.options(config, self.plan["seeds"][0], [("data.verify", "false")])
        name = f"{config}.check"  # of no run
        done = subprocess.run([*self.train, *options, "--runs", str(self.out / "runs"), "--name", name, "--dry-run"],
                              capture_output=True, text=True, check=False)
        if done.returncode and not self.signal:
            fail(f"{config}: " + (done.stderr.strip().splitlines() or [f"ended with exit code {done.returncode}"])[-1])

    def run_train(self, name, config, steps, words, runs):
        """Runs ./train to its end and shows progress. Returns its exit code, and the last line of its output."""
        (self.out / "logs").mkdir(exist_ok=True)
        log, follower = self.out / "logs" / f"{name}.log", Follower(runs / name / "metrics.jsonl")
        total = steps * self.plan["configs"][config]["tokens_per_step"]
        with open(log, "a", encoding="utf-8") as output:
            begin = output.tell()
            # A session of its own: a Ctrl-C comes once, from here, and so do other signals.
            self.child = subprocess.Popen([*self.train, *words], stdin=subprocess.DEVNULL, stdout=output,
                                          stderr=subprocess.STDOUT, start_new_session=True)
            if self.signal:  # came just before
                self.child.send_signal(self.signal)
            code = None
            while code is None:
                try:
                    code = self.child.wait(timeout=0.2)
                except subprocess.TimeoutExpired:
                    pass
                follower.read()
                if follower.seconds_per_token():
                    self.progress.rate[config] = follower.seconds_per_token()
                if name in self.progress.left:
                    self.progress.expect(name, config, max(0, total - follower.tokens))
                self.progress.show(f"{name}: step {follower.step}/{steps}")
            self.child = None
        with open(log, encoding="utf-8", errors="replace") as output:
            output.seek(begin)
            lines = output.read().strip().splitlines()
        return code, lines[-1] if lines else f"no output; exit code {code}"

    def time_config(self, config, steps):
        """Seconds per step without evaluations, in steps like those of the runs. The first quarter warms up."""
        runs, name = self.out / "timing", config
        words = self.options(config, self.plan["seeds"][0], [
            ("train.steps", steps), ("eval.every", 0), ("eval.windows", 1), ("checkpoint.every", 0)])
        self.progress.line(f"{config}: measuring its speed in {steps} steps")
        code, last = self.run_train(name, config, steps, [*words, "--runs", str(runs), "--name", name, "--overwrite"], runs)
        if self.signal:
            return
        if code:
            fail(f"{config}: measuring its speed failed: {last}; the log is {self.out}/logs/{name}.log")
        records = read_records(runs / name / "metrics.jsonl")
        seconds = [r["seconds"] for r in records if r["type"] == "step"][steps // 4:]
        self.plan["configs"][config]["timing"] = {
            "seconds_per_step": sum(seconds) / len(seconds), "steps": len(seconds),
            "gpu": (records[0]["machine"].get("gpu") or {}).get("name", "cpu"), "commit": records[0]["commit"]}
        for checkpoint in (runs / name).glob("checkpoint-*"):  # large, and of no use
            shutil.rmtree(checkpoint)
        self.save_plan()

    def save_plan(self):
        write_whole(self.out / "compare.json", json.dumps(self.plan, indent=2) + "\n")

    def make(self, name, config, seed, steps):
        """Makes one run. Returns what went wrong, or nothing."""
        runs, state = self.out / "runs", state_of(self.out / "runs" / name, steps)
        self.progress.line(f"{name}: {steps} steps" + {"start": "", "resume": ", going on from its checkpoint",
                                                       "overwrite": ", anew: it has no checkpoint"}[state])
        words = [*self.options(config, seed, [("train.steps", steps)]), "--runs", str(runs), "--name", name]
        flags = {"start": [], "resume": ["--resume"], "overwrite": ["--overwrite"]}
        code, last = self.run_train(name, config, steps, words + flags[state], runs)
        if code and state == "resume" and NO_CHECKPOINT in last and not self.signal:
            self.progress.line(f"{name}: anew: {NO_CHECKPOINT}")
            code, last = self.run_train(name, config, steps, words + flags["overwrite"], runs)
        if code and not self.signal:
            return f"{name}: {last}; the log is {self.out}/logs/{name}.log"
        return None

    def run_all(self, timing_steps):
        """Returns what went wrong, one text a run that failed."""
        for number in SIGNALS:
            if signal.getsignal(number) != signal.SIG_IGN:  # nohup
                signal.signal(number, self.on_signal)
        waiting = [job for job in jobs_of(self.plan)
                   if state_of(self.out / "runs" / job[3], steps_of(self.plan, job[0], job[1])) != "skip"]
        for config in dict.fromkeys(job[1] for job in waiting):
            if not self.signal:
                self.check(config)
        if self.signal:
            return []
        self.save_plan()
        for config in dict.fromkeys(job[1] for job in waiting if job[0] == "seconds"):
            if "timing" not in self.plan["configs"][config] and not self.signal:
                self.time_config(config, timing_steps)
        if self.signal:
            return []
        for budget, config, _, name in waiting:
            steps = steps_of(self.plan, budget, config)
            self.progress.expect(name, config, steps * self.plan["configs"][config]["tokens_per_step"])
        failed = []
        for number, (budget, config, seed, name) in enumerate(waiting, 1):
            begun = time.monotonic()
            wrong = self.make(name, config, seed, steps_of(self.plan, budget, config))
            if self.signal:
                return failed
            self.progress.finished(name)
            if wrong:
                failed.append(wrong)
            report(self.plan, self.out, plots=False)
            self.progress.line(wrong or f"{name}: done in {duration(time.monotonic() - begun)}, {number} of {len(waiting)}")
        return failed


# ---- the report -----------------------------------------------------------------------------------------------------------
def finished_runs(plan, out):
    """{budget: (suffix of names, finished runs)}"""
    sets = {}
    for budget, config, seed, name in jobs_of(plan):
        suffix, runs = sets.setdefault(budget, (suffix_of(plan, budget), []))
        if state_of(out / "runs" / name, steps_of(plan, budget, config)) == "skip":
            runs.append(Run(out / "runs" / name, config + suffix, seed))
    order = [config + suffix_of(plan, budget) for budget, config, *_ in jobs_of(plan)]
    for _, runs in sets.values():
        runs.sort(key=lambda run: order.index(run.config))
    return sets


def report(plan, out, plots=True):
    """Writes the report; returns the table and what was plotted."""
    return write_report(out, finished_runs(plan, out), plan["baseline"], plots)


def warn_of_differences(plan, sets):
    """Names runs that missed their budget, and settings that make losses or batches of the configs not comparable."""
    for budget, (_, runs) in sets.items():
        for run in runs if budget == "seconds" else []:
            if abs(run.last[2] / plan["seconds"] - 1) > 0.05:
                print(f"compare.py: warning: {run.config}, seed {run.seed}: trained for {run.last[2]:.1f} s, not "
                      f"{plan['seconds']:g}: its speed was not that of the run that measured it", file=sys.stderr)
        for key, meaning in (("model.sequence_length", "losses are of other windows"),
                             ("train.batch_size", "the data order differs"), ("data.order", "the data order differs"),
                             ("eval.windows", "losses are of other windows")):
            values = {}
            for run in runs:
                value = run.settings
                for part in key.split("."):
                    value = value[part]
                values.setdefault(str(value), run.config)
            if len(values) > 1:
                print(f"compare.py: warning: {key} is " + ", ".join(f"{v} in {c}" for v, c in values.items())
                      + f": {meaning}", file=sys.stderr)


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
    parser.add_argument("--baseline", metavar="NAME", help="what to compare with; default: dense, or the first config")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE",
                        help="override for all configs; can be given several times")
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
        plan = read_plan(file)
        plan["baseline"] = args.baseline or plan["baseline"]
        if plan["baseline"] not in plan["configs"]:
            fail(f"--baseline: {plan['baseline']} is not one of {', '.join(plan['configs'])}")
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
        plan = make_plan(args)
        if file.exists():
            plan = join_plans(plan, read_plan(file), file)
        try:
            (args.out / "runs").mkdir(parents=True, exist_ok=True)
        except OSError as error:
            fail(f"--out: {args.out}: {error.strerror}")
        runner = Runner(plan, args.out, train)
        failed, stopped = runner.run_all(args.timing_steps), runner.signal
    sets = finished_runs(plan, args.out)
    warn_of_differences(plan, sets)
    table, lines = write_report(args.out, sets, plan["baseline"])
    print(table or "no run is finished yet")
    print("\n".join([f"wrote {args.out}/quality.csv and {args.out}/table.md", *lines]), flush=True)
    for wrong in failed:
        print(f"compare.py: {wrong}", file=sys.stderr)
    return 128 + stopped if stopped else 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
