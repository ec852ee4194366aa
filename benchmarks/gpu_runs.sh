#!/usr/bin/env bash
# A paper's table on a machine that is at hand for minutes at a time: each call builds what is missing, trains for at most
# MINUTES, and leaves finished and interrupted runs in OUT/runs, from where the next call, on any machine, goes on.
#
#   benchmarks/gpu_runs.sh IMAGES OUT MINUTES RECIPE [OPTIONS of `realmix-train reproduce`]
#   benchmarks/gpu_runs.sh cifar10 /tmp/out 9 table1 --seeds 1 --jobs 4 --steps 100000
#
# IMAGES holds CIFAR-10 as pictures: train/<class>/*.jpg and test/<class>/*.jpg. Run from the repository's root; nothing is
# installed, so torch, torchvision, zarr, typer and rich must be there.
set -euo pipefail
[ $# -ge 4 ] || { sed -n '2,10s/^# \{0,1\}//p' "$0" >&2; exit 2; }
images=$1 out=$2 minutes=$3
shift 3
export NO_ALBUMENTATIONS_UPDATE=1
stores=${STORES:-$out/stores}
[ -e "$stores/cifar10_250" ] ||
  python -m pipeline build folder "$images/train" --test "$images/test" --name cifar10 --copies 50 --root "$stores"
code=0
timeout --signal TERM --kill-after 60 "${minutes}m" python -m trainer reproduce "$@" --stores "$stores" --runs "$out/runs" ||
  code=$?
case $code in
  0) ;;
  124 | 130) echo "time is up: the next call goes on" >&2; python -m trainer reproduce "$@" --stores "$stores" --runs "$out/runs" --show ;;
  *) exit $code ;;
esac
