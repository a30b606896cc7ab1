"""How compare.py makes its runs: a queue of ./train, and of --then after each, one at a time or as many at once as --gpus names."""
import json
import re
import shlex
import shutil
import signal
import subprocess
import time

from children import SIGNALS, environment_on
from compare_plan import fail, longest_first, steps_of, suffix_of
from compare_progress import Follower, Progress, duration
from compare_report import read_records
from files import write_whole

NO_CHECKPOINT = "none of its checkpoints can be used"  # as ./train --resume says it


def saved_step(folder):
    """The step of the last whole checkpoint, or None. The checksums are written last, a save under way has another name."""
    steps = [int(c.name[11:]) for c in folder.glob("checkpoint-*")
             if re.fullmatch(r"checkpoint-\d+", c.name) and (c / "checkpoint.xxh3").exists()]
    return max(steps, default=None)


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
    return "resume" if saved_step(folder) is not None else "overwrite"


def has_all_steps(earlier, steps):
    """By what quality.csv has of a run (earlier, or None)."""
    return earlier is not None and earlier.last[0] == steps


class Child:
    """A program about a run, runs/NAME. `begin` gives its command, `end` the child that is to follow on the same GPU, or None."""

    def __init__(self, runner, name, config, steps, runs):
        self.runner, self.name, self.config, self.steps, self.runs = runner, name, config, steps, runs
        self.follower = Follower(runs / name / "metrics.jsonl")
        self.gpu = self.process = self.log_begin = self.begun = None
        self.log = runner.out / "logs" / f"{name}.log"

    def start(self, gpu):
        self.gpu, self.begun = gpu, time.monotonic()
        words = self.begin(f" on GPU {gpu}" if gpu else "")
        with open(self.log, "a", encoding="utf-8") as output:
            self.log_begin = output.tell()
            # A session of its own: a Ctrl-C comes once, from here, and so do other signals.
            self.process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
                                            start_new_session=True, env=environment_on(gpu, len(self.runner.gpus)))

    def last_line(self):
        with open(self.log, encoding="utf-8", errors="replace") as output:
            output.seek(self.log_begin)
            lines = output.read().strip().splitlines()
        return lines[-1] if lines else f"no output; exit code {self.process.returncode}"

    def train(self, seed, extra, flags):
        return [*self.runner.train, *self.runner.options(self.config, seed, extra), *flags, "--runs", str(self.runs), "--name", self.name]


