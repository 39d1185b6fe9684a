# shellcheck shell=bash
# Kernel, QEMU and busybox from Debian's archive, unpacked into the cache. Nothing is installed, and apt's own state is not
# touched: it gets lists of its own, so that no root is needed either.

# The first QEMU with the igb model is 8.0; Debian 12 itself has 7.2.
RELEASE=bookworm
QEMU_RELEASE=bookworm-backports

apt_own() { # COMMAND ARGS...
    local tool=$1
    shift
    "$tool" -q -o Dir::Etc::SourceList="$CACHE/apt/sources.list" -o Dir::Etc::SourceParts=/nonexistent \
        -o Dir::State::Lists="$CACHE/apt/lists" -o Dir::Cache="$CACHE/apt/cache" \
        -o APT::Sandbox::User= -o Acquire::Languages=none -o APT::Default-Release="$RELEASE" "$@"
}

# The mirror that this machine uses for Debian.
debian_mirror() {
    # shellcheck disable=SC2016 # apt expands these
    apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Origin: Debian' "Codename: $RELEASE" 2>/dev/null |
        head -n 1
}

apt_lists() {
    [[ -e $CACHE/apt/.complete ]] && return
    local mirror
    mirror=$(debian_mirror)
    mkdir -p "$CACHE/apt/lists/partial" "$CACHE/apt/cache/archives/partial"
    printf 'deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] %s %s main\n' \
        "${mirror:-http://deb.debian.org/debian}" "$RELEASE" \
        "${mirror:-http://deb.debian.org/debian}" "$QEMU_RELEASE" >"$CACHE/apt/sources.list"
    logged "$CACHE/apt/update.log" apt_own apt-get update
    touch "$CACHE/apt/.complete"
}

# logged FILE CMD...: the output matters only when the command fails.
logged() {
    local file=$1
    shift
    "$@" >"$file" 2>&1 || { tail -n 20 "$file" >&2; die "failed: $*"; }
}

# unpack NAME PACKAGE...: into $CACHE/NAME, once.
unpack() {
    local name=$1 file
    shift
    [[ -e $CACHE/$name/.complete ]] && return
    rm -rf "${CACHE:?}/$name" "$CACHE/$name.debs"
    mkdir -p "$CACHE/$name" "$CACHE/$name.debs"
    (cd "$CACHE/$name.debs" && logged "$CACHE/$name.log" apt_own apt-get download "$@")
    for file in "$CACHE/$name.debs"/*.deb; do dpkg-deb -x "$file" "$CACHE/$name"; done
    rm -rf "$CACHE/$name.debs"
    touch "$CACHE/$name/.complete"
}

# A QEMU of this machine that knows igb will do; otherwise the packages that an installation would bring.
prepare_qemu() {
    QEMU_TREE=""
    QEMU=$(command -v qemu-system-x86_64 || true)
    if [[ -n $QEMU ]] && has_igb "$QEMU"; then return; fi
    QEMU_TREE=$CACHE/qemu QEMU=$CACHE/qemu/usr/bin/qemu-system-x86_64
    if [[ ! -e $QEMU_TREE/.complete ]]; then
        apt_lists
        local packages
        mapfile -t packages < <(apt_own apt-get -t "$QEMU_RELEASE" install -s --no-install-recommends qemu-system-x86 |
            awk '$1 == "Inst" { version = $3; if ($3 ~ /^\[/) version = $4; gsub(/[(]/, "", version); print $2 "=" version }')
        ((${#packages[@]})) || die "apt finds no qemu-system-x86 in $QEMU_RELEASE, see $CACHE/apt/update.log"
        unpack qemu "${packages[@]}"
    fi
    has_igb "$QEMU" || die "$QEMU does not know the igb NIC"
}

# in_qemu_tree CMD...: with the libraries of the unpacked QEMU, if that is the one.
in_qemu_tree() {
    [[ -n $QEMU_TREE ]] || { "$@"; return; }
    local arch=x86_64-linux-gnu
    LD_LIBRARY_PATH=$QEMU_TREE/usr/lib/$arch:$QEMU_TREE/lib/$arch QEMU_MODULE_DIR=$QEMU_TREE/usr/lib/$arch/qemu "$@"
}

has_igb() { [[ $(in_qemu_tree "$1" -device help 2>/dev/null) == *'name "igb"'* ]]; }

prepare_kernel() {
    if [[ ! -e $CACHE/kernel/.complete ]]; then
        apt_lists
        local package
        package=$(apt_own apt-cache depends linux-image-amd64 | awk '/Depends: linux-image-/ { print $2; exit }')
        [[ -n $package ]] || die "apt finds no kernel, see $CACHE/apt/update.log"
        unpack kernel "$package"
    fi
    local images=("$CACHE"/kernel/boot/vmlinuz-*)
    KERNEL=${images[0]}
    KERNEL_VERSION=${KERNEL##*/vmlinuz-}
    MODULES=$CACHE/kernel/lib/modules/$KERNEL_VERSION
    [[ -e $MODULES/modules.dep ]] || logged "$CACHE/depmod.log" "$BUSYBOX" depmod -b "$CACHE/kernel" "$KERNEL_VERSION"
}

prepare() {
    mkdir -p "$CACHE"
    # Two runs at once would unpack into the same directories.
    exec 8>"$CACHE/lock"
    flock -w 600 8 || die "another run holds $CACHE/lock"
    BUSYBOX=$CACHE/busybox/bin/busybox
    [[ -e $CACHE/busybox/.complete ]] || { apt_lists; unpack busybox busybox-static; }
    prepare_kernel
    prepare_qemu
    exec 8>&-
}
