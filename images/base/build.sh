#!/bin/sh
# Builds base images from Debian packages alone, for sites that reach a Debian mirror and no image registry:
#   sh images/base/build.sh          makes clipseg-kfp-base and clipseg-kfp-build-base
# The first holds Python and the authorities' certificates; the second adds strip, for the stage that builds.
# Needs mmdebstrap, and uidmap where it does not run as root. From the environment:
#   MIRROR=URL            another mirror, for the release and its updates
#   SECURITY_MIRROR=URL   that of the security updates; MIRROR with "-security" behind it, unless given
#   SUITE=name            another release (the locks are for Python 3.11, which is Debian 12's)
#   FOLDER=path           keeps the archives, and imports those that lie there without making them anew
#   DOCKER=podman         another client; without one, the archives in FOLDER are all that is made
set -eu
suite=${SUITE:-bookworm}
docker=${DOCKER:-docker}
if ! command -v "$docker" >/dev/null && [ -z "${FOLDER:-}" ]; then
    echo "'$docker' is missing; DOCKER=podman names another client, FOLDER=path makes the archives alone" >&2
    exit 1
fi
folder=${FOLDER:-$(mktemp -d)}
mkdir -p "$folder"
[ -n "${FOLDER:-}" ] || trap 'rm -rf "$folder"' EXIT
if [ ! -e "$folder/base.tar" ] || [ ! -e "$folder/build-base.tar" ]; then
    command -v mmdebstrap >/dev/null || { echo "mmdebstrap is missing (Debian: apt install mmdebstrap)" >&2; exit 1; }
    rm -f "$folder/base.tar" "$folder/build-base.tar"
    set -- "$suite" "$folder/build-base.part"
    if [ -n "${MIRROR:-}" ]; then # a mirror alone would be taken for the release without its updates
        set -- "$@" "deb $MIRROR $suite main" "deb $MIRROR $suite-updates main" \
            "deb ${SECURITY_MIRROR:-${MIRROR%/}-security} $suite-security main"
    fi
    # The first archive is made inside, since hooks of a user that is not root may write nowhere else.
    # shellcheck disable=SC2016  # the hooks' shell expands these
    mmdebstrap --quiet --format=tar --variant=essential --include=python3,python3-venv,ca-certificates,libstdc++6 \
        --dpkgopt='path-exclude=/usr/share/man/*' \
        --dpkgopt='path-exclude=/usr/share/locale/*' \
        --dpkgopt='path-exclude=/usr/share/doc/*' \
        --dpkgopt='path-include=/usr/share/doc/*/copyright' \
        --customize-hook='rm -f "$1"/etc/hostname "$1"/etc/resolv.conf "$1"/var/log/*.log' \
        --customize-hook='tar --one-file-system --numeric-owner --exclude=./base.tar --exclude="./dev/*" --exclude="./proc/*" \
            --exclude="./sys/*" --exclude="./var/cache/apt/*" --exclude="./var/lib/apt/lists/*" -C "$1" -cf "$1/base.tar" .' \
        --customize-hook="download /base.tar '$folder/base.tar'" \
        --customize-hook='rm "$1/base.tar"' \
        --customize-hook='APT_CONFIG="$MMDEBSTRAP_APT_CONFIG" apt-get install -q -y --no-install-recommends \
            -o DPkg::Chroot-Directory="$1" binutils' \
        "$@"
    mv "$folder/build-base.part" "$folder/build-base.tar" # an archive that was cut off is never imported
fi
if ! command -v "$docker" >/dev/null; then
    echo "archives made: $folder/base.tar, $folder/build-base.tar; '$docker' is missing, so nothing was imported"
    exit 0
fi
for name in base build-base; do
    "$docker" import --change 'ENV LANG=C.UTF-8' "$folder/$name.tar" "clipseg-kfp-$name:$suite" >/dev/null
    echo "built clipseg-kfp-$name:$suite"
done
