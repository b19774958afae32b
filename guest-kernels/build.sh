#!/bin/bash
# Builds one guest kernel: build.sh FLAVOUR ARCH OUTDIR
#
# Unpacks Debian's kernel source, applies patches/, and configures it as `make allnoconfig` plus the
# allow-list beside this script: minimal.config and minimal-ARCH.config, then FLAVOUR.config and
# FLAVOUR-ARCH.config for another flavour.
# Fails when the kernel's configuration does not grant every line of the allow-list.
# Leaves config in OUTDIR, and vmlinux and bzImage (x86_64) or Image (aarch64).
#
# Environment: KERNEL_SOURCE (the tarball), WORK (scratch directory, made and removed when not given),
# JOBS (parallel compilations).
set -euo pipefail

fail() { echo "build.sh: $*" >&2; exit 1; }

[ $# -eq 3 ] || fail "usage: build.sh FLAVOUR ARCH OUTDIR"
flavour=$1 arch=$2 out=$3
here=$(cd "$(dirname "$0")" && pwd)
fragments=("$here/minimal.config" "$here/minimal-$arch.config")
[ "$flavour" = minimal ] || fragments+=("$here/$flavour.config" "$here/$flavour-$arch.config")
tarball=${KERNEL_SOURCE:-/usr/src/linux-source-6.12.tar.xz}
jobs=${JOBS:-$(nproc)}

for fragment in "${fragments[@]}"; do
    [ -f "$fragment" ] || fail "no such flavour: $fragment is missing"
done
[ -f "$tarball" ] || fail "$tarball is missing; install the Debian package linux-source-6.12"

case $arch in
x86_64) kernel_arch=x86_64 compiler=x86_64-linux-gnu- images=(vmlinux arch/x86/boot/bzImage) ;;
aarch64) kernel_arch=arm64 compiler=aarch64-linux-gnu- images=(arch/arm64/boot/Image) ;;
*) fail "architecture $arch has no recipe" ;;
esac
# The compiler of this machine's own architecture is called by its plain name.
[ "$arch" != "$(uname -m)" ] || compiler=

if [ -z "${WORK:-}" ]; then
    WORK=$(mktemp -d "${TMPDIR:-/tmp}/guest-kernel.XXXXXX")
    trap 'rm -rf "$WORK"' EXIT
fi
source=$WORK/source build=$WORK/build
mkdir -p "$source" "$build" "$out"

# The same inputs give the same bytes: nothing of this machine or this moment enters the image.
export KBUILD_BUILD_TIMESTAMP='Thu Jan  1 00:00:00 UTC 1970' KBUILD_BUILD_VERSION=1
export KBUILD_BUILD_USER=vmm KBUILD_BUILD_HOST=vmm
export LC_ALL=C TZ=UTC
unset LOCALVERSION KCFLAGS MAKEFLAGS

echo "unpacking $(basename "$tarball")"
tar -C "$source" --strip-components=1 -xf "$tarball"
for patch in "$here"/patches/*.patch; do
    [ -e "$patch" ] || continue
    echo "applying $(basename "$patch")"
    patch -s -d "$source" -p1 <"$patch"
done

kmake() {
    make -s -C "$source" O="$build" ARCH="$kernel_arch" CROSS_COMPILE="$compiler" -j "$jobs" "$@"
}

echo "configuring $flavour-$arch"
allow_list=$WORK/allow-list
cat "${fragments[@]}" >"$allow_list"
kmake KCONFIG_ALLCONFIG="$allow_list" allnoconfig >/dev/null
kmake olddefconfig >/dev/null

# kconfig drops what it does not know or whose dependencies are off, without a word.
lost=0
while IFS= read -r line; do
    case $line in
    '# CONFIG_'*' is not set')
        name=${line#\# } name=${name%% *}
        if grep -q "^$name=" "$build/.config"; then
            echo "refused to be off: $(grep "^$name=" "$build/.config")" >&2
            lost=1
        fi
        ;;
    CONFIG_*)
        if ! grep -qxF -- "$line" "$build/.config"; then
            echo "not granted: $line" >&2
            lost=1
        fi
        ;;
    '' | '#'*) ;;
    *) fail "neither an option nor a comment: $line" ;;
    esac
done <"$allow_list"
[ $lost -eq 0 ] || fail "the allow-list of $flavour-$arch asks for what this kernel cannot give"

echo "compiling $flavour-$arch"
kmake "${images[@]##*/}" LOCALVERSION="-$flavour"

for image in "${images[@]}"; do
    install -m 644 "$build/$image" "$out/$(basename "$image")"
done
# The symbol table stays: it costs the guest nothing and names what an address is.
[ ! -e "$out/vmlinux" ] || "${compiler}strip" --strip-debug "$out/vmlinux"
install -m 644 "$build/.config" "$out/config"
