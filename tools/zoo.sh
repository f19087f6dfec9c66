#!/usr/bin/env bash
# Converts torchvision's nets and runs them in Caffe, OpenCV and streamexport beside torch: benchmarks/zoo.py, which gets
# the arguments. Makes a venv with torchvision in the user's cache, once (5.5 GB), and Caffe, see build_pycaffe.sh.
#
#   bash tools/zoo.sh                                     everything: an hour or two
#   bash tools/zoo.sh --nets 'resnet|vgg' --dialects portable
set -euo pipefail
cd "$(dirname "$0")/.."
unset PYTHONHOME
. tools/environment.sh # the pins: of torch, there is another one here, which has a torchvision
packages=("${core[@]}" torch==2.14.1 torchvision==0.29.1)
for package in "${tests[@]}"; do
  case $package in safetensors==* | opencv-python-headless==* | pillow==*) packages+=("$package") ;; esac
done
recipe="1 ${packages[*]}" # raise the number to have everybody install anew

root=${STREAMEXPORT_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/streamexport}
mkdir -p "$root"
venv=$(cd "$root" && pwd)/zoo

exec 9>"$venv.lock"
flock 9
if [[ ! -x $venv/bin/python || ! -f $venv/ready || $(<"$venv/ready") != "$recipe" ]]; then
  rm -rf "$venv"
  python3 -m venv "$venv"
  "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-compile "${packages[@]}" >&2
  echo "$recipe" >"$venv/ready" # last: without it, an installation was interrupted and starts over
fi
exec 9>&-
STREAMEXPORT_CAFFE_PYTHON=${STREAMEXPORT_CAFFE_PYTHON:-$(bash tools/build_pycaffe.sh | tail -n 1)}
export STREAMEXPORT_CAFFE_PYTHON PYTHONPATH=$PWD
exec "$venv/bin/python" benchmarks/zoo.py "$@"
