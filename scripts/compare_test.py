"""The self-test of compare.py, on made-up run folders and with a made-up ./train in a temporary directory."""
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time

import compare_plan as plans
import compare_progress as progress
import compare_report as report
import compare_run as runs
import plot_metrics
from attention_patterns import attention_of
from compare_fixture import SCRIPT, Fixture

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
    paths = map(pathlib.Path, ("runs/a", "runs/b/metrics.jsonl", "x/loss.jsonl", "y/loss.jsonl"))
    check("names in plots", plot_metrics.names_of(list(paths)), ["a", "b", "x/loss", "y/loss"])
    check("no spread", report.with_spread([1.0, None], 1), "1.0")


def check_words():
    for attention, text in (
            ({"pattern": "dense", "buckets": 16, "window": 0}, "dense"), ({"pattern": "hash"}, "hash 16 buckets"),
            ({"pattern": "hash", "buckets": 8, "rounds": 2, "window": 64}, "hash 8 buckets 2 rounds window 64"),
            ({"pattern": "hash", "buckets": 8, "rounds": 1, "probes": 2, "bias_rate": 0.1}, "hash 8 buckets 2 probes bias"),
            ({"pattern": "hash", "bias_rate": 0, "fixed_directions": True, "window": 9}, "hash 16 buckets fixed directions window 9"),
            (attention_of("reformer8_fixed", 4), "reformer 8 buckets fixed directions"),
            (attention_of("near_far_probes2_fixed", 4), "3 heads dense window 128 + 1 heads hash 8 buckets 2 probes fixed directions"),
            ([{"pattern": "dense"}, {"pattern": "drop", "drop_rate": 0.5}, {"pattern": "dense"}], "dense | drop rate 0.5"),
            ({"mixture": [{"heads": 4, "pattern": "dense", "window": 256}, {"pattern": "blocks", "heads": 0}]},
             "4 heads dense window 256 + other heads blocks best 3 of 512 tokens"),
            ({"pattern": "hash", "balance": "prefix", "bias_rate": 0.1, "near": 64}, "hash 16 buckets prefix bias near 64"),
            ({"schedule": [{"from": 0, "attention": {"pattern": "hash", "balance": "none", "bias_rate": 0}},
                           {"from": 0.9, "attention": [{"pattern": "dense"}]}]},
             "hash 16 buckets; from 90 % of the steps on dense")):
        check("pattern", report.describe_pattern(attention), text)
    check("config", plans.parse_config('a=x.json,attention=[{"p":1},{"p":2}],train.batch_size=4'),
          ("a", {"file": "x.json", "overrides": [["attention", '[{"p":1},{"p":2}]'], ["train.batch_size", "4"]]}))
    for text, count in (("50M", 50_000_000), ("1.5k", 1500), ("700", 700)):
        check("tokens", plans.parse_count(text), count)
    with tempfile.NamedTemporaryFile("w", suffix=".json", encoding="utf-8") as file:
        file.write('// a "comment"\n{"url": "http://x/*no*/", /* one\nmore */ "a": "\\"//"}')
        file.flush()
        check("comments", plans.read_json_with_comments(file.name), {"url": "http://x/*no*/", "a": '"//'})
    check("duration", [progress.duration(s) for s in (5, 125, 7500)], ["5 s", "2 min", "2 h 05 min"])


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
        check(f"state {number}", runs.state_of(run, 10), state)
    check("other steps", failure_of(lambda: runs.state_of(folder / "state-7", 11)),
          f"compare.py: {folder}/state-7: was made with train.steps 10, not 11; remove it, or use another --out")


