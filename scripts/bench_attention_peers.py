#!/usr/bin/env python3
"""Times PyTorch's causal attention on this GPU, in the columns of ./bench attention --csv, to compare with ours.

  scripts/bench_attention_peers.py --csv peers.csv
  scripts/bench_attention_peers.py --lengths 8192,16384 --batch 16 --heads 12 --head-dim 64 --append attention.csv
  git clone https://github.com/epfml/dynamic-sparse-flash-attention paper
  scripts/bench_attention_peers.py --paper paper --systems pytorch_cudnn,paper_hash,paper_drop --csv paper_code.csv

Systems: pytorch_flash and pytorch_cudnn are F.scaled_dot_product_attention with that backend, dense; flex_hash is
FlexAttention over rows that already lie sorted by bucket: its forward and backward are the kernels alone, and building
the block mask is in prepare_ms. flex_window is FlexAttention where a token sees the last 256 tokens, itself included. paper_hash and
paper_drop are the paper's own Triton kernels, with random buckets or drops, sorting, gathering and scattering included (in forward_ms and
backward_ms); --paper says where its repository is. Inputs are random, bf16, larger than the L2 cache, which is overwritten between runs;
times are medians by CUDA events after a warm-up. A case that fails is named on the console and left out.
"""
import argparse
import importlib.util
import json
import os
import pathlib
import statistics
import sys
import tempfile

WINDOW = 256  # as ./bench attention has it
COLUMNS = ("system,pattern,T,batch_heads,head_dim,buckets,drop,prepare_ms,forward_ms,backward_ms,total_ms,low_ms,high_ms,share_of_pairs,"
           "bucket_pairs_seen,inputs,gpu")


NOTEBOOK = "runtime-experiments/timeperf-hash-and-qk-sparse.ipynb"


