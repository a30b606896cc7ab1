#!/usr/bin/env python3
"""Checks scripts/recall.py by a run of a few seconds. Needs the programs at the top of the repository."""
import csv
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time
import unittest

from prepare_dataset import TOP

SMALL = ["--lengths", "32", "--task", "induction", "--patterns", "dense,window", "--seeds", "1", "--tokens", "250k", "--batch", "1024",
         "--layers", "2", "--heads", "2", "--width", "64", "--lr", "3e-3", "--vocabulary", "32"]


class Recall(unittest.TestCase):
    def setUp(self):
        self.out = pathlib.Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, self.out)

    def run_recall(self, *words):
        return subprocess.run([sys.executable, TOP / "scripts/recall.py", "--out", self.out, *words], capture_output=True, text=True, cwd=TOP)

    def accuracy(self, pattern, last):
        with open(self.out / "induction.csv", encoding="utf-8", newline="") as file:
            return [float(row["accuracy"]) for row in csv.DictReader(file) if row["pattern"] == pattern and int(row["last"]) == last][-1]

    def test_a_window_does_not_see_what_dense_attention_recalls(self):
        done = self.run_recall(*SMALL, "--gpus", "0,0")  # two at once, whatever this machine has
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("T = 32: accuracy in % by distance", done.stdout)
        self.assertGreater(self.accuracy("dense", 31), 0.9)  # from 16 tokens on
        self.assertGreater(self.accuracy("window", 3), 0.9)
        self.assertLess(self.accuracy("window", 31), 0.5)
        trained = sorted((self.out / "induction/32/runs").glob("*/metrics.jsonl"))
        before = [file.stat().st_mtime_ns for file in trained]
        self.assertEqual(self.run_recall(*SMALL).returncode, 0)  # all of it is there
        self.assertEqual([file.stat().st_mtime_ns for file in trained], before)
        table = (self.out / "induction.csv").read_text(encoding="utf-8")
        (self.out / "induction/32/evaluations/dense-s1.csv").unlink()
        self.assertIn("evaluating dense-s1\n", self.run_recall(*SMALL).stdout)
        self.assertEqual((self.out / "induction.csv").read_text(encoding="utf-8"), table)
        for folder in ("data/induction_32", "induction/32/runs"):  # results stay without what they were made from
            shutil.rmtree(self.out / folder)
        done = self.run_recall(*SMALL)
        self.assertEqual((done.returncode, (self.out / "data/induction_32").exists()), (0, False), done.stderr)
        self.assertEqual((self.out / "induction.csv").read_text(encoding="utf-8"), table)
        for words in (["--tokens", "300k"], ["--vocabulary", "16"], ["--pairs", "2", "--seeds", "1,2"], ["--batch", "2048"], ["--lr", "1e-3"],
                      ["--rotary-theta", "1e6"]):
            again = self.run_recall(*SMALL, *words)
            self.assertEqual((again.returncode, again.stderr.count("\n")), (1, 1), again.stderr)
            self.assertIn(f"was made with another {words[0]}; give another --out", again.stderr)
        config = self.out / "configs/dense_32.json"
        config.write_text(config.read_text(encoding="utf-8").replace("512", "511"), encoding="utf-8")
        again = self.run_recall(*SMALL)
        self.assertEqual((again.returncode, again.stderr), (1, f"recall.py: {config}: there are runs with other settings; give another --out\n"))
        self.assertIn("511", config.read_text(encoding="utf-8"))

    def test_what_is_trained_is_in_the_table_of_a_command_that_is_stopped(self):
        words = [sys.executable, TOP / "scripts/recall.py", "--out", self.out, *SMALL, "--tokens", "20k", "--seeds", "1,2,3,4,5,6,7,8"]
        evaluated = self.out / "induction/32/evaluations/dense-s2.csv"
        with subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, cwd=TOP) as process:
            begun = time.monotonic()
            while not evaluated.exists() and time.monotonic() < begun + 60:
                time.sleep(0.01)
            process.terminate()
            process.communicate()
        self.assertEqual(process.returncode, 143)
        with open(self.out / "induction.csv", encoding="utf-8", newline="") as file:
            runs = {(row["pattern"], row["seed"]) for row in csv.DictReader(file)}
        self.assertLessEqual({("dense", "1"), ("dense", "2")}, runs)
        self.assertLess(len(runs), 16)

    def test_models_begin_with_the_parameters_of_shorter_ones(self):
        self.assertEqual(self.run_recall(*SMALL, "--patterns", "dense").returncode, 0)
        longer = [*SMALL, "--patterns", "window,dense", "--lengths", "64", "--tokens", "20k", "--lr", "1e-4"]
        run = self.out / "induction/32/runs/dense-s{seed}"
        for words in ([], ["--init-from", run]):
            shutil.rmtree(self.out / "induction/64", ignore_errors=True)
            done = self.run_recall(*longer, *words)
            self.assertEqual(done.returncode, 0, done.stderr)
            check = self.assertGreater if words else self.assertLess
            check(self.accuracy("dense", 15), 0.5)
        for pattern in ("window", "dense"):
            log = (self.out / f"induction/64/logs/{pattern}-s1.log").read_text(encoding="utf-8")
            self.assertIn(f"parameters: those of {self.out}/induction/32/runs/dense-s1/checkpoint-", log)
        again = self.run_recall(*longer)
        self.assertEqual((again.returncode, again.stderr.count("\n")), (1, 1), again.stderr)
        self.assertIn("was made with another --init-from; give another --out", again.stderr)
        done = self.run_recall(*longer, "--seeds", "2", "--init-from", run)
        self.assertIn("runs/dense-s2: there is no such run or checkpoint", done.stderr)
        # A mistake that was made first is in nobody's way.
        shutil.rmtree(self.out / "induction/64")
        self.assertEqual(self.run_recall(*longer, "--init-from", "none").returncode, 1)
        self.assertEqual(self.run_recall(*longer, "--pairs", "4").returncode, 1)
        done = self.run_recall(*longer, "--init-from", run)
        self.assertEqual(done.returncode, 0, done.stderr)
        # What has a checkpoint goes on without the run that it began with.
        steps = sorted((self.out / "induction/64/runs").glob("*-s1/checkpoint-*"))
        for folder in ("evaluations", "quality.csv"):
            shutil.rmtree(self.out / "induction/64" / folder, ignore_errors=True)
        shutil.rmtree(self.out / "induction/32/runs")
        done = self.run_recall(*longer, "--init-from", run)
        self.assertEqual((done.returncode, sorted((self.out / "induction/64/runs").glob("*-s1/checkpoint-*"))), (0, steps), done.stderr)

    def test_other_lengths_and_patterns_are_added(self):
        short = [*SMALL, "--tokens", "2k"]
        tables = []
        for words in (["--patterns", "dense,window"], ["--patterns", "hash8"], ["--patterns", "hash8", "--lengths", "64"],
                      ["--patterns", "dense,window"]):
            done = self.run_recall(*short, *words)
            self.assertEqual(done.returncode, 0, done.stderr)
            with open(self.out / "induction.csv", encoding="utf-8", newline="") as file:
                tables.append([tuple(row.values()) for row in csv.DictReader(file)])
        named = [{(row[1], row[2]) for row in table} for table in tables]
        self.assertEqual(named[0], {("32", "dense"), ("32", "window")})
        self.assertEqual(named[1], named[0] | {("32", "hash8")})
        self.assertEqual(named[2], named[1] | {("64", "hash8")})
        self.assertEqual(sorted(tables[3]), sorted(tables[2]))
        # What is measured stays in the table while a command is at work.
        stamp = self.out / "induction/64/data.json"
        stamp.write_text(stamp.read_text(encoding="utf-8").replace("induction", "mqar"), encoding="utf-8")
        self.assertEqual(self.run_recall(*short, "--patterns", "hash8", "--lengths", "32,64").returncode, 1)
        with open(self.out / "induction.csv", encoding="utf-8", newline="") as file:
            self.assertEqual(sorted(tuple(row.values()) for row in csv.DictReader(file)), sorted(tables[3]))
        self.assertEqual([row[1] for row in tables[3]], sorted((row[1] for row in tables[3]), key=int))
        self.assertIn(">hash8<", (self.out / "induction_32.svg").read_text(encoding="utf-8"))

    def test_words_are_checked(self):
        for words, part in ((["--patterns", "spiral"], "there is no spiral"), (["--patterns", "hash7"], "there is no hash7"),
                            (["--patterns", "near_far_warm0"], "there is no near_far_warm0"),
                            (["--patterns", "ends16_late20"], "there is no ends16_late20"),
                            (["--patterns", "hash8_probes5"], "there is no hash8_probes5"),
                            (["--patterns", "window_probes2"], "there is no window_probes2"),
                            (["--patterns", "drop50_fixed"], "there is no drop50_fixed"),
                            (["--patterns", "reformer_separate"], "there is no reformer_separate"), (["--lengths", "8"], "at least 16"),
                            (["--tokens", "1k"], "--tokens"), (["--lengths", "x"], "--lengths"), (["--seeds", "1,1"], "--seeds"),
                            (["--programs", "none"], "none/train: not there"),
                            (["--patterns", "dense,dense"], "twice"), (["--batch", "0"], "--batch: must be at least 1")):
            done = self.run_recall(*words)
            self.assertEqual((done.returncode, done.stderr.count("\n")), (1, 1), done.stderr)
            self.assertIn(part, done.stderr)
        self.assertEqual(list(self.out.iterdir()), [])


if __name__ == "__main__":
    unittest.main()
