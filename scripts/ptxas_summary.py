#!/usr/bin/env python3
"""Reads a build log written with -Xptxas=-v and prints, for each kernel and architecture, registers, shared memory and
spills. Exits with 1 if a kernel spills registers to memory or its tensor-core instructions were serialised."""
import argparse
import re
import shutil
import subprocess
import sys

ENTRY = re.compile(r"Compiling entry function '(\w+)' for '(sm_\w+)'")
PROPERTIES = re.compile(r"Function properties for (\w+)")
SPILLS = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
USED = re.compile(r"Used (\d+) registers")
SHARED = re.compile(r"(\d+) bytes smem")
# Matrix instructions run one after the other, setmaxnreg ignored, and so on; C7519 only says what the compiler added.
SERIALISED = re.compile(r"wgmma.*serializ|\(C75(?!19)\d\d\)", re.IGNORECASE)


def demangle(names):
    if not names or not shutil.which("c++filt"):
        return {name: name for name in names}
    out = subprocess.run(["c++filt"], input="\n".join(names), capture_output=True, text=True, check=True).stdout
    return dict(zip(names, out.splitlines()))


def short(name):
    """scfa::gpu::(anonymous namespace)::f<float>(float*, ...) -> f<float>"""
    name = name.replace("(anonymous namespace)::", "").removeprefix("void ")
    depth = 0
    for i, c in enumerate(name):  # cut the parameter list: the first parenthesis outside template brackets
        depth += {"<": 1, ">": -1}.get(c, 0)
        if c == "(" and depth == 0:
            name = name[:i]
            break
    return re.sub(r"\bscfa::(\w+::)*", "", name)


def parse(lines):
    rows, warnings, entry, function = {}, [], None, None
    for line in lines:
        if m := ENTRY.search(line):
            entry, function = (m[1], m[2]), m[1]
            rows[entry] = {"registers": 0, "stack": 0, "spills": 0, "shared": 0}
        elif m := PROPERTIES.search(line):
            function = m[1]
        elif (m := SPILLS.search(line)) and entry:
            # A device function that was not inlined is printed under its kernel and counts with it.
            rows[entry]["stack"] += int(m[1]) if function == entry[0] else 0
            rows[entry]["spills"] += int(m[2]) + int(m[3])
        elif (m := USED.search(line)) and entry:
            rows[entry]["registers"] = int(m[1])
            rows[entry]["shared"] = int(s[1]) if (s := SHARED.search(line)) else 0
        elif SERIALISED.search(line):
            warnings.append(line.strip())
    return rows, warnings


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("log")
    args = parser.parse_args()
    with open(args.log, encoding="utf-8", errors="replace") as log:
        rows, warnings = parse(log)
    if not rows:
        sys.exit(f"{args.log}: no kernel was compiled with -Xptxas=-v")
    names = demangle(sorted({name for name, _ in rows}))
    width = min(72, max(len(short(n)) for n in names.values()))
    print(f"{'kernel':{width}}  arch    registers  shared  stack  spilled")
    for (name, arch), row in sorted(rows.items(), key=lambda item: (short(names[item[0][0]]), item[0][1])):
        print(f"{short(names[name])[:width]:{width}}  {arch:7}  {row['registers']:8}  {row['shared']:6}"
              f"  {row['stack']:5}  {row['spills']:7}")
    spilling = sum(row["spills"] > 0 for row in rows.values())
    for line in sorted(set(warnings)):
        print(line)
    print(f"{len(rows)} kernels, {spilling} spill, {len(warnings)} warnings")
    return 1 if spilling or warnings else 0


if __name__ == "__main__":
    sys.exit(main())
