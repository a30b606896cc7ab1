#!/usr/bin/env python3
"""Plots the training and validation loss of one or more runs from their metrics.jsonl.

  scripts/plot_metrics.py runs/quickstart runs/other -o loss.png
  scripts/plot_metrics.py --segments runs/quickstart -o segments.png

--segments plots the effective segments of one run: how many segments of equal size would cost as much attention as its
buckets (1 for dense). One line per layer, with a band from its head with the fewest to the one with the most.
"""
import argparse
import json
import math
import pathlib
import sys

from plotting import require_pyplot, save_picture


def read_run(path):
    """(train, val): two lists of (step, tokens, seconds of training, loss). A resumed run repeats steps; the later record counts."""
    file = path / "metrics.jsonl" if path.is_dir() else path
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        sys.exit(f"{file}: {error.strerror}")
    train, val, tokens, seconds = {}, {}, {0: 0}, {}
    for number, line in enumerate(lines, 1):
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            if number == len(lines):  # a run that is still writing, or was cut off
                break
            sys.exit(f"{file}:{number}: this line is not JSON")
        kind, step = record.get("type"), record.get("step")
        if kind == "resume":
            train = {s: loss for s, loss in train.items() if s <= step}
            val = {s: loss for s, loss in val.items() if s <= step}
        elif kind == "step":
            train[step], tokens[step] = record["loss"], record["tokens"]
            seconds[step] = record.get("seconds", 0)
        elif kind == "eval":
            val[step] = record["loss"]
    if not train and not val:
        sys.exit(f"{file}: holds no step and no evaluation yet")

    elapsed, total = {0: 0}, 0
    for step in sorted(seconds):
        total += seconds[step]
        elapsed[step] = total

    def at(column, step):
        """Evaluations carry no such count: take it from the steps, in proportion where the step was not logged."""
        if step in column:
            return column[step]
        last = max(column)
        return column[last] * step / last if last else 0

    def points(losses):
        return [(step, at(tokens, step), at(elapsed, step), loss) for step, loss in sorted(losses.items()) if loss is not None]

    return points(train), points(val)


def read_segments(path):
    """[(step, effective segments by layer and head)] of the evaluations of a run."""
    file = path / "metrics.jsonl" if path.is_dir() else path
    read_run(path)  # which says what is wrong with the file
    found = {}
    for line in file.read_text(encoding="utf-8").splitlines():
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            break
        if record.get("type") == "resume":
            found = {step: heads for step, heads in found.items() if step <= record["step"]}
        elif "effective_segments" in record:
            found[record["step"]] = record["effective_segments"]
    if not found:
        sys.exit(f"{file}: its evaluations say nothing of segments: a dense model, or written by an older version")
    return sorted(found.items())


def plot_segments(plt, path, output):
    points = read_segments(path)
    steps, layers = [step for step, _ in points], len(points[0][1])
    figure, axes = plt.subplots(figsize=(8, 5))
    for layer in range(layers):
        heads = [[h for h in by_layer[layer] if h is not None] or [math.nan] for _, by_layer in points]
        color = plt.get_cmap("viridis")(layer / max(1, layers - 1) * 0.9)
        axes.plot(steps, [sum(h) / len(h) for h in heads], color=color, marker="o", markersize=3, label=f"layer {layer}")
        axes.fill_between(steps, [min(h) for h in heads], [max(h) for h in heads], color=color, alpha=0.12, linewidth=0)
    axes.set_xlabel("steps")
    axes.set_ylabel("effective segments of a head")
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend(ncols=1 + layers // 7, fontsize="small")
    figure.tight_layout()
    save_picture(figure, output)
    print(f"wrote {output}")


def smooth(values, weight):
    """Exponential moving average, without the pull of its starting value."""
    average, norm, out = 0.0, 0.0, []
    for value in values:
        average = weight * average + (1 - weight) * value
        norm = weight * norm + (1 - weight)
        out.append(average / norm)
    return out


def names_of(paths):
    """Of runs' folders, of files that are not called metrics.jsonl, and with the folder above where that is not enough."""
    runs = [path.resolve().parent if path.name == "metrics.jsonl" else path.resolve() for path in paths]
    names = [run.stem if run.suffix == ".jsonl" else run.name for run in runs]
    return [f"{run.parent.name}/{name}" if names.count(name) > 1 else name for run, name in zip(runs, names)]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", metavar="RUN", type=pathlib.Path, help="a run's folder, or its metrics.jsonl")
    parser.add_argument("-o", "--output", required=True, help="the picture to write: .png, .svg or .pdf")
    parser.add_argument("--x", choices=["tokens", "steps", "seconds"], default="tokens", help="the horizontal axis")
    parser.add_argument("--smooth", type=float, default=0.9, metavar="W",
                        help="weight of the moving average over the training loss, 0 for none (default 0.9)")
    parser.add_argument("--segments", action="store_true", help="plot effective segments of one run instead")
    args = parser.parse_args()
    if args.segments and len(args.runs) != 1:
        parser.error("--segments takes one run")
    if not 0 <= args.smooth < 1:
        parser.error("--smooth must be at least 0 and below 1")
    runs = [] if args.segments else list(zip(names_of(args.runs), map(read_run, args.runs)))

    plt = require_pyplot()
    if args.segments:
        return plot_segments(plt, args.runs[0], args.output)
    column = ["steps", "tokens", "seconds"].index(args.x)
    figure, axes = plt.subplots(figsize=(8, 5))
    for index, (name, (train, val)) in enumerate(runs):
        color = f"C{index % 10}"
        if train:
            x, y = [p[column] for p in train], [p[3] for p in train]
            if args.smooth:
                axes.plot(x, y, color=color, alpha=0.2, linewidth=0.8)
            axes.plot(x, smooth(y, args.smooth), color=color, linewidth=1.2, label=f"{name}, training")
        if val:
            axes.plot([p[column] for p in val], [p[3] for p in val], color=color, linestyle="--", marker="o",
                      markersize=3, label=f"{name}, validation")
    axes.set_xlabel(args.x)
    axes.set_ylabel("loss (nats per token)")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.tight_layout()
    save_picture(figure, args.output)
    print(f"wrote {args.output}")


if __name__ == "__main__":
    main()
