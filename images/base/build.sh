#!/bin/sh
# Builds base images from Debian packages alone, for sites that reach a Debian mirror and no image registry:
#   sh images/base/build.sh          makes clipseg-kfp-base and clipseg-kfp-build-base
# The first holds Python and the authorities' certificates; the second adds strip, for the stage that builds.
# Needs mmdebstrap. MIRROR=URL takes another mirror, SUITE another release (the locks are for Python 3.11, which
# is Debian 12's), FOLDER=path keeps the archives, DOCKER=podman takes another client.
set -eu
suite=${SUITE:-bookworm}
docker=${DOCKER:-docker}
folder=${FOLDER:-$(mktemp -d)}
mkdir -p "$folder"
[ -n "${FOLDER:-}" ] || trap 'rm -rf "$folder"' EXIT
command -v mmdebstrap >/dev/null || { echo "mmdebstrap is missing (Debian: apt install mmdebstrap)" >&2; exit 1; }
if [ ! -e "$folder/base.tar" ] || [ ! -e "$folder/build-base.tar" ]; then
    rm -f "$folder/base.tar" "$folder/build-base.tar"
    # shellcheck disable=SC2016  # the hooks' shell expands these
    mmdebstrap --quiet --variant=essential --include=python3,python3-venv,ca-certificates,libstdc++6 \
        --dpkgopt='path-exclude=/usr/share/man/*' \
        --dpkgopt='path-exclude=/usr/share/locale/*' \
        --dpkgopt='path-exclude=/usr/share/doc/*' \
        --dpkgopt='path-include=/usr/share/doc/*/copyright' \
        --customize-hook='rm -f "$1"/etc/hostname "$1"/etc/resolv.conf "$1"/var/log/*.log' \
        --customize-hook="tar --one-file-system --numeric-owner --exclude='./dev/*' --exclude='./proc/*' --exclude='./sys/*' --exclude='./var/cache/apt/*' \
            --exclude='./var/lib/apt/lists/*' -C \"\$1\" -cf '$folder/base.tar' ." \
        --customize-hook='APT_CONFIG="$MMDEBSTRAP_APT_CONFIG" apt-get install -q -y --no-install-recommends \
            -o DPkg::Chroot-Directory="$1" binutils' \
        "$suite" "$folder/build-base.tar" ${MIRROR:+"$MIRROR"}
fi
for name in base build-base; do
    "$docker" import --change 'ENV LANG=C.UTF-8' "$folder/$name.tar" "clipseg-kfp-$name:$suite" >/dev/null
    echo "built clipseg-kfp-$name:$suite"
done