def failure_of(work):
    try:
        work()
    except SystemExit as end:
        return end.code
    return "no error"


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
                                           "0.200000", "3.0000", "0.300000", "100", "0.2500", "GPU X", "abc"])
    with open(fixture.folder / "tokens/segments.csv", encoding="utf-8") as file:
        layers = file.read().splitlines()
    check("segments by layer", (len(layers), layers[0], layers[-2:]),
          (1 + 2 * 5 * 2, "config,seed,step,layer,effective_buckets", ["hash,2,20,0,3.000", "hash,2,20,1,3.000"]))
    check("row of dense", (rows[0]["seconds"], rows[0]["effective_buckets"], rows[0]["tokens_per_s"]), ("0.000", "", ""))
    check("accuracies of dense", [row["accuracy"] for row in rows[:2]], ["0.000000", "0.050000"])
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
    shutil.rmtree(fixture.folder / "tokens/runs/hash-s1")
    before = (fixture.folder / "tokens/segments.csv").read_text(encoding="utf-8")
    code, stdout, _ = fixture.run("tokens", "--tokens", "2k", "--seeds", "1,2")
    check("a finished run stays without its folder",
          (code, "steps" in stdout.split("Equal")[0], fixture.rows("tokens"), (fixture.folder / "tokens/segments.csv").read_text(encoding="utf-8")),
          (0, False, rows, before))
    begun = fixture.folder / "tokens/runs/hash-s1/metrics.jsonl"
    begun.parent.mkdir()
    begun.write_text((fixture.folder / "tokens/runs/hash-s2/metrics.jsonl").read_text(encoding="utf-8").splitlines()[0] + "\n", encoding="utf-8")
    code = subprocess.run([sys.executable, SCRIPT, "--out", fixture.folder / "tokens", "--report-only"], capture_output=True, check=False).returncode
    check("and while it is made again", (code, fixture.rows("tokens")), (0, rows))
    shutil.rmtree(begun.parent)
    code, stdout, _ = fixture.run("tokens", "--tokens", "2k", "--seeds", "1,2,3")
    check("a seed more", (code, "hash-s3: 20 steps" in stdout, "hash-s1: 20 steps" in stdout, len(fixture.rows("tokens"))),
          (0, True, False, 2 * 3 * 5))
    code, stdout, _ = fixture.run("tokens", "--tokens", "2k", "--seeds", "4", configs=("dense",))
    check("no other config gets the new seed", (code, "dense-s4: 20 steps" in stdout, "hash-s4" in stdout, len(fixture.rows("tokens"))),
          (0, True, False, 7 * 5))
    plan = fixture.folder / "tokens/compare.json"
    text = plan.read_text(encoding="utf-8")
    plan.unlink()
    code, _, stderr = fixture.run("tokens", "--tokens", "2k", "--seeds", "4", configs=("dense",))
    check("rows without a plan", (code, stderr.count("\n"), "no compare.json" in stderr), (1, 1, True))
    plan.write_text(text, encoding="utf-8")
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
    with fixture.start("cut", *words, configs=configs) as process:
        fixture.wait_for(lambda: fixture.in_step("cut", "slow-s1", 12))
        process.send_signal(signal.SIGTERM)
        stdout, stderr = process.communicate()
    check("the signal's exit code", process.returncode, 143)
    check("the failure is named", "weak-s1: train: no more memory; the log is" in stderr, True)
    code, stdout, _ = fixture.run("cut", *words, configs=configs)
    for name in ("weak-s1", "slow-s1"):
        check(f"{name} goes on", f"{name}: 20 steps, going on from its checkpoint" in stdout, True)
    check("both are finished", (code, [r["step"] for r in fixture.rows("cut")]), (0, ["0", "5", "10", "15", "20"] * 2))


