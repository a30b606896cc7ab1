"""What compare.py reads from the metrics of finished runs: rows of quality.csv, the table and the plots."""
import csv
import json
import os
import pathlib
import statistics
import sys

from files import csv_text, write_whole
from plot_metrics import read_run
from plotting import NEEDS_MATPLOTLIB, find_pyplot

COLUMNS = ("config,pattern,T,seed,step,tokens,seconds,loss,accuracy,effective_buckets,share_of_pairs,tokens_per_s,attention_share,gpu,"
           "commit").split(",")
LAYER_COLUMNS = ("config", "seed", "step", "layer", "effective_buckets")
TOKENS, SECONDS, LOSS = 1, 2, 3  # of a point (step, tokens, seconds, loss), as read_run gives them


def read_records(file):
    """The records of a metrics.jsonl. A last line that was cut short is left out."""
    records = []
    for line in file.read_text(encoding="utf-8").splitlines():
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return records


def describe_pattern(attention):
    """The `attention` of a config in the words of ./train."""
    if "schedule" in attention:
        return "; ".join((f"from {100 * stage['from']:g} % of the steps on " if stage["from"] else "") +
                         describe_pattern(stage["attention"]) for stage in attention["schedule"])
    if isinstance(attention, list):
        return " | ".join(dict.fromkeys(describe_pattern(layer) for layer in attention))
    if "mixture" in attention:
        return " + ".join(f"{entry.get('heads') or 'other'} heads {describe_pattern(entry)}"
                          for entry in attention["mixture"])
    pattern, words = attention.get("pattern", "dense"), []
    if pattern in ("hash", "reformer"):
        words.append(f"{attention.get('buckets', 16)} buckets")
        if attention.get("rounds", 1) > 1:
            words.append(f"{attention['rounds']} rounds")
        if attention.get("probes", 1) > 1:
            words.append(f"{attention['probes']} probes")
        if pattern == "hash":
            words += [attention["balance"]] if attention.get("balance", "none") != "none" else []
            words += ["bias"] if attention.get("bias_rate", 0) else []
        words += ["fixed directions"] if attention.get("fixed_directions") else []
    elif pattern == "drop":
        words.append(f"rate {attention.get('drop_rate', 0.5):g}")
    elif pattern == "blocks":
        words.append(f"best {attention.get('top_k', 3)} of {attention.get('block', 512)} tokens")
    if attention.get("window", 0):
        words.append(f"window {attention['window']}")
    if attention.get("near", 0):
        words.append(f"near {attention['near']}")
    return " ".join([pattern, *words])


def mean_of(layers):
    """Mean over layers and heads; heads where nobody sees anything are null."""
    heads = [head for layer in layers for head in layer if head is not None]
    return statistics.fmean(heads) if heads else None


class Run:
    """A finished run, from its rows in quality.csv and segments.csv: points (step, tokens, seconds of training, validation loss), and
    what it had at its end. settings: its config, or None where only the rows are left."""

    def __init__(self, rows, layer_rows, settings=None):
        self.rows, self.layer_rows, self.settings = rows, layer_rows, settings
        first, last = rows[0], rows[-1]
        self.config, self.seed, self.length = first["config"], int(first["seed"]), int(first["T"])
        self.points = [(int(r["step"]), int(r["tokens"]), float(r["seconds"]), float(r["loss"])) for r in rows]
        self.buckets, self.share, self.attention = (
            float(last[column]) if last.get(column) else None for column in ("effective_buckets", "share_of_pairs", "attention_share"))

    @property
    def last(self):
        return self.points[-1]


def run_of_folder(folder, config, seed):
    """The finished run in a folder of ./train."""
    records = read_records(folder / "metrics.jsonl")
    # A run that went on elsewhere says so in a resume record.
    headers = [(r.get("step", 0), r) for r in records if r["type"] in ("header", "resume")]
    evals = {r["step"]: r for r in records if r["type"] == "eval"}
    profiles = [r for r in records if r["type"] == "profile" and "attention" in r]
    profiled = sum(r["seconds"] for r in profiles)
    attention = f"{sum(r['attention'] for r in profiles) / profiled:.4f}" if profiled else ""
    rows, layer_rows, share = [], [], None
    for step, tokens, seconds, loss in read_run(folder)[1]:
        layers = evals[step].get("effective_segments", [])  # none where all of it is dense
        buckets = mean_of(layers)
        share = evals[step].get("share_of_pairs", share)
        header = [h for at, h in headers if at < step or at == 0][-1]
        rows.append({
            "config": config, "pattern": describe_pattern(header["config"]["attention"]),
            "T": header["config"]["model"]["sequence_length"], "seed": seed, "step": step, "tokens": round(tokens),
            "seconds": f"{seconds:.3f}", "loss": f"{loss:.6f}", "accuracy": f"{evals[step]['accuracy']:.6f}",
            "effective_buckets": "" if buckets is None else f"{buckets:.4f}",
            "share_of_pairs": "" if share is None else f"{share:.6f}",
            "tokens_per_s": round(tokens / seconds) if seconds else "", "attention_share": attention,
            "gpu": (header["machine"].get("gpu") or {}).get("name", "cpu"), "commit": header["commit"]})
        for layer, heads in enumerate(layers):
            mean = mean_of([heads])
            if mean is not None:
                layer_rows.append({"config": config, "seed": seed, "step": step, "layer": layer, "effective_buckets": f"{mean:.3f}"})
    return Run(rows, layer_rows, headers[0][1]["config"])