def paper_module(paper):
    """The functions that the paper's notebook defines. Triton reads their source, so they have to be in a file."""
    path = pathlib.Path(paper, NOTEBOOK)
    try:
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    except (OSError, ValueError, KeyError) as error:
        sys.exit(f"bench_attention_peers.py: --paper: {path}: {error.strerror if isinstance(error, OSError) else 'is no notebook'}; "
                 "git clone https://github.com/epfml/dynamic-sparse-flash-attention has it")
    sources = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    sources = [source for source in sources if "@triton.jit" in source or "def dynamic_sparse_attention" in source]
    folder = tempfile.TemporaryDirectory()
    file = pathlib.Path(folder.name, "paper_attention.py")
    file.write_text("\n\n".join(["import math\nimport torch\nimport triton\nimport triton.language as tl", *sources]), encoding="utf-8")
    spec = importlib.util.spec_from_file_location("paper_attention", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.folder = folder  # removed with it
    return module


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lengths", default="8192,16384,32768", help="sequence lengths (default %(default)s)")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--heads", type=int, default=12)
    parser.add_argument("--head-dim", type=int, default=64)
    parser.add_argument("--systems", default="pytorch_flash,pytorch_cudnn,flex_hash,flex_window", help="default: %(default)s")
    parser.add_argument("--buckets", default="8,16", help="of flex_hash and paper_hash (default %(default)s)")
    parser.add_argument("--drop-rate", default="0.5,0.7", help="of paper_drop (default %(default)s)")
    parser.add_argument("--paper", metavar="DIR", help="the paper's repository, for paper_hash and paper_drop")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--csv", help="write the table here")
    parser.add_argument("--append", help="add the rows to this table of ./bench attention")
    args = parser.parse_args()
    try:
        import torch
        from torch.nn import functional
        from torch.nn.attention import SDPBackend, sdpa_kernel
    except ImportError as error:
        sys.exit(f"bench_attention_peers.py: needs PyTorch: {error}")
    if not torch.cuda.is_available():
        sys.exit("bench_attention_peers.py: needs a CUDA GPU")
    gpu = torch.cuda.get_device_name()
    flush = torch.empty(256 << 20, dtype=torch.uint8, device="cuda")
    heads = args.batch * args.heads
    outputs = []  # rows are written as they come: of a run that is stopped they are in --append, or in the .partial file
    if args.csv:
        outputs.append(open(args.csv + ".partial", "w", encoding="utf-8"))
        outputs[-1].write(COLUMNS + "\n")
    if args.append and not os.path.exists(args.append):
        sys.exit(f"bench_attention_peers.py: {args.append}: is not there; --csv writes a new table")
    if args.append:
        outputs.append(open(args.append, "a+", encoding="utf-8"))
        outputs[-1].seek(0)
        if outputs[-1].readline().strip() != COLUMNS:
            sys.exit(f"bench_attention_peers.py: {args.append}: must be a table of ./bench attention --csv, with the columns {COLUMNS}")

    def timed(works, inputs, repeats):
        """Medians of the milliseconds of each of `works`, which follow one another from cold caches and get what the one before
        gave, on fresh inputs each time, as ./bench attention does it: at the power limit it matters what came before. Also the
        20th, 50th and 80th percentiles of their sum, and the last result."""
        times = [[] for _ in works]
        for i in range(repeats + 1):  # the first is for warming up
            with torch.no_grad():
                for x in inputs:
                    x.normal_()
            flush.fill_(1)
            events = [torch.cuda.Event(enable_timing=True) for _ in range(len(works) + 1)]
            events[0].record()
            result = None
            for work, event in zip(works, events[1:]):
                result = work(result)
                event.record()
            torch.cuda.synchronize()
            if i > 0:
                for of_work, start, end in zip(times, events, events[1:]):
                    of_work.append(start.elapsed_time(end))
        total = sorted(sum(run) for run in zip(*times))
        return [statistics.median(x) for x in times], [total[round(share * (len(total) - 1))] for share in (0.2, 0.5, 0.8)], result

    def report(system, pattern, length, buckets, prepare, attend, drop=0.0, heads_first=True):
        try:
            shape = (args.heads, length) if heads_first else (length, args.heads)
            inputs = [torch.empty(args.batch, *shape, args.head_dim, device="cuda", dtype=torch.bfloat16,
                                  requires_grad=True) for _ in range(3)]
            prepare_ms, context = 0.0, None
            if prepare:
                (prepare_ms,), _, context = timed([lambda _: prepare()], [], 1)
            dout = torch.randn_like(inputs[0])
            works = [lambda _: attend(*inputs, context), lambda out: torch.autograd.grad(out, inputs, dout)]
            (forward_ms, backward_ms), (low, total, high), _ = timed(works, inputs, args.repeats)
        except Exception as error:  # a compiler of kernels may fail with any kind
            print(f"{system} {pattern} T={length}: {(str(error).splitlines() or [type(error).__name__])[0]}", file=sys.stderr)
            return
        total += prepare_ms
        row = (f"{system},{pattern},{length},{heads},{args.head_dim},{buckets},{drop:g},{prepare_ms:g},{forward_ms:g},"
               f"{backward_ms:g},{total:g},{prepare_ms + low:g},{prepare_ms + high:g},,,random,{gpu}\n")
        for file in outputs:
            file.write(row)
            file.flush()
        print(f"{system:14} {pattern:6} T={length:6} buckets={buckets:3} prepare {prepare_ms:8.2f}  forward {forward_ms:8.2f}  "
              f"backward {backward_ms:8.2f}  total {total:8.2f} ms", flush=True)

    def sdpa(backend):
        def attend(q, k, v, _):
            with sdpa_kernel(backend):
                return functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        return attend

    def flex(length, buckets):
        from torch.nn.attention.flex_attention import create_block_mask, flex_attention
        compiled, build = torch.compile(flex_attention), torch.compile(create_block_mask)
        # The bucket of each sorted row, of random sizes around length / buckets.
        drawn = torch.randint(buckets, (args.batch, args.heads, length), device="cuda")
        bucket = drawn.sort(dim=-1).values.to(torch.int32)

        def visible(b, h, q, k):
            return (bucket[b, h, q] == bucket[b, h, k]) & (q >= k)

        def prepare():
            return build(visible, args.batch, args.heads, length, length, device="cuda")
        return prepare, lambda q, k, v, mask: compiled(q, k, v, block_mask=mask)

    def flex_window(length):
        from torch.nn.attention.flex_attention import create_block_mask, flex_attention
        compiled, build = torch.compile(flex_attention), torch.compile(create_block_mask)

        def visible(_b, _h, q, k):
            return (q >= k) & (q - k < WINDOW)

        def prepare():
            return build(visible, None, None, length, length, device="cuda")
        return prepare, lambda q, k, v, mask: compiled(q, k, v, block_mask=mask)

    def paper(length, mode, draw):
        """As the paper's notebook times it: what draw(shape) gives decides for queries and keys of each head."""
        def attend(q, k, v, _):
            return module.dynamic_sparse_attention(q, k, v, of_queries, of_keys, sparsity_mode=mode)
        of_queries, of_keys = (draw((args.batch, length, args.heads)) for _ in range(2))
        return None, attend

    if any(system.startswith("paper_") for system in args.systems.split(",")):
        if not args.paper:
            sys.exit("bench_attention_peers.py: --systems: paper_hash and paper_drop need --paper DIR, a clone of "
                     "https://github.com/epfml/dynamic-sparse-flash-attention")
        module = paper_module(args.paper)
    dense = {"pytorch_flash": SDPBackend.FLASH_ATTENTION, "pytorch_cudnn": SDPBackend.CUDNN_ATTENTION}
    for length in (int(x) for x in args.lengths.split(",")):
        for system in args.systems.split(","):
            if system in dense:
                report(system, "dense", length, 1, None, sdpa(dense[system]))
            elif system == "flex_hash":
                for buckets in (int(x) for x in args.buckets.split(",")):
                    report(system, "hash", length, buckets, *flex(length, buckets))
            elif system == "flex_window":
                report(system, "window", length, 1, *flex_window(length))
            elif system == "paper_hash":
                for buckets in (int(x) for x in args.buckets.split(",")):
                    def draw_buckets(shape, buckets=buckets):
                        return torch.randint(buckets, shape, device="cuda", dtype=torch.int32)
                    report(system, "hash", length, buckets, *paper(length, "hash", draw_buckets), heads_first=False)
            elif system == "paper_drop":
                for rate in (float(x) for x in args.drop_rate.split(",")):
                    def draw_kept(shape, rate=rate):
                        return (torch.rand(shape, device="cuda") >= rate).float()
                    report(system, "drop", length, 1, *paper(length, "qk", draw_kept), drop=rate, heads_first=False)
            else:
                sys.exit(f"--systems: {system} is not one of {', '.join([*dense, 'flex_hash', 'flex_window', 'paper_hash', 'paper_drop'])}")
    for file in outputs:
        file.close()
    if args.csv:
        os.replace(args.csv + ".partial", args.csv)


if __name__ == "__main__":
    main()
