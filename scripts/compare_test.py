"""The self-test of compare.py, on made-up run folders and with a made-up ./train in a temporary directory."""
import csv
import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time

import compare
import compare_plan as plans
import compare_report as report

SCRIPT = pathlib.Path(__file__).with_name("compare.py")

# Stands for ./train: a step takes the config's `step_seconds`, the loss falls by its `rate`. It saves every 5 steps, ends
# after `fail_after` steps once, waits in step 12 for a signal if `wait` is set, and saves and ends when one comes.
TRAIN = '''
import json, pathlib, re, signal, sys, time
o, words = {}, sys.argv[1:]
while words:
    word = words.pop(0)
    key, equals, value = word[2:].partition("=")
    o[key] = value if equals else words.pop(0) if words and not words[0].startswith("--") else "true"
c, steps = json.loads(pathlib.Path(o["config"]).read_text().split("\\n", 1)[1]), int(o.get("train.steps", 1000))
if "bad.key" in o:
    sys.exit("train: --bad.key: there is no such key")
if "dry-run" in o:
    sys.exit()
folder = pathlib.Path(o["runs"], o["name"])
folder.mkdir(parents=True, exist_ok=True)
file, done, lines = folder / "metrics.jsonl", 0, []
if "resume" in o:
    done = max(int(x.name[-8:]) for x in folder.glob("checkpoint-*"))
    lines = [l for l in file.read_text().splitlines() if json.loads(l).get("step", 0) <= done]
config = {"seed": int(o["seed"]), "train": {"steps": steps, "batch_size": 2}, "data": {"order": "epoch"},
          "model": {"sequence_length": 50}, "eval": {"windows": 4}, "attention": c["attention"]}
lines.append(json.dumps({"type": "resume" if done else "header", "step": done, "commit": "abc", "config": config,
                         "machine": {"gpu": {"name": "GPU X"}}}))
stop = []
signal.signal(signal.SIGTERM, lambda *_: stop.append(1))
def write(**record):
    lines.append(json.dumps(record))
    file.write_text("\\n".join(lines) + "\\n")
def evaluate(step):
    more = {"effective_segments": [[2, 4], [None, 3]]} if c["attention"]["pattern"] == "hash" else {}
    write(type="eval", step=step, loss=10 - step * c["rate"], seconds=5, share_of_pairs=c["share"], **more)
def save(step):
    (folder / f"checkpoint-{step:08d}").mkdir(exist_ok=True)
    (folder / f"checkpoint-{step:08d}" / "checkpoint.xxh3").touch()
for step in range(done + 1, steps + 1):
    if step % 5 == 1 and not any(json.loads(l)["type"] == "eval" and json.loads(l)["step"] == step - 1 for l in lines):
        evaluate(step - 1)
    write(type="step", step=step, loss=1.0, tokens=step * 100, seconds=c["step_seconds"])
    write(type="profile", step=step, seconds=1.0, attention=0.25, times={})
    begun = time.monotonic()
    while c.get("wait") and step == 12 and not stop and not done and time.monotonic() < begun + 60:
        time.sleep(0.01)
    if stop:
        save(step)
        sys.exit(143)
    if step % 5 == 0:
        save(step)
    if step == c.get("fail_after") and not done:
        sys.exit("train: no more memory")
evaluate(steps)
save(steps)
print("trained")
'''


def check(what, got, expected):
    if got != expected:
        sys.exit(f"compare.py: self-test failed: {what}: expected {expected!r}, got {got!r}")


def check_interpolation():
    points = [(0, 0, 0.0, 9.0), (1, 100, 10.0, 5.0), (2, 200, 30.0, 6.0), (3, 300, 40.0, 4.0)]
    for loss, seconds in ((9.5, 0.0), (7.0, 5.0), (5.0, 10.0), (4.5, 37.5), (4.0, 40.0), (3.9, None)):
        check(f"seconds to {loss}", report.seconds_to(points, loss), seconds)
    for tokens, loss in ((0, 9.0), (50, 7.0), (100, 5.0), (250, 5.0), (300, 4.0), (301, None)):
        check(f"loss at {tokens} tokens", report.loss_at(points, report.TOKENS, tokens), loss)
    check("loss at 20 s", report.loss_at(points, report.SECONDS, 20), 5.5)
    check("spread", report.with_spread([1.0, 1.5], 2), "1.25 (0.50)")
    check("no spread", report.with_spread([1.0, None], 1), "1.0")


