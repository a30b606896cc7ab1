"""The attention patterns that the scripts compare, by name."""
import re


def near_far(heads, window):
    """The heads of configs/near_far_8k.json: five sixths see a window, the others hash."""
    far = max(1, heads - round(heads * 5 / 6))
    return [{"heads": heads - far, "pattern": "dense", "window": window},
            {"heads": far, "pattern": "hash", "buckets": 8, "bias_rate": 0.1}]


def attention_of(name, heads, window=128, block=512, layers=12):
    """The attention of a config, or None if there is no such name:

    dense, window, near_far   all earlier tokens; the last `window` of them; heads of both kinds
    hashN, balancedN, biasN   N buckets, as in the paper; standardised; with fixed directions and a learned bias
    unionN, roundsN           N standardised buckets with 2 windows' width of near tokens in the same softmax; with two rounds
    endsN                     hashN, and dense attention in the last tenth of the steps
    layersN                   every fourth layer balancedN, the others a window
    dropN                     N % of queries and keys left out
    reformer, reformerN       Reformer's chunks with 16 or N buckets
    blocks                    the best 3 blocks
    """
    word, digits = re.fullmatch(r"(\D*)(\d*)", name).groups() if re.fullmatch(r"\D*\d*", name) else (name, "")
    number = int(digits or 0)
    near, hashed = {"pattern": "dense", "window": window}, {"pattern": "hash", "buckets": number}
    balanced = {**hashed, "balance": "prefix"}
    patterns = {
        ("dense", False): {"pattern": "dense"},
        ("window", False): near,
        ("near_far", False): {"mixture": near_far(heads, window)},
        ("blocks", False): {"pattern": "blocks", "block": block, "top_k": 3},
        ("reformer", False): {"pattern": "reformer", "buckets": 16},
        ("reformer", True): {"pattern": "reformer", "buckets": number},
        ("hash", True): hashed,
        ("balanced", True): balanced,
        ("bias", True): {**hashed, "bias_rate": 0.1},
        ("union", True): {**balanced, "near": 2 * window},
        ("rounds", True): {**balanced, "rounds": 2},
        ("ends", True): {"schedule": [{"from": 0, "attention": hashed}, {"from": 0.9, "attention": {"pattern": "dense"}}]},
        ("layers", True): [balanced if layer % 4 == 3 or layers == 2 and layer == 1 else near for layer in range(layers)],
        ("drop", True): {"pattern": "drop", "drop_rate": number / 100},
    }
    return patterns.get((word, bool(digits)))


def shares_keys(name):
    """Whether keys are the queries, as the hash of the paper and Reformer have them."""
    return name.startswith(("hash", "balanced", "bias", "union", "rounds", "ends", "layers", "near_far", "reformer"))
