#!/usr/bin/env bash
# Checks that every source file is as clang-format 14 lays it out; --fix rewrites those that are not.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. scripts/common.sh

# Versions of clang-format disagree in details; 14 is the one that counts, and all of the supported systems have it.
tool=$(command -v clang-format-14 || command -v clang-format) || die "clang-format-14 is not installed"
"$tool" --version | grep -q 'version 14\.' || say "this is not clang-format 14, so differences may be the tool's own"

mapfile -t files < <(find src tests -name '*.h' -o -name '*.cpp' -o -name '*.cu' -o -name '*.cuh' | sort)
if [[ ${1-} == --fix ]]; then
  "$tool" -i "${files[@]}"
  exit
fi
bad=()
for file in "${files[@]}"; do
  "$tool" "$file" | cmp -s - "$file" || bad+=("$file")
done
if ((${#bad[@]})); then
  for file in "${bad[@]}"; do
    diff -u --label "$file" --label "$file, formatted" "$file" <("$tool" "$file") | head -n 20 || true
  done
  die "${#bad[@]} of ${#files[@]} files are not formatted; scripts/check_format.sh --fix does it: ${bad[*]}"
fi
say "${#files[@]} files are formatted"
