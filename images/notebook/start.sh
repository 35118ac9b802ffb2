#!/bin/sh
# Starts JupyterLab. In Kubeflow, which sets NB_PREFIX, its gateway signs people in and the server asks for nothing;
# anywhere else Jupyter makes a token of its own and prints it.
set -eu
cd "$HOME"
[ -e examples ] || cp -r /opt/clipseg-kfp/examples examples || echo "the examples stay in /opt/clipseg-kfp" >&2
set -- --ip=0.0.0.0 --port=8888 --no-browser --notebook-dir="$HOME"
if [ -n "${NB_PREFIX:-}" ]; then
    set -- "$@" --ServerApp.base_url="$NB_PREFIX" --IdentityProvider.token="" --ServerApp.allow_origin="*"
fi
exec jupyter lab "$@"
