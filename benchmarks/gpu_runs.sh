#!/usr/bin/env bash
# A paper's table on a machine that is at hand for minutes at a time: each call builds what is missing, trains for at most
# MINUTES, and leaves finished and interrupted runs in OUT/runs, from where the next call, on any machine, goes on.
#
#   benchmarks/gpu_runs.sh IMAGES OUT MINUTES RECIPE [OPTIONS of `realmix-train reproduce`]
#   benchmarks/gpu_runs.sh cifar10 /tmp/out 9 table1 --seeds 1 --jobs 4 --steps 100000
#
# IMAGES holds CIFAR-10 as pictures: train/<class>/*.jpg and test/<class>/*.jpg. Run from the repository's root; nothing is
# installed, so torch, torchvision, zarr, typer and rich must be there. Where only small files can be carried to and fro,
# TO=folder takes the runs as pieces of 15 MiB (the table too), and FROM=folder is where a next call finds them.
set -euo pipefail
[ $# -ge 4 ] || { sed -n '2,11s/^# \{0,1\}//p' "$0" >&2; exit 2; }
images=$1 out=$2 minutes=$3
shift 3
export NO_ALBUMENTATIONS_UPDATE=1
stores=${STORES:-$out/stores}
[ -e "$stores/cifar10_250" ] ||
  python -m pipeline build folder "$images/train" --test "$images/test" --name cifar10 --copies 50 --root "$stores"

unpack() {
  [ -n "${FROM:-}" ] && [ ! -e "$out/runs" ] && ls "$FROM"/runs.tar.* > /dev/null || return 0
  mkdir -p "$out"
  cat "$FROM"/runs.tar.* | tar x -C "$out"
}

pack() { # a finished run needs no checkpoint
  [ -n "${TO:-}" ] && [ -e "$out/runs" ] || return 0
  mkdir -p "$TO"
  rm -f "$TO"/runs.tar.*
  (cd "$out" && find runs -type f | while read -r file; do
    case $file in */checkpoint.pt) [ -e "${file%/*}/result.json" ] || echo "$file" ;; *) echo "$file" ;; esac
  done | tar c -T - ) | split -b 15M -d - "$TO/runs.tar."
  find "$out/runs" -maxdepth 2 \( -name '*.md' -o -name '*.csv' -o -name '*.svg' \) -exec cp {} "$TO" \;
}

unpack
code=0
timeout --signal TERM --kill-after 60 "${minutes}m" python -m trainer reproduce "$@" --stores "$stores" --runs "$out/runs" ||
  code=$?
case $code in
  0) ;;
  124 | 130 | 137) echo "time is up: the next call goes on" >&2; python -m trainer reproduce "$@" --stores "$stores" --runs "$out/runs" --show ;;
  *) exit $code ;;
esac
pack
