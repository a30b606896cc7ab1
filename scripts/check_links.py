#!/usr/bin/env python3
"""Checks that links from Markdown files to files of the repository, and to headings, lead somewhere: scripts/check_links.py [FILE...]"""
import functools
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent


def text_of(path):
    """Without code blocks."""
    return re.sub(r"^```.*?^```", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


@functools.cache
def anchors(path):
    """As GitHub makes them of headings."""
    found = set()
    for heading in re.findall(r"^#{1,6} +(.*?) *$", text_of(path), re.MULTILINE):
        anchor = re.sub(r"[^\w\- ]", "", re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()).replace(" ", "-")
        number = 0
        while (name := f"{anchor}-{number}" if number else anchor) in found:
            number += 1
        found.add(name)
    return found


def broken(path):
    for target in re.findall(r"\]\(([^)\s]+)\)", re.sub(r"`[^`\n]*`", "", text_of(path))):
        if re.match(r"[a-z]+:", target):
            continue
        file, _, anchor = target.partition("#")
        other = (path.parent / file).resolve() if file else path
        if not other.exists():
            yield target, "there is no such file"
        elif anchor and other.suffix == ".md" and anchor not in anchors(other):
            yield target, "there is no such heading"


def main(words):
    tracked = subprocess.run(["git", "-C", ROOT, "ls-files", "*.md"], capture_output=True, text=True, check=True).stdout.split()
    files = [pathlib.Path(word).resolve() for word in words] or [ROOT / name for name in tracked]
    errors = [f"{path.relative_to(ROOT)}: {target}: {what}" for path in files for target, what in broken(path)]
    print("\n".join(errors + [f"links of {len(files)} files: {len(errors)} broken"]))
    return 1 if errors else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
