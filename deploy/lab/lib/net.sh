# shellcheck shell=bash
# Namespaces, bridges and veth pairs that behave like wires.

netns() { local name=$1; shift; ip netns exec "$PREFIX$name" "$@"; }
ns_exists() { ip netns list 2>/dev/null | grep -qE "^$PREFIX$1( |\$)"; }

ns_create() { # NAME
    ip netns add "$PREFIX$1"
    # Before any device exists: no IPv6 but where it is switched on (no router solicitations or MLD on a captured wire), no
    # source validation, and ARP answered only by the interface that bears the address, in the address's own name.
    netns "$1" sysctl -q -w net.ipv6.conf.all.disable_ipv6=1 net.ipv6.conf.default.disable_ipv6=1 \
        net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.default.rp_filter=0 \
        net.ipv4.conf.all.arp_ignore=1 net.ipv4.conf.all.arp_announce=2 \
        net.ipv4.conf.all.send_redirects=0 net.ipv4.conf.default.send_redirects=0
    # A node asks its own application at a VIP over loopback.
    netns "$1" sysctl -q -w net.ipv6.conf.lo.disable_ipv6=0
    ip -n "$PREFIX$1" link set dev lo up
}

# A veth or TAP with offloads on hands over frames with unfinished checksums and 64 KiB super-frames; a wire does neither.
wire_like() { # NAME IFACE
    netns "$1" ethtool -K "$2" tx off rx off sg off tso off gso off gro off rxvlan off txvlan off >/dev/null 2>&1 ||
        die "cannot turn the offloads of $2 in $1 off"
}

# IPv6 on one interface: addresses of ours alone, and at once. Nobody on these wires is a router, and there are no
# duplicates that nobody meant.
ipv6_on() { # NAME IFACE
    local key=net.ipv6.conf.$2
    netns "$1" sysctl -q -w "$key.accept_ra=0" "$key.autoconf=0" "$key.router_solicitations=0" "$key.accept_dad=0" \
        "$key.disable_ipv6=0"
}

# No snooping: a frame to a group goes to every port like a broadcast, and with it each neighbour solicitation.
bridge_create() { # BRIDGE
    ip -n "${PREFIX}sw" link add name "$1" type bridge stp_state 0 mcast_snooping 0 forward_delay 0
    ip -n "${PREFIX}sw" link set dev "$1" up
}

# plug NODE IFACE MAC BRIDGE PORT: a cable from an interface to a bridge port. A frame to a MAC that the bridge has not
# learned goes to every port, which is what the cluster MAC lives by.
plug() {
    ip -n "${PREFIX}sw" link add name "$5" mtu 1500 type veth peer name "$2" address "$3" mtu 1500 netns "$PREFIX$1"
    wire_like sw "$5"
    wire_like "$1" "$2"
    ip -n "${PREFIX}sw" link set dev "$5" master "$4" up
    ip -n "${PREFIX}sw" link set dev "$5" type bridge_slave flood on mcast_flood on bcast_flood on learning on
}

# The data plane reads this interface by af_packet; the kernel must neither speak on it nor listen.
silence() { # NODE IFACE
    ip -n "$PREFIX$1" link set dev "$2" arp off promisc on up
    # Linux takes a packet to any of its addresses on any interface (the weak host model), so a frame to this MAC would be
    # answered twice: by the kernel and, through the data plane and its TAP, by the kernel again. af_packet's tap comes
    # before the ingress hooks, so dropping there costs the data plane nothing and leaves connection tracking off.
    if netns "$1" nft -f - 2>/dev/null <<EOF_NFT
table netdev dts_lab_$2 {
    chain ingress { type filter hook ingress device "$2" priority 0; policy drop; }
}
EOF_NFT
    then return; fi
    if netns "$1" tc qdisc add dev "$2" clsact 2>/dev/null &&
        netns "$1" tc filter add dev "$2" ingress matchall action drop 2>/dev/null; then return; fi
    # Neither hook: strict source validation on this interface alone. No route leads out of it, so every source is wrong.
    netns "$1" sysctl -q -w "net.ipv4.conf.$2.rp_filter=1"
}

# MACs of their own: the source MAC of a frame tells a capture which node sent it.
wire_mac() { printf '02:77:00:00:00:%02x' "$1"; }
link_mac() { printf '02:77:01:00:00:%02x' "$1"; }

# The client's cable. On a tagged wire its interface is a VLAN of the cable's.
client_plug() {
    local vlan=${OVERLAY[WIRE_VLAN]:-} mac=02:77:00:00:00:c8
    if [[ -z $vlan ]]; then
        plug client wire0 "$mac" brwire wc
        return
    fi
    plug client trunk0 "$mac" brwire wc
    ip -n "${PREFIX}client" link set dev trunk0 up
    ip -n "${PREFIX}client" link add link trunk0 name wire0 type vlan id "$vlan" ||
        die "this kernel has no VLAN interfaces for the client (CONFIG_VLAN_8021Q): use --link-vlan"
}

net_up() {
    ns_create sw
    # A switch has no firewall. Where the host has loaded br_netfilter, every flooded frame would pass one at every port.
    local hook
    for hook in iptables ip6tables arptables; do
        [[ ! -e /proc/sys/net/bridge/bridge-nf-call-$hook ]] || netns sw sysctl -q -w "net.bridge.bridge-nf-call-$hook=0"
    done
    bridge_create brwire
    bridge_create brlink
    ns_create client
    client_plug
    ip -n "${PREFIX}client" addr add "$CLIENT_IP/24" dev wire0
    ipv6_on client wire0
    ip -n "${PREFIX}client" addr add "$CLIENT_IP6/64" dev wire0 nodad
    ip -n "${PREFIX}client" link set dev wire0 up
    # Each connection stands alone: nothing learned from an earlier one.
    netns client sysctl -q -w net.ipv4.tcp_no_metrics_save=1
    local n
    for ((n = 1; n <= NODES; n++)); do
        ns_create "node$n"
        plug "node$n" wire0 "$(wire_mac "$n")" brwire "w$n"
        plug "node$n" link0 "$(link_mac "$n")" brlink "l$n"
        silence "node$n" wire0
        silence "node$n" link0
    done
}

net_down() {
    local ns
    # Only names that this lab makes: another lab's prefix may begin with ours.
    for ns in $(ip netns list 2>/dev/null | awk '{print $1}' | grep -E "^$PREFIX(sw|client|node[0-9]+)\$" || true); do
        ip netns del "$ns"
    done
}