def read_rows(path, *columns):
    """{(config, seed): rows} of a table of an earlier report; nothing where there is none."""
    found = {}
    if path.exists():
        with open(path, encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file)
            missing = {"config", "seed", "step", *columns} - set(reader.fieldnames or ())
            if missing:
                sys.exit(f"compare.py: {path}: has no column {min(missing)}; it is not a table of compare.py. Use another --out, or remove it")
            for row in reader:
                found.setdefault((row["config"], int(row["seed"])), []).append(row)
    return found


def earlier_runs(out):
    """{(config, seed): run} of the tables in OUT, whose folders need not be there any more."""
    layer_rows = read_rows(out / "segments.csv")
    return {key: Run(rows, layer_rows.get(key, [])) for key, rows in read_rows(out / "quality.csv", "T", "tokens", "seconds", "loss").items()}


def loss_at(points, column, x):
    """The validation loss at so many tokens or seconds, between two evaluations; None beyond the last."""
    for before, after in zip(points, points[1:]):
        if before[column] <= x <= after[column]:
            width = after[column] - before[column]
            share = (x - before[column]) / width if width else 1
            return before[LOSS] + share * (after[LOSS] - before[LOSS])
    return None


def seconds_to(points, loss):
    """Training seconds to the first evaluation at or below a loss, linear from the one before it; None: never."""
    for i, point in enumerate(points):
        if point[LOSS] <= loss:
            if i == 0:
                return point[SECONDS]
            before = points[i - 1]
            share = (before[LOSS] - loss) / (before[LOSS] - point[LOSS])
            return before[SECONDS] + share * (point[SECONDS] - before[SECONDS])
    return None


def with_spread(values, digits):
    """Mean over seeds, and in brackets largest minus smallest."""
    values = [v for v in values if v is not None]
    if not values:
        return "-"
    spread = f" ({max(values) - min(values):.{digits}f})" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.{digits}f}{spread}"


def to_baseline(runs, baseline):
    """(seconds to the final loss of the baseline's run of the same seed, its share of that run's seconds), as texts."""
    of_seed = {run.seed: run for run in baseline}
    pairs = [(run, of_seed[run.seed]) for run in runs if run.seed in of_seed]
    if not pairs:
        return "-", "-"
    reached = [(seconds_to(run.points, base.last[LOSS]), base.last[SECONDS]) for run, base in pairs]
    found = [(seconds, of) for seconds, of in reached if seconds is not None]
    if len(found) < len(reached):
        return "not reached" + (f" by {len(reached) - len(found)} of {len(reached)} seeds" if found else ""), "-"
    return with_spread([s for s, _ in found], 1), with_spread([s / of for s, of in found], 3)


def by_length(runs):
    """{sequence length: runs}, as losses at different lengths are of other windows."""
    return {length: [run for run in runs if run.length == length] for length in sorted({run.length for run in runs})}


