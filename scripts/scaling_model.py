#!/usr/bin/env python3
"""Estimates how a step grows with the number of GPUs, from the times of one GPU and the bandwidths of links.

  scripts/scaling_model.py [--plot FILE] [--csv FILE]

Every GPU has the same work (weak scaling). Gradients are added up once a step; what the backward pass of the last
micro-batch hides costs nothing, and the embedding's gradient, which is complete only at the end, is always exposed.
A sum of S bytes over N GPUs moves 2 (N - 1) / N S through the slowest link and takes two latencies per level of a tree.
"""
import argparse
import csv
import math
import sys

from plotting import require_pyplot, save_picture

MODEL = {"name": "GPT-2 124M at 8,192 tokens", "bytes": 4 * 123.0e6, "last": 4 * (38.6e6 + 6.3e6)}
# Measured: ms of a step of 65,536 tokens and of its backward pass; dense on one H200, hash on one H100 (docs/scaling.md).
STEPS = {"dense": {"step": 168.6, "backward": 111.5}, "hash, 16 buckets": {"step": 164.9, "backward": 108.1}}
# Bytes a second that a sum gets, and seconds a message. NVLink: measured, two H200. Network: 80 % of 400 Gbit/s per GPU.
LINKS = {"NVLink": (209e9, 3e-6), "400 Gbit/s": (40e9, 12e-6)}
GPUS_PER_NODE = 8


def sum_seconds(size, gpus):
    if gpus == 1:
        return 0.0
    bandwidth, latency = LINKS["NVLink"] if gpus <= GPUS_PER_NODE else LINKS["400 Gbit/s"]
    return 2 * (gpus - 1) / gpus * size / bandwidth + 2 * math.ceil(math.log2(gpus)) * latency


def exposed_seconds(step, tokens, gpus, element):
    scale = tokens / 65536
    size, last = MODEL["bytes"] * element / 4, MODEL["last"] * element / 4
    hidden = step["backward"] * 1e-3 * scale
    early = sum_seconds(size - last, gpus)
    return max(0.0, early - hidden) + sum_seconds(last, gpus)


def rows():
    for pattern, step in STEPS.items():
        for tokens in (65536, 16384, 8192):
            for dtype, element in (("f32", 4), ("bf16", 2)):
                for gpus in (2, 4, 8, 16, 64, 256, 1024):
                    alone = step["step"] * 1e-3 * tokens / 65536
                    exposed = exposed_seconds(step, tokens, gpus, element)
                    yield {"pattern": pattern, "tokens_per_gpu": tokens, "sums_in": dtype, "gpus": gpus,
                           "sum_ms": round(1e3 * sum_seconds(MODEL["bytes"] * element / 4, gpus), 2),
                           "exposed_ms": round(1e3 * exposed, 2), "efficiency": round(alone / (alone + exposed), 3)}


def plot(path):
    plt = require_pyplot()
    figure, axes = plt.subplots(figsize=(7, 4))
    for (tokens, dtype), style in {(65536, "f32"): "C0-o", (16384, "f32"): "C1-o", (16384, "bf16"): "C1--s",
                                   (8192, "f32"): "C2-o", (8192, "bf16"): "C2--s"}.items():
        chosen = [r for r in rows() if r["pattern"] == "dense" and r["tokens_per_gpu"] == tokens and r["sums_in"] == dtype]
        axes.plot([r["gpus"] for r in chosen], [100 * r["efficiency"] for r in chosen], style,
                  label=f"{tokens:,} tokens per GPU and step, sums in {dtype}")
    axes.axvline(GPUS_PER_NODE * 1.3, color="grey", linewidth=0.8)
    axes.text(GPUS_PER_NODE * 1.4, 58, "several nodes, 400 Gbit/s per GPU", color="grey")
    axes.set_xscale("log", base=2)
    axes.set_xticks([2, 8, 16, 64, 256, 1024], ["2", "8", "16", "64", "256", "1,024"])
    axes.set(xlabel="GPUs", ylabel="efficiency, %", ylim=(40, 101), title=MODEL["name"] + ", dense: estimated")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    figure.tight_layout()
    save_picture(figure, path, dpi=110)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--csv", help="write the table there instead of to standard output")
    parser.add_argument("--plot", help="write a plot of dense attention's efficiency there")
    args = parser.parse_args()
    table = list(rows())
    with open(args.csv, "w", encoding="utf-8") if args.csv else sys.stdout as file:
        writer = csv.DictWriter(file, table[0].keys(), lineterminator="\n")
        writer.writeheader()
        writer.writerows(table)
    if args.plot:
        plot(args.plot)


if __name__ == "__main__":
    main()
