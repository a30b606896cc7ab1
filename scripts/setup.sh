#!/usr/bin/env bash
# Installs what is missing, builds the programs and links them at the top of the repository. Safe to run again.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. scripts/common.sh

usage() {
  cat <<'END'
Usage: scripts/setup.sh [--preset NAME] [--programs-only] [--checks] [--packages-only]
  --preset NAME     a preset of CMakePresets.json; default: cuda if nvcc 12 or newer is found, else cpu
  --programs-only   do not build the tests
  --checks          also install what scripts/test.sh --all needs (clang-format, clang-tidy, python3)
  --packages-only   install packages and stop
END
}

preset='' programs_only='' checks='' packages_only=''
while (($#)); do
  case $1 in
    --preset) preset=${2:?--preset needs a name}; shift ;;
    --programs-only) programs_only=1 ;;
    --checks) checks=1 ;;
    --packages-only) packages_only=1 ;;
    -h | --help) usage; exit 0 ;;
    *) usage >&2; die "unknown option $1" ;;
  esac
  shift
done

packages=(cmake ninja-build g++ ccache pkg-config libopenblas-openmp-dev libzstd-dev zlib1g-dev libxxhash-dev
  libspdlog-dev libfmt-dev nlohmann-json3-dev libcxxopts-dev libgtest-dev libopenmpi-dev openmpi-bin)
# One version of clang-format on every distribution, or the same file would pass here and fail there.
[[ -z $checks ]] || packages+=(clang-format-14 clang-tidy libomp-dev python3 zstd)

# NCCL comes with some CUDA images, else from NVIDIA's repository where that is set up.
if find_nvcc >/dev/null && ! [[ -e /usr/include/nccl.h || -e $(dirname "$(find_nvcc)")/../include/nccl.h ]] &&
  command -v apt-cache >/dev/null && apt-cache show libnccl-dev >/dev/null 2>&1; then
  packages+=(libnccl-dev)
fi

missing_packages() {
  local package
  for package in "${packages[@]}"; do
    # A package that another one provides (pkgconf for pkg-config) is installed if its tool runs.
    dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q '^install ok installed' ||
      { [[ $package == pkg-config ]] && command -v pkg-config >/dev/null; } || printf '%s\n' "$package"
  done
}

install_packages() {
  local missing tool
  if ! command -v apt-get >/dev/null || ! command -v dpkg-query >/dev/null; then
    say "this is not a Debian or Ubuntu system, so nothing is installed; what is needed (Debian's names): ${packages[*]}"
    for tool in cmake ninja c++ pkg-config; do
      command -v "$tool" >/dev/null || die "$tool was not found"
    done
    return
  fi
  mapfile -t missing < <(missing_packages)
  ((${#missing[@]})) || return 0
  local -a as_root=()
  if ((EUID != 0)); then
    # Without a terminal sudo could not ask for a password.
    if ! command -v sudo >/dev/null || { [[ ! -t 0 ]] && ! sudo -n true 2>/dev/null; }; then
      die "packages are missing and this user cannot install them. As root: apt-get install ${missing[*]}"
    fi
    as_root=(sudo)
  fi
  say "installing ${#missing[@]} packages: ${missing[*]}"
  as_root+=(env DEBIAN_FRONTEND=noninteractive)
  logged build/packages.log "${as_root[@]}" apt-get update -q ||
    say "apt-get update failed; trying with the package lists that are there"
  logged build/packages.log "${as_root[@]}" apt-get install -q -y --no-install-recommends "${missing[@]}" ||
    die "installing packages failed; the whole log is build/packages.log"
}

install_packages
[[ -z $packages_only ]] || exit 0

if nvcc=$(find_nvcc); then
  export CUDACXX=$nvcc
  preset=${preset:-cuda}
else
  preset=${preset:-cpu}
fi
programs=(train prepare_data generate evaluate bench inspect)
if [[ -n $programs_only ]]; then
  build "$preset" "${programs[@]}"
else
  build "$preset"
fi
for program in "${programs[@]}"; do
  ln -sfn "build/$preset/bin/$program" "$program"
done
ln -sfn "build/$preset/compile_commands.json" compile_commands.json
say "ready: $(printf './%s ' "${programs[@]}")(build/$preset)"
