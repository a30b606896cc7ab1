#!/usr/bin/env python3
"""Checks scripts/reproduce.sh at the scale smoke. Needs the programs at the top of the repository."""
import contextlib
import dataclasses
import fcntl
import io
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import unittest
import xml.etree.ElementTree

import children
import recall
import svg_plot
from attention_patterns import shares_keys
from compare_report import Run, seconds_to
from prepare_dataset import TOP
from reproduce_experiments import EXPERIMENTS, SCALES, Context, SpeedUp, bound, speed_table, speed_ups, verdict
from reproduce_report import machine


class Settings(unittest.TestCase):
    def test_plots_have_room_for_their_legend(self):
        lines = {f"{'a_long_name_of_a_pattern_' * 2}{i}": [(1, i), (2, i + 1)] for i in range(25)}
        both = svg_plot.side_by_side([svg_plot.line_plot(lines, "long", "x", "y"), svg_plot.line_plot({"short": [(1, 2), (2, 3)]}, "short", "x", "y")])
        outer = xml.etree.ElementTree.fromstring(both)
        long, short = outer.findall("{*}svg")
        self.assertEqual(int(outer.get("width")), int(long.get("width")) + int(short.get("width")))
        self.assertEqual(short.get("x"), long.get("width"))
        for text in long.findall("{*}text"):
            if text.text in lines:
                self.assertLess(float(text.get("x")) + 6 * len(text.text), int(long.get("width")))
                self.assertLess(float(text.get("y")), int(long.get("height")))

    def test_plots_have_bands(self):
        plot = xml.etree.ElementTree.fromstring(svg_plot.line_plot({"a": [(1, 2), (2, 4)], "b": [(1, 3), (2, 3)]}, "t", "x", "y", 2, 2,
                                                                   {"a": [(2, 3, 6), (1, 1, 2.5)]}))
        band, = plot.findall("{*}polygon")
        points = [tuple(map(float, point.split(","))) for point in band.get("points").split()]
        self.assertEqual([x for x, _ in points], [points[0][0], points[1][0], points[1][0], points[0][0]])
        self.assertGreater(points[0][1], points[3][1])  # the lower end is further down
        self.assertGreaterEqual(min(y for _, y in points), svg_plot.TOP - 0.1)

    def test_scales(self):
        """Those of the paper: 15,000 steps of 64 sequences of 8,192 tokens, of 30 of 16,384."""
        for length, sequences in (("8k", 64), ("16k", 30)):
            config = EXPERIMENTS[f"quality_{length}"].config(SCALES["paper"], "hash16")
            self.assertEqual((config["train"]["batch_size"], config["eval"]["every"]), (sequences, 100))
            shared = EXPERIMENTS[f"quality_{length}"].config(SCALES["paper"], "hash16", ranks=2)["train"]
            self.assertEqual((shared["batch_size"], shared["batch_size"] % (2 * shared["micro_batch_size"])), (sequences, 0))
        committed = json.loads((TOP / "results/small/quality_8k/configs/near_far.json").read_text(encoding="utf-8"))
        self.assertEqual(EXPERIMENTS["quality_8k"].config(SCALES["small"], "near_far"), committed)

    def test_more_patterns_may_follow(self):
        """With --all each step is another one than without, or is left out."""
        with tempfile.TemporaryDirectory() as folder:
            out = pathlib.Path(folder)
            few, more = ({(name, step): command for name in ("quality_16k", "recall")
                          for step, command, _ in EXPERIMENTS[name].steps(Context("small", out, ".", "d", "b", everything=everything), out / name)}
                         for everything in (False, True))
        self.assertEqual(set(more) - set(few), {("recall", "train_more"), ("recall", "train_long")})
        for step in ("train", "positions"):
            self.assertNotEqual(few["quality_16k", step], more["quality_16k", step])
        self.assertIn(f"{out}/recall/mqar/1024/runs/near_dense_separate-s{{seed}}", more["recall", "train_long"])

    def configs(self, scale):
        """(name, config) of every model that an experiment trains."""
        for experiment in EXPERIMENTS.values():
            for name in getattr(experiment, "patterns", ()):
                yield name, experiment.config(scale, name)
        for options, _ in scale.recall.values():
            args = recall.parse([*options, "--out", "none", "--programs", str(TOP)])
            begins_with = args.init_from and pathlib.Path(args.init_from).name.partition("-s{seed}")[0]
            for name in args.patterns:
                if begins_with:  # the parameters of a model whose attention has the same keys
                    self.assertEqual(shares_keys(name), shares_keys(begins_with), name)
                yield name, recall.config_of(args, name, args.lengths[-1])

    def test_every_config_is_one_that_train_accepts(self):
        accepted = set()  # scales have many in common when they are made smaller
        with tempfile.TemporaryDirectory() as folder:
            for scale in SCALES.values():
                for name, config in self.configs(scale):
                    self.assertEqual(config["train"]["batch_size"] % config["train"]["micro_batch_size"], 0)
                    config["model"].update(n_layer=len(config["attention"]) if isinstance(config["attention"], list) else 2, n_embd=48,
                                           sequence_length=128, vocab_size=300)
                    config["train"].update(batch_size=1, micro_batch_size=1)
                    text = json.dumps(config)
                    if text in accepted:
                        continue
                    accepted.add(text)
                    path = pathlib.Path(folder) / "config.json"
                    path.write_text(text, encoding="utf-8")
                    done = subprocess.run([TOP / "bench", "step", path, "--device", "cpu", "--repeats", "1"], capture_output=True, text=True)
                    self.assertEqual(done.returncode, 0, f"{name}: {done.stderr}")


