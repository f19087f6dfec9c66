#!/usr/bin/env bash
# Sets everything up, makes a 3.3 GB checkpoint of ResNeXt-101 32x48d in torch's legacy format (seeded), converts it to the
# forms that stock Caffe loads, verifies every blob, and prints a table. Needs 7 GB in TMPDIR, which it gives back.
set -euo pipefail
cd "$(dirname "$0")/.."
. tools/environment.sh
prepare core
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
table="what\tbytes\tseconds\tGiB/s\tpeak memory\n"

# step WHAT COMMAND...: runs it, shows what it says, and adds a row from its result line.
step() {
  local what=$1 said
  shift
  echo "\$ ${*//$work\//}"
  said=$("$@" 2>&1) || { echo "$said"; exit 1; }
  echo "${said//$work\//}"
  table+=$(sed -nE "s|.*: ([0-9]+) bytes in ([0-9.]+) s \(([0-9.]+) GiB/s\), peak memory (.*)|$what\t\1\t\2\t\3\t\4\\\\n|p" <<<"$said")
}

checkpoint=$work/ig_resnext101_32x48.pth
echo "\$ python tools/make_checkpoint.py resnext101_32x48d_wsl ig_resnext101_32x48.pth"
.venv/bin/python tools/make_checkpoint.py resnext101_32x48d_wsl "$checkpoint"
model=$work/resnext101_32x48d
step "convert" .venv/bin/streamexport convert "$checkpoint" -o "$model.caffemodel" --max-file-size caffe
step "verify" .venv/bin/streamexport verify "$checkpoint" "$model"-*.caffemodel
rm "$model"-*.caffemodel
step "convert to HDF5" .venv/bin/streamexport convert "$checkpoint" -o "$model.caffemodel.h5"
step "verify HDF5" .venv/bin/streamexport verify "$checkpoint" "$model.caffemodel.h5"
step "link" .venv/bin/streamexport convert "$checkpoint" -o "$model.linked.h5" --format linked
ls -l "$work"
echo
printf "$table" | column -t -s $'\t'
