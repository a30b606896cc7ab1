"""The experiments of scripts/reproduce.py: what each runs at which scale, and its part of the report."""
import dataclasses
import functools
import json
import math
import os
import pathlib
import shlex
import statistics
import subprocess
import sys

import recall
from attention_patterns import attention_of
from compare_report import LOSS, SECONDS, TOKENS, earlier_runs, mean_points, seconds_to
from files import read_csv, write_json, write_whole
from reproduce_report import note, preformatted, table
from svg_plot import line_plot, side_by_side

SCRIPTS = pathlib.Path("scripts")  # reproduce.py runs at the top of the repository
GPT2 = {"n_layer": 12, "n_head": 12, "n_embd": 768}
COSINE = {"schedule": "cosine", "lr": 1e-3, "warmup": 0.1, "final_ratio": 0.1}
RECALL_FEW = "dense,near_dense_separate,near_far_separate_probes2_warm50,near_far,window,hash16,drop50,blocks"
RECALL_PATTERNS = ("dense,dense_shared,dense_shared_noself,window,hash8,hash16,hash32,balanced16,near_far,near_far_noself,"
                   "near_far_separate,near_far_late50,near_far_separate_late50,near_far_warm50,near_far_separate_warm25,"
                   "near_far_separate_warm50,near_far_probes2_warm50,near_far_separate_probes2_warm10,"
                   "near_far_separate_probes2_warm25,near_far_separate_probes2_warm50,near_far_probes2,near_far_separate_probes2,"
                   "near_dense,near_dense_separate,near_blocks,drop50,reformer,blocks")
# Dense attention at T = 1,024 answers 64 % after 100 M tokens with these, 47 % with 8 pairs, 33 % with 65,536 tokens per step and 32 pairs, and
# 100 % after 300 M (one H200, 29 November 2026).
RECALL_BUDGET = ["--batch", "16384", "--pairs", "128"]
# From random parameters, sequences of 16,384 tokens are not learned in 300 M tokens; so far back, rotary frequencies need a larger base than
# that of 1,024 tokens (docs/recall.md).
RECALL_LONG = ["--lengths", "16384,32768", "--patterns", "near_dense_separate,near_far_separate_probes2,near_far_separate_probes4_fixed,"
               "near_far_separate,near_blocks,window,dense,blocks,drop50,hash8_separate,hash16_separate,hash32_separate,balanced16_separate",
               "--rotary-theta", "1000000", "--init-from", "FOLDER/mqar/1024/runs/near_dense_separate-s{seed}"]
RECALL_SMOKE = ["--task", "induction", "--tokens", "60k", "--batch", "1024", "--layers", "2", "--heads", "2", "--width", "32", "--vocabulary",
                "32"]


