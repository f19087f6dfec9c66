#!/usr/bin/env bash
# Build pycaffe and the `caffe` tool for the CPU on Debian 12, once, into the user's cache.
# The last line on stdout is a Python interpreter that can `import caffe`; the tool is next to it.
#
#   python=$(tools/build_pycaffe.sh | tail -n 1)
#
# The result is a venv with Caffe inside, so it needs no environment variables. The stamp is
# written last: a build without it was interrupted and starts over.
set -euo pipefail
exec 3>&1 1>&2                                 # stdout is for the result alone
export PATH=/usr/sbin:/usr/bin:/sbin:/bin      # Debian's python, protoc and cmake: no pyenv, no conda
unset PYTHONHOME PYTHONPATH

sdist=brocolli-caffe version=9.0.2             # Caffe's sources; the package called `caffe` is empty
sha256=c6410cc60bdd6db685d441b66be7df05410f8850ac88d6b75d48ef9b2315c08a
python=python3.11
debs=(
    "$python-venv" "$python-dev" cmake make g++ protobuf-compiler libprotobuf-dev libboost-python-dev
    libboost-{system,thread,filesystem,regex}-dev libgflags-dev libgoogle-glog-dev libhdf5-dev libopenblas-dev libgtest-dev
)
pip=pip==24.0                                  # pinned: fetch_sdist uses its internals
wheels=(
    numpy==1.26.4 protobuf==4.21.12 six==1.16.0 scikit-image==0.22.0
    imageio==2.34.0 lazy_loader==0.3 networkx==3.2.1 packaging==24.0 pillow==10.3.0 scipy==1.12.0 tifffile==2024.2.12
)
recipe="1 $sdist $version $python $pip ${wheels[*]}"    # raise the number to have everybody build anew

root=${STREAMEXPORT_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/streamexport}
mkdir -p "$root"
root=$(cd "$root" && pwd)
venv=$root/pycaffe
stamp=$venv/built
package=$venv/lib/$python/site-packages/caffe

ready() {    # built by this recipe, and Debian's libraries are (still) there
    local libraries
    [[ -x $venv/bin/python && -f $stamp && $(<"$stamp") == "$recipe" ]] &&
        libraries=$(ldd "$package/_caffe.so" "$venv/bin/caffe") && [[ $libraries != *'not found'* ]]
}

done_() {
    echo "$venv/bin/python" >&3
    exit
}

install_debs() {
    local deb missing=()
    for deb in "${debs[@]}"; do
        [[ $(dpkg-query -W -f '${db:Status-Status}' "$deb" 2>/dev/null) == installed* ]] || missing+=("$deb")
    done
    [[ ${#missing[@]} -gt 0 ]] || return 0
    if [[ $EUID -ne 0 ]]; then
        echo "error: pycaffe needs these Debian packages; run: apt-get install ${missing[*]}"
        exit 1
    fi
    export DEBIAN_FRONTEND=noninteractive
    apt-get -q update
    apt-get -qy install --no-install-recommends "${missing[@]}"
}

fetch_sdist() {    # into $1; `pip download` would run the package's setup.py
    "$venv/bin/python" - "$sdist" "$version" "$1" <<'EOF'
import sys
from pip._internal.commands import create_command
from pip._internal.network.download import Downloader
from pip._vendor.packaging.specifiers import SpecifierSet

name, version, directory = sys.argv[1:]
command = create_command("download")
options, _ = command.parse_args([])            # the user's pip settings apply
with command.main_context():
    session = command.get_default_session(options)
    finder = command._build_package_finder(options, session)
    found = finder.find_best_candidate(name, SpecifierSet(f"=={version}")).best_candidate
    if found is None:
        sys.exit(f"error: pip finds no {name} {version}")
    Downloader(session, "off")(found.link, directory)
EOF
    sha256sum -c - <<<"$sha256  $1/$sdist-$version.tar.gz"
}

build() {    # in the directory $1
    local src=$1/$sdist-$version libdir
    libdir=/usr/lib/$(c++ -print-multiarch)

    rm -rf "$venv"
    "$python" -m venv "$venv"
    "$venv/bin/python" -m pip install -q --disable-pip-version-check "$pip"
    "$venv/bin/python" -m pip install -q --disable-pip-version-check --no-deps --only-binary :all: "${wheels[@]}"
    fetch_sdist "$1"
    tar -xzf "$src.tar.gz" -C "$1"

    rm "$src/include/caffe/proto/caffe.pb.h"   # of an old protoc; it would hide the new one
    cat >>"$src/CMakeLists.txt" <<EOF
add_executable(caffe tools/caffe.cpp)
target_include_directories(caffe PRIVATE include)
target_link_libraries(caffe pycaffe gflags $python)
set_target_properties(pycaffe caffe PROPERTIES INSTALL_RPATH "\$ORIGIN/../lib/$python/site-packages/caffe")
EOF
    # The sources look for everything in a conda prefix: give them one made of links.
    mkdir -p "$1"/conda/{include,lib}
    ln -s "/usr/include/$python" /usr/include/hdf5/serial/* "$1/conda/include/"
    ln -s "$venv/lib/$python" "$libdir"/hdf5/serial/libhdf5*.so "$1/conda/lib/"
    ln -s "$libdir/libboost_python${python//[!0-9]/}.so" "$1/conda/lib/libboost_python.so"
    cmake -S "$src" -B "$1/build" -DANACONDA_HOME="$1/conda" -DPYTHON_VERSION="$python" \
        -DCMAKE_BUILD_TYPE=Release -DCMAKE_CXX_FLAGS=-w -DCMAKE_CXX_FLAGS_RELEASE='-O2 -DNDEBUG' \
        -DCMAKE_BUILD_WITH_INSTALL_RPATH=ON
    nice cmake --build "$1/build" -j"$(nproc)" --target pycaffe caffe

    cp -rL "$src/python/caffe" "$package"
    cp "$1/build/caffe" "$venv/bin/caffe"
    (cd / && "$venv/bin/python" -c 'import caffe; caffe.set_mode_cpu()' && "$venv/bin/caffe" --version)
    echo "$recipe" >"$stamp"
}

ready && done_
exec 9>"$venv.lock"
flock 9                                        # a second caller waits for the first one's result
install_debs
ready && done_
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
build "$work"
ready && done_
echo "error: $venv was built but lacks a library"
exit 1
