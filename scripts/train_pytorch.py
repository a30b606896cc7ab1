#!/usr/bin/env python3
"""Trains the model of one of our configs with PyTorch, on the same batches in the same order, to compare with ./train.

  scripts/train_pytorch.py --config configs/gpt2_124m.json --data.directory data/mine --train.steps 500 --name torch

Plain PyTorch on one GPU: dense attention (F.scaled_dot_product_attention), bf16 autocast with f32 weights, fused AdamW.
Takes the config's keys for data, model, train, optimizer, schedule, eval and log; initial values are drawn from the same
distributions with PyTorch's own generator. Writes runs/NAME/metrics.jsonl as ./train does. --compile uses torch.compile,
--cudnn cuDNN's attention, which is the fastest on an H100 or H200.
"""
import json
import math
import re
import sys
import time
from pathlib import Path

MASK32 = 0xFFFFFFFF


# ---- random numbers and data order, as src/core/rng.h and src/data/loader.cpp have them ---------------------------------
def philox(key, counter):
    k0, k1 = key & MASK32, key >> 32 & MASK32
    c = list(counter)
    for _ in range(10):
        p0, p1 = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [p1 >> 32 ^ c[1] ^ k0, p1 & MASK32, p0 >> 32 ^ c[3] ^ k1, p0 & MASK32]
        k0, k1 = k0 + 0x9E3779B9 & MASK32, k1 + 0xBB67AE85 & MASK32
    return c


def data_random(seed, step, layer, sample, index):
    purpose = 5
    return philox(seed, [index, layer << 16, step, purpose << 24 | sample & 0xFFFFFF])


