#!/usr/bin/env python3
"""Times whole training steps of scfa and of PyTorch on this GPU, one after the other, into one table.

  scripts/bench_step_peers.py --csv step.csv --precisions bf16,fp8
  scripts/bench_step_peers.py --sizes 350M,774M --lengths 8192 --tokens 32768 --append step.csv
  scripts/bench_step_peers.py --bench build/h100/bin/bench --lengths 8192 --patterns dense,near_far --csv step.csv

Systems: pytorch is the GPT-2 of scripts/train_pytorch.py with torch.compile, cuDNN's dense attention, bf16 autocast, fused
AdamW and clipping; scfa is ./bench step of the same model. Patterns of scfa: dense with separate queries and keys; hash, 16
buckets with balance prefix, near_far, the heads of configs/near_far_8k.json, near_far_probes2, the same with 2 probes, and
near_dense, where the two that hash there see all earlier tokens, all of them with shared keys. Precisions of scfa: bf16, and
if asked for fp8 (train.precision). A step is one micro-batch of --tokens random tokens from initial values, forward, backward,
clipping and AdamW; times are medians of --repeats steps after warm-up, each from the end of the step before to its own,
without waiting in between. A case that fails, of too little memory for one, is named on the console and left out.
"""
import argparse
import json
import os
import pathlib
import re
import statistics
import subprocess
import sys
import tempfile

from attention_patterns import attention_of, shares_keys

COLUMNS = "system,pattern,precision,T,micro_batch,tokens_per_step,ms_per_step,tokens_per_s,peak_memory_gb,gpu"
SIZES = {"124M": (12, 12, 768), "350M": (24, 16, 1024), "774M": (36, 20, 1280)}  # layers, heads, width
PATTERNS = {"dense": "dense", "hash": "balanced16", "near_far": "near_far", "near_dense": "near_dense",
            "near_far_probes2": "near_far_probes2"}  # names in scripts/attention_patterns.py
VOCABULARY = 50257


def config_of(size, pattern, length, sequences):
    layers, heads, width = SIZES[size]
    return {
        "name": pattern if size == "124M" else f"{pattern}_{size}",
        "model": {"n_layer": layers, "n_head": heads, "n_embd": width, "sequence_length": length, "bias": True, "gelu": "erf",
                  "shared_qk": shares_keys(pattern), "vocab_size": VOCABULARY},
        "attention": attention_of(PATTERNS[pattern], heads),
        "train": {"batch_size": sequences, "micro_batch_size": sequences},
        "optimizer": {"clip": 1.0},
    }


def warn(text):
    print(f"bench_step_peers.py: {text}", file=sys.stderr, flush=True)


def time_scfa(args, size, pattern, precision, length, sequences):
    """The rows of ./bench step."""
    with tempfile.TemporaryDirectory() as folder:
        config, table = pathlib.Path(folder, "config.json"), pathlib.Path(folder, "step.csv")
        config.write_text(json.dumps(config_of(size, pattern, length, sequences)), encoding="utf-8")
        done = subprocess.run([args.bench, "step", config, "--repeats", str(args.repeats), "--csv", table,
                               "--precision", "auto" if precision == "bf16" else precision], capture_output=True, text=True)
        if done.returncode != 0:
            warn(f"scfa, {pattern}, {precision}, {size}, {length} tokens: {done.stderr.strip()}")
            return []
        return table.read_text(encoding="utf-8").splitlines()[1:]


