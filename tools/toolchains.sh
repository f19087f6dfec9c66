#!/usr/bin/env bash
# Makes a venv with a toolchain that takes Caffe models, once, in the user's cache, and prints its Python interpreter.
#
#   python=$(bash tools/toolchains.sh mnn)                                          or openvino, or onnx
#
# Versions are pinned and nothing else is installed: what these packages ask for beyond it reports usage to their makers,
# is not needed for Caffe models, or does not exist for today's Python. Exit status 75 if pip cannot fetch a package.
set -euo pipefail
exec 3>&1 1>&2 # stdout is for the result alone
unset PYTHONHOME PYTHONPATH

case ${1:-} in
  mnn) packages=(mnn==3.6.1 numpy==2.4.6) ;;
  openvino)
    packages=(
      openvino-dev==2023.3.0 openvino==2023.3.0
      defusedxml==0.7.1 networkx==3.1 numpy==1.26.4 pillow==11.0.0 protobuf==4.25.9
    )
    ;;
  onnx)
    packages=(
      caffe2onnx==2.0.1 onnx==1.14.1 onnxruntime==1.26.0
      flatbuffers==25.12.19 numpy==1.26.4 packaging==26.3 pillow==11.0.0 protobuf==4.25.9 typing_extensions==4.16.0
    )
    ;;
  *)
    echo "usage: tools/toolchains.sh mnn|openvino|onnx"
    exit 2
    ;;
esac
python=$(command -v python3.11 || command -v python3) # 3.11 is the newest that mo 2023.3 is made for
setuptools=setuptools==80.9.0                         # caffe2onnx comes as sources
recipe="1 $setuptools ${packages[*]}"                 # raise the number to have everybody install anew

root=${STREAMEXPORT_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/streamexport}/toolchains
mkdir -p "$root"
venv=$(cd "$root" && pwd)/$1

fetch() {
  "$venv/bin/python" -m pip download --quiet --disable-pip-version-check --no-deps --no-build-isolation \
    --dest "$venv/fetched" "$@" || exit 75
}

install() {
  "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation \
    --no-compile --no-index --find-links "$venv/fetched" "$@"
}

# Writes a module of protoc 3 anew, in site-packages at $1, for a protobuf that is not written in Python: that one reads
# 3 µs a number, which is 35 s for a resnet18.
modernise() {
  PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION=python "$venv/bin/python" - "$1" <<'EOF'
import importlib.util, pathlib, sys, sysconfig

path = pathlib.Path(sysconfig.get_path("purelib"), sys.argv[1])
spec = importlib.util.spec_from_file_location("generated", path)
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
path.write_text(f"""\
from google.protobuf import descriptor_pool
from google.protobuf.internal import builder

DESCRIPTOR = descriptor_pool.Default().AddSerializedFile({module.DESCRIPTOR.serialized_pb!r})
builder.BuildMessageAndEnumDescriptors(DESCRIPTOR, globals())
builder.BuildTopDescriptorsAndMessages(DESCRIPTOR, __name__, globals())
""")
EOF
}

exec 9>"$venv.lock"
flock 9
if [[ ! -x $venv/bin/python || ! -f $venv/ready || $(<"$venv/ready") != "$recipe" ]]; then
  rm -rf "$venv"
  "$python" -m venv "$venv"
  fetch "$setuptools"
  install "$setuptools"
  fetch "${packages[@]}"
  install "${packages[@]}"
  case $1 in
    openvino)
      modernise openvino/tools/mo/front/caffe/proto/caffe_pb2.py
      # It hands over a map of the file, which only the protobuf written in Python takes for bytes.
      sed -i 's/MergeFromString(map)/MergeFromString(map[:])/' \
        "$venv"/lib/python3*/site-packages/openvino/tools/mo/front/caffe/loader.py
      ;;
    onnx) modernise caffe2onnx/proto/caffe_upsample_pb2.py ;;
  esac
  rm -rf "$venv/fetched"
  echo "$recipe" >"$venv/ready" # last: without it, an installation was interrupted and starts over
fi
echo "$venv/bin/python" >&3