def check_queue():
    check("GPUs", [plans.parse_gpus(*words) for words in (("3", None, None), ("0,2", None, 4), ("0,2", "4,GPU-a,GPU-b", 8),
                                                          ("2", "", 8), ("2", "-1", 8), ("1,1,0", None, 2))],
          [["0", "1", "2"], ["0", "2"], ["4", "GPU-b"], ["", ""], ["-1", "-1"], ["1", "1", "0"]])
    for words, message in ((("0", None, None), "must be how many, as in 4, or which, as in 0,2,3, not 0"),
                           (("4", None, 2), "there is no GPU 2, counted from 0: nvidia-smi -L lists 2"),
                           (("0,1", "3", 8), "there is no GPU 1, counted from 0: CUDA_VISIBLE_DEVICES is 3")):
        check("--gpus", failure_of(lambda words=words: plans.parse_gpus(*words)), f"compare.py: --gpus: {message}")
    given = {"attention.pattern": "dense", "attention.window": "0"}
    stages = {"schedule": [{"from": 0, "attention": {"mixture": [{"heads": 2}, {"pattern": "hash"}]}},
                           {"from": 0.5, "attention": [{"pattern": "hash"}, {"pattern": "dense"}]}]}
    for attention, more, pattern in (({"pattern": "hash"}, given, "dense"), ([], given, ""),
                                     (stages, {"attention.buckets": "4"}, "2 heads dense + other heads hash 4 buckets; "
                                      "from 50 % of the steps on hash 4 buckets | dense"),
                                     ({}, {"attention": '[{"pattern":"drop"}]'}, "drop rate 0.5")):
        check("pattern of a config", plans.pattern_of(attention, more), pattern)
    patterns = {"a": ("hash 4 buckets", 50), "b": ("dense", 50), "c": ("dense window 8", 100), "d": ("drop | dense", 100)}
    plan = {"configs": {name: {"pattern": pattern, "sequence_length": length, "tokens_per_step": 2}
                        for name, (pattern, length) in patterns.items()}}
    jobs, steps = [("tokens", name, 1, name) for name in "abcd"], {"a": 9, "b": 1, "c": 2, "d": 4}
    check("simple order", "".join(job[1] for job in plans.longest_first(plan, jobs, None)), "dbca")
    for seconds, entry in enumerate(plan["configs"].values(), 1):
        entry["timing"] = {"seconds_per_step": seconds}
    check("order by seconds", "".join(job[1] for job in plans.longest_first(plan, jobs, lambda job: steps[job[1]])), "dacb")
    shown = progress.Progress(plan, 2)
    for name in "dacb":  # 16 s on the first GPU, 9 + 6 + 2 s on the second
        shown.expect(name, name, 2 * steps[name])
    check("seconds left", shown.seconds_left(), 17.0)


def check_launchers():
    for train, gpus, message in ((["/usr/bin/mpirun", "-n", "2", "./train"], "2", "compare.py: --gpus: gives each run one GPU"),
                                 (["mpirun", "./train"], None, ""), (["./train"], "2", "")):
        text = failure_of(lambda train=train, gpus=gpus: plans.refuse_launcher(train, gpus)) or ""
        check("launcher", text[:len(message)] if message else text, message or "no error")


