# shellcheck shell=bash
# dpdk-testpmd in dtsd's place passes frames between each NIC and its twin: what fails here is the machine's fault.

STANDIN_CONNECTIONS=16
CLIENT_FIRST=210

testpmd_command() { # NODE
    # shellcheck disable=SC2054 # the commas are DPDK's
    local queues=1 devices=(--no-pci --vdev=net_af_packet0,iface=wire0 --vdev=net_af_packet1,iface=link0)
    (($1 == 2)) || { queues=2; devices=(-a "$WIRE_NIC" -a "$LINK_NIC"); }
    # NICs have the ports 0 and 1, twins 2 and 3; the list pairs them.
    printf '%s\n' dpdk-testpmd -l 0,1 --file-prefix "$PREFIX$1" --in-memory -m 128 "${devices[@]}" \
        "--vdev=$(vhost_device 0 dtsw),queues=$queues" "--vdev=$(vhost_device 1 dtsl),queues=$queues" \
        -- --forward-mode=io --auto-start --portlist=0,2,1,3 --stats-period=3600 \
        --total-num-mbufs=8192 --nb-cores=1 --no-mlockall "--rxq=$queues" "--txq=$queues"
}

standin_addresses() { # NODE
    ip -n "${PREFIX}node$1" addr replace "$WIRE_NET.$1/24" dev dtsw
    ip -n "${PREFIX}node$1" addr replace "$LINK_NET.$1/24" dev dtsl
    ip -n "${PREFIX}node$1" link set dev dtsw up
    ip -n "${PREFIX}node$1" link set dev dtsl up
}

# testpmd tells of a queue, when it ends, only if frames came through it. Port 0 is the wire.
busy() { grep -aqF "RX Port= 0/Queue= $1 ->" "$(node_dir 1)/dtsd.log"; }

standin_run() {
    local n i command address
    for n in 1 2; do
        mapfile -t command < <(testpmd_command "$n")
        proc_start "node$n/dtsd" "$(node_dir "$n")/dtsd.log" ip netns exec "${PREFIX}node$n" "${command[@]}"
        wait_for 60 "testpmd of node $n" grep -aq "packet forwarding" "$(node_dir "$n")/dtsd.log" ||
            die "testpmd of node $n does not start"
        standin_addresses "$n"
        node_start "$n" nginx
        node_wait "$n" nginx
    done
    report "vhost threads: $(vhost_threads)"
    wait_for 30 "node 1 on the link" netns node2 ping -c 1 -W 1 "$LINK_NET.1"
    direct_traffic
    # testpmd has the NIC hash addresses alone, so each connection needs one of its own.
    for ((i = 0; i < STANDIN_CONNECTIONS; i++)); do
        address=$WIRE_NET.$((CLIENT_FIRST + i))
        ip -n "${PREFIX}client" addr add "$address/24" dev wire0
        netns client curl -sf -m 30 --interface "$address" -o /dev/null "http://$WIRE_NET.1/" || die "no answer from node 1"
    done
    for n in 1 2; do proc_stop "node$n/dtsd"; done
    for n in 0 1; do
        busy "$n" || die "queue $n of node 1 received nothing: no RSS?"
    done
    report "both queues of node 1 received frames"
}
