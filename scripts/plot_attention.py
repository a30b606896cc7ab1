#!/usr/bin/env python3
"""Plots attention's time against sequence length, both logarithmic, from tables of ./bench attention --csv and
scripts/bench_attention_peers.py.

  scripts/plot_attention.py attention.csv -o attention.png
  scripts/plot_attention.py ours.csv peers.csv --column forward_ms -o forward.png
  scripts/plot_attention.py attention.csv --patterns dense,window,blocks -o attention.png

A line is a system and a pattern; rows of other heads or head widths than the first row's are left out. The time plotted
is everything by default: preparation, forward and backward.
"""
import argparse

from plotting import choose_patterns, read_tables, require_pyplot, save_picture

COLUMNS = ["prepare_ms", "forward_ms", "backward_ms", "total_ms"]
MARKERS = {"dense": "o", "hash": "s", "hash_skewed": "v", "drop": "^", "window": "x", "blocks": "P", "reformer": "*"}


def parse(row):
    return {**row, "T": int(row["T"]), **{c: float(row[c]) for c in COLUMNS}}


def of_one_shape(rows):
    shape = (rows[0]["batch_heads"], rows[0]["head_dim"])
    return [row for row in rows if (row["batch_heads"], row["head_dim"]) == shape]


def label(row):
    if row["pattern"].startswith("hash"):
        return f"{row['system']}, {row['pattern'].replace('_', ' ')}, {row['buckets']} buckets"
    if row["pattern"] == "drop":
        return f"{row['system']}, drop {100 * float(row['drop']):g} %"
    return f"{row['system']}, {row['pattern']}"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tables", nargs="+", metavar="CSV")
    parser.add_argument("-o", "--output", required=True, help="the picture to write: .png, .svg or .pdf")
    parser.add_argument("--column", choices=COLUMNS, default="total_ms", help="default: %(default)s")
    parser.add_argument("--patterns", metavar="NAME,...", help="plot these only; default: all")
    args = parser.parse_args()
    rows = of_one_shape(read_tables(args.tables, parse, "./bench attention --csv"))
    rows = choose_patterns(rows, args.patterns, args.tables[0])
    plt = require_pyplot()

    lines = {}
    for row in rows:
        lines.setdefault(label(row), []).append(row)
    figure, axes = plt.subplots(figsize=(8, 5.5))
    for index, (name, points) in enumerate(lines.items()):
        points = sorted((p["T"], p[args.column]) for p in points if p[args.column] > 0)
        first = lines[name][0]
        axes.plot([p[0] for p in points], [p[1] for p in points], color=f"C{index % 10}", marker=MARKERS.get(first["pattern"], "d"),
                  linestyle="-" if first["system"] == "scfa" else "--", linewidth=1.4, markersize=5, label=name)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    lengths = sorted({row["T"] for row in rows})
    axes.set_xticks(lengths, [f"{t:,}" for t in lengths])
    axes.set_xlabel("sequence length")
    axes.set_ylabel(args.column.replace("_ms", ", ms"))
    axes.set_title(f"{rows[0]['gpu']}, {rows[0]['batch_heads']} heads of {rows[0]['head_dim']}", fontsize="medium")
    axes.grid(alpha=0.3, which="both")
    axes.legend(fontsize="small")
    figure.tight_layout()
    save_picture(figure, args.output)
    print(f"wrote {args.output}")


if __name__ == "__main__":
    main()
