"""What compare.py is to train: the words of its command line, and the plan in OUT/compare.json."""
import hashlib
import json
import os
import pathlib
import re
import subprocess
import sys

from compare_report import describe_pattern

RESERVED = {"name", "runs", "seed", "data.directory", "train.steps"}
BUDGETS = ("tokens", "seconds")


def fail(message):
    sys.exit(f"compare.py: {message}")


def parse_count(text):
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([kMG]?)", text)
    count = float(match[1]) * {"": 1, "k": 1e3, "M": 1e6, "G": 1e9}[match[2]] if match else 0
    if count < 1:
        fail(f"--tokens: must be a number like 50000000, 500k, 50M or 1.5G, not {text}")
    return round(count)


def parse_seeds(text):
    seeds = text.split(",")
    if not all(re.fullmatch(r"\d+", seed) for seed in seeds) or len(set(map(int, seeds))) < len(seeds):
        fail(f"--seeds: must be different whole numbers like 1,2, not {text}")
    return [int(seed) for seed in seeds]


def parse_setting(text, where):
    key, equals, value = text.partition("=")
    if not equals or not re.fullmatch(r"\w+(\.\w+)*", key):
        fail(f"{where}: must be KEY=VALUE, as in train.batch_size=16, not {text}")
    if key in RESERVED:
        fail(f"{where}: {key} is set by compare.py; leave it out")
    return [key, value]


def parse_config(text):
    """NAME=FILE[,key=value,...] -> (NAME, {"file", "overrides"}). A comma within a value stays in it."""
    name, equals, rest = text.partition("=")
    if not equals or not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", name):
        fail(f"{text}: must be NAME=CONFIG[,key=value,...], as in hash=configs/hash_8k.json,attention.buckets=32")
    file, *settings = re.split(r",(?=\w+(?:\.\w+)*=)", rest)
    return name, {"file": file, "overrides": [parse_setting(s, name) for s in settings]}


def read_json_with_comments(file):
    text = pathlib.Path(file).read_text(encoding="utf-8")
    strings_or_comments = r'("(?:[^"\\]|\\.)*")|//[^\n]*|/\*.*?\*/'
    return json.loads(re.sub(strings_or_comments, lambda m: m[1] or " ", text, flags=re.DOTALL))


def with_key(attention, key, value):
    """The attention of a config with a key set in all its patterns, as ./train does it."""
    if isinstance(attention, list):
        return [with_key(layer, key, value) for layer in attention]
    if "mixture" in attention:
        return {"mixture": with_key(attention["mixture"], key, value)}
    if "schedule" in attention:
        return {"schedule": [{**stage, "attention": with_key(stage["attention"], key, value)}
                             for stage in attention["schedule"]]}
    return {**attention, key: value}


def pattern_of(attention, given):
    """The attention of a config in words, or "" if ./train will refuse it."""
    try:
        for key, value in given.items():
            first, _, rest = key.partition(".")
            if first == "attention":
                value = json.loads(value) if re.match(r"[\[{\d]", value) else value
                attention = with_key(attention, rest, value) if rest else value
        return describe_pattern(attention)
    except (AttributeError, KeyError, TypeError, ValueError):
        return ""


def describe_config(name, entry, common):
    """Adds what follows from the config and its overrides; other keys are left to ./train."""
    try:
        config = read_json_with_comments(entry["file"])
    except OSError as error:
        fail(f"{name}: {entry['file']}: {error.strerror}")
    except ValueError as error:
        fail(f"{name}: {entry['file']}: is not JSON: {error}")
    given, numbers = dict(map(tuple, [*common, *entry["overrides"]])), []
    for section, key, default in (("train", "batch_size", 8), ("model", "sequence_length", 1024)):
        value = given.get(f"{section}.{key}", config.get(section, {}).get(key, default))
        if not re.fullmatch(r"[1-9]\d*", str(value)):
            fail(f"{name}: {section}.{key}: must be a whole number of at least 1, not {value}")
        numbers.append(int(value))
    entry["tokens_per_step"], entry["sequence_length"] = numbers[0] * numbers[1], numbers[1]
    entry["pattern"] = pattern_of(config.get("attention", {}), given)


def shards_of(data):
    """The checksums of a prepared set, or None where it is not one; ./train says what is wrong."""
    try:
        manifest = json.loads((data / "manifest.json").read_text(encoding="utf-8"))
        return [shard["xxh3"] for split in ("train", "val") for shard in manifest["splits"][split]["shards"]]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def make_plan(args):
    """What the runs are. It stays as it is in OUT/compare.json; configs and seeds may be added."""
    configs = [parse_config(text) for text in args.configs]
    plan = {"data": str(args.data), "shards": shards_of(args.data), "tokens": args.tokens and parse_count(args.tokens), "seconds": args.seconds,
            "set": [parse_setting(s, "--set") for s in args.set], "seeds": parse_seeds(args.seeds), "configs": {}}
    for name, entry in configs:
        if name in plan["configs"]:
            fail(f"{name}: is given twice; give each config a name of its own")
        describe_config(name, entry, plan["set"])
        entry["sha256"] = hashlib.sha256(pathlib.Path(entry["file"]).read_bytes()).hexdigest()
        plan["configs"][name] = entry
        if plan["tokens"] and plan["tokens"] < entry["tokens_per_step"]:
            fail(f"--tokens: {plan['tokens']} is less than the {entry['tokens_per_step']} tokens of one step of {name}")
    return plan