class Reproduce(unittest.TestCase):
    def setUp(self):
        self.out = pathlib.Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, self.out)

    def run_it(self, *words):
        return subprocess.run([TOP / "scripts/reproduce.sh", "--scale", "smoke", "--out", self.out, *words], capture_output=True, text=True)

    def test_everything_runs_and_is_reported(self):
        done = self.run_it()
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("21 of 21 steps", done.stdout)
        report = (self.out / "report.html").read_text(encoding="utf-8")
        self.assertNotIn("nothing to plot", report)
        self.assertNotIn("http", re.sub(r'xmlns="[^"]*"', "", report))  # nothing is fetched
        pictures = re.findall(r"<svg.*?</svg>", report, re.DOTALL)
        self.assertEqual(len(pictures), 41)
        for picture in pictures:
            self.assertGreaterEqual(len(xml.etree.ElementTree.fromstring(picture).findall(".//{*}polyline")), 1)
        for part in ("Loss against time, 16k", "3.3 x as fast at 16,384", "dense attention at 256 tokens:<br>hash8: ", "drop70: ",
                     "what the names of attention mean", "reformer16", "balanced16.json", "commit", "bits per byte",
                     "miss query-key pairs that share a bucket", "; dense attention of today leaves at most ", "speed-up, attention only", "rounds32"):
            self.assertIn(part, report)
        for figure, count in (("loss.svg", 2), ("runtime.svg", 1)):
            self.assertEqual((self.out / figure).read_text(encoding="utf-8").count("role="), count)
        begun = time.monotonic()
        again = self.run_it()
        self.assertEqual((again.returncode, "steps" in again.stdout), (0, False), again.stdout)  # all of it is there
        self.assertLess(time.monotonic() - begun, 5)
        (self.out / "about.txt").write_text("Of one <book>.", encoding="utf-8")
        (self.out / "report.html").unlink()
        self.assertEqual(self.run_it("--report-only").returncode, 0)
        report = (self.out / "report.html").read_text(encoding="utf-8")
        for part in ("Of one &lt;book&gt;.", "scale smoke", "the figures mean nothing"):
            self.assertIn(part, report)
        # More seeds afterwards: they are trained, and evaluated by position; what is there stays.
        done = self.run_it("--only", "quality_16k", "--seeds", "1,2")
        self.assertEqual((done.returncode, "dense-s2: 15 steps" in done.stdout, "dense-s1: 15 steps" in done.stdout), (0, True, False), done.stderr)
        self.assertIn("\ndense,2,", (self.out / "quality_16k/positions.csv").read_text(encoding="utf-8"))
        # Without the folders of runs.
        for folder in self.out.glob("*/runs"):
            shutil.rmtree(folder)
        for stamp in self.out.glob("trained_buckets/*.done.json"):
            stamp.unlink()
        done = self.run_it("--only", "quality_8k,trained_buckets")
        self.assertEqual((done.returncode, "steps" in done.stdout, done.stderr.count("is left out: needs the checkpoint of")), (0, False, 4))
        config = self.out / "quality_8k/configs/hash8.json"
        config.write_text(config.read_text(encoding="utf-8").replace("0.001", "0.002"), encoding="utf-8")
        done = self.run_it("--only", "quality_8k")
        self.assertEqual((done.returncode, done.stderr.count("\n"), "hash8.json: there are runs with other settings" in done.stderr), (1, 1, True))
        self.assertIn("0.002", config.read_text(encoding="utf-8"))

    def test_a_run_that_was_stopped_goes_on(self):
        words = ["--only", "quality_8k"]
        process = subprocess.Popen([TOP / "scripts/reproduce.sh", "--scale", "smoke", "--out", self.out, *words],
                                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while not list(self.out.glob("quality_8k/runs/*/metrics.jsonl")):
            self.assertIsNone(process.poll())
            time.sleep(0.02)
        process.send_signal(signal.SIGTERM)  # SIGINT is ignored in the background of a script
        self.assertEqual(process.wait(timeout=60), 143)
        self.assertTrue((self.out / "report.html").exists())
        self.assertFalse(list(self.out.glob("quality_8k/*.done.json")))
        self.assertEqual(self.run_it(*words).returncode, 0)
        self.assertIn("speed-up to dense", (self.out / "report.html").read_text(encoding="utf-8"))

    def test_a_step_that_fails_is_named(self):
        programs = self.out / "programs"
        programs.mkdir()
        for name in ("train", "evaluate", "prepare_data"):
            (programs / name).symlink_to(TOP / name)
        (programs / "bench").write_text("#!/bin/sh\necho bench: no >&2\nexit 1\n", encoding="utf-8")
        os.chmod(programs / "bench", 0o755)
        done = self.run_it("--only", "steps", "--programs", programs)
        self.assertEqual(done.returncode, 1)
        self.assertIn("bench: no\nreproduce.py: steps (bench) failed; the same command goes on from there", done.stderr)

    def test_experiments_are_listed_with_the_time_they_take(self):
        listed = subprocess.run([TOP / "scripts/reproduce.sh", "--list"], capture_output=True, text=True).stdout.splitlines()
        self.assertEqual([line.split()[0] for line in listed], [*EXPERIMENTS, "all"])
        self.assertRegex(listed[-1], r"all +2 h 0\d min  on one H200, with seeds 1,2")
        for words, time_of_it in (([], r"14 min \d\d s"), (["--all"], r"30 min \d\d s")):
            one = subprocess.run([TOP / "scripts/reproduce.sh", "--list", "--only", "quality_16k", "--seeds", "1", *words], capture_output=True,
                                 text=True).stdout
            self.assertRegex(one, rf"quality_16k +{time_of_it}  Loss against time, 16k: .*\nall +{time_of_it}  on one H200, with seeds 1\n")

    def test_words_are_checked(self):
        for words, part in ((["--only", "dreams"], "there is no dreams"), (["--seeds", "x"], "--seeds: must be"), (["--gpus", "x"], "--gpus: must"),
                            (["--gpus", "0,0"], "--gpus: 0,0 has a GPU twice"),
                            (["--report-only"], "has no reproduce.json"), (["--programs", "none"], "none/train: not there"),
                            (["--ranks", "0"], "--ranks: must be at least 1"), (["--ranks", "2", "--gpus", "2"], "goes without --gpus"),
                            (["--scale", "small"], "needs a GPU" if machine() == "no GPU" else "name a prepared set")):
            done = self.run_it(*words)
            self.assertEqual((done.returncode, done.stderr.count("\n")), (1, 1), done.stderr)
            self.assertIn(part, done.stderr)
        self.assertEqual(list(self.out.iterdir()), [])

    def test_two_at_once(self):
        self.run_it("--only", "steps")
        with open(self.out / ".lock", "w", encoding="utf-8") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            done = self.run_it("--only", "steps")
        self.assertEqual((done.returncode, done.stderr), (1, f"reproduce.py: --out: {self.out}: another reproduce.sh is at work there\n"))

    def test_a_signal_is_not_lost(self):
        """Where the command ends well all the same, the script ends as if it had not."""
        code = "import children, sys; sys.exit(children.run(['sh', '-c', 'trap \"exit 0\" TERM; echo up; while :; do sleep 0.05; done']))"
        process = subprocess.Popen([sys.executable, "-c", code], cwd=TOP / "scripts", stdout=subprocess.PIPE, text=True)
        self.assertEqual(process.stdout.readline(), "up\n")
        process.send_signal(signal.SIGTERM)
        self.assertEqual(process.wait(timeout=60), 143)
        process.stdout.close()

    def test_commands_run_one_at_a_time_on_each_gpu(self):
        """They wait for each other, so that one after another they would never end."""
        out = self.out
        wait = f'echo $CUDA_VISIBLE_DEVICES > {out}/began$0; while [ "$(cat {out}/began* | wc -l)" -lt 2 ]; do sleep 0.01; done'
        ended = []
        with contextlib.redirect_stderr(io.StringIO()) as said:
            self.assertEqual(children.run_each([["sh", "-c", wait, number] for number in "01"], ["5", "7"], ended=ended.append), (0, None))
            self.assertEqual(sorted(ended), [0, 1])
            self.assertEqual([(out / f"began{number}").read_text(encoding="utf-8") for number in "01"], ["5\n", "7\n"])
            # None begins after one that failed, whose words are shown, and what began ends.
            commands = [["sh", "-c", "echo no space >&2; exit 3"], ["sh", "-c", f"sleep 0.3; touch {out}/second"],
                        ["touch", f"{out}/third"]]
            self.assertEqual(children.run_each(commands, ["5", "7"]), (3, 0))
        self.assertEqual(said.getvalue(), "no space\n")
        self.assertEqual([(out / name).exists() for name in ("second", "third")], [True, False])

    def test_a_signal_reaches_all_commands_once(self):
        out = self.out
        command = f"trap 'echo $0 >> {out}/signals; exit 0' TERM; touch {out}/up$0; while :; do sleep 0.05; done"
        code = ("import children, sys; "
                f"print(children.run_each([['sh', '-c', {command!r}, n] for n in 'abc'], ['5', '7']), flush=True)")
        with subprocess.Popen([sys.executable, "-c", code], cwd=TOP / "scripts", stdout=subprocess.PIPE, text=True) as process:
            while len(list(out.glob("up?"))) < 2:
                time.sleep(0.01)
            process.send_signal(signal.SIGTERM)
            self.assertEqual(process.communicate(timeout=60)[0], "(143, None)\n")
        self.assertEqual(sorted((out / "signals").read_text(encoding="utf-8").split()), ["a", "b"])
        self.assertFalse((out / "upc").exists())

    def test_verdicts(self):
        dense = SpeedUp(loss=5.0, difference=0.0, to_loss=1.0, tokens_per_s=100.0, attention=0.5, seeds=2)
        def of(speed, difference):
            return dataclasses.replace(dense, tokens_per_s=100.0 * speed, difference=difference)
        for found, claimed, spread, begins in (([of(2.1, 0.02)], 2.0, 0.03, "holds (seeds of dense attention differ by 0.030); "),
                                               ([of(1.9, 0.02), of(2.1, 0.04)], 2.0, 0.03, "holds in part: the loss is no higher, but training is at most 1.90 x"),
                                               ([of(1.9, 0.02)], 2.0, None, "does not hold at this budget: the loss is higher, and training is 1.90 x"),
                                               ([of(1.2, -0.1)], 1.0, None, "holds")):
            text = verdict(found, dense, claimed, spread)
            self.assertEqual(text[:len(begins)], begins)
            self.assertEqual(text.endswith("; dense attention of today leaves at most 2.00 x, if attention takes no time"), claimed > 1)

    def test_speed_ups(self):
        self.assertEqual(seconds_to([(0, 0, 0, 5.0), (1, 0, 10, 4.0), (2, 0, 20, 3.0)], 3.5), 15)
        self.assertIsNone(seconds_to([(0, 0, 0, 5.0), (1, 0, 10, 4.0)], 3.5))
        rows = [{"config": c, "seed": s, "T": 8, "step": x, "seconds": x, "loss": y, "tokens": 100, "attention_share": a} for c, s, x, y, a in
                (("dense", "1", 0, 5, ""), ("dense", "1", 20, 4, "0.5"), ("fast", "1", 0, 5, ""), ("fast", "1", 5, 4, ""),
                 ("fast", "1", 10, 3, "0.1"), ("slow", "1", 0, 5, ""), ("slow", "1", 10, 4.5, ""))]
        runs = [Run([row for row in rows if row["config"] == config], []) for config in ("dense", "fast", "slow")]
        found = speed_ups(runs)
        self.assertEqual(found, {"dense": SpeedUp(4, 0, 1, 5, 0.5, 1), "fast": SpeedUp(3, -1, 4, 10, 0.1, 1),
                                 "slow": SpeedUp(4.5, 0.5, None, 10, None, 1)})
        self.assertEqual(bound(found["dense"]), 2)
        self.assertIn("<td>10.00 x</td>", speed_table(runs, "dense", "loss", 1))  # attention alone: 0.1 s of a step against 0.01


if __name__ == "__main__":
    unittest.main()
