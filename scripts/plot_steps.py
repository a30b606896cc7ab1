#!/usr/bin/env python3
"""Plots training tokens per second against sequence length, both logarithmic, from tables of ./bench step --csv and
scripts/bench_step_peers.py.

  scripts/plot_steps.py step.csv -o step.png
  scripts/plot_steps.py step.csv --patterns dense,near_far -o step.png

A line is a system, a pattern and a precision.
"""
import argparse

from plotting import choose_patterns, read_tables, require_pyplot, save_picture


def parse(row):
    return {**row, "T": int(row["T"]), "tokens_per_s": float(row["tokens_per_s"]), "line": f"{row['system']}, {row['pattern']}, {row['precision']}",
            "gpu": row["gpu"]}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tables", nargs="+", metavar="CSV")
    parser.add_argument("-o", "--output", required=True, help="the picture to write: .png, .svg or .pdf")
    parser.add_argument("--patterns", metavar="NAME,...", help="plot these only; default: all")
    args = parser.parse_args()
    rows = read_tables(args.tables, parse, "./bench step --csv")
    rows = choose_patterns(rows, args.patterns, args.tables[0])
    plt = require_pyplot()

    lines = {}
    for row in rows:
        lines.setdefault(row["line"], []).append((row["T"], row["tokens_per_s"] / 1e3))
    figure, axes = plt.subplots(figsize=(8, 5))
    for index, (name, points) in enumerate(lines.items()):
        points.sort()
        axes.plot([p[0] for p in points], [p[1] for p in points], color=f"C{index % 10}", marker="o",
                  linestyle="--" if not name.startswith("scfa") else ":" if name.endswith("fp8") else "-", linewidth=1.4, markersize=5, label=name)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    lengths = sorted({row["T"] for row in rows})
    axes.set_xticks(lengths, [f"{t:,}" for t in lengths])
    rates = [p[1] for points in lines.values() for p in points]
    ticks = [t for t in (50, 100, 150, 200, 300, 400, 500, 600, 700, 800, 1000) if min(rates) * 0.8 <= t <= max(rates) * 1.2]
    axes.set_yticks(ticks, [str(t) for t in ticks])
    axes.minorticks_off()
    axes.set_xlabel("sequence length")
    axes.set_ylabel("thousand tokens/s, training")
    axes.set_title(rows[0]["gpu"])
    axes.grid(alpha=0.3)
    axes.legend()
    figure.tight_layout()
    save_picture(figure, args.output, dpi=130)
    print(f"wrote {args.output}")


if __name__ == "__main__":
    main()