def check_words():
    for attention, text in (
            ({"pattern": "dense", "buckets": 16, "window": 0}, "dense"), ({"pattern": "hash"}, "hash 16 buckets"),
            ({"pattern": "hash", "buckets": 8, "rounds": 2, "window": 64}, "hash 8 buckets 2 rounds window 64"),
            ([{"pattern": "dense"}, {"pattern": "drop", "drop_rate": 0.5}, {"pattern": "dense"}], "dense | drop rate 0.5"),
            ({"mixture": [{"heads": 4, "pattern": "dense", "window": 256}, {"pattern": "blocks", "heads": 0}]},
             "4 heads dense window 256 + other heads blocks best 3 of 512 tokens")):
        check("pattern", report.describe_pattern(attention), text)
    check("config", plans.parse_config('a=x.json,attention=[{"p":1},{"p":2}],train.batch_size=4'),
          ("a", {"file": "x.json", "overrides": [["attention", '[{"p":1},{"p":2}]'], ["train.batch_size", "4"]]}))
    for text, count in (("50M", 50_000_000), ("1.5k", 1500), ("700", 700)):
        check("tokens", plans.parse_count(text), count)
    with tempfile.NamedTemporaryFile("w", suffix=".json", encoding="utf-8") as file:
        file.write('// a "comment"\n{"url": "http://x/*no*/", /* one\nmore */ "a": "\\"//"}')
        file.flush()
        check("comments", plans.read_json_with_comments(file.name), {"url": "http://x/*no*/", "a": '"//'})
    check("duration", [compare.duration(s) for s in (5, 125, 7500)], ["5 s", "2 min", "2 h 05 min"])


def check_states(folder):
    """What is to be done with a run of 10 steps, by what its folder holds."""
    header = {"type": "header", "config": {"train": {"steps": 10}}}
    step, last = {"type": "step", "step": 9}, {"type": "step", "step": 10}
    evaluated = {"type": "eval", "step": 10}
    for number, (records, cut, checkpoint, state) in enumerate((
            (None, "", "", "start"), (None, "", "checkpoint-00000005", "overwrite"),
            ([header, step], "", "", "overwrite"), ([header, step], "", "checkpoint-00000005", "resume"),
            ([header, step], '{"type":"st', "checkpoint-00000005", "resume"),
            ([header, step], "", "checkpoint-00000005.partial-1", "overwrite"),
            ([header, last], "", "checkpoint-00000010", "resume"), ([header, last, evaluated], "", "", "skip"),
            ([], "", "checkpoint-00000005", "resume"))):
        run = folder / f"state-{number}"
        run.mkdir()
        if records is not None:
            (run / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records) + cut, encoding="utf-8")
        if checkpoint:
            (run / checkpoint).mkdir()
            (run / checkpoint / ("checkpoint.xxh3" if records is not None else "state.json")).touch()
        check(f"state {number}", compare.state_of(run, 10), state)
    check("other steps", failure_of(lambda: compare.state_of(folder / "state-7", 11)),
          f"compare.py: {folder}/state-7: was made with train.steps 10, not 11; remove it, or use another --out")


def failure_of(work):
    try:
        work()
    except SystemExit as end:
        return end.code
    return "no error"


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
        return [sys.executable, str(SCRIPT), "--data", "d", "--out", str(self.folder / out), "--train",
                f"{sys.executable} {self.folder}/train.py", *words, *(f"{c}={self.folder}/{c}.json" for c in configs)]

    def run(self, out, *words, **more):
        done = subprocess.run(self.command(out, *words, **more), capture_output=True, text=True, check=False)
        return done.returncode, done.stdout, done.stderr

    def rows(self, out):
        with open(self.folder / out / "quality.csv", encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file))


def cells(stdout, config):
    line = next(line for line in stdout.splitlines() if line.startswith(f"| {config} "))
    return [cell.strip() for cell in line.strip("|").split("|")]


def check_tokens(fixture):
    code, stdout, stderr = fixture.run("tokens", "--tokens", "2k", "--seeds", "1,2")
    check("exit code", (code, stderr.count("error")), (0, 0))
    rows = fixture.rows("tokens")
    check("columns", ",".join(rows[0]), ",".join(report.COLUMNS))
    check("rows", len(rows), 2 * 2 * 5)
    check("row", list(rows[-1].values()), ["hash", "hash 4 buckets", "50", "2", "20", "2000", "20.000", "7.000000",
                                           "3.0000", "0.300000", "100", "GPU X", "abc"])
    check("row of dense", (rows[0]["seconds"], rows[0]["effective_buckets"], rows[0]["tokens_per_s"]), ("0.000", "", ""))
    # Dense ends at 8.0 after 40 s; hash is there after 13 1/3 of its 20 s, when dense is at 9.0.
    check("table of dense", cells(stdout, "dense (baseline)")[2:],
          ["1 2", "2,000", "40.0 (0.0)", "8.0000 (0.0000)", "~ 9.0000 (0.0000)", "40.0 (0.0)", "1.000 (0.000)", "-",
           "1.0000 (0.0000)", "50", "25.0 (0.0)"])
    check("table of hash", cells(stdout, "hash")[5:9], ["7.0000 (0.0000)", "~ 7.0000 (0.0000)", "13.3 (0.0)", "0.333 (0.000)"])
    code, stdout, _ = fixture.run("tokens", "--tokens", "2k", "--seeds", "1,2")
    check("finished runs are kept", (code, "steps" in stdout.split("Equal")[0]), (0, False))
    (fixture.folder / "tokens/quality.csv").unlink()
    done = subprocess.run([sys.executable, SCRIPT, "--out", fixture.folder / "tokens", "--report-only", "--baseline", "hash"],
                          capture_output=True, text=True, check=False)
    check("report only", (done.returncode, fixture.rows("tokens")), (0, rows))
    check("not reached", cells(done.stdout, "dense")[7:9], ["not reached", "-"])
    code, _, stderr = fixture.run("tokens", "--tokens", "3k", "--seeds", "1,2")
    check("another budget", (code, "made with tokens 2000, not 3000" in stderr), (1, True))


