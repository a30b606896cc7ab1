#!/usr/bin/env python3
"""Runs the paper's experiments, and ours, and writes one report: scripts/reproduce.sh calls this.

  scripts/reproduce.sh --scale smoke                        minutes on a CPU: that everything runs; its figures mean nothing
  scripts/reproduce.sh --scale small --data data/mine       124 M parameters, 49 M tokens a run, two seeds: hours on one GPU
  scripts/reproduce.sh --scale paper --gpus 8               the paper's setting, 7.9 G tokens a run, on data/openwebtext2
  scripts/reproduce.sh --only quality_8k,recall --gpus 2    some of them; --list names them

The same command goes on where it was stopped, by a signal too. OUT (default results/reproduce_SCALE) gets a folder for each
experiment, with configs, tables and runs, and report.html: one file with every plot and table, to be read offline.
"""
import argparse
import csv
import datetime
import html
import json
import os
import pathlib
import shlex
import subprocess
import sys
import time

import children
from attention_patterns import attention_of
from svg_plot import line_plot

SCRIPTS = pathlib.Path(__file__).resolve().parent
TOP = SCRIPTS.parent


def fail(message):
    sys.exit(f"reproduce.py: {message}")


class Scale:
    """What the scales differ in. lengths: what stands for the paper's 8k and 16k."""
    def __init__(self, lengths, model, batch, tokens, seeds, schedule, windows, recall, bench, shrink=1):
        self.lengths, self.model, self.batch, self.tokens, self.seeds = lengths, model, batch, tokens, seeds
        self.schedule, self.windows, self.recall, self.bench, self.shrink = schedule, windows, recall, bench, shrink


GPT2 = {"n_layer": 12, "n_head": 12, "n_embd": 768}
COSINE = {"schedule": "cosine", "lr": 1e-3, "warmup": 0.1, "final_ratio": 0.1}
SCALES = {
    "smoke": Scale({"8k": 128, "16k": 256}, {"n_layer": 2, "n_head": 6, "n_embd": 48}, 1024, 20_480, "1", COSINE, 16,
                   ["--lengths", "32", "--task", "induction", "--tokens", "60k", "--batch", "1024", "--layers", "2", "--heads", "2",
                    "--width", "32", "--vocabulary", "32", "--seeds", "1", "--patterns", "dense,hash8,near_far"],
                   ["--length", "256,512", "--batch", "1", "--heads", "2", "--repeats", "1"], shrink=64),
    "small": Scale({"8k": 8192, "16k": 16384}, GPT2, 65_536, 49_152_000, "1,2", COSINE, 128,
                   ["--lengths", "1024,4096,16384", "--tokens", "100M", "--seeds", "1,2",
                    "--patterns", "dense,window,hash8,hash16,hash32,balanced16,near_far,drop50,reformer,blocks"],
                   ["--length", "512,1024,2048,4096,8192,16384,32768,65536", "--repeats", "3"]),
    "paper": Scale({"8k": 8192, "16k": 16384}, GPT2, 524_288, 7_864_320_000, "1,2",
                   {"schedule": "onecycle", "lr": 1e-3, "warmup": 0.02, "initial_ratio": 0.01, "final_ratio": 0.2}, 384,
                   ["--lengths", "1024,4096,16384,32768", "--tokens", "500M", "--seeds", "1,2",
                    "--patterns", "dense,window,hash8,hash16,hash32,balanced16,near_far,drop50,reformer,blocks"],
                   ["--length", "256,512,1024,2048,4096,8192,16384,32768,65536", "--repeats", "5"]),
}


class Context:
    def __init__(self, args):
        self.args, self.scale, self.out, self.programs = args, SCALES[args.scale], args.out, args.programs
        self.gpus = ["--gpus", args.gpus] if args.gpus else []
        self.data = pathlib.Path(args.data) if args.data else None


# ---- experiments: steps are (name, command, relative cost), and a part of the report from what they left ------------

