#!/bin/sh
# Resolves the locks anew: demo, test (on top of demo) and the images. Usage: sh locks/resolve.sh .venv/bin
# Versions stay as they are where pyproject.toml allows; UPGRADE=1 takes the newest of all, UPGRADE="-P pillow" those
# of the packages named. The images follow the tests' lock.
set -eu
bin=${1:-.venv/bin}
case ${UPGRADE:-} in
1) upgrade=--upgrade ;;
*) upgrade=${UPGRADE:-} ;;
esac
export CUSTOM_COMPILE_COMMAND="make locks"
compile() {
    # shellcheck disable=SC2086  # several words
    "$bin/pip-compile" --quiet --resolver=backtracking --strip-extras --allow-unsafe --no-header \
        --no-emit-index-url --no-emit-find-links --no-annotate -c locks/constraints.txt $upgrade "$@"
}
finish() {
    # Which build of torch (CPU, CUDA) is the index's choice; in the images' locks the hashes tell them apart.
    sed -i 's/^\(torch==[0-9.]*\)+[a-z0-9]*/\1/' "$1"
    sed -i '1i # Resolved by "make locks"; do not edit.' "$1"
}
# The versions of the tests' lock, with the hash of every file, so that an image is what was tested.
image() {
    lock=images/$1/requirements.txt
    "$bin/python" locks/image_requirements.py "$1" | compile --generate-hashes -c locks/test.txt -o "$lock" -
    # A task needs kfp and none of the packages that kfp's client needs.
    grep -q '^kfp==' "$lock" || awk '/^kfp==/ {on = 1} on {print} on && !/\\$/ {exit}' images/notebook/requirements.txt >>"$lock"
    # The compiler behind torch.compile, which no component uses: 617 MB.
    sed -i '/^triton==/,/[^\\]$/d' "$lock"
    finish "$lock"
    "$bin/python" locks/sbom.py "$1"
}
if [ $# -lt 2 ]; then
    echo "setuptools>=77" | compile --extra demo -o locks/demo.txt pyproject.toml -
    finish locks/demo.txt
    compile --extra demo --extra int8 --extra test -c locks/demo.txt -o locks/test.txt pyproject.toml
    finish locks/test.txt
    set -- "$bin" notebook cpu cpu-int8 gpu
fi
# With names of images behind the folder, only their locks.
shift
for name in "$@"; do image "$name"; done
