#!/usr/bin/env python3
"""Compiles the attention kernels for Hopper and looks into their machine code: each must use the warpgroup's matrix
instruction (HGMMA) and none may touch local memory (LDL, STL). Needs nvcc; no GPU and no disassembler: an instruction of
sm_90 is 16 bytes, and the low 9 bits of the first 8 say which it is."""
import argparse
import collections
import pathlib
import struct
import subprocess
import sys
import tempfile

OPCODES = {0x1F0: "HGMMA", 0x183: "LDL", 0x187: "STL"}
ROOT = pathlib.Path(__file__).resolve().parent.parent


def text_sections(elf):
    """(name, bytes) of each section of code of a 64-bit ELF file."""
    table, = struct.unpack_from("<Q", elf, 0x28)
    entry, count, names = struct.unpack_from("<HHH", elf, 0x3A)
    sections = [struct.unpack_from("<IIQQQQ", elf, table + i * entry) for i in range(count)]
    strings = sections[names][4]
    for name, _, _, _, offset, size in sections:
        label = elf[strings + name:elf.index(b"\0", strings + name)].decode()
        if label.startswith(".text."):
            yield label.removeprefix(".text."), elf[offset:offset + size]


def count_opcodes(code):
    words = struct.unpack(f"<{len(code) // 8}Q", code)[::2]
    return collections.Counter(OPCODES[word & 0x1FF] for word in words if word & 0x1FF in OPCODES)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nvcc", default="nvcc", help="compiler (default %(default)s)")
    args = parser.parse_args()
    sources = [ROOT / "src/kernels/attention/sm90" / name for name in ("forward.cu", "backward.cu")]
    kernels, bad = 0, []
    with tempfile.TemporaryDirectory() as folder:
        for source in sources:
            cubin = pathlib.Path(folder) / (source.stem + ".cubin")
            subprocess.run([args.nvcc, "-std=c++20", "-O3", f"-I{ROOT}/src", "-DSCFA_CUDA", "-cubin",
                            "-gencode=arch=compute_90a,code=sm_90a", "-o", cubin, source], check=True)
            for name, code in text_sections(cubin.read_bytes()):
                if "_kernel" not in name:
                    continue
                found = count_opcodes(code)
                kernels += 1
                if found["HGMMA"] == 0 or found["LDL"] or found["STL"]:
                    bad.append(f"{source.name}: {name}: {dict(found)}")
    for line in bad:
        print(line)
    print(f"{kernels} Hopper attention kernels, {len(bad)} without HGMMA or with local memory")
    return 1 if bad or kernels == 0 else 0


if __name__ == "__main__":
    sys.exit(main())