def time_pytorch(args, size, length, sequences):
    """The same in a process of its own, so that nothing of one case stays in memory for the next."""
    command = [sys.executable, __file__, "--pytorch-case", size, str(length), str(sequences), "--repeats", str(args.repeats)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        errors = [line for line in lines if re.match(r"(\S*Error|bench_step_peers\.py)", line)]
        warn(f"pytorch, {size}, {length} tokens: {(errors or lines)[-1][:300]}")
        return []
    return done.stdout.splitlines()[-1:]


def run_pytorch_case(size, length, sequences, repeats):
    sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
    from train_pytorch import DEFAULTS, choose_cudnn_attention, make_model, make_optimizer
    try:
        import torch
    except ImportError as error:
        sys.exit(f"bench_step_peers.py: needs PyTorch: {error}")
    if not torch.cuda.is_available():
        sys.exit("bench_step_peers.py: needs a CUDA GPU")
    config = config_of(size, "dense", length, sequences)
    choose_cudnn_attention(torch)
    torch.manual_seed(1)
    torch.set_float32_matmul_precision("high")
    model = make_model(torch, {**DEFAULTS["model"], **config["model"]}, VOCABULARY).cuda()
    optimizer = make_optimizer(torch, model, DEFAULTS["optimizer"])
    for group in optimizer.param_groups:
        group["lr"] = 1e-4
    compiled = torch.compile(model)
    ids, targets = (torch.randint(0, VOCABULARY, (sequences, length), device="cuda") for _ in range(2))
    ends, warm_ups = [], 3
    for _ in range(repeats + warm_ups):  # the first ones compile
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cuda", torch.bfloat16):
            loss = compiled(ids, targets)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        ends.append(torch.cuda.Event(enable_timing=True))
        ends[-1].record()
    torch.cuda.synchronize()
    times = [begin.elapsed_time(end) for begin, end in zip(ends[warm_ups - 1:], ends[warm_ups:])]
    seconds, tokens = statistics.median(times) / 1e3, sequences * length
    print(f"pytorch,{config['name']},bf16,{length},{sequences},{tokens},{seconds * 1e3:.4g},{tokens / seconds:.0f},"
          f"{torch.cuda.max_memory_allocated() * 1e-9:.4g},{torch.cuda.get_device_name()}")


def names_in(text, known, option):
    names = text.split(",") if text else []
    for name in names:
        if name not in known:
            sys.exit(f"bench_step_peers.py: {option}: there is no {name}; there are {', '.join(known)}")
    return names


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bench", default="./bench", help="the program (default %(default)s)")
    parser.add_argument("--lengths", default="1024,8192,16384,32768", help="sequence lengths (default %(default)s)")
    parser.add_argument("--tokens", type=int, default=65536, help="of a micro-batch (default %(default)s)")
    parser.add_argument("--sizes", default="124M", help=f"of {', '.join(SIZES)} (default %(default)s)")
    parser.add_argument("--systems", default="pytorch,scfa", help="default: %(default)s")
    parser.add_argument("--patterns", default="dense,hash,near_far", help=f"of scfa, of {', '.join(PATTERNS)} (default %(default)s)")
    parser.add_argument("--precisions", default="bf16", help="of scfa: bf16,fp8 (default %(default)s)")
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--csv", help="write the table here")
    parser.add_argument("--append", help="add the rows to this table")
    parser.add_argument("--pytorch-case", nargs=3, metavar=("SIZE", "T", "SEQUENCES"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.pytorch_case:
        size, length, sequences = args.pytorch_case
        return run_pytorch_case(size, int(length), int(sequences), args.repeats)
    sizes = names_in(args.sizes, SIZES, "--sizes")
    systems = names_in(args.systems, ["pytorch", "scfa"], "--systems")
    patterns = names_in(args.patterns, PATTERNS, "--patterns")
    precisions = names_in(args.precisions, ["bf16", "fp8"], "--precisions")
    try:
        lengths = [int(length) for length in args.lengths.split(",")]
    except ValueError:
        sys.exit(f"bench_step_peers.py: --lengths: must be whole numbers, not {args.lengths}")
    if args.repeats < 1 or args.tokens < 1 or any(length < 1 or args.tokens % length for length in lengths):
        sys.exit("bench_step_peers.py: --tokens must be a multiple of each of --lengths, and --repeats at least 1")
    if "scfa" in systems and not os.access(args.bench, os.X_OK):
        sys.exit(f"bench_step_peers.py: {args.bench}: not there; scripts/setup.sh builds it, --bench says where it is")
    outputs = []  # rows are written as they come: a run that is stopped keeps what it has
    if args.csv:
        outputs.append(open(args.csv, "w", encoding="utf-8"))
        outputs[-1].write(COLUMNS + "\n")
    if args.append:
        outputs.append(open(args.append, "a", encoding="utf-8"))
    rate_of_peer = {}
    print(f"{'system':8} {'pattern':14} {'precision':>9} {'T':>6} {'tokens/step':>11} {'ms/step':>9} {'tokens/s':>9} {'memory GB':>9}  of pytorch")
    failed = 0
    for size in sizes:
        for length in lengths:
            sequences = args.tokens // length
            cases = [("pytorch", "dense", "bf16")] if "pytorch" in systems else []
            if "scfa" in systems:
                cases += [("scfa", pattern, precision) for pattern in patterns for precision in precisions]
            for system, pattern, precision in cases:
                if system == "pytorch":
                    rows = time_pytorch(args, size, length, sequences)
                else:
                    rows = time_scfa(args, size, pattern, precision, length, sequences)
                failed += not rows
                for row in rows:
                    name, which, precision, T, _, tokens, ms, rate, memory, _ = row.split(",", 9)
                    if name == "pytorch":
                        rate_of_peer[size, length] = float(rate)
                    peer = rate_of_peer.get((size, length))
                    share = f"{float(rate) / peer:.2f} x" if peer else ""
                    print(f"{name:8} {which:14} {precision:>9} {T:>6} {tokens:>11} {float(ms):9.2f} {float(rate):9.0f} {float(memory):9.2f}  {share}",
                          flush=True)
                    for output in outputs:
                        output.write(row + "\n")
                        output.flush()
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