@dataclasses.dataclass
class Scale:
    """What the scales differ in. lengths: what stands for 8k, 16k, ... tokens. shrink: of windows and blocks."""
    lengths: dict
    model: dict
    batch: int  # tokens of a step
    steps: int  # of a run
    schedule: dict
    windows: int  # of an evaluation, of 8k tokens
    recall: dict  # {step of the experiment: (options of recall.py, seconds of a run)}
    bench: list
    peers: list  # of PyTorch's kernels for dense attention
    flex: list = ()  # of FlexAttention, which compiles for each length
    batches: dict = dataclasses.field(default_factory=dict)  # {length: batch} where it is another one
    evaluations: int = 15  # of a run
    seeds: str = "1,2"
    order: str = "epoch"
    clip: float = 1.0
    shrink: int = 1

    def tokens_of_evaluation(self):
        return self.windows * self.lengths["8k"]

    def sequences(self, length):
        """Of a step."""
        return max(1, self.batches.get(length, self.batch) // self.lengths[length])


# Of a run with its evaluations, at scale small on one H200. The costs of steps are seconds there; elsewhere they are relative.
RUN_SECONDS = {"8k": 95, "16k": 115, "32k": 145, "64k": 160}
LENGTHS = {"8k": 8192, "16k": 16384, "32k": 32768, "64k": 65536}
SCALES = {
    "smoke": Scale(
        lengths={"8k": 128, "16k": 256, "32k": 384, "64k": 512}, model={"n_layer": 2, "n_head": 6, "n_embd": 48}, batch=1536, steps=15,
        schedule=COSINE, windows=8, seeds="1", shrink=64, peers=[],
        recall={"train": ([*RECALL_SMOKE, "--lengths", "32", "--patterns", "dense,hash8,near_far"], 1),
                "train_more": ([*RECALL_SMOKE, "--lengths", "32", "--patterns", "near_far_separate"], 1),
                "train_long": ([*RECALL_SMOKE, "--lengths", "64", "--patterns", "near_far_separate", "--init-from",
                                "FOLDER/induction/32/runs/dense-s{seed}"], 1)},
        bench=["--length", "256,512", "--batch", "1", "--heads", "6", "--repeats", "1", "--device", "cpu"]),
    "small": Scale(
        lengths=LENGTHS, model=GPT2, batch=65_536, steps=750, schedule=COSINE, windows=64,
        recall={"train": (["--lengths", "1024", "--tokens", "300M", *RECALL_BUDGET, "--patterns", RECALL_FEW], 75),
                "train_more": (["--lengths", "1024,4096", "--tokens", "300M", *RECALL_BUDGET, "--patterns", RECALL_PATTERNS], 95),
                "train_long": (["--tokens", "100M", *RECALL_BUDGET, *RECALL_LONG], 65)},
        bench=["--length", "256,512,1024,2048,4096,8192,16384,32768,65536", "--repeats", "5"],
        peers=["--lengths", "256,512,1024,2048,4096,8192,16384,32768", "--repeats", "5"], flex=["--lengths", "8192,16384", "--repeats", "3"]),
    "paper": Scale(
        lengths=LENGTHS, model=GPT2, batch=524_288, batches={"16k": 30 * 16384}, steps=15_000, windows=192, evaluations=150, order="random",
        clip=0.0,
        schedule={"schedule": "onecycle", "lr": 1e-3, "warmup": 0.02, "initial_ratio": 0.01, "final_ratio": 0.2},
        recall={"train": (["--lengths", "1024,4096", "--tokens", "1G", *RECALL_BUDGET, "--patterns", RECALL_FEW], 270),
                "train_more": (["--lengths", "1024,4096", "--tokens", "1G", *RECALL_BUDGET, "--patterns", RECALL_PATTERNS], 270),
                "train_long": (["--tokens", "300M", *RECALL_BUDGET, *RECALL_LONG], 180)},
        bench=["--length", "256,512,1024,2048,4096,8192,16384,32768,65536", "--repeats", "9"],
        peers=["--lengths", "256,512,1024,2048,4096,8192,16384,32768,65536", "--repeats", "9"],
        flex=["--lengths", "4096,8192,16384,32768", "--repeats", "5"]),
}


class Context:
    """What the command line says. data, bytes_data: prepared sets of GPT-2 tokens and of bytes, or None. everything: all patterns and
    lengths, not only the main ones; always at smoke. experiments: names of those to be run."""
    def __init__(self, scale_name, out, programs, data, bytes_data, gpus=None, ranks=None, seeds=None, everything=False, experiments=()):
        self.scale_name, self.scale, self.out = scale_name, SCALES[scale_name], out
        self.everything, self.experiments = everything or scale_name == "smoke", experiments
        self.data, self.bytes_data, self.seeds = data, bytes_data, seeds or self.scale.seeds
        self.gpus, self.ranks = ["--gpus", gpus] if gpus else [], ranks
        path = str(programs)
        self.prefix = "./" if path == "." else f"{path}/" if os.path.isabs(path) else f"./{path}/"

    def program(self, name):
        return self.prefix + name

    def train_command(self):
        """For compare.py --train."""
        train = shlex.quote(self.program("train"))
        return f"mpirun -n {self.ranks} --bind-to none {train}" if self.ranks else train

    def recorded(self, command):
        """The same wherever the repository, the programs and OUT are."""
        command = [word for i, word in enumerate(command) if "--gpus" not in (word, command[i - 1] if i else "")]
        text = [str(word).replace(str(self.out), "OUT").replace(self.prefix, "./") for word in command]
        return ["python3" if command[0] == sys.executable else text[0], *text[1:]]


class Experiment:
    """Runs in a folder of OUT: `home`, or one of its own name."""
    title = ""
    data = None  # of Context: what the experiment needs
    home = None
    step_names = ()
    steps_of_all = ()  # which are run with --all only

    def steps(self, context, folder):
        """(name, command, cost) of what is to be run."""
        raise NotImplementedError

    def problem(self, _context, _step):
        """Why a step cannot be run, or None."""
        return None

    def configs(self, _folder):
        return []

    def has_results(self, folder):
        return any(folder.glob("*.csv"))

    def report(self, folder):
        raise NotImplementedError

    def claims(self, _folder):
        """(the paper's claim, what was measured here, whether it holds today), in words."""
        return []


REFORMER_CLAIM = "Reformer's chunks miss query-key pairs that share a bucket"


# ---- attention by itself --------------------------------------------------------------------------------------------

def line_name(row):
    name = row["pattern"] if row["system"] == "scfa" else f"{row['system']} {row['pattern']}"
    if row["pattern"].startswith(("hash", "reformer")) and row["pattern"] != "hash_skewed":
        name += " " + row["buckets"]
    return name + (f" {float(row['drop']):.0%}" if row["pattern"] == "drop" else "")


def timing_plot(rows, column, title, wanted):
    """Medians; total_ms also has bands from the 20th to the 80th percentile."""
    lines, bands = {}, {}
    for row in rows:
        if wanted(row) and float(row[column]) > 0:
            lines.setdefault(line_name(row), []).append((int(row["T"]), float(row[column])))
            if column == "total_ms":
                bands.setdefault(line_name(row), []).append((int(row["T"]), float(row["low_ms"]), float(row["high_ms"])))
    return line_plot(lines, title, "sequence length", "ms", 2, 10, bands)


def timing_table(rows, low="20 %", high="80 %"):
    milliseconds = ("prepare_ms", "forward_ms", "backward_ms", "total_ms", "low_ms", "high_ms")
    return "<details><summary>all times</summary>" + table(
        [[line_name(r), r["T"], r["share_of_pairs"] and f"{float(r['share_of_pairs']):.4f}", *(f"{float(r[c]):.3g}" for c in milliseconds)]
         for r in rows],
        ["pattern", "T", "share of pairs", "prepare ms", "forward ms", "backward ms", "all ms", low, high]) + "</details>"


def total_at(rows, system, pattern, T, buckets=None):
    """Milliseconds, or None."""
    return next((float(r["total_ms"]) for r in rows if (r["system"], r["pattern"], r["T"]) == (system, pattern, str(T)) and
                 (buckets is None or r["buckets"] == str(buckets))), None)


def bucket_pairs_plot(rows, title):
    lines = {}
    for row in rows:
        if row["bucket_pairs_seen"]:
            lines.setdefault(f"{row['buckets']} buckets", []).append((int(row["T"]), 100 * (1 - float(row["bucket_pairs_seen"]))))
    return line_plot(lines, title, "sequence length", "missed, %", 2, 0)


class Runtime(Experiment):
    """Attention alone, forward, backward and both, against the sequence length, on random buckets as in the paper: medians; the sum of
    forward and backward also has a shaded band from the 20th to the 80th percentile, where that is wide enough to be seen. Everything that
    a layer does is included: hashing, sorting, gathering, scattering."""
    title = "Time of attention against sequence length"
    step_names = ("bench", "peers", "flex")

    def steps(self, context, folder):
        bench = [context.program("bench"), "attention", *context.scale.bench, "--buckets", "2,4,8,16,32,64", "--drop-rate", "0.2,0.3,0.5,0.7,0.8",
                 "--patterns", "dense,hash,hash_balanced,drop,window,mixture,reformer,blocks", "--csv", folder / "attention.csv"]
        steps = [("bench", bench, 50)]
        if context.scale.peers:
            for name, systems, how in (("peers", "pytorch_flash,pytorch_cudnn", context.scale.peers),
                                       ("flex", "flex_hash,flex_window", [*context.scale.flex, "--buckets", "16"])):
                steps.append((name, [sys.executable, SCRIPTS / "bench_attention_peers.py", "--systems", systems, *how, "--csv",
                                     folder / f"{name}.csv"], 20))
        return steps

    def problem(self, _context, step):
        return None if step == "bench" or has_pytorch() else "needs PyTorch and a GPU"

    def rows(self, folder):
        return [row for name in self.step_names for row in read_csv(folder / ("attention.csv" if name == "bench" else f"{name}.csv"))]

    def report(self, folder):
        rows = self.rows(folder)
        def of_hash(row):
            return row["pattern"] in ("dense", "hash")
        def of_drop(row):
            return row["pattern"] in ("dense", "drop")
        return "\n".join([
            *(timing_plot(rows, column, f"Hash, {what}", of_hash) for column, what in
              (("total_ms", "forward and backward"), ("forward_ms", "forward"), ("backward_ms", "backward"))),
            timing_plot(rows, "total_ms", "Dropped queries and keys, forward and backward", of_drop),
            timing_plot(rows, "total_ms", "Other patterns, forward and backward", lambda r: not of_hash(r) and not of_drop(r) and
                        (not r["pattern"].startswith(("hash_", "reformer")) or r["buckets"] == "16")),
            note("Reformer attends within chunks of the order sorted by bucket, and to the chunk before. What it misses of the pairs of one "
                 "bucket depends on the sizes of buckets only; random buckets:"),
            bucket_pairs_plot(rows, "Pairs of one bucket that Reformer's chunks miss"), timing_table(rows)])

    def claims(self, folder):
        rows = self.rows(folder)
        claims, here = [], []
        for T in sorted({int(r["T"]) for r in rows}):
            mine, dense = total_at(rows, "scfa", "hash", T, 16), total_at(rows, "pytorch_cudnn", "dense", T)
            if T >= 4096 and mine and dense:
                here.append((T, dense / mine))
        if here:
            ratios = [ratio for _, ratio in here]
            claims.append(["Attention over hash buckets is faster than FlashAttention, increasingly so for longer sequences",
                           "16 random buckets, hashing included, against cuDNN's dense attention:\n" +
                           "\n".join(f"{T:,} tokens: {ratio:.1f} x as fast" for T, ratio in here),
                           ("holds" if min(ratios) > 1 and ratios == sorted(ratios) else "does not hold at every length") +
                           " for even buckets, against the dense attention of today"])
        missed = {T: 1 - float(r["bucket_pairs_seen"]) for r in rows if r["bucket_pairs_seen"] and r["buckets"] == "16"
                  for T in [int(r["T"])]}
        if missed:
            claims.append([REFORMER_CLAIM, "missed with 16 random buckets, which are even:\n" +
                           "\n".join(f"{T:,} tokens: {100 * missed[T]:.2f} %" for T in (min(missed), max(missed))),
                           "hardly any are missed with even buckets" if missed[max(missed)] < 0.01 else "holds"])
        return claims


@functools.cache
def has_pytorch():
    code = "import torch, sys; sys.exit(0 if torch.cuda.is_available() else 1)"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 0


class TrainedBuckets(Experiment):
    """Attention on what the layers of trained models compute on text, whose buckets are less even than random ones: the models that
    hash into 16 buckets as in the paper (plain) and with standardised scores (balanced), evaluated with other numbers of buckets too.
    Means over layers."""
    title = "Time of attention on buckets of trained models"
    data = "data"
    models = {"plain": "hash16", "balanced": "balanced16"}
    step_names = ("plain_8k", "balanced_8k", "plain_16k", "balanced_16k")

    def steps(self, context, folder):
        steps = []
        for step in self.step_names:
            batch = 1 if context.scale_name == "smoke" else max(1, 131_072 // context.scale.lengths[step.split("_")[1]])
            bench = [context.program("bench"), "attention", "--checkpoint", self.run(context, step), "--batch", batch, "--repeats", 1, "--buckets",
                     "2,4,8,16,32,64", "--patterns", "dense,hash,hash_balanced,reformer", "--csv", folder / f"{step}.csv"]
            steps.append((step, bench, 8))
        return steps

    def run(self, context, step):
        """The folder of the model."""
        kind, length = step.split("_")
        return context.out / f"quality_{length}" / "runs" / f"{self.models[kind]}-s{context.seeds.split(',')[0]}"

    def problem(self, context, step):
        run = self.run(context, step)
        return None if list(run.glob("checkpoint-*/checkpoint.xxh3")) else f"needs the checkpoint of {run}, by {run.parent.parent.name}"

    def rows(self, folder):
        return {kind: [row for length in ("8k", "16k") for row in read_csv(folder / f"{kind}_{length}.csv")] for kind in self.models}

    def report(self, folder):
        parts = []
        for kind, rows in self.rows(folder).items():
            if not rows:
                continue
            for T in sorted({row["T"] for row in rows}, key=int):
                its = [row for row in rows if row["T"] == T]
                lines = {"dense": [(buckets, float(r["total_ms"])) for r in its if r["pattern"] == "dense" for buckets in (2, 64)]}
                for row in its:
                    if row["pattern"] != "dense":
                        lines.setdefault(row["pattern"].replace("_", " "), []).append((int(row["buckets"]), float(row["total_ms"])))
                parts.append(line_plot(lines, f"Model with {kind} buckets, {int(T):,} tokens, {its[0]['batch_heads']} heads", "buckets",
                                       "ms, forward and backward", 2, 10))
            parts += [bucket_pairs_plot(rows, f"Model with {kind} buckets: pairs of one bucket that Reformer misses"),
                      timing_table(rows, "20 % of layers", "80 % of layers")]
        return "\n".join(parts) or note("nothing has been measured yet")

    def claims(self, folder):
        rows = self.rows(folder)["plain"]
        found, missed = [], []
        for row in rows:
            if row["pattern"] == "hash" and row["buckets"] == "16":
                dense = total_at(rows, "scfa", "dense", row["T"])
                found.append(f"{int(row['T']):,} tokens: {dense / float(row['total_ms']):.1f} x as fast, "
                             f"with {100 * float(row['share_of_pairs']):.0f} % of the query-key pairs")
            if row["pattern"] == "reformer" and row["buckets"] == "16":
                missed.append((int(row["T"]), 1 - float(row["bucket_pairs_seen"])))
        if not found:
            return []
        return [["Attention is timed on random buckets", "16 buckets of a trained model, against our dense attention:\n" + "\n".join(found),
                 "trained models fill their buckets unevenly, which costs much of the speed-up of the first row"],
                [REFORMER_CLAIM, "missed with 16 buckets of a trained model:\n" +
                 "\n".join(f"{T:,} tokens: {100 * share:.0f} %" for T, share in missed),
                 "holds for trained buckets" if min(share for _, share in missed) > 0.01 else "hardly any are missed"]]


# ---- training runs ---------------------------------------------------------------------------------------------------

class Quality(Experiment):
    """Validation loss against tokens and against seconds of training, without evaluations. The data order is the same for all configs,
    and keys are the queries, as in the paper, unless a name ends in _separate."""
    data = "data"
    paper = {"8k": 2.0, "16k": 3.3}  # how many times as fast training with hashing is
    unit, per_nat = "loss", 1.0

    def __init__(self, length, patterns, more=(), title=None, home=None):
        """more: patterns that are run with --all only."""
        self.length, self.few, self.patterns, self.home = length, patterns, [*patterns, *more], home
        self.title = title or f"Loss against time, {length}"
        self.step_names = ("train_more", "positions_more") if home else ("train", "positions")

    def config(self, scale, name, ranks=1):
        T = scale.lengths[self.length]
        batch = scale.sequences(self.length)
        # The largest micro-batch of about 65,536 tokens that divides a rank's part of the batch.
        micro = next(m for m in range(max(1, min(batch, 65_536 // T)), 0, -1) if batch % (ranks * m) == 0)
        window, block = max(4, 128 // scale.shrink), max(8, 512 // scale.shrink)
        return {"model": {**scale.model, "sequence_length": T, "bias": False, "gelu": "erf", "shared_qk": "_separate" not in name},
                "attention": attention_of(name, scale.model["n_head"], window, block, scale.model["n_layer"]),
                "data": {"order": scale.order}, "train": {"batch_size": batch, "micro_batch_size": micro},
                "optimizer": {"clip": scale.clip}, "schedule": scale.schedule,
                "eval": {"windows": max(2, scale.tokens_of_evaluation() // T), "every": max(1, scale.steps // scale.evaluations)}}

    def steps(self, context, folder):
        folder.joinpath("configs").mkdir(parents=True, exist_ok=True)
        configs, runs = [], self.runs(folder)
        finished = {run.config for run in runs}
        patterns = self.patterns if context.everything else self.few
        for name in patterns:
            path = folder / "configs" / f"{name}.json"
            text = json.dumps(self.config(context.scale, name, context.ranks or 1), indent=1) + "\n"
            if not path.exists() or path.read_text(encoding="utf-8") != text:
                if name in finished or list(folder.glob(f"runs/{name}-s*")):
                    sys.exit(f"reproduce.py: {path}: there are runs with other settings; give the same --ranks, or another --out")
                write_whole(path, text)
            configs.append(f"{name}={path}")
        tokens = context.scale.steps * context.scale.sequences(self.length) * context.scale.lengths[self.length]
        train = [sys.executable, SCRIPTS / "compare.py", "--data", getattr(context, self.data), "--out", folder, "--tokens", tokens, "--seeds",
                 context.seeds, "--baseline", self.baseline(), "--train", context.train_command(), *context.gpus, *configs]
        positions = [sys.executable, SCRIPTS / "loss_by_position.py", "--out", folder, "--configs", ",".join(patterns), "--seeds",
                     context.seeds, "--evaluate", context.program("evaluate"), *context.gpus]
        seeds = [int(seed) for seed in context.seeds.split(",")]
        at_home = EXPERIMENTS[self.home].few if self.home in context.experiments else []  # their time is counted there
        counted = [name for name in patterns if name not in at_home]
        missing = len(counted) * len(seeds) - sum(run.seed in seeds and run.config in counted for run in runs)
        return [(self.step_names[0], train, RUN_SECONDS[self.length] * missing + 1), (self.step_names[1], positions, 8 * missing + 1)]

    def configs(self, folder):
        return [folder / "configs" / f"{name}.json" for name in dict.fromkeys(run.config for run in self.runs(folder))]

    def runs(self, folder):
        """Those that are finished, in the order of the patterns."""
        found = earlier_runs(folder).values()
        return [run for name in self.patterns for run in found if run.config == name]

    def has_results(self, folder):
        """Of its own: the experiment at home has some of the patterns too."""
        others = EXPERIMENTS[self.home].patterns if self.home else []
        return any(run.config not in others for run in self.runs(folder))

    def baseline(self):
        return "dense" if "dense" in self.patterns else self.patterns[0]

    def plots(self, folder, labels=None, span=1.2):
        """Loss against seconds, and against tokens: means over seeds. labels: {config: name} of the lines, instead of all. span: how
        far above the lowest one losses are shown."""
        labels = labels or {name: name for name in self.patterns}
        runs = [run for run in self.runs(folder) if run.config in labels]
        if not runs:
            return []
        most = min(run.last[LOSS] for run in runs) + span
        means = {label: mean_points([run for run in runs if run.config == name]) for name, label in labels.items()
                 if any(run.config == name for run in runs)}
        def lines(column):
            return {name: [(p[column], self.per_nat * p[LOSS]) for p in points if p[0] > 0 and p[LOSS] <= most] for name, points in means.items()}
        seeds = ", means over seeds" if len({run.seed for run in runs}) > 1 else ""
        return [line_plot(lines(column), f"{runs[0].length:,} tokens of context, {what}{seeds}", label, f"validation {self.unit}")
                for column, what, label in ((SECONDS, "against time", "seconds of training"), (TOKENS, "against tokens", "tokens"))]

    def report(self, folder):
        runs = self.runs(folder)
        if not runs:
            return note("no run has finished yet")
        parts = [*self.plots(folder), speed_table(runs, self.baseline(), self.unit, self.per_nat), self.positions(folder)]
        for config in ("hash16", "balanced16"):
            layers = {}
            run = next((run for run in runs if run.config == config), None)  # of its first seed
            for row in run.layer_rows if run else []:
                layers.setdefault(f"layer {row['layer']}", []).append((int(row["step"]), float(row["effective_buckets"])))
            if layers:
                parts.append(line_plot(layers, f"{config}, seed {run.seed}: effective buckets by layer, means over heads", "step",
                                       "effective buckets"))
        missing = [name for name in self.patterns if name not in {run.config for run in runs}]
        main = sum(name in self.few for name in missing)
        without = [f"{main} configs have none yet"] if main else []
        without += [f"--all has {len(missing) - main} more"] if len(missing) > main else []
        without = f" ({'; '.join(without)})" if without else ""
        gpus, commits = (", ".join(sorted({row[column] for run in runs for row in run.rows})) for column in ("gpu", "commit"))
        parts.append(note(f"{len(runs)} finished runs{without} on {gpus}, programs built from {commits}."))
        return "\n".join([*parts, "" if self.home else preformatted(folder / "table.md")])

    def positions(self, folder):
        rows, lines = [row for row in read_csv(folder / "positions.csv") if row["config"] in self.patterns], {}
        for row in rows:
            at = (int(row["first"]) + int(row["last"])) / 2
            lines.setdefault(row["config"], {}).setdefault(at, []).append(self.per_nat * float(row["loss"]))
        lines = {name: [(at, statistics.fmean(losses)) for at, losses in lines[name].items()] for name in self.patterns if name in lines}
        seeds = ", ".join(sorted({row["seed"] for row in rows}))
        return line_plot(lines, f"By position in the context, at the end, seed {seeds}", "position", f"validation {self.unit}", 2) if rows else ""

    def claims(self, folder):
        if self.length not in self.paper or self.home or self.data != "data":
            return []
        runs = self.runs(folder)
        found = speed_ups(runs)
        if "dense" not in found:
            return []
        dense, length, claimed = found["dense"], f"{LENGTHS[self.length]:,} tokens", self.paper[self.length]
        losses = [run.last[LOSS] for run in runs if run.config == "dense"]
        spread = max(losses) - min(losses) if len(losses) > 1 else None
        def describe(names):
            texts = [f"speed-up over dense attention at {runs[0].length:,} tokens:"]
            for name in names:
                its = found[name]
                reached = f"reached {its.to_loss:.2f} x as fast" if its.to_loss else "not reached"
                texts.append(f"{name}: {its.tokens_per_s / dense.tokens_per_s:.2f} x, loss {its.difference:+.3f}, dense's final loss {reached}"
                             + (" (1 seed)" if its.seeds == 1 and dense.seeds > 1 else ""))
            return "\n".join(texts)
        claims = []
        for text, speed, names, judged in (
                (f"Training with hashing into 16 buckets is {claimed} x as fast at {length}, perplexity no worse", claimed,
                 ["hash8", "hash16", "hash32", "balanced16", "near_far"], ["hash16"]),
                (f"Dropping queries and keys makes training faster at {length}, perplexity no worse", 1.0,
                 ["drop30", "drop50", "drop70"], ["drop30", "drop50", "drop70"])):
            names = [name for name in names if name in found]
            judged = [found[name] for name in names if name in judged]
            if judged:
                claims.append([text, describe(names), verdict(judged, dense, speed, spread)])
        return claims


@dataclasses.dataclass
class SpeedUp:
    """Means over the seeds that the baseline has too."""
    loss: float
    difference: float  # from the baseline's loss with the same seed
    to_loss: float  # the baseline's seconds over those to its final loss; None where a seed does not reach it
    tokens_per_s: float
    attention: float  # share of a step; None where it was not measured
    seeds: int


def speed_ups(runs, baseline="dense"):
    """{config: SpeedUp} of Runs."""
    of_seed, found = {run.seed: run for run in runs if run.config == baseline}, {}
    for run in runs:
        base = of_seed.get(run.seed)
        if base:
            reached = seconds_to(run.points, base.last[LOSS])
            found.setdefault(run.config, []).append((
                run.last[LOSS], run.last[LOSS] - base.last[LOSS], base.last[SECONDS] / reached if reached else None,
                run.last[TOKENS] / run.last[SECONDS], run.attention))
    def mean(values):
        return None if any(value is None for value in values) else statistics.fmean(values)
    return {config: SpeedUp(*(mean(column) for column in zip(*values)), len(values)) for config, values in found.items()}


def bound(dense):
    """How many times as fast training would be if attention, whose share of a step is known, took no time."""
    return 1 / (1 - dense.attention)


def verdict(found, dense, claimed, spread):
    """Whether training is `claimed` times as fast as with dense attention, without a higher loss, with any of the patterns. found: their
    SpeedUps. spread: how far the final losses of dense attention's seeds lie apart, or None where there is one seed."""
    speeds = [its.tokens_per_s / dense.tokens_per_s for its in found]
    most = "at most " if len(found) > 1 else ""
    as_good = [speed for speed, its in zip(speeds, found) if its.difference <= (spread or 0.0)]
    if any(speed >= claimed for speed in as_good):
        text = "holds"
    elif as_good:
        text = f"holds in part: the loss is no higher, but training is {most}{max(as_good):.2f} x as fast"
    else:
        text = f"does not hold at this budget: the loss is higher, and training is {most}{max(speeds):.2f} x as fast"
    if spread is not None:
        text += f" (seeds of dense attention differ by {spread:.3f})"
    if claimed > 1 and dense.attention is not None:
        text += f"; dense attention of today leaves at most {bound(dense):.2f} x, if attention takes no time"
    return text


def speed_table(runs, baseline, unit, per_nat):
    found, cells = speed_ups(runs, baseline), []
    base = found.get(baseline)
    if base is None:
        return note(f"no run of {baseline} has finished yet")
    def times(value):
        return f"{value:.2f} x" if value else "-"
    for config, its in found.items():
        attention = None
        if base.attention and its.attention:
            attention = (base.attention / base.tokens_per_s) / (its.attention / its.tokens_per_s)
        cells.append([config, its.seeds, f"{per_nat * its.loss:.4f}", f"{per_nat * its.difference:+.4f}",
                      f"{its.tokens_per_s / 1e3:,.4g}", times(its.tokens_per_s / base.tokens_per_s), times(attention),
                      times(its.to_loss) if its.to_loss else "not reached"])
    text = table(cells, ["config", "seeds", f"final {unit}", f"minus {baseline}'s of the same seeds", "thousand tokens/s",
                         "speed-up, end to end", "speed-up, attention only", f"speed-up to {baseline}'s final {unit}"])
    if base.attention is not None:
        text += note(f"With attention that takes no time, training would be {bound(base):.2f} x as fast as {baseline}: the bound of the end-to-end speed-up.")
    return text


class Bytes(Quality):
    """The paper's second data set, enwik8, by bytes: bits per byte against time, on the set that --bytes names."""
    data = "bytes_data"
    unit, per_nat = "bits per byte", 1 / math.log(2)


FIGURE_LABELS = {"dense": "dense", "hash16": "hash, 16 buckets", "balanced16": "balanced, 16 buckets", "drop70": "drop 70 %",
                 "near_far": "near and far"}


def write_figures(out):
    """Plots for pages that show the results: OUT/loss.svg, 8k beside 16k, and OUT/runtime.svg."""
    plots = [plot for name in ("quality_8k", "quality_16k") for plot in EXPERIMENTS[name].plots(out / name, FIGURE_LABELS, 0.9)[:1]]
    if plots:
        write_whole(out / "loss.svg", side_by_side(plots))
    rows = EXPERIMENTS["runtime"].rows(out / "runtime")
    if rows:
        wanted = {"pytorch_flash dense", "pytorch_cudnn dense", "dense", "drop 50%", "drop 70%", "hash 8", "hash 16", "hash 32", "window"}
        heads, width = rows[0]["batch_heads"], rows[0]["head_dim"]
        write_whole(out / "runtime.svg", timing_plot(rows, "total_ms", f"Attention, forward and backward, {heads} heads of {width}",
                                                     lambda row: line_name(row) in wanted))


# ---- the others -------------------------------------------------------------------------------------------------------

class Recall(Experiment):
    """Accuracy by distance on synthetic sequences. At 16,384 tokens and more, models begin with the parameters of one trained on 1,024
    tokens, with dense heads in place of those that hash."""
    title = "Recall by distance"
    step_names, steps_of_all = ("train", "train_more", "train_long"), ("train_more", "train_long")

    def steps(self, context, folder):
        steps, planned = [], set()
        for step, (options, seconds) in context.scale.recall.items():
            if step in self.steps_of_all and not context.everything:
                continue
            options = [option.replace("FOLDER", str(folder)) for option in options]
            patterns, lengths = (options[options.index(option) + 1].split(",") for option in ("--patterns", "--lengths"))
            wanted = {(T, pattern, seed) for T in lengths for pattern in patterns for seed in context.seeds.split(",")}
            measured = {(row["T"], row["pattern"], row["seed"]) for path in folder.glob("*.csv") for row in read_csv(path)}
            command = [sys.executable, SCRIPTS / "recall.py", "--out", folder, "--programs", context.prefix, "--seeds", context.seeds,
                       *context.gpus, *options]
            steps.append((step, command, seconds * len(wanted - measured - planned) + 1))
            planned |= wanted
        return steps

    def problem(self, context, step):
        options = context.scale.recall[step][0]
        if "--init-from" not in options:
            return None
        run = options[options.index("--init-from") + 1].replace("FOLDER", str(context.out / "recall"))
        runs = [pathlib.Path(run.replace("{seed}", seed)) for seed in context.seeds.split(",")]
        missing = [run for run in runs if not list(run.glob("checkpoint-*/checkpoint.xxh3"))]
        return f"needs the checkpoint of {missing[0]}, which recall (train) leaves there in a new --out" if missing else None

    def report(self, folder):
        parts = []
        for path in sorted(folder.glob("*.csv")):
            rows = read_csv(path)
            for T in sorted({int(row["T"]) for row in rows}):
                drawn = folder / f"{path.stem}_{T}.svg"
                parts += [drawn.read_text(encoding="utf-8")] if drawn.exists() else []
                parts.append(self.table([row for row in rows if int(row["T"]) == T]))
        return "\n".join(parts) or note("no run has finished yet")

    def table(self, rows):
        """Of one length: accuracy by distance, and of all answers together."""
        whole, by_distance = recall.accuracies(rows)
        ranges = sorted({bounds for its in by_distance.values() for bounds in its})
        cells = []
        for pattern, its in by_distance.items():
            seeds = len({row["seed"] for row in rows if row["pattern"] == pattern})
            cells.append([pattern, seeds, f"{whole[pattern]:.1f}", *(f"{its[bounds]:.1f}" if bounds in its else "-" for bounds in ranges)])
        return table(cells, ["% answered", "seeds", "all", *(f"{first:,} to {last:,}" for first, last in ranges)])


class Steps(Experiment):
    """Whole training steps beside compiled PyTorch, in one call on one GPU."""
    title = "Training steps against compiled PyTorch"
    step_names = ("bench",)

    def problem(self, context, _step):
        return None if context.scale_name == "smoke" or has_pytorch() else "needs PyTorch and a GPU"

    def steps(self, context, folder):
        if context.scale_name == "smoke":  # PyTorch's part needs a GPU
            config = folder / "config.json"
            folder.mkdir(parents=True, exist_ok=True)
            write_json(config, {"model": {**context.scale.model, "sequence_length": 128, "vocab_size": 300},
                                "train": {"batch_size": 2, "micro_batch_size": 2}})
            return [("bench", [context.program("bench"), "step", config, "--device", "cpu", "--repeats", 1, "--csv", folder / "step.csv"], 1)]
        return [("bench", [sys.executable, SCRIPTS / "bench_step_peers.py", "--bench", context.program("bench"), "--csv", folder / "step.csv"], 200)]

    def report(self, folder):
        rows, lines = read_csv(folder / "step.csv"), {}
        for row in rows:
            lines.setdefault(f"{row['system']}, {row['pattern']}", []).append((int(row["T"]), float(row["tokens_per_s"]) / 1e3))
        return line_plot(lines, "Training throughput", "sequence length", "thousand tokens/s", 2, 10) + table(
            [[r["system"], r["pattern"], r["precision"], r["T"], f"{float(r['tokens_per_s']):,.0f}", f"{float(r['peak_memory_gb']):.1f}"] for r in rows],
            ["system", "pattern", "precision", "T", "tokens/s", "memory GB"])


EXPERIMENTS = {
    "runtime": Runtime(),
    "quality_8k": Quality("8k", ["dense", "near_far", "hash16", "balanced16", "drop50", "hash8", "hash32", "reformer16", "drop30", "drop70"],
                          ["dense_separate", "near_far_separate", "balanced8", "balanced32"]),
    "quality_16k": Quality("16k", ["dense", "near_far", "hash16", "balanced16", "drop70", "hash8", "hash32"],
                           ["dense_separate", "near_far_separate", "near_dense", "window", "balanced8", "balanced32", "drop30", "drop50"]),
    "trained_buckets": TrainedBuckets(),
    "quality_32k": Quality("32k", ["dense", "near_far"], ["balanced16", "window", "near_dense"]),
    "quality_64k": Quality("64k", ["window", "near_far"], ["balanced16", "near_dense"]),
    "mixtures_8k": Quality("8k", ["dense", "near_far", "window", "near_dense"],
                           ["layers16", "union16", "rounds32", "bias16", "ends16", "window_separate", "hash16_separate", "dense_noself",
                            "near_far_noself", "near_blocks", "near_far_late20", "near_far_warm20", "near_far_probes2", "near_far_probes2_warm20",
                            "near_dense_separate", "near_far_separate_probes2_warm50"],
                           title="Mixtures, rounds, and a dense end, 8k", home="quality_8k"),
    "recall": Recall(),
    "bytes_8k": Bytes("8k", ["dense", "near_far"], ["hash16", "balanced16"], title="Bytes (enwik8), 8k"),
    "steps": Steps(),
}
