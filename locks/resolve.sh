#!/bin/sh
# Resolves the locks anew: demo, test (on top of demo) and the images. Usage: sh locks/resolve.sh .venv/bin
set -eu
bin=${1:-.venv/bin}
export CUSTOM_COMPILE_COMMAND="make locks"
compile() {
    "$bin/pip-compile" --quiet --resolver=backtracking --strip-extras --allow-unsafe --no-header \
        --no-emit-index-url --no-emit-find-links --no-annotate -c locks/constraints.txt "$@"
}
echo "setuptools>=77" | compile --extra demo -o locks/demo.txt pyproject.toml -
compile --extra demo --extra int8 --extra test -c locks/demo.txt -o locks/test.txt pyproject.toml
compile --extra int8 -c locks/test.txt -o images/cpu/requirements.txt pyproject.toml
for lock in locks/demo.txt locks/test.txt images/cpu/requirements.txt; do
    # The build of torch (CPU, CUDA) is the index's choice, not the lock's.
    sed -i 's/^\(torch==[0-9.]*\)+.*/\1/' "$lock"
    sed -i '1i # Resolved by "make locks"; do not edit.' "$lock"
done
