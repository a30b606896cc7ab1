"""The attention patterns that the scripts compare, by name."""
import re


LEARNED_BUCKETS = {"pattern": "hash", "buckets": 8, "bias_rate": 0.1}


def near_far(heads, window, far):
    """The heads of configs/near_far_8k.json, where far is LEARNED_BUCKETS: five sixths see a window, the others what far lets them see."""
    others = max(1, heads - round(heads * 5 / 6))
    return {"mixture": [{"heads": heads - others, "pattern": "dense", "window": window}, {"heads": others, **far}]}


MEANINGS = {
    "dense": "all earlier tokens",
    "NAME_separate": "as NAME, with keys of their own where the others' keys are the queries (model.shared_qk)",
    "NAME_shared": "as NAME, with queries for keys where those of NAME are separate",
    "NAME_noself": "as NAME, but no token sees itself (attention.attend_self), whose key is nearest to its query where keys are the queries",
    "NAME_probesN": "as NAME, but a query that hashes sees its N best buckets (attention.probes)",
    "NAME_fixed": "as NAME, but what hashes has directions that are drawn once (attention.fixed_directions), and no learned bias",
    "NAME_roundsN": "as NAME, but what hashes does so N times with other directions (attention.rounds)",
    "NAME_lateN": "dense attention in the first N % of the steps, then NAME",
    "NAME_warmN": "near_dense in the first N % of the steps, then NAME",
    "window": "the last 128 tokens (where attention is timed by itself: 256)",
    "near_far": "10 of 12 heads see a window of 128 tokens, 2 hash into 8 buckets with fixed directions and a learned bias per bucket",
    "near_in_far": "near_far, whose heads that hash see the last 128 tokens too, in the same softmax",
    "near_dense": "10 of 12 heads see a window of 128 tokens, 2 all earlier tokens",
    "near_blocks": "10 of 12 heads see a window of 128 tokens, 2 the 3 blocks of 512 tokens that suit a query best",
    "hashN": "N buckets by random directions, drawn anew in every step, as in the paper",
    "balancedN": "the same with scores standardised by those of earlier tokens (attention.balance prefix), so that buckets are more even",
    "biasN": "N buckets with fixed directions and a learned bias per bucket",
    "unionN": "balancedN, and the last 256 tokens in the same softmax",
    "roundsN": "balancedN in two independent rounds",
    "endsN": "hashN, and dense attention in the last tenth of the steps",
    "layersN": "balancedN in every fourth layer, the last one included, a window in the others",
    "dropN": "N % of queries and of keys dropped at random in each layer, as in the paper",
    "reformerN": "its own and the previous chunk of the tokens sorted by bucket; what a token sees depends on later tokens",
    "blocks": "the 3 blocks of 512 tokens that suit a query best, its own among them",
    "mixture": "4 of 12 heads see a window of 256 tokens, the others hash into 16 buckets",
}


def with_keys(attention, keys, of=None):
    """The attention with some keys in every pattern, or in those whose "pattern" is `of`."""
    if isinstance(attention, list):
        return [with_keys(layer, keys, of) for layer in attention]
    if "mixture" in attention:
        return {"mixture": [with_keys(entry, keys, of) for entry in attention["mixture"]]}
    if "schedule" in attention:
        return {"schedule": [{**stage, "attention": with_keys(stage["attention"], keys, of)} for stage in attention["schedule"]]}
    return {**attention, **keys} if of in (None, attention.get("pattern")) else attention


def attention_of(name, heads, window=128, block=512, layers=12):
    """The attention of a config, or None if there is no such name: a key of MEANINGS with a number for N (buckets: even, up to 64; rounds
    and probes: 2 to 4)."""
    name, suffixes = re.fullmatch(r"(.*?)((?:_shared|_separate|_noself|_fixed|_(?:probes|rounds|late|warm)\d+)*)", name).groups()
    word, digits = re.fullmatch(r"(\D*)(\d*)", name).groups() if re.fullmatch(r"\D*\d*", name) else (name, "")
    number = int(digits or 0)
    near, hashed = {"pattern": "dense", "window": window}, {"pattern": "hash", "buckets": number}
    balanced, blocks = {**hashed, "balance": "prefix"}, {"pattern": "blocks", "block": block, "top_k": 3}
    patterns = {
        ("dense", False): {"pattern": "dense"},
        ("window", False): near,
        ("near_far", False): near_far(heads, window, LEARNED_BUCKETS),
        ("near_in_far", False): near_far(heads, window, {**LEARNED_BUCKETS, "near": window}),
        ("near_dense", False): near_far(heads, window, {"pattern": "dense"}),
        ("near_blocks", False): near_far(heads, window, blocks),
        ("blocks", False): blocks,
        ("mixture", False): {"mixture": [{"heads": heads // 3, "pattern": "dense", "window": 2 * window},
                                         {"heads": heads - heads // 3, "pattern": "hash", "buckets": 16}]},
        ("reformer", False): {"pattern": "reformer", "buckets": 16},
        ("reformer", True): {"pattern": "reformer", "buckets": number},
        ("hash", True): hashed,
        ("balanced", True): balanced,
        ("bias", True): {**hashed, "bias_rate": 0.1},
        ("union", True): {**balanced, "near": 2 * window},
        ("rounds", True): {**balanced, "rounds": 2},
        ("ends", True): {"schedule": [{"from": 0, "attention": hashed}, {"from": 0.9, "attention": {"pattern": "dense"}}]},
        ("layers", True): [balanced if (layers - 1 - layer) % 4 == 0 else near for layer in range(layers)],
        ("drop", True): {"pattern": "drop", "drop_rate": number / 100},
    }
    found = patterns.get((word, bool(digits)))
    beginning = re.search(r"_(late|warm)(\d+)", suffixes)
    counts = {key: int(value) for key, value in re.findall(r"_(probes|rounds)(\d+)", suffixes)}
    percents, buckets = range(1, 100), range(2, 65, 2)
    if found is None or (digits and number not in (percents if word == "drop" else buckets)) or not set(counts.values()) <= {2, 3, 4}:
        return None
    if word == "reformer" and "_separate" in suffixes:  # it needs model.shared_qk
        return None
    if "_noself" in suffixes:
        found = with_keys(found, {"attend_self": False})
    for key, value in counts.items():
        before, found = found, with_keys(found, {key: value}, of="hash")
        if found == before:  # it would be the same as without
            return None
    if "_fixed" in suffixes:
        before, found = found, with_keys(found, {"bias_rate": 0, "fixed_directions": True}, of="hash")
        found = with_keys(found, {"fixed_directions": True}, of="reformer")
        if found == before:
            return None
    if beginning:
        percent = int(beginning.group(2))
        if percent not in percents or "schedule" in found:
            return None
        first = patterns["dense" if beginning.group(1) == "late" else "near_dense", False]
        found = {"schedule": [{"from": 0, "attention": first}, {"from": percent / 100, "attention": found}]}
    return found


def shares_keys(name):
    """Whether keys are the queries: as in the paper's hashing and in Reformer, unless the name says otherwise."""
    if "_separate" in name:
        return False
    shared = ("hash", "balanced", "bias", "union", "rounds", "ends", "layers", "near_far", "near_in_far", "near_dense", "mixture", "reformer")
    return "_shared" in name or name.startswith(shared)