def permute(seed, epoch, count, index):
    half = max(1, ((count - 1).bit_length() + 1) // 2)
    mask, value = (1 << half) - 1, index
    while True:
        left, right = value >> half, value & mask
        for i in range(6):
            left, right = right, left ^ (data_random(seed, epoch, 1 + i, 0, right)[0] & mask)
        value = left << half | right
        if value < count:
            return value


def sample_offset(order, seed, length, rows, tokens, step, g):
    """First token of row g of a step of `rows` rows."""
    if order == "random":
        r = data_random(seed, step, 0, g, 0)
        return (r[0] << 32 | r[1]) * (tokens - length) >> 64
    windows = (tokens - 1) // length
    index = step * rows + g
    return permute(seed, index // windows, windows, index % windows) * length


# ---- config -------------------------------------------------------------------------------------------------------------
DEFAULTS = {
    "name": "pytorch", "runs": "runs", "seed": 1337,
    "data": {"order": "epoch"},
    "model": {"n_layer": 12, "n_head": 12, "n_embd": 768, "sequence_length": 1024, "vocab_padding": 128, "bias": True,
              "gelu": "tanh", "positions": "learned", "tied_embedding": True, "shared_qk": False, "norm_eps": 1e-5},
    "attention": {"pattern": "dense"},
    "train": {"steps": 1000, "batch_size": 8, "micro_batch_size": 8},
    "optimizer": {"beta1": 0.9, "beta2": 0.95, "eps": 1e-8, "weight_decay": 0.1, "decay_embeddings": False, "clip": 0},
    "schedule": {"schedule": "onecycle", "lr": 1e-3, "warmup": 0.02, "initial_ratio": 0.01, "final_ratio": 0.2,
                 "decay": 0.2},
    "eval": {"every": 100, "windows": 24}, "checkpoint": {}, "log": {"every": 10},
}


def make_optimizer(torch, model, settings):
    """AdamW with ./train's groups: matrices decay, embeddings if asked for; the learning rate is 0 so far."""
    embeddings = () if settings["decay_embeddings"] else ("wte.weight", "wpe.weight")
    decayed = [p for name, p in model.named_parameters() if p.dim() == 2 and name not in embeddings]
    others = [p for p in model.parameters() if not any(p is q for q in decayed)]
    groups = [{"params": decayed, "weight_decay": settings["weight_decay"]}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=0.0, betas=(settings["beta1"], settings["beta2"]), eps=settings["eps"], fused=True)


def choose_cudnn_attention(torch):
    for other in (torch.backends.cuda.enable_flash_sdp, torch.backends.cuda.enable_mem_efficient_sdp,
                  torch.backends.cuda.enable_math_sdp):
        other(False)


def parse_value(text):
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def read_config(words):
    config, flags = json.loads(json.dumps(DEFAULTS)), {"compile": False, "cudnn": False}
    if "--config" not in words:
        sys.exit(__doc__)
    path = Path(words[words.index("--config") + 1])
    text = re.sub(r"^\s*//.*$", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    for key, value in json.loads(text).items():
        config[key] = {**config.get(key, {}), **value} if isinstance(value, dict) else value
    i = 0
    while i < len(words):
        word = words[i].removeprefix("--")
        if word in flags:
            flags[word] = True
            i += 1
            continue
        if word != "config":
            *section, key = word.split(".")
            target = config[section[0]] if section else config
            target[key] = parse_value(words[i + 1])
        i += 2
    attention = config["attention"]
    if not isinstance(attention, dict) or {"mixture", "schedule"} & set(attention) or attention.get("pattern", "dense") != "dense":
        sys.exit("train_pytorch.py: attention.pattern must be dense, in all layers and heads and throughout")
    if attention.get("window", 0) or attention.get("attend_self") is False:
        sys.exit("train_pytorch.py: attention.window must be 0 and attention.attend_self not false")
    if config["model"]["positions"] != "learned" or config["model"]["shared_qk"]:
        sys.exit("train_pytorch.py: model.positions must be learned and model.shared_qk false")
    if config["model"].get("n_kv_head", 0) not in (0, config["model"]["n_head"]):
        sys.exit("train_pytorch.py: model.n_kv_head must be 0 or model.n_head")
    if config["model"].get("documents"):
        sys.exit("train_pytorch.py: model.documents must be false")
    return config, flags


def learning_rate(s, step, steps):
    def cosine(start, end, progress):
        return end + (start - end) / 2 * (1 + math.cos(math.pi * min(max(progress, 0.0), 1.0)))

    kind, lr = s["schedule"], s["lr"]
    if kind == "onecycle":
        peak, last = s["warmup"] * steps - 1, steps - 1
        if step <= peak and peak > 0:
            return lr * cosine(s["initial_ratio"], 1, step / peak)
        start = max(peak, 0.0)
        return lr * cosine(1, s["final_ratio"], (step - start) / (last - start) if last > start else 1)
    warmup = math.floor(s["warmup"] * steps)
    if step < warmup:
        return lr * (step + 1) / warmup
    progress = (step - warmup) / (steps - 1 - warmup) if steps - 1 > warmup else 1
    if kind == "cosine":
        return lr * cosine(1, s["final_ratio"], progress)
    if kind == "linear":
        return lr * (1 + (s["final_ratio"] - 1) * progress)
    if kind == "constant":
        return lr
    sys.exit(f"train_pytorch.py: schedule {kind} is not supported")


# ---- everything that needs numpy and torch --------------------------------------------------------------------------------
class Tokens:
    """One split of a prepared set as one sequence: shards of a 64-byte header and little-endian tokens."""

    def __init__(self, np, folder, split):
        manifest = json.loads((Path(folder) / "manifest.json").read_text(encoding="utf-8"))
        self.vocab_size = manifest["vocab_size"]
        shards = manifest["splits"][split]["shards"]
        self.data = np.concatenate([np.fromfile(Path(folder) / s["file"], dtype=manifest["dtype"], offset=64) for s in shards])

    def rows(self, np, offsets, length):
        rows = np.stack([self.data[o : o + length + 1] for o in offsets]).astype(np.int64)
        return rows[:, :-1], rows[:, 1:]


def make_model(torch, m, vocab):
    nn, F = torch.nn, torch.nn.functional
    C, H, padded = m["n_embd"], m["n_head"], -(-vocab // m["vocab_padding"]) * m["vocab_padding"]

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.ln_1, self.ln_2 = (nn.LayerNorm(C, m["norm_eps"], bias=m["bias"]) for _ in range(2))
            self.c_attn, self.c_proj = nn.Linear(C, 3 * C, m["bias"]), nn.Linear(C, C, m["bias"])
            self.c_fc, self.mlp_proj = nn.Linear(C, 4 * C, m["bias"]), nn.Linear(4 * C, C, m["bias"])

        def forward(self, x):
            B, T, _ = x.shape
            q, k, v = self.c_attn(self.ln_1(x)).view(B, T, 3, H, C // H).permute(2, 0, 3, 1, 4)
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
            x = x + self.c_proj(y.transpose(1, 2).reshape(B, T, C))
            h = F.gelu(self.c_fc(self.ln_2(x)), approximate="none" if m["gelu"] == "erf" else "tanh")
            return x + self.mlp_proj(h)

    class Gpt(nn.Module):
        def __init__(self):
            super().__init__()
            self.wte, self.wpe = nn.Embedding(padded, C), nn.Embedding(m["sequence_length"], C)
            self.blocks = nn.ModuleList(Block() for _ in range(m["n_layer"]))
            self.ln_f = nn.LayerNorm(C, m["norm_eps"], bias=m["bias"])
            self.head = nn.Linear(C, padded, bias=False)
            for name, p in self.named_parameters():
                if p.dim() == 2:
                    residual = name.endswith(("c_proj.weight", "mlp_proj.weight"))
                    nn.init.normal_(p, 0.0, 0.02 / math.sqrt(2 * m["n_layer"]) if residual else 0.02)
                elif name.endswith("bias"):
                    nn.init.zeros_(p)
            if m["tied_embedding"]:
                self.head.weight = self.wte.weight

        def forward(self, ids, targets):
            x = self.wte(ids) + self.wpe.weight[: ids.shape[1]]
            for block in self.blocks:
                x = block(x)
            logits = self.head(self.ln_f(x)).float()[..., :vocab]  # padding is never predicted
            return F.cross_entropy(logits.reshape(-1, vocab), targets.reshape(-1))

    return Gpt()


def main():
    config, flags = read_config(sys.argv[1:])
    try:
        import numpy as np
        import torch
    except ImportError as error:
        sys.exit(f"train_pytorch.py: needs numpy and PyTorch: {error}")
    if not torch.cuda.is_available():
        sys.exit("train_pytorch.py: needs a CUDA GPU")
    m, t, o = config["model"], config["train"], config["optimizer"]
    T, steps, rows, micro = m["sequence_length"], t["steps"], t["batch_size"], t["micro_batch_size"]
    train, val = (Tokens(np, config["data"]["directory"], split) for split in ("train", "val"))
    torch.manual_seed(config["seed"])
    torch.set_float32_matmul_precision("high")
    model = make_model(torch, m, train.vocab_size).cuda()
    optimizer = make_optimizer(torch, model, o)
    run = torch.compile(model) if flags["compile"] else model
    folder = Path(config["runs"]) / config["name"]
    folder.mkdir(parents=True, exist_ok=True)
    metrics = open(folder / "metrics.jsonl", "w", encoding="utf-8")

    def write(**record):
        metrics.write(json.dumps(record) + "\n")
        metrics.flush()

    write(type="header", version=f"torch {torch.__version__}", machine={"gpu": {"name": torch.cuda.get_device_name()}},
          parameters=sum(p.numel() for p in model.parameters()), config=config)

    def batch(tokens, offsets):
        ids, targets = tokens.rows(np, offsets, T)
        return (torch.from_numpy(x).pin_memory().cuda(non_blocking=True) for x in (ids, targets))

    def evaluate(step):
        available = (len(val.data) - 1) // T
        windows = min(config["eval"]["windows"], available)
        offsets = [i * available // windows * T for i in range(windows)]
        total = 0.0
        with torch.no_grad(), torch.autocast("cuda", torch.bfloat16):
            for i in range(0, windows, micro):
                part = offsets[i : i + micro]
                total += model(*batch(val, part)).item() * len(part)
        write(type="eval", step=step, loss=total / windows, perplexity=math.exp(total / windows), tokens=windows * T)
        print(f"step {step}/{steps}  validation loss {total / windows:.4f}", flush=True)

    if flags["cudnn"]:
        choose_cudnn_attention(torch)
    for step in range(steps):
        if config["eval"]["every"] and step % config["eval"]["every"] == 0:
            evaluate(step)
        torch.cuda.synchronize()
        began = time.time()
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(config["schedule"], step, steps)
        optimizer.zero_grad(set_to_none=True)
        loss_sum = torch.zeros((), device="cuda")
        for begin in range(0, rows, micro):
            offsets = [sample_offset(config["data"]["order"], config["seed"], T, rows, len(train.data), step, g)
                       for g in range(begin, begin + micro)]
            ids, targets = batch(train, offsets)
            with torch.autocast("cuda", torch.bfloat16):
                loss = run(ids, targets) * (micro / rows)
            loss.backward()
            loss_sum += loss.detach()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), o["clip"] if o["clip"] > 0 else math.inf)
        optimizer.step()
        loss = loss_sum.item()
        seconds = time.time() - began
        write(type="step", step=step + 1, loss=loss, lr=optimizer.param_groups[0]["lr"], grad_norm=norm.item(),
              tokens=(step + 1) * rows * T, seconds=seconds, tokens_per_s=rows * T / seconds,
              peak_memory_bytes=torch.cuda.max_memory_allocated())
        if (step + 1) % config["log"]["every"] == 0 or step == 0:
            print(f"step {step + 1}/{steps}  loss {loss:.4f}  {rows * T / seconds / 1e3:.0f}k tok/s", flush=True)
    evaluate(steps)


if __name__ == "__main__":
    main()
