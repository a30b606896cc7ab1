"""What the self-test of compare.py works with: a made-up ./train, and configs for it."""
import csv
import json
import os
import pathlib
import subprocess
import sys
import time

SCRIPT = pathlib.Path(__file__).with_name("compare.py")

# Stands for ./train: a step takes the config's `step_seconds`, the loss falls by its `rate`. It saves every 5 steps, ends
# after `fail_after` steps once, waits in step 12 for a signal if `wait` is set, and saves slowly and ends when one comes. It
# begins when as many as `together` have begun. events.txt has begin, name, GPU and threads, or end and name, of each.
TRAIN = '''
import json, os, pathlib, signal, sys, time
o, words = {}, sys.argv[1:]
while words:
    word = words.pop(0)
    key, equals, value = word[2:].partition("=")
    o[key] = value if equals else words.pop(0) if words and not words[0].startswith("--") else "true"
c, steps = json.loads(pathlib.Path(o["config"]).read_text().split("\\n", 1)[1]), int(o.get("train.steps", 1000))
if "bad.key" in o:
    sys.exit("train: --bad.key: there is no such key")
if "dry-run" in o:
    source = o.get("train.init_from", "")
    sys.exit(f"train: {source}: does not exist" if source and not pathlib.Path(source).exists() else None)
folder, T = pathlib.Path(o["runs"], o["name"]), int(o.get("model.sequence_length", 50))
folder.mkdir(parents=True, exist_ok=True)
events = pathlib.Path(o["runs"]).parent / "events.txt"
def event(*words):
    with open(events, "a") as log:
        log.write(" ".join([*words]) + "\\n")
event("begin", o["name"], os.environ.get("CUDA_VISIBLE_DEVICES", "-"), os.environ.get("OMP_NUM_THREADS", "-"))
begun = time.monotonic()
while events.read_text().count("begin") < c.get("together", 0) and time.monotonic() < begun + 60:
    time.sleep(0.01)
file, done, lines = folder / "metrics.jsonl", 0, []
if "resume" in o:
    done = max(int(x.name[-8:]) for x in folder.glob("checkpoint-*"))
    lines = [l for l in file.read_text().splitlines() if json.loads(l).get("step", 0) <= done]
config = {"seed": int(o["seed"]), "train": {"steps": steps, "batch_size": 2}, "data": {"order": "epoch"},
          "model": {"sequence_length": T}, "eval": {"windows": 4}, "attention": c["attention"]}
lines.append(json.dumps({"type": "resume" if done else "header", "step": done, "commit": "abc", "config": config,
                         "machine": {"gpu": {"name": "GPU X"}}}))
stop = []
for number in (signal.SIGTERM, signal.SIGINT):
    signal.signal(number, lambda *_: stop.append(1))
def write(**record):
    lines.append(json.dumps(record))
    file.write_text("\\n".join(lines) + "\\n")
def evaluate(step):
    more = {"effective_segments": [[2, 4], [None, 3]]} if c["attention"]["pattern"] == "hash" else {}
    write(type="eval", step=step, loss=10 - step * c["rate"], accuracy=step / 100, seconds=5, share_of_pairs=c["share"], **more)
def save(step):
    (folder / f"checkpoint-{step:08d}").mkdir(exist_ok=True)
    (folder / f"checkpoint-{step:08d}" / "checkpoint.xxh3").touch()
for step in range(done + 1, steps + 1):
    if step % 5 == 1 and not any(json.loads(l)["type"] == "eval" and json.loads(l)["step"] == step - 1 for l in lines):
        evaluate(step - 1)
    write(type="step", step=step, loss=1.0, tokens=step * 2 * T, seconds=c["step_seconds"])
    write(type="profile", step=step, seconds=1.0, attention=0.25, times={})
    begun = time.monotonic()
    while c.get("wait") and step == 12 and not stop and not done and time.monotonic() < begun + 60:
        time.sleep(0.01)
    if stop:
        time.sleep(0.3)
        save(step)
        sys.exit(143)
    if step % 5 == 0:
        save(step)
    if step == c.get("fail_after") and not done:
        sys.exit("train: no more memory")
evaluate(steps)
save(steps)
event("end", o["name"])
print("trained")
'''


class Fixture:
    """A folder with a made-up ./train and configs for it."""

    def __init__(self, folder):
        self.folder = folder
        (folder / "train.py").write_text(TRAIN, encoding="utf-8")
        self.config("dense", rate=0.1, step_seconds=2.0, share=1, attention={"pattern": "dense"})
        self.config("hash", rate=0.15, step_seconds=1.0, share=0.3, attention={"pattern": "hash", "buckets": 4})

    def config(self, name, **values):
        text = json.dumps({"train": {"batch_size": 2}, "model": {"sequence_length": 50}, **values})
        (self.folder / f"{name}.json").write_text("// Of the test.\n" + text, encoding="utf-8")

    def command(self, out, *words, configs=("dense", "hash")):
        """Of the configs some may be given as NAME=FILE,..."""
        configs = [c.replace("=", f"={self.folder}/", 1) if "=" in c else f"{c}={self.folder}/{c}.json" for c in configs]
        return [sys.executable, str(SCRIPT), "--data", "d", "--out", str(self.folder / out), "--train",
                f"{sys.executable} {self.folder}/train.py", *words, *configs]

    def environment(self):
        """With two GPUs, whatever this machine has."""
        return {**{k: v for k, v in os.environ.items() if k != "OMP_NUM_THREADS"}, "CUDA_VISIBLE_DEVICES": "5,7"}

    def start(self, out, *words, **more):
        return subprocess.Popen(self.command(out, *words, **more), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                text=True, env=self.environment())

    def run(self, out, *words, **more):
        with self.start(out, *words, **more) as process:
            stdout, stderr = process.communicate()
        return process.returncode, stdout, stderr

    def wait_for(self, done):
        until = time.monotonic() + 60
        while time.monotonic() < until and not done():
            time.sleep(0.05)

    def in_step(self, out, name, step):
        metrics = self.folder / out / "runs" / name / "metrics.jsonl"
        return metrics.exists() and f'"step": {step},' in metrics.read_text(encoding="utf-8")

    def events(self, out):
        return [line.split() for line in (self.folder / out / "events.txt").read_text(encoding="utf-8").splitlines()]

    def rows(self, out):
        with open(self.folder / out / "quality.csv", encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file))