def choose_baseline(plan, wanted):
    """The name, or what names begin with."""
    names = list(plan["configs"])
    baseline = wanted or ("dense" if any(name.startswith("dense") for name in names) else names[0])
    if not any(name.startswith(baseline) for name in names):
        fail(f"--baseline: no config has a name that starts with {baseline}: {', '.join(names)}")
    return baseline


def baseline_of(names, baseline):
    """Of the configs of one sequence length, the one with that name, or the first whose name starts with it."""
    return baseline if baseline in names else next((name for name in names if name.startswith(baseline)), None)


def read_plan(file):
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        fail(f"{file}: {error.strerror}; --out names the folder of an earlier comparison")
    except ValueError as error:
        fail(f"{file}: is not JSON: {error}")


def join_plans(plan, earlier, file, reported=()):
    """The plan with the configs, seeds and speeds of the earlier one. What has runs must not be contradicted. reported: (config, seed)
    of the runs in quality.csv, whose folders may be gone."""
    other, runs = "; use another --out, give the same, or remove its runs and its rows of quality.csv", file.parent / "runs"
    named = {config for config, _ in reported}
    earlier["configs"] = {name: entry for name, entry in earlier["configs"].items()
                          if any(runs.glob(f"{name}-s*")) or any(name + suffix in named for suffix in ("", "-tokens", "-seconds"))}
    if not earlier["configs"]:
        return plan
    same_data = plan["shards"] and plan["shards"] == earlier.get("shards")  # at another place
    for key in ("data", "tokens", "seconds", "set"):
        if plan[key] != earlier[key] and not (key == "data" and same_data):
            fail(f"{file}: was made with {key} {earlier[key]}, not {plan[key]}{other}")
    for name, entry in plan["configs"].items():
        known = earlier["configs"].get(name, entry)
        for key in ("overrides", "sha256", "tokens_per_step"):
            if entry[key] != known[key]:
                what = f"another text of {known['file']}" if key == "sha256" else f"{key} {known[key]}, not {entry[key]}"
                fail(f"{file}: {name} was made with {what}{other}")
        plan["configs"][name] = {**known, **entry}
    plan["configs"] = {**earlier["configs"], **plan["configs"]}
    plan["seeds"] = list(dict.fromkeys(earlier["seeds"] + plan["seeds"]))
    return plan


def suffix_of(plan, budget):
    return f"-{budget}" if plan["tokens"] and plan["seconds"] else ""


def jobs_of(plan):
    """(budget, config, seed, name of the run), in the order in which they are made: seed by seed, all configs of each."""
    return [(budget, config, seed, f"{config}-s{seed}{suffix_of(plan, budget)}")
            for budget in BUDGETS if plan[budget] for seed in plan["seeds"] for config in plan["configs"]]


def steps_of(plan, budget, config):
    """None until the speed is known."""
    entry = plan["configs"][config]
    if budget == "tokens":
        return max(1, round(plan["tokens"] / entry["tokens_per_step"]))
    return max(1, round(plan["seconds"] / entry["timing"]["seconds_per_step"])) if "timing" in entry else None


def longest_first(plan, jobs, steps_left):
    """The jobs by expected seconds. Without speeds dense patterns and long sequences come first."""
    entries = plan["configs"]
    if all("timing" in entries[config] for _, config, *_ in jobs):
        return sorted(jobs, key=lambda job: -steps_left(job) * entries[job[1]]["timing"]["seconds_per_step"])

    def length(job):  # an entry of an earlier version may have neither
        entry = entries[job[1]]
        dense = re.search(r"\bdense\b(?! window)", entry.get("pattern", ""))
        return bool(dense), entry.get("sequence_length", 0)
    return sorted(jobs, key=length, reverse=True)


LAUNCHERS = ("mpirun", "mpiexec", "srun", "torchrun")


def refuse_launcher(train, gpus):
    """A run of several ranks would have them all on the one GPU that --gpus gives it."""
    if gpus and pathlib.Path(train[0]).name in LAUNCHERS:
        fail(f"--gpus: gives each run one GPU, and --train {train[0]} starts a run on several: leave --gpus out")


def parse_gpus(text, visible, present):
    """--gpus as values of CUDA_VISIBLE_DEVICES, one for each run at a time; a GPU that is named several times makes as many runs at once.
    visible: the value of CUDA_VISIBLE_DEVICES, or None; present: number of GPUs, None if not known."""
    if not re.fullmatch(r"[1-9]\d{0,3}|\d{1,4}(,\d{1,4})+", text):
        fail(f"--gpus: must be how many, as in 4, or which, as in 0,2,3, not {text}")
    numbers = [int(number) for number in text.split(",")] if "," in text else list(range(int(text)))
    if visible in ("", "-1"):  # GPUs are hidden on purpose
        return [visible] * len(numbers)
    names = visible.split(",") if visible else [str(i) for i in range(present or max(numbers) + 1)]
    for number in numbers:
        if number >= len(names):
            reason = f"CUDA_VISIBLE_DEVICES is {visible}" if visible else f"nvidia-smi -L lists {present}"
            fail(f"--gpus: there is no GPU {number}, counted from 0: {reason}")
    return [names[number] for number in numbers]


def gpus_present():
    """None: not known, or none."""
    try:
        done = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False)
    except OSError:
        return None
    return sum(line.startswith("GPU ") for line in done.stdout.splitlines()) or None


def gpus_of(text):
    """--gpus as values of CUDA_VISIBLE_DEVICES, on this machine; [None], which leaves the environment as it is, where it is not given."""
    return parse_gpus(text, os.environ.get("CUDA_VISIBLE_DEVICES"), gpus_present()) if text else [None]
