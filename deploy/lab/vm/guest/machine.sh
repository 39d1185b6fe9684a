# shellcheck shell=bash
# The machine's hardware and its networks. Node 1 has two igb of its own; node 2 and the client are behind bridges that an
# uplink joins to the same wires.

modules_load() {
    # af_packet and nf_tables by name: nothing here has a udev that would load them.
    modprobe -a vfio_pci vfio_iommu_type1 virtio_net tun vhost_net veth bridge af_packet nf_tables
    [[ -c /dev/vhost-net ]] || die "no /dev/vhost-net"
    [[ -n $(ls /sys/class/iommu) ]] || die "the machine has no IOMMU"
}

bind_nic() { # PCI-ADDRESS
    local device=/sys/bus/pci/devices/$1
    [[ -e $device ]] || die "no device $1"
    [[ ! -e $device/driver ]] || die "$1 has a driver already: $(readlink "$device/driver")"
    echo vfio-pci >"$device/driver_override"
    echo "$1" >/sys/bus/pci/drivers_probe
    [[ $(readlink "$device/driver") == */vfio-pci ]] || die "$1 does not bind to vfio-pci"
}

uplink() { # MAC BRIDGE NAME: a kernel NIC of the machine becomes a port of the bridge
    local interface
    interface=$(ip -o link | awk -v mac="$1" '$0 ~ mac { sub(/[:@].*/, "", $2); print $2 }')
    [[ -n $interface ]] || die "no NIC $1"
    ip link set dev "$interface" name "$3"
    ip link set dev "$3" netns "${PREFIX}sw"
    # Not wire_like: a virtio-net on a hub has no offloads, and ethtool fails where there is nothing to switch off.
    netns sw ethtool -K "$3" gso off gro off
    ip -n "${PREFIX}sw" link set dev "$3" master "$2" up
    ip -n "${PREFIX}sw" link set dev "$3" type bridge_slave flood on mcast_flood on bcast_flood on learning on
}

# in_order NAME IFACE: a veth queues frames on the processor that sends them. One flow is sent from two (the process, and
# the answer to an ACK), and when the host takes one of them away for a while, a whole burst is overtaken by the next. One
# processor for all of an interface's frames keeps their order.
in_order() {
    netns "$1" sh -c "echo 1 >/sys/class/net/$2/queues/rx-0/rps_cpus"
}

machine_net_up() {
    ip link set dev lo up
    ns_create sw
    bridge_create brwire
    bridge_create brlink
    uplink "$WIRE_UPLINK_MAC" brwire upwire
    uplink "$LINK_UPLINK_MAC" brlink uplink
    ns_create client
    [[ -z ${OVERLAY[WIRE_VLAN]:-} ]] || modprobe 8021q
    client_plug
    ip -n "${PREFIX}client" addr add "$CLIENT_IP/24" dev wire0
    ipv6_on client wire0
    ip -n "${PREFIX}client" addr add "$CLIENT_IP6/64" dev wire0 nodad
    ip -n "${PREFIX}client" link set dev wire0 up
    netns client sysctl -q -w net.ipv4.tcp_no_metrics_save=1
    ns_create node1
    ns_create node2
    plug node2 wire0 "$(wire_mac 2)" brwire w2
    plug node2 link0 "$(link_mac 2)" brlink l2
    silence node2 wire0
    silence node2 link0
    local pair
    for pair in "sw wc" "sw w2" "sw l2" "client wire0" "node2 wire0" "node2 link0"; do
        # shellcheck disable=SC2086 # two words
        in_order $pair
    done
}

# replace FILE OLD NEW: exactly one line must have OLD, or the lab's configuration is not what this was written for.
replace() {
    [[ $(grep -cF -- "$2" "$1") == 1 ]] || die "$1: not one line with $2"
    sed -i "s|$2|$3|" "$1"
}

vhost_device() { # NUMBER INTERFACE
    printf 'net_virtio_user%s,path=/dev/vhost-net,iface=%s,queue_size=1024' "$1" "$2"
}

# Threads of the kernel that serve /dev/vhost-net, one per pair of queues.
vhost_threads() { pgrep -c '^vhost-' || true; }

# The lab's configuration with this machine's ports: twins over vhost-net on both nodes, real NICs on node 1.
vhost_configuration() { # NODE
    local file
    file=$(node_dir "$1")/dtsd.yaml
    replace "$file" 'net_tap0,iface=dtsw' "$(vhost_device 0 dtsw)"
    replace "$file" 'net_tap1,iface=dtsl' "$(vhost_device 1 dtsl)"
    if (($1 == 1)); then
        # shellcheck disable=SC2153 # both come from the host
        replace "$file" 'net_af_packet0,iface=wire0' "$WIRE_NIC"
        # shellcheck disable=SC2153
        replace "$file" 'net_af_packet1,iface=link0' "$LINK_NIC"
        sed -i 's/queues: 1$/queues: 2/' "$file"
    fi
}

collect_logs() {
    local n
    mkdir -p "$SHARE/logs"
    for ((n = 1; n <= NODES; n++)); do
        mkdir -p "$SHARE/logs/node$n"
        cp "$STATE/node$n"/*.{log,yaml,conf} "$SHARE/logs/node$n/" 2>/dev/null
    done
    dmesg >"$SHARE/logs/dmesg" 2>/dev/null
}
