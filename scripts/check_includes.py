#!/usr/bin/env python3
"""Checks that includes in src/ point one way. --self-test also checks this script itself on a small made-up tree.

  core <- kernels <- model <- train <- tools  and  core <- data, comm <- train
  - a layer includes itself and the layers below it, nothing else; paths are written from src/
  - an op in kernels/ includes core/, its own header and the shared helpers below, never another op;
    the files of kernels/attention/ are one op and may include one another
  - no cycle; x.cpp includes x.h first
  - only .cu files, and the .cpp files named below, reach a CUDA header
"""
import argparse
import pathlib
import re
import sys
import tempfile

ARCHITECTURE = pathlib.Path(__file__).resolve().parent.parent / "docs/architecture.md"


def read_layers(text):
    """{layer: the layers it may include}, itself and those below those named: the table in docs/architecture.md."""
    named = {row[1]: row[2] for row in re.finditer(r"^\| `src/(\w+)` \|.*\| ([^|]+) \|$", text, re.MULTILINE)}
    layers = {}
    for layer, may in named.items():  # a row names only layers of rows above it
        below = layers.keys() if may == "all" else [] if may == "-" else may.split(", ")
        layers[layer] = {layer}.union(*(layers[name] for name in below))
    if not layers:
        sys.exit("check_includes.py: docs/architecture.md has no table of layers")
    return layers


LAYERS = read_layers(ARCHITECTURE.read_text(encoding="utf-8"))
KERNEL_HELPERS = {"kernels/device_math.cuh", "kernels/fp8_codec.h", "kernels/fp8_math.cuh", "kernels/fragment_math.cuh",
                  "kernels/partial_sums.cuh", "kernels/scaled_tensor.h", "kernels/tile.cuh", "kernels/vector_math.h"}
CUDA_SOURCES = {"core/gpu.cpp", "comm/nccl.cpp", "kernels/linear/gemm.cpp"}  # the .cpp files that CMake compiles only where CUDA is
CUDA_HEADER = re.compile(r"(cuda|cublas|cusparse|curand|nccl|mma\.h|cub/|cute/|cutlass/|thrust/|nvtx|nvrtc|nvml)")
INCLUDE = re.compile(r'^\s*#\s*include\s*([<"])([^>"]+)[>"]')


def read_tree(src):
    """{path from src/: [(line number, '<' or '"', what it includes)]}"""
    files = {}
    for path in sorted(src.rglob("*")):
        if path.suffix in {".h", ".cpp", ".cu", ".cuh"}:
            lines = path.read_text(encoding="utf-8").splitlines()
            found = ((n, INCLUDE.match(line)) for n, line in enumerate(lines, 1))
            files[path.relative_to(src).as_posix()] = [(n, m[1], m[2]) for n, m in found if m]
    return files


def op_of(path):
    """kernels/rotary.cu -> kernels/rotary; kernels/attention/dense.h -> kernels/attention"""
    parts = path.split("/")
    return "/".join(parts[:2]) if len(parts) > 2 else path.rsplit(".", 1)[0]


def check_edge(path, included):
    """The rule that an include of one of our own files breaks, or None."""
    layer, target = path.split("/")[0], included.split("/")[0]
    if layer not in LAYERS:
        return f"src/{layer}/ is not a layer; the layers are {', '.join(LAYERS)}"
    if target not in LAYERS[layer]:
        return f"{layer} may not include {target}"
    helper = included in KERNEL_HELPERS or included.startswith("kernels/sm90/")
    if layer == target == "kernels" and op_of(path) != op_of(included) and not helper:
        return "an op may not include another op; what ops share belongs in a helper listed in check_includes.py"
    return None


def find_cycle(graph):
    done, stack = set(), []

    def visit(node):
        if node in stack:
            return stack[stack.index(node):] + [node]
        if node in done:
            return None
        stack.append(node)
        for target in graph[node]:
            if cycle := visit(target):
                return cycle
        done.add(stack.pop())
        return None

    return next((cycle for node in graph if (cycle := visit(node))), None)


def cuda_route(path, files, graph, seen):
    """How path reaches a CUDA header, as a list of names, or None."""
    seen.add(path)
    for _, kind, name in files[path]:
        if kind == "<" and CUDA_HEADER.match(name):
            return [path, f"<{name}>"]
    for target in graph[path]:
        if target not in seen and (route := cuda_route(target, files, graph, seen)):
            return [path] + route
    return None