class TimingRun(Child):
    """Measures seconds per step without evaluations, in steps like those of the runs. The first quarter warms up."""

    def begin(self, where):
        self.runner.progress.line(f"{self.config}: measuring its speed in {self.steps} steps{where}")
        settings = [("train.steps", self.steps), ("eval.every", 0), ("eval.windows", 1), ("checkpoint.every", 0)]
        return self.train(self.runner.wanted[0][2], settings, ["--overwrite"])

    def end(self):
        if self.runner.signal:
            return None
        if self.process.returncode:
            self.runner.fails(f"{self.config}: measuring its speed failed: {self.last_line()}; the log is {self.log}")
            return None
        records = read_records(self.runs / self.name / "metrics.jsonl")
        seconds = [r["seconds"] for r in records if r["type"] == "step"][self.steps // 4:]
        self.runner.plan["configs"][self.config]["timing"] = {
            "seconds_per_step": sum(seconds) / len(seconds), "steps": len(seconds),
            "gpu": (records[0]["machine"].get("gpu") or {}).get("name", "cpu"), "commit": records[0]["commit"]}
        for checkpoint in (self.runs / self.name).glob("checkpoint-*"):  # large, and of no use
            shutil.rmtree(checkpoint)
        self.runner.save_plan()
        return None


class TrainingRun(Child):
    def __init__(self, runner, name, config, steps, seed):
        super().__init__(runner, name, config, steps, runner.out / "runs")
        self.seed, self.state = seed, None

    def begin(self, where):
        anew = self.state == "overwrite"  # once more
        self.state = self.state if anew else state_of(self.runs / self.name, self.steps)
        how = {"resume": ", going on from its checkpoint", "overwrite": ", anew: it has no checkpoint"}.get(self.state, "")
        self.runner.progress.line(f"{self.name}: " + (f"anew: {NO_CHECKPOINT}" if anew else f"{self.steps} steps{where}{how}"))
        flags = {"resume": ["--resume"], "overwrite": ["--overwrite"]}.get(self.state, [])
        return self.train(self.seed, [("train.steps", self.steps)], flags)

    def end(self):
        if self.runner.signal:
            return None
        if self.process.returncode and self.state == "resume" and NO_CHECKPOINT in self.last_line():
            self.state = "overwrite"
            return self
        number = self.runner.progress.finished(self.name)
        if self.process.returncode:
            self.runner.fails(f"{self.name}: {self.last_line()}; the log is {self.log}")
            return None
        self.runner.progress.line(f"{self.name}: done in {duration(time.monotonic() - self.begun)}, {number}")
        return CommandAfter(self) if self.runner.then else None


class CommandAfter(Child):
    """The command of --then, after a run that has finished."""

    def __init__(self, run):
        super().__init__(run.runner, run.name, run.config, run.steps, run.runs)
        self.follower = run.follower

    def begin(self, _where):
        return [word.replace("{run}", str(self.runs / self.name)).replace("{name}", self.name) for word in self.runner.then]

    def end(self):
        if self.process.returncode and not self.runner.signal:
            self.runner.fails(f"{self.name}: --then {shlex.join(self.begin(''))}: {self.last_line()}; the log is {self.log}")


class Runner:
    """wanted: the jobs of the plan that are to be made. gpus: values of CUDA_VISIBLE_DEVICES, each for one run at a time; [None] leaves
    the environment as it is. then: the command after each run, or []."""

    def __init__(self, plan, wanted, out, train, gpus, earlier, then=()):
        self.plan, self.wanted, self.out, self.train, self.gpus, self.earlier = plan, wanted, out, train, gpus, earlier
        self.then = then
        self.progress, self.signals, self.passed_on, self.failed = Progress(plan, len(gpus)), [], 0, []

    @property
    def signal(self):
        return self.signals[0] if self.signals else 0

    def options(self, config, seed, extra):
        settings = [["checkpoint.keep", "1"], ["checkpoint.keep_best", "false"], *self.plan["set"],
                    *self.plan["configs"][config]["overrides"], *extra]
        last = {key: value for key, value in settings}  # of a key that is given twice
        return ["--config", self.plan["configs"][config]["file"], "--data.directory", self.plan["data"],
                "--seed", str(seed), *(f"--{key}={self.of_seed(key, value, seed)}" for key, value in last.items())]

    @staticmethod
    def of_seed(key, value, seed):
        return str(value).replace("{seed}", str(seed)) if key == "train.init_from" else value

    def begins_by_seed(self, config):
        """Whether train.init_from names another run for each seed."""
        settings = [*self.plan["set"], *self.plan["configs"][config]["overrides"]]
        return any(key == "train.init_from" and "{seed}" in value for key, value in settings)

    def check(self, config, seed, has_checkpoint):
        """Lets ./train check the config before anything is trained."""
        options = self.options(config, seed, [("data.verify", "false"), *([("train.init_from", "")] if has_checkpoint else [])])
        name = f"{config}.check"  # of no run
        done = subprocess.run([*self.train, *options, "--runs", str(self.out / "runs"), "--name", name, "--dry-run"],
                              capture_output=True, text=True, check=False)
        if done.returncode and not self.signal:
            fail(f"{config}: " + (done.stderr.strip().splitlines() or [f"ended with exit code {done.returncode}"])[-1])

    def follow(self, child):
        child.follower.read()
        if child.name in self.progress.left:
            total = child.steps * self.plan["configs"][child.config]["tokens_per_step"]
            self.progress.expect(child.name, child.config, max(0, total - child.follower.tokens))
            if child.follower.seconds_per_token():
                self.progress.rate[child.config] = child.follower.seconds_per_token()

    def pass_on_signals(self, running):
        new, self.passed_on = self.signals[self.passed_on:], len(self.signals)
        for number in new:
            for child in running:
                child.process.send_signal(number)
            if running:
                run = "the run saves a checkpoint" if len(running) == 1 else "the runs save checkpoints"
                self.progress.line(f"stopping: {run} first; the same command goes on from there")

    def run_queue(self, waiting, ended=lambda: None):
        """Makes children in their order, each on the next entry of gpus that is free, and waits for all. Calls `ended` after the last
        one of a run."""
        free, running, read = list(self.gpus), [], 0.0
        (self.out / "logs").mkdir(exist_ok=True)
        try:
            while running or (waiting and not self.signal):
                while free and waiting and not self.signal:
                    child = waiting.pop(0)
                    child.start(free.pop(0))
                    running.append(child)
                self.pass_on_signals(running)
                at_end = [child for child in running if child.process.poll() is not None]
                if at_end or time.monotonic() - read > 0.5:
                    read = time.monotonic()
                    for child in running:
                        self.follow(child)
                for child in at_end:
                    running.remove(child)
                    free.insert(0, child.gpu)
                    following = child.end()
                    if following:
                        waiting.insert(0, following)
                    elif not self.signal:
                        ended()
                self.progress.show([(child.name, child.follower.step, child.steps) for child in running])
                if not at_end:
                    time.sleep(0.05)
        finally:  # none is left behind after an error in here
            for child in running:
                child.process.terminate()
            for child in running:
                child.process.wait()
            self.progress.clear()

    def fails(self, text):
        self.failed.append(text)
        self.progress.line(text)

    def is_finished(self, budget, config, seed, name):
        steps, folder = steps_of(self.plan, budget, config), self.out / "runs" / name
        known = self.earlier.get((config + suffix_of(self.plan, budget), seed))
        return (not folder.exists() and has_all_steps(known, steps)) or state_of(folder, steps) == "skip"

    def save_plan(self):
        write_whole(self.out / "compare.json", json.dumps(self.plan, indent=2) + "\n")

    def run_all(self, timing_steps, ended):
        """Returns what went wrong, one text a run that failed. Calls `ended` after each run."""
        for number in SIGNALS:
            if signal.getsignal(number) != signal.SIG_IGN:  # nohup
                signal.signal(number, lambda number, _: self.signals.append(number))
        jobs = [job for job in self.wanted if not self.is_finished(*job)]
        checked = {}  # (seed, name) of the runs that one check is for
        for _, config, seed, name in jobs:
            checked.setdefault((config, seed if self.begins_by_seed(config) else None), []).append((seed, name))
        for (config, _), runs in checked.items():
            if not self.signal:
                self.check(config, runs[0][0], all(saved_step(self.out / "runs" / name) for _, name in runs))
        if self.signal:
            return []
        self.save_plan()
        configs = dict.fromkeys(config for budget, config, *_ in jobs if budget == "seconds")
        self.run_queue([TimingRun(self, config, config, timing_steps, self.out / "timing") for config in configs
                        if "timing" not in self.plan["configs"][config]])
        self.run_queue(self.training_runs(jobs), ended)
        return self.failed

    def training_runs(self, jobs):
        """In the order in which they are to be made. Configs whose speed could not be measured have no runs of seconds."""
        def steps_left(job):
            return steps_of(self.plan, job[0], job[1]) - (saved_step(self.out / "runs" / job[3]) or 0)
        jobs = [job for job in jobs if steps_of(self.plan, job[0], job[1])]
        if len(self.gpus) > 1:
            jobs = longest_first(self.plan, jobs, steps_left)
        for job in jobs:
            self.progress.expect(job[3], job[1], steps_left(job) * self.plan["configs"][job[1]]["tokens_per_step"])
        return [TrainingRun(self, name, config, steps_of(self.plan, budget, config), seed)
                for budget, config, seed, name in jobs]
