# Sourced by the other tools. `prepare core` makes .venv with what streamexport itself needs, `prepare test` adds what its
# tests and benchmarks need. Versions are pinned; where all is there already, nothing is done.
core=(numpy==2.4.6 protobuf==7.36.2 h5py==3.16.0 tqdm==4.70.1 setuptools==84.2.1)
tests=(
  torch==2.13.0
  safetensors==0.8.0
  opencv-python-headless==4.14.0.94
  pillow==13.0.0
  matplotlib==3.11.2
  obstore==0.12.1
  boto3==1.44.8
  'moto[server]==5.2.5'
  distributed==2026.8.0
  pytest==9.2.0
  pytest-xdist==3.8.0
  ruff==0.17.6
  mypy==2.4.1
  types-protobuf==7.35.1.20260906
)

prepare() {
  local wanted=("${core[@]}")
  [ "$1" = core ] || wanted+=("${tests[@]}")
  local stamp
  stamp=".venv/$(printf '%s\n' "$PWD" "${wanted[@]}" "$(cat setup.cfg)" | sha256sum | cut -c1-16).ready"
  if [ "$1" = test ] && [ "$(id -u)" = 0 ] && ! command -v mkfs.xfs >/dev/null; then
    apt-get update -qq && apt-get install -y -qq xfsprogs >/dev/null || true # without it, the test of cloning is skipped
  fi
  [ -e "$stamp" ] && return
  if ! python3 -c 'import ensurepip, venv' 2>/dev/null; then
    apt-get update -qq
    apt-get install -y -qq python3-venv
  fi
  [ -x .venv/bin/python ] || python3 -m venv .venv
  .venv/bin/python -m pip install --quiet --disable-pip-version-check "${wanted[@]}"
  .venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
  touch "$stamp"
}
