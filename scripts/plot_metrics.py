#!/usr/bin/env python3
"""Plots the training and validation loss of one or more runs from their metrics.jsonl.

  scripts/plot_metrics.py runs/quickstart runs/other -o loss.png
"""
import argparse
import json
import pathlib
import sys


def read_run(path):
    """(name, train, val): two lists of (step, tokens, seconds of training, loss). A resumed run repeats steps; the later record counts."""
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

    return file.resolve().parent.name, points(train), points(val)


def smooth(values, weight):
    """Exponential moving average, without the pull of its starting value."""
    average, norm, out = 0.0, 0.0, []
    for value in values:
        average = weight * average + (1 - weight) * value
        norm = weight * norm + (1 - weight)
        out.append(average / norm)
    return out


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", metavar="RUN", type=pathlib.Path, help="a run's folder, or its metrics.jsonl")
    parser.add_argument("-o", "--output", required=True, help="the picture to write: .png, .svg or .pdf")
    parser.add_argument("--x", choices=["tokens", "steps", "seconds"], default="tokens", help="the horizontal axis")
    parser.add_argument("--smooth", type=float, default=0.9, metavar="W",
                        help="weight of the moving average over the training loss, 0 for none (default 0.9)")
    args = parser.parse_args()
    if not 0 <= args.smooth < 1:
        parser.error("--smooth must be at least 0 and below 1")
    runs = [read_run(path) for path in args.runs]

    try:
        import matplotlib
    except ImportError:
        sys.exit("plotting needs matplotlib: apt-get install python3-matplotlib (and run this with the system's python3), "
                 "or pip install matplotlib")
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    column = ["steps", "tokens", "seconds"].index(args.x)
    figure, axes = plt.subplots(figsize=(8, 5))
    for index, (name, train, val) in enumerate(runs):
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
    figure.savefig(args.output, dpi=150)
    print(f"wrote {args.output}")


if __name__ == "__main__":
    main()