def check_gpus(fixture):
    """Three runs on two GPUs: two at once, the longest first, and one that fails stops no other."""
    fixture.config("both", rate=0.1, step_seconds=1.0, share=1, attention={"pattern": "dense"}, together=2)
    fixture.config("weak", rate=0.1, step_seconds=1.0, share=1, attention={"pattern": "drop"}, fail_after=7)
    words = ("--tokens", "1k", "--seeds", "1", "--gpus", "2")
    configs = ("weak", "a=both.json", "b=both.json,model.sequence_length=100")
    code, stdout, stderr = fixture.run("gpus", *words, configs=configs)
    begun = [line.split()[1] for line in stdout.splitlines() if " steps on GPU " in line]
    check("the longest first", begun, ["b-s1:", "a-s1:", "weak-s1:"])
    check("exit code", (code, stderr.count("weak-s1: train: no more memory")), (1, 1))
    check("the others are finished", {row["config"] for row in fixture.rows("gpus")}, {"a", "b"})
    events, threads = fixture.events("gpus"), str(max(1, len(os.sched_getaffinity(0)) // 2))
    check("two begin before one ends", sorted(events[:2]), [["begin", "a-s1", "7", threads], ["begin", "b-s1", "5", threads]])
    ends = [event[:2] for event in events].index(["begin", "weak-s1"])
    check("the third waits", "end" in [event[0] for event in events[:ends]], True)
    code, stdout, _ = fixture.run("gpus", *words, configs=configs)
    check("goes on", (code, stdout.count("going on from its checkpoint")), (0, 1))
    code, stdout, stderr = fixture.run("timed", "--seconds", "10", "--seeds", "1", "--timing-steps", "8", "--gpus", "0,1",
                                       configs=("dense", "weak", "hash"))
    check("timing runs", [f"in 8 steps on GPU {gpu}" in stdout for gpu in "57"], [True, True])
    check("one that fails", (code, stderr.count("weak: measuring its speed failed: train: no more memory")), (1, 1))
    check("the others are made", {row["config"] for row in fixture.rows("timed")}, {"dense", "hash"})
    code, _, stderr = fixture.run("timed_on_one", "--seconds", "10", "--seeds", "1", "--gpus", "0,0")
    check("seconds of runs on one GPU", (code, "--gpus: 0,0 has a GPU twice, and --seconds needs" in stderr), (1, True))
    code, stdout, stderr = fixture.run("on_one", "--tokens", "1k", "--seeds", "1,2", "--gpus", "1,1", configs=("a=both.json",))
    check("two runs on one GPU", (code, stdout.count("on GPU 7"), stderr.count("shared a GPU (--gpus 1,1)")), (0, 2, 1))
    check("both begin before one ends", [event[0] for event in fixture.events("on_one")][:2], ["begin", "begin"])
    fixture.run("one", *words[:-2])
    check("without --gpus", {tuple(event[2:]) for event in fixture.events("one") if event[0] == "begin"}, {("5,7", "-")})


def check_then(fixture):
    """A command after each run that ends well, on its GPU and before what waits; one that fails stops no other run."""
    fixture.config("weak", rate=0.1, step_seconds=1.0, share=1, attention={"pattern": "drop"}, fail_after=7)
    events = fixture.folder / "then/events.txt"
    then = f"sh -c 'echo then {{name}} $CUDA_VISIBLE_DEVICES $(ls {{run}} | grep -c metrics) >> {events}; [ {{name}} != hash-s1 ] || ls gone'"
    words = ("--tokens", "1k", "--seeds", "1", "--gpus", "1,1", "--then", then)
    code, stdout, stderr = fixture.run("then", *words, configs=("weak", "hash", "dense"))
    check("those that ended well", sorted(event[1:] for event in fixture.events("then") if event[0] == "then"),
          [["dense-s1", "7", "1"], ["hash-s1", "7", "1"]])
    check("what fails", (code, stderr.count("compare.py: hash-s1: --then sh -c "), stderr.count("No such file")), (1, 1, 1))
    check("the runs are finished", {row["config"] for row in fixture.rows("then")}, {"dense", "hash"})
    code, _, _ = fixture.run("then", *words, configs=("weak", "hash", "dense"))
    check("once only", (code, [event[1] for event in fixture.events("then") if event[0] == "then"][2:]), (0, ["weak-s1"]))
    # A signal comes to the command too.
    words = ("--tokens", "500", "--seeds", "1", "--then", f"sh -c 'touch {fixture.folder}/begun; sleep 60; touch {fixture.folder}/ended'")
    with fixture.start("then_stopped", *words) as process:
        fixture.wait_for((fixture.folder / "begun").exists)
        # Another command has the folder meanwhile.
        code, _, stderr = fixture.run("then_stopped", *words)
        check("locked", (code, stderr), (1, f"compare.py: --out: {fixture.folder}/then_stopped: another compare.py is at work there\n"))
        process.send_signal(signal.SIGTERM)
        process.communicate()
    check("stopped", (process.returncode, (fixture.folder / "ended").exists(), {row["config"] for row in fixture.rows("then_stopped")}),
          (143, False, {"dense"}))


def check_init_from(fixture):
    """The run that another begins with is of its seed, and needed at the first start only."""
    source = fixture.folder / "source-1"
    source.touch()
    fixture.config("later", rate=0.1, step_seconds=1.0, share=1, attention={"pattern": "dense"}, fail_after=7)
    words, configs = ("--tokens", "2k"), (f"later=later.json,train.init_from={fixture.folder}/source-{{seed}}",)
    check("fails later", fixture.run("init", *words, "--seeds", "1", configs=configs)[0], 1)
    source.unlink()
    code, stdout, stderr = fixture.run("init", *words, "--seeds", "1", configs=configs)
    check("goes on", (code, stdout.count("going on from its checkpoint")), (0, 1))
    code, stdout, stderr = fixture.run("init", *words, "--seeds", "1,2", configs=configs)
    check("of its seed", (code, stderr), (1, f"compare.py: later: train: {fixture.folder}/source-2: does not exist\n"))


def check_signal(fixture):
    """A signal comes to all runs; what waits does not begin; compare.py ends when all have saved."""
    words, configs = ("--tokens", "2k", "--seeds", "1", "--gpus", "2"), ("a=slow.json", "b=slow.json", "c=slow.json")
    with fixture.start("signal", *words, configs=configs) as process:
        fixture.wait_for(lambda: all(fixture.in_step("signal", name, 12) for name in ("a-s1", "b-s1")))
        process.send_signal(signal.SIGINT)
        process.communicate()
    check("exit code", process.returncode, 130)
    saved = {path.parent.name: path.name for path in fixture.folder.glob("signal/runs/*/checkpoint-*12")}
    check("all have saved", saved, {"a-s1": "checkpoint-00000012", "b-s1": "checkpoint-00000012"})
    check("nothing else began", (fixture.folder / "signal/runs/c-s1").exists(), False)


def check_lengths(fixture):
    """A table and a baseline per sequence length."""
    long, words = "model.sequence_length=100", ("--tokens", "2k", "--seeds", "1")
    configs = ("dense50=dense.json", "hash50=hash.json", f"hash100=hash.json,{long}", f"dense100=dense.json,{long}")
    code, stdout, stderr = fixture.run("lengths", *words, configs=configs)
    check("exit code and warnings", (code, stderr.count("warning")), (0, 0))
    check("tables", [line.split(".")[0] for line in stdout.splitlines() if line.startswith("Equal")],
          ["Equal tokens, T = 50", "Equal tokens, T = 100"])
    # 20 and 10 steps; the dense ones end at 8.0 and 9.0, where the others are after 13 1/3 and 6 2/3 steps.
    check("baselines", [cells(stdout, name)[7:9] for name in ("dense50 (baseline)", "hash50", "dense100 (baseline)", "hash100")],
          [["40.0", "1.000"], ["13.3", "0.333"], ["20.0", "1.000"], ["6.7", "0.333"]])
    check("T", [row["T"] for row in fixture.rows("lengths")[::5]], ["50", "50", "100", "100"])
    _, stdout, stderr = fixture.run("lengths", *words, "--baseline", "dense50", configs=configs)
    check("no baseline", (cells(stdout, "hash100")[7:9], stderr.count("no baseline for T = 100")), (["-", "-"], 1))
    check("exact names first", plans.baseline_of(["dense2", "dense"], "dense"), "dense")


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
    check("quality.csv has it", fixture.run("corrected", *words, configs=("dense",))[0], 1)
    (fixture.folder / "corrected/quality.csv").unlink()
    check("its runs are gone", fixture.run("corrected", *words, configs=("dense",))[0], 0)


def check_errors(fixture):
    dense = fixture.folder / "dense.json"
    for words, message in (
            (["--tokens", "x"], "--tokens: must be a number like 50000000, 500k, 50M or 1.5G, not x"),
            (["--tokens", "10"], "--tokens: 10 is less than the 100 tokens of one step of dense"),
            (["--tokens", "1k", "--seeds", "1,1"], "--seeds: must be different whole numbers like 1,2, not 1,1"),
            (["--tokens", "1k", "--set", "train.steps=5"], "--set: train.steps is set by compare.py; leave it out"),
            (["--tokens", "1k", "--set", "bad.key=5"], "dense: train: --bad.key: there is no such key"),
            (["--tokens", "1k", "--baseline", "drop"], "--baseline: no config has a name that starts with drop: dense"),
            (["--tokens", "1k", "x=nowhere.json"], "x: nowhere.json: No such file or directory"),
            (["--tokens", "1k", f"x={dense},model.sequence_length=no"],
             "x: model.sequence_length: must be a whole number of at least 1, not no"),
            (["--seconds", "0"], "--seconds: must be above 0, not 0"),
            (["--tokens", "1k", "--then", "nowhere {run}"], "--then: nowhere {run}: there is no such program"),
            ([], "say how long to train: --tokens 50M, --seconds 300, or both")):
        code, _, stderr = fixture.run("errors", *words, configs=("dense",))
        check(f"error of {words}", (code, stderr), (1, f"compare.py: {message}\n"))


def run():
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it, and so would ours
    os.environ.setdefault("MPLCONFIGDIR", tempfile.gettempdir())
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        check_interpolation()
        check_words()
        check_states(folder)
        check_queue()
        check_launchers()
        fixture = Fixture(folder)
        for part in (check_tokens, check_seconds, check_cut_off, check_gpus, check_signal, check_then, check_init_from, check_lengths,
                     check_corrections, check_errors):
            part(fixture)
    print("[compare] self-test passed")
    return 0
