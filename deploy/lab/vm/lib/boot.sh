# shellcheck shell=bash
# The machine: two broadcast wires (QEMU hubs flood), on each an igb for node 1 and an uplink for the guest's own bridge.

# Slots below 0x10 leave igb room for its virtual functions, which follow 16 slots later on the same bus.
WIRE_NIC=0000:00:04.0
LINK_NIC=0000:00:06.0
WIRE_UPLINK_MAC=02:77:00:00:00:fe
LINK_UPLINK_MAC=02:77:01:00:00:fe

nic() { # HUB ID MODEL MAC [OPTIONS]: adds to ARGS
    ARGS+=(-netdev "hubport,hubid=$1,id=$2" -device "$3,netdev=$2,mac=$4,romfile=${5:+,$5}")
}

slot() { local address=${1##*:}; printf 'addr=0x%s' "${address%.0}"; }

boot() { # INITRAMFS
    local seconds=$SECONDS rc=0 directory
    # shellcheck disable=SC2054 # the commas are QEMU's
    ARGS=(
        # Only emulation: it needs no privilege and no processor feature. Processors run in threads of their own.
        -accel tcg,thread=multi -machine q35 -cpu max -smp "$CPUS" -m "$MEMORY_MB"
        -display none -nodefaults -no-reboot -serial "file:$RUN/console.log"
        -kernel "$KERNEL" -initrd "$1"
        -append "console=ttyS0 quiet panic=-1 mitigations=off hugepages=$HUGEPAGES intel_iommu=on"
        # vfio-pci wants an IOMMU, as in production; devices that do not say otherwise bypass it.
        -device "intel-iommu,intremap=on"
        -virtfs "local,path=/,mount_tag=host,security_model=none,readonly=on,multidevs=remap"
        -virtfs "local,path=$RUN/share,mount_tag=share,security_model=none"
    )
    nic 1 wire0 igb "$(wire_mac 1)" "$(slot "$WIRE_NIC")"
    nic 2 link0 igb "$(link_mac 1)" "$(slot "$LINK_NIC")"
    nic 1 wireup virtio-net-pci "$WIRE_UPLINK_MAC"
    nic 2 linkup virtio-net-pci "$LINK_UPLINK_MAC"
    if [[ -n $QEMU_TREE ]]; then
        for directory in seabios qemu; do ARGS+=(-L "$QEMU_TREE/usr/share/$directory"); done
    fi
    # In the background, so that a signal ends this script at once; on_exit then ends the machine.
    in_qemu_tree exec timeout -k 10 "$TIMEOUT" nice -n 5 "$QEMU" "${ARGS[@]}" </dev/null >"$RUN/qemu.log" 2>&1 &
    MACHINE=$!
    wait "$MACHINE" || rc=$?
    MACHINE=""
    say "the machine ran for $((SECONDS - seconds)) s"
    ((rc != 124 && rc != 137)) || die "the machine did not end within $TIMEOUT s"
    ((rc == 0)) || { tail -n 20 "$RUN/qemu.log" >&2; die "QEMU ended with status $rc"; }
}
