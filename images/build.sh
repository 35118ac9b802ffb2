#!/bin/sh
# Builds container images: sh images/build.sh cpu gpu notebook (cpu-int8 too). From the environment:
#   REGISTRY=registry.example/team/      put before the images' names
#   BASE, BUILD_BASE                     base images (images/base makes them where no registry can be reached)
#   PIP_INDEX_URL, PIP_EXTRA_INDEX_URL, PIP_ARGS   package indexes; PIP_ARGS=--no-index takes images/wheels alone.
#                                        Without any of them, PyTorch's index of CPU builds is asked beside PyPI
#   BUILD_ARGS="--network host"          more arguments of docker build
#   DOCKER=podman                        another client
set -eu
cd "$(dirname "$0")/.."
docker=${DOCKER:-docker}
version=$(sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)
revision=$(git describe --always --dirty --abbrev=40 2>/dev/null || true)
command -v "$docker" >/dev/null || { echo "make: '$docker' is missing; DOCKER=podman names another client" >&2; exit 1; }
"$docker" version >/dev/null 2>&1 || { echo "make: '$docker' finds no engine; is it running (DOCKER_HOST)?" >&2; exit 1; }
torch_index=https://download.pytorch.org/whl/cpu # the CPU build is not on PyPI
for name in "$@"; do
    case $name in
    notebook) file=images/notebook/Dockerfile image=clipseg-kfp-notebook ;;
    *) file=images/Dockerfile image=clipseg-kfp-python-$name ;;
    esac
    set -- --build-arg "VARIANT=$name" --build-arg "VERSION=$version" --build-arg "REVISION=$revision"
    extra_index=${PIP_EXTRA_INDEX_URL:-}
    if [ "$name" != gpu ] && [ -z "${PIP_INDEX_URL:-}$extra_index${PIP_ARGS:-}" ]; then
        extra_index=$torch_index
        echo "$name: torch's CPU build is taken from $torch_index (PIP_EXTRA_INDEX_URL names another index)"
    fi
    [ -z "$extra_index" ] || set -- "$@" --build-arg "PIP_EXTRA_INDEX_URL=$extra_index"
    for variable in BASE BUILD_BASE PIP_INDEX_URL PIP_ARGS; do
        eval "value=\${$variable:-}"
        [ -z "$value" ] || set -- "$@" --build-arg "$variable=$value"
    done
    [ "$name" != notebook ] || set -- "$@" --build-arg "COMPONENTS=${REGISTRY:-}clipseg-kfp-python-cpu:$version"
    # shellcheck disable=SC2086  # BUILD_ARGS are words
    "$docker" build ${BUILD_ARGS:-} "$@" -f "$file" -t "${REGISTRY:-}$image:$version" .
    echo "built ${REGISTRY:-}$image:$version"
done