def table(rows, header):
    cells = "".join("<tr>" + "".join(f"<td>{html.escape(str(cell))}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><tr>{''.join(f'<th>{html.escape(name)}</th>' for name in header)}</tr>{cells}</table>"


def read_csv(path):
    if not path.exists():
        return []
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


class Runtime:
    """Attention alone, forward, backward and both, against the sequence length."""
    title = "Time of attention against sequence length"

    def steps(self, context, folder):
        bench = [context.programs / "bench", "attention", *context.scale.bench, "--csv", folder / "attention.csv"]
        if context.args.scale == "smoke":
            bench += ["--device", "cpu"]
        return [("bench", bench, 1)]

    def report(self, context, folder):
        rows = read_csv(folder / "attention.csv")
        lines = {}
        for row in rows:
            name = row["pattern"] + (row["buckets"] if row["pattern"].startswith("hash") else "") + \
                (f" {float(row['drop']):.0%}" if row["pattern"] == "drop" else "")
            lines.setdefault(name, []).append((int(row["T"]), float(row["total_ms"])))
        return line_plot(lines, "Forward and backward, everything included", "sequence length", "ms", 2, 10) + table(
            [[r["pattern"], r["T"], r["buckets"], r["drop"], *(f"{float(r[c]):.3g}" for c in
              ("prepare_ms", "forward_ms", "backward_ms", "total_ms"))] for r in rows],
            ["pattern", "T", "buckets", "drop", "prepare ms", "forward ms", "backward ms", "all ms"])


class Quality:
    """Validation loss against tokens and against seconds, at one length."""
    claims = {"8k": ("2.0 x", "8,192"), "16k": ("3.3 x", "16,384")}

    def __init__(self, length, patterns):
        self.length, self.patterns = length, patterns
        self.title = f"Perplexity against time, {length}"

    def steps(self, context, folder):
        scale, T = context.scale, context.scale.lengths[self.length]
        folder.joinpath("configs").mkdir(parents=True, exist_ok=True)
        configs = []
        batch = max(1, scale.batch // T)
        # The largest micro-batch of about 65,536 tokens that divides the batch.
        micro = next(m for m in range(max(1, min(batch, 65_536 // T)), 0, -1) if batch % m == 0)
        for name in self.patterns:
            config = {"model": {**scale.model, "sequence_length": T, "bias": False, "gelu": "erf", "shared_qk": True},
                      "attention": attention_of(name, scale.model["n_head"], window=max(4, 128 // scale.shrink)),
                      "data": {"order": "epoch" if context.args.scale != "paper" else "random"},
                      "train": {"batch_size": batch, "micro_batch_size": micro},
                      "optimizer": {"clip": 1 if context.args.scale != "paper" else 0},
                      "schedule": scale.schedule, "eval": {"windows": scale.windows, "every": max(1, scale.tokens // (batch * T) // 15)}}
            path = folder / "configs" / f"{name}.json"
            text = json.dumps(config, indent=1) + "\n"
            if not path.exists() or path.read_text(encoding="utf-8") != text:
                path.write_text(text, encoding="utf-8")
            configs.append(f"{name}={path}")
        command = [sys.executable, SCRIPTS / "compare.py", "--data", context.data, "--out", folder, "--tokens", scale.tokens, "--seeds",
                   scale.seeds, "--baseline", "dense", "--train", shlex.quote(str(context.programs / "train")), *context.gpus, *configs]
        return [("train", command, 10 * len(self.patterns))]

    def report(self, context, folder):
        rows = read_csv(folder / "quality.csv")
        if not rows:
            return "<p>no run has finished yet</p>"
        def points(column):
            lines = {}
            for row in rows:
                if int(row["step"]) > 0:
                    lines.setdefault(row["config"], {}).setdefault(int(row["step"]), []).append((float(row[column]), float(row["loss"])))
            return {name: [tuple(sum(v) / len(v) for v in zip(*at)) for at in steps.values()] for name, steps in lines.items()}
        ours = speed_ups(rows)
        claim, T = self.claims[self.length]
        best = max(((ratio, name) for name, (_, ratio) in ours.items() if ratio and name != "dense"), default=None)
        verdict = table([[f"{claim} faster training at {T} tokens, perplexity not worse",
                          f"{best[1]} reaches dense's final loss {best[0]:.2f} x as fast" if best else "no run reaches dense's final loss"]],
                        ["the paper", f"here, at {context.scale.lengths[self.length]:,} tokens"])
        finals = table([[name, f"{loss:.4f}", f"{ratio:.2f} x" if ratio else "not reached"] for name, (loss, ratio) in ours.items()],
                       ["config", "final loss, mean of seeds", "speed-up to dense's final loss"])
        return "\n".join([verdict, line_plot(points("seconds"), "Validation loss against seconds", "seconds of training", "loss", 0, 0),
                          line_plot(points("tokens"), "Validation loss against tokens", "tokens", "loss", 0, 0), finals,
                          preformatted(folder / "table.md")])


def speed_ups(rows):
    """{config: (mean final loss, dense's seconds over its seconds to dense's final loss, or None)}: means over seeds."""
    runs = {}
    for row in rows:
        runs.setdefault((row["config"], row["seed"]), []).append((float(row["seconds"]), float(row["loss"])))
    found = {}
    for (config, seed), points in runs.items():
        dense = runs.get(("dense", seed))
        if dense:
            found.setdefault(config, []).append((points[-1][1], crossing(points, dense[-1][1]), dense[-1][0]))
    result = {}
    for config, values in found.items():
        reached = all(seconds for _, seconds, _ in values)
        ratio = sum(total / seconds for _, seconds, total in values) / len(values) if reached else None
        result[config] = (sum(loss for loss, _, _ in values) / len(values), ratio)
    return result


def crossing(points, loss):
    """Seconds at which a curve first reaches a loss, between evaluations; None if it does not."""
    for (s0, l0), (s1, l1) in zip(points, points[1:]):
        if l1 <= loss:
            return s0 + (s1 - s0) * (l0 - loss) / (l0 - l1) if l0 > l1 else s1
    return None


class Recall:
    """Accuracy by distance on synthetic sequences."""
    title = "Recall by distance"

    def steps(self, context, folder):
        return [("train", [sys.executable, SCRIPTS / "recall.py", "--out", folder, "--programs", context.programs, *context.gpus,
                           *context.scale.recall], 20)]

    def report(self, context, folder):
        plots = sorted(folder.glob("*.svg"), key=lambda path: int(path.stem.rsplit("_", 1)[1]))
        return "\n".join(path.read_text(encoding="utf-8") for path in plots) or "<p>no run has finished yet</p>"


class Steps:
    """Whole training steps beside compiled PyTorch."""
    title = "Training steps against compiled PyTorch"

    def steps(self, context, folder):
        if context.args.scale == "smoke":  # PyTorch's part needs a GPU
            config = folder / "config.json"
            folder.mkdir(parents=True, exist_ok=True)
            config.write_text(json.dumps({"model": {**context.scale.model, "sequence_length": 128, "vocab_size": 300},
                                          "train": {"batch_size": 2, "micro_batch_size": 2}}), encoding="utf-8")
            return [("bench", [context.programs / "bench", "step", config, "--device", "cpu", "--repeats", 1, "--csv", folder / "step.csv"], 1)]
        return [("bench", [sys.executable, SCRIPTS / "bench_step_peers.py", "--bench", context.programs / "bench", "--csv", folder / "step.csv"], 3)]

    def report(self, context, folder):
        rows, lines = read_csv(folder / "step.csv"), {}
        for row in rows:
            lines.setdefault(f"{row['system']}, {row['pattern']}", []).append((int(row["T"]), float(row["tokens_per_s"]) / 1e3))
        return line_plot(lines, "Training throughput", "sequence length", "thousand tokens/s", 2, 10) + table(
            [[r["system"], r["pattern"], r["precision"], r["T"], f"{float(r['tokens_per_s']):,.0f}", f"{float(r['peak_memory_gb']):.1f}"] for r in rows],
            ["system", "pattern", "precision", "T", "tokens/s", "memory GB"])


EXPERIMENTS = {
    "runtime": Runtime(),
    "quality_8k": Quality("8k", ["dense", "hash8", "hash16", "hash32", "balanced16", "drop30", "drop50", "drop70", "near_far", "reformer16"]),
    "quality_16k": Quality("16k", ["dense", "hash8", "hash16", "hash32", "balanced16", "near_far"]),
    "recall": Recall(),
    "steps": Steps(),
}


def preformatted(path):
    return f"<pre>{html.escape(path.read_text(encoding='utf-8'))}</pre>" if path.exists() else ""


# ---- running --------------------------------------------------------------------------------------------------------

def words(command):
    return [str(word) for word in command]


def is_done(folder, name, command):
    stamp = folder / f"{name}.done.json"
    return stamp.exists() and json.loads(stamp.read_text(encoding="utf-8"))["command"] == words(command)


def minutes(seconds):
    return f"{int(seconds) // 3600} h {int(seconds) // 60 % 60:02d} min" if seconds >= 3600 else f"{int(seconds) // 60} min {int(seconds) % 60:02d} s"


def run_all(context, names):
    plan = []
    for name in names:
        folder = context.out / name
        plan += [(name, folder, *step) for step in EXPERIMENTS[name].steps(context, folder)]
    waiting = [entry for entry in plan if not is_done(entry[1], entry[2], entry[3])]
    whole, done, began = sum(entry[4] for entry in waiting), 0, time.monotonic()
    for number, (name, folder, step, command, cost) in enumerate(waiting, len(plan) - len(waiting) + 1):
        spent = time.monotonic() - began
        left = f", about {minutes(spent / done * (whole - done))} left" if done else ""
        print(f"reproduce.py: {name} ({step}), {number} of {len(plan)} steps; {minutes(spent)} so far{left}", flush=True)
        folder.mkdir(parents=True, exist_ok=True)
        start = time.time()
        code = children.run(command)
        if code != 0:
            write_report(context, names)
            children.end_if_stopped(code)
            fail(f"{name} ({step}) failed; the same command goes on from there. It was: {shlex.join(words(command))}")
        stamp = {"command": words(command), "seconds": round(time.time() - start, 1), "commit": commit()}
        folder.joinpath(f"{step}.done.json").write_text(json.dumps(stamp, indent=1) + "\n", encoding="utf-8")
        done += cost
        write_report(context, names)
    write_report(context, names)


def commit():
    done = subprocess.run(["git", "-C", TOP, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


def machine():
    try:
        done = subprocess.run(["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"], capture_output=True, text=True, check=False)
        if done.returncode == 0 and done.stdout.strip():
            return "; ".join(sorted(set(done.stdout.strip().splitlines())))
    except OSError:
        pass
    return "no GPU"


STYLE = """body{font:14px/1.5 sans-serif;max-width:1000px;margin:2em auto;padding:0 1em}table{border-collapse:collapse;margin:1em 0}
td,th{border:1px solid #ccc;padding:2px 8px;text-align:left}pre{overflow-x:auto;background:#f6f6f6;padding:8px}svg{max-width:100%}"""


def write_report(context, names):
    parts = [f"<h1>Sparse causal attention, reproduced: scale {context.args.scale}</h1>",
             "<p>Pagliardini et al. 2023, <i>Faster Causal Attention Over Large Sequences Through Sparse Flash Attention</i>, arXiv:2306.01160.</p>",
             table([["date", datetime.date.today().isoformat()], ["commit", commit()], ["machine", machine()],
                    ["data", context.data or "-"]], ["what", "which"])]
    if context.args.scale == "smoke":
        parts.append("<p><b>Scale smoke: models and texts are so small that the figures mean nothing.</b></p>")
    for name in names:
        experiment, folder = EXPERIMENTS[name], context.out / name
        parts.append(f"<h2 id='{name}'>{html.escape(experiment.title)}</h2><p>{html.escape(experiment.__doc__)}</p>")
        parts.append(experiment.report(context, folder))
        for stamp in sorted(folder.glob("*.done.json")):
            entry = json.loads(stamp.read_text(encoding="utf-8"))
            parts.append(f"<p><small>commit {entry['commit']}, {minutes(entry['seconds'])}: <code>{html.escape(shlex.join(entry['command']))}</code></small></p>")
        for config in sorted(folder.glob("configs/*.json")):
            parts.append(f"<details><summary>{html.escape(config.name)}</summary>{preformatted(config)}</details>")
    page = f"<!DOCTYPE html><html lang='en'><meta charset='utf-8'><title>reproduce {context.args.scale}</title><style>{STYLE}</style>{''.join(parts)}</html>\n"
    temporary = context.out / "report.html.partial"
    temporary.write_text(page, encoding="utf-8")
    temporary.replace(context.out / "report.html")


def prepare_smoke(context):
    context.data = context.out / "data"
    if not (context.data / "manifest.json").exists():
        command = [context.programs / "prepare_data", "--input", TOP / "assets/moby-dick.txt", "--tokenizer", "bytes", "--val-fraction", "0.1",
                   "--output", context.data]
        code = children.run(command, quiet=True)
        children.end_if_stopped(code)
        if code != 0:
            fail("preparing the sample text failed")


def main(arguments):
    parser = argparse.ArgumentParser(prog="reproduce.sh", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    parser.add_argument("--scale", choices=SCALES, default="small")
    parser.add_argument("--only", default=",".join(EXPERIMENTS), metavar="NAME,...", help="default: all")
    parser.add_argument("--data", help="a set made by ./prepare_data (smoke makes its own; paper: data/openwebtext2)")
    parser.add_argument("--out", type=pathlib.Path, metavar="DIR", help="default: results/reproduce_SCALE")
    parser.add_argument("--gpus", metavar="N or N,N,...", help="one training run at a time on each")
    parser.add_argument("--programs", type=pathlib.Path, default=TOP, metavar="DIR", help="where train and the others are; default: the top of the repository")
    parser.add_argument("--list", action="store_true", help="name the experiments")
    args = parser.parse_args(arguments)
    if args.list:
        for name, experiment in EXPERIMENTS.items():
            print(f"{name:12} {experiment.title}: {experiment.__doc__}")
        return
    args.programs = args.programs.resolve()
    names = args.only.split(",")
    for name in names:
        if name not in EXPERIMENTS:
            fail(f"--only: there is no {name}; there are {', '.join(EXPERIMENTS)}")
    for program in ("train", "bench", "evaluate", "prepare_data"):
        if not os.access(args.programs / program, os.X_OK):
            fail(f"{args.programs / program}: not there; scripts/setup.sh builds it, --programs says where it is")
    args.out = args.out or TOP / "results" / f"reproduce_{args.scale}"
    if args.scale == "paper" and not args.data:
        args.data = str(TOP / "data/openwebtext2")
    needs_text = any(isinstance(EXPERIMENTS[name], Quality) for name in names) and args.scale != "smoke"
    if needs_text and not (args.data and (pathlib.Path(args.data) / "manifest.json").exists()):
        fail(f"--data: {args.data or 'name a prepared set'}{' holds no prepared set' if args.data else ''}; scripts/prepare_openwebtext2.sh makes one")
    try:
        args.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        fail(f"--out: {args.out}: {error.strerror}")
    context = Context(args)
    if args.scale == "smoke":
        prepare_smoke(context)
    run_all(context, names)
    print(f"wrote {args.out / 'report.html'}")


if __name__ == "__main__":
    main(sys.argv[1:])