def table_text(runs, budget, baseline):
    """A Markdown table of the runs of one budget, "tokens" or "seconds", and one sequence length."""
    columns = {"tokens": TOKENS, "seconds": SECONDS}
    least = {name: min(run.last[column] for run in runs) for name, column in columns.items()}
    other = "seconds" if budget == "tokens" else "tokens"
    names = list(dict.fromkeys(run.config for run in runs))
    of_config = {name: [run for run in runs if run.config == name] for name in names}
    losses = {budget: lambda run: run.last[LOSS], other: lambda run: loss_at(run.points, columns[other], least[other])}
    rows = [["config", "pattern", "seeds", "tokens", "seconds", "loss, equal tokens", "loss, equal seconds",
             "s to baseline's loss", "share of baseline's s", "effective buckets", "share of pairs", "tokens/s",
             "attention, % of step"]]
    for name, mine in of_config.items():
        attention = [100 * run.attention for run in mine if run.attention is not None]
        rows.append([
            name + (" (baseline)" if name == baseline else ""), mine[0].rows[-1]["pattern"],
            " ".join(str(run.seed) for run in mine), f"{statistics.fmean(run.last[TOKENS] for run in mine):,.0f}",
            with_spread([run.last[SECONDS] for run in mine], 1),
            *(("" if key == budget else "~ ") + with_spread([losses[key](run) for run in mine], 4)
              for key in ("tokens", "seconds")),
            *to_baseline(mine, of_config.get(baseline, [])),
            with_spread([run.buckets for run in mine], 2), with_spread([run.share for run in mine], 4),
            f"{statistics.fmean(run.last[TOKENS] / run.last[SECONDS] for run in mine):,.0f}", with_spread(attention, 1)])
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["| " + " | ".join(cell.replace("|", "\\|").ljust(width) for cell, width in zip(row, widths)) + " |" for row in rows]
    lines.insert(1, "| " + " | ".join("-" * width for width in widths) + " |")
    at = f"{least['seconds']:.1f} s" if other == "seconds" else f"{least['tokens']:,.0f} tokens"
    return (f"Equal {budget}, T = {runs[0].length:,}. Means over seeds, in brackets largest minus smallest; losses are of validation, seconds "
            f"are of training.\n~: between evaluations at {at}, where not every schedule has ended.\n\n"
            + "\n".join(lines) + "\n")


def mean_points(runs):
    """Means over the runs of one config, at the evaluations that all of them have."""
    by_step = [{point[0]: point for point in run.points} for run in runs]
    steps = sorted(set.intersection(*(set(points) for points in by_step)))
    return [tuple(statistics.fmean(points[step][i] for points in by_step) for i in range(4)) for step in steps]


def plot_panel(axes, runs, column):
    for index, name in enumerate(dict.fromkeys(run.config for run in runs)):
        mine, color = [run for run in runs if run.config == name], f"C{index % 10}"
        for points, style in [*((run.points, {"linewidth": 0.6, "alpha": 0.6}) for run in mine),
                              (mean_points(mine), {"linewidth": 1.6, "marker": "o", "markersize": 3, "label": name})]:
            points = [p for p in points if p[0] > 0]  # an untrained model would set the scale
            axes.plot([p[column] for p in points], [p[LOSS] for p in points], color=color, **style)


def plot(runs, path):
    """Writes validation loss against seconds and tokens, a row per sequence length. Returns a line that says so."""
    plt = find_pyplot()
    if plt is None:
        return f"{path}: not plotted, which needs {NEEDS_MATPLOTLIB}"

    lengths = by_length(runs)
    figure, rows = plt.subplots(len(lengths), 2, figsize=(12, 5 * len(lengths)), sharey="row", squeeze=False)
    for panels, (length, of_length) in zip(rows, lengths.items()):
        for axes, column, label in zip(panels, (SECONDS, TOKENS), ("seconds of training", "tokens")):
            plot_panel(axes, of_length, column)
            axes.set_xlabel(label)
            axes.grid(alpha=0.3)
        panels[0].set_ylabel("validation loss (nats per token)" + (f", T = {length:,}" if len(lengths) > 1 else ""))
        panels[0].legend()
    figure.tight_layout()
    partial = path.with_name(".partial-" + path.name)
    figure.savefig(partial, dpi=150)
    os.replace(partial, path)
    plt.close(figure)
    return f"wrote {path}"


def write_report(out, sets, baselines, plots=True):
    """Writes quality.csv, segments.csv, table.md and the plots of the finished runs.

    sets: {budget: (suffix of names, runs)}. baselines: {sequence length: config, or None}.
    """
    out = pathlib.Path(out)
    finished = [run for _, runs in sets.values() for run in runs]
    write_whole(out / "segments.csv", csv_text(LAYER_COLUMNS, [row for run in finished for row in run.layer_rows]))
    write_whole(out / "quality.csv", csv_text(COLUMNS, [row for run in finished for row in run.rows]))
    tables = [table_text(of_length, budget, (baselines.get(length) or "") + suffix)
              for budget, (suffix, runs) in sets.items() for length, of_length in by_length(runs).items()]
    write_whole(out / "table.md", "\n".join(tables))
    lines = []
    for suffix, runs in sets.values() if plots else []:
        if runs:
            lines.append(plot(runs, out / f"loss{suffix}.png"))
    return "\n".join(tables), lines
