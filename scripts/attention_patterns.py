"""The attention patterns that the scripts compare, by name."""
import re


def near_far(heads, window):
    """The heads of configs/near_far_8k.json: five sixths see a window, the others hash."""
    far = max(1, heads - round(heads * 5 / 6))
    return [{"heads": heads - far, "pattern": "dense", "window": window},
            {"heads": far, "pattern": "hash", "buckets": 8, "bias_rate": 0.1}]


def attention_of(name, heads, window=128, block=512):
    """The attention of a config: dense, window, near_far, blocks, reformer; hashN, balancedN and reformerN have N buckets, dropN
    leaves out N %. None if there is no such name."""
    word, digits = re.fullmatch(r"(\D*)(\d*)", name).groups() if re.fullmatch(r"\D*\d*", name) else (name, "")
    number = int(digits or 0)
    patterns = {
        ("dense", False): {"pattern": "dense"},
        ("window", False): {"pattern": "dense", "window": window},
        ("near_far", False): {"mixture": near_far(heads, window)},
        ("blocks", False): {"pattern": "blocks", "block": block, "top_k": 3},
        ("reformer", False): {"pattern": "reformer", "buckets": 16},
        ("reformer", True): {"pattern": "reformer", "buckets": number},
        ("hash", True): {"pattern": "hash", "buckets": number},
        ("balanced", True): {"pattern": "hash", "buckets": number, "balance": "prefix"},
        ("drop", True): {"pattern": "drop", "drop_rate": number / 100},
    }
    return patterns.get((word, bool(digits)))


def shares_keys(name):
    """Whether keys are the queries, as the hash of the paper and Reformer have them."""
    return name.startswith(("hash", "balanced", "near_far", "reformer"))
