# shellcheck shell=bash
# An initramfs with just enough to mount this machine's root; every other module comes from there.

# What it takes to reach the root: the bus, the file system over it, and the writable layer on top.
INITRAMFS_MODULES=(virtio_pci 9pnet_virtio 9p overlay)

# modules_with_dependencies NAME...: paths below $MODULES, each once. Order does not matter: modprobe knows it.
modules_with_dependencies() {
    awk -v names="$*" '
        BEGIN { n = split(names, wanted, " "); for (i = 1; i <= n; i++) want[wanted[i]] = 1 }
        {
            path = $1; sub(/:$/, "", path)
            name = path; sub(/.*\//, "", name); sub(/\.ko.*/, "", name); gsub(/-/, "_", name)
            if (name in want) for (i = 1; i <= NF; i++) { sub(/:$/, "", $i); needed[$i] = 1 }
        }
        END { for (path in needed) print path }' "$MODULES/modules.dep"
}

# initramfs_create FILE
initramfs_create() {
    local tree=$RUN/initramfs path
    mkdir -p "$tree"/{bin,proc,sys,dev,share,host,writable,root} "$tree/lib/modules/$KERNEL_VERSION"
    cp "$BUSYBOX" "$tree/bin/busybox"
    install -m 0755 "$VM_DIR/guest/init" "$tree/init"
    while read -r path; do
        install -D -m 0644 "$MODULES/$path" "$tree/lib/modules/$KERNEL_VERSION/$path"
    done < <(modules_with_dependencies "${INITRAMFS_MODULES[@]}")
    "$BUSYBOX" depmod -b "$tree" "$KERNEL_VERSION"
    (cd "$tree" && find . | "$BUSYBOX" cpio -o -H newc 2>/dev/null | gzip -1) >"$1"
}