def check_seconds(fixture):
    code, stdout, _ = fixture.run("both", "--seconds", "20", "--tokens", "1k", "--seeds", "3", "--timing-steps", "8")
    plan = json.loads((fixture.folder / "both/compare.json").read_text(encoding="utf-8"))
    check("speed", (code, plan["configs"]["dense"]["timing"]["seconds_per_step"]), (0, 2.0))
    check("runs", sorted(p.name for p in (fixture.folder / "both/runs").iterdir()),
          ["dense-s3-seconds", "dense-s3-tokens", "hash-s3-seconds", "hash-s3-tokens"])
    check("tokens and seconds", [cells(stdout, f"{c}-seconds")[3:5] for c in ("dense", "hash")], [["1,000", "20.0"], ["2,000", "20.0"]])


def check_cut_off(fixture):
    """A run that fails, and one that is stopped by a signal: the next call goes on from their checkpoints."""
    fixture.config("weak", rate=0.1, step_seconds=1.0, share=1, attention={"pattern": "dense"}, fail_after=7)
    fixture.config("slow", rate=0.1, step_seconds=1.0, share=1, attention={"pattern": "dense"}, wait=True)
    words, configs = ("--tokens", "2k", "--seeds", "1"), ("weak", "slow")
    with subprocess.Popen(fixture.command("cut", *words, configs=configs), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          text=True) as process:
        metrics, until = fixture.folder / "cut/runs/slow-s1/metrics.jsonl", time.monotonic() + 60
        while time.monotonic() < until and not (metrics.exists() and '"step": 12,' in metrics.read_text(encoding="utf-8")):
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        stdout, stderr = process.communicate()
    check("the signal's exit code", process.returncode, 143)
    check("the failure is named", "weak-s1: train: no more memory; the log is" in stderr, True)
    code, stdout, _ = fixture.run("cut", *words, configs=configs)
    for name in ("weak-s1", "slow-s1"):
        check(f"{name} goes on", f"{name}: 20 steps, going on from its checkpoint" in stdout, True)
    check("both are finished", (code, [r["step"] for r in fixture.rows("cut")]), (0, ["0", "5", "10", "15", "20"] * 2))


def check_corrections(fixture):
    """A config whose runs never began may be given otherwise; one that has runs may not."""
    words = ("--tokens", "500", "--seeds", "1")
    (fixture.folder / "corrected/runs").mkdir(parents=True)
    check("not there", fixture.run("corrected", *words, "--set", "bad.key=1", configs=("dense",))[0], 1)
    check("corrected", fixture.run("corrected", *words, configs=("dense",))[0], 0)
    fixture.config("dense", rate=0.2, step_seconds=2.0, share=1, attention={"pattern": "dense"})
    code, _, stderr = fixture.run("corrected", *words, configs=("dense",))
    check("another text", (code, "dense was made with another text of" in stderr), (1, True))
    (fixture.folder / "corrected/runs/dense-s1").rename(fixture.folder / "moved")
    check("its runs are gone", fixture.run("corrected", *words, configs=("dense",))[0], 0)


def check_errors(fixture):
    dense = fixture.folder / "dense.json"
    for words, message in (
            (["--tokens", "x"], "--tokens: must be a number like 50000000, 500k, 50M or 1.5G, not x"),
            (["--tokens", "10"], "--tokens: 10 is less than the 100 tokens of one step of dense"),
            (["--tokens", "1k", "--seeds", "1,1"], "--seeds: must be different whole numbers like 1,2, not 1,1"),
            (["--tokens", "1k", "--set", "train.steps=5"], "--set: train.steps is set by compare.py; leave it out"),
            (["--tokens", "1k", "--set", "bad.key=5"], "dense: train: --bad.key: there is no such key"),
            (["--tokens", "1k", "--baseline", "drop"], "--baseline: drop is not one of dense"),
            (["--tokens", "1k", "x=nowhere.json"], "x: nowhere.json: No such file or directory"),
            (["--tokens", "1k", f"x={dense},model.sequence_length=no"],
             "x: model.sequence_length: must be a whole number of at least 1, not no"),
            (["--seconds", "0"], "--seconds: must be above 0, not 0"),
            ([], "say how long to train: --tokens 50M, --seconds 300, or both")):
        code, _, stderr = fixture.run("errors", *words, configs=("dense",))
        check(f"error of {words}", (code, stderr), (1, f"compare.py: {message}\n"))


def run():
    os.environ.setdefault("MPLCONFIGDIR", tempfile.gettempdir())
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        check_interpolation()
        check_words()
        check_states(folder)
        fixture = Fixture(folder)
        for part in (check_tokens, check_seconds, check_cut_off, check_corrections, check_errors):
            part(fixture)
    print("[compare] self-test passed")
    return 0
