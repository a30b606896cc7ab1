#!/usr/bin/env python3
"""Writes src/data/unicode_ranges.h: the code points that the GPT-2 split pattern calls letters, numbers and blanks.

Usage: scripts/make_unicode_tables.py > src/data/unicode_ranges.h

Letters are the general categories L*, numbers N*, blanks the 25 code points of White_Space. The result is committed, so
that tokens do not depend on the Unicode version of any machine; run this only to move to another version on purpose.
"""
import sys
import unicodedata

WHITE_SPACE = [*range(0x09, 0x0E), 0x20, 0x85, 0xA0, 0x1680, *range(0x2000, 0x200B), 0x2028, 0x2029, 0x202F, 0x205F, 0x3000]


def ranges(points):
    found = []
    for point in points:
        if found and found[-1][1] == point - 1:
            found[-1][1] = point
        else:
            found.append([point, point])
    return found


def category(letter):
    return [p for p in range(sys.maxunicode + 1) if unicodedata.category(chr(p)).startswith(letter)]


def write(name, comment, found):
    print(f"\n// {comment}: {len(found)} ranges, both ends included.")
    print(f"inline constexpr CodePointRange {name}[] = {{")
    line = "   "
    for first, last in found:
        item = f" {{0x{first:X}, 0x{last:X}}},"
        if len(line) + len(item) > 120:
            print(line)
            line = "   "
        line += item
    print(line + "\n};")


print(f"// Written by scripts/make_unicode_tables.py from Unicode {unicodedata.unidata_version}. Do not edit.")
print("// clang-format off\n#pragma once\n#include <cstdint>\n\nnamespace scfa {\n")
print("struct CodePointRange {\n  uint32_t first, last;\n};")
write("kLetterRanges", "Letters (general category L)", ranges(category("L")))
write("kNumberRanges", "Numbers (general category N)", ranges(category("N")))
write("kBlankRanges", "Blanks (White_Space)", ranges(WHITE_SPACE))
print("\n}  // namespace scfa")