def check(src):
    files, errors, graph = read_tree(src), [], {}
    for path, includes in files.items():
        graph[path] = []
        for line, kind, name in includes:
            if kind == "<":
                continue
            if name in files:
                graph[path].append(name)
                problem = check_edge(path, name)
            else:
                problem = "no such file (write paths from src/)"
            if problem:
                errors.append(f'src/{path}:{line}: "{name}": {problem}')
        own = path.removesuffix(".cpp") + ".h"
        if path.endswith(".cpp") and own in files and (not includes or includes[0][2] != own):
            errors.append(f"src/{path}: its first include must be {own}, which shows that the header stands alone")
    if cycle := find_cycle(graph):
        errors.append("cycle: " + " -> ".join(cycle))
    for path in files:
        if path.endswith(".cpp") and path not in CUDA_SOURCES and (route := cuda_route(path, files, graph, set())):
            errors.append(f"src/{path} reaches a CUDA header, so it cannot be built without CUDA: {' -> '.join(route)}")
    return errors, len(files)


def self_test():
    good = {
        "core/a.h": "#pragma once\n#include <vector>\n",
        "core/gpu.h": "#include <cstddef>\n",
        "core/gpu.cpp": '#include "core/gpu.h"\n#include <cuda_runtime.h>\n',
        "kernels/device_math.cuh": "#include <cuda_runtime.h>\n",
        "kernels/op.h": '#include "core/a.h"\n',
        "kernels/op.cpp": '#include "kernels/op.h"\n',
        "kernels/op.cu": '#include "kernels/op.h"\n#include "kernels/device_math.cuh"\n',
        "kernels/attention/x.h": '#include "core/a.h"\n',
        "kernels/attention/y.cpp": '#include "kernels/attention/x.h"\n',
        "model/m.h": '#include "kernels/op.h"\n#include "kernels/attention/x.h"\n',
        "data/d.h": '#include "core/a.h"\n',
        "train/t.cpp": '#include "model/m.h"\n#include "data/d.h"\n',
    }
    bad = [  # file, text, what the one error must say
        ("core/a.h", '#include "kernels/op.h"\n', "core may not include kernels"),
        ("kernels/op.h", '#include "model/m.h"\n', "kernels may not include model"),
        ("model/m.h", '#include "data/d.h"\n', "model may not include data"),
        ("data/d.h", '#include "kernels/op.h"\n', "data may not include kernels"),
        ("data/e.h", '  #  include "train/t.h"\n', "no such file"),
        ("kernels/other.cpp", '#include "kernels/op.h"\n', "another op"),
        ("kernels/attention/z.h", '#include "kernels/op.h"\n', "another op"),
        ("kernels/op.cpp", '#include "core/a.h"\n#include "kernels/op.h"\n', "first include"),
        ("core/b.h", '#include "core/b.h"\n', "cycle: core/b.h -> core/b.h"),
        ("core/gpu.h", '#include "core/a.h"\n#include "core/gpu.h"\n', "cycle"),
        ("model/n.cpp", '#include "kernels/device_math.cuh"\n', "cannot be built without CUDA"),
        ("train/u.cpp", "#include <nccl.h>\n", "cannot be built without CUDA"),
        ("extra/x.h", '#include "core/a.h"\n', "is not a layer"),
    ]
    for changed, text, expected in [("", "", "")] + bad:
        with tempfile.TemporaryDirectory() as folder:
            for path, content in {**good, **({changed: text} if changed else {})}.items():
                file = pathlib.Path(folder, path)
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(content, encoding="utf-8")
            errors, _ = check(pathlib.Path(folder))
        if expected and not any(expected in error for error in errors) or not expected and errors:
            sys.exit(f"check_includes.py: self-test failed for {changed or 'the good tree'}: expected "
                     f"{expected or 'no error'}, got {errors}")
    return len(bad) + 1


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--self-test", action="store_true")
    args = parser.parse_args()
    if args.self_test:
        print(f"[check_includes] self-test: {self_test()} cases passed")
    errors, count = check(pathlib.Path(__file__).resolve().parent.parent / "src")
    for error in errors:
        print(error)
    print(f"[check_includes] {count} files, {len(errors)} errors")
    return 1 if errors else 0


if __name__ == "__main__":
    sys.exit(main())
