# shellcheck shell=bash
# What the client asks, and what is written down for the verdict.

TRANSFERS=3
DOWNLOAD_BYTES=4194304
UPLOAD_BYTES=1048576
DIRECT_PINGS=20

admin() { curl -sf -m 10 --unix-socket "$(node_dir "$1")/admin.sock" "http://dtsd$2"; }

ask_nodes() { # TAG
    local n
    for n in 1 2; do
        netns "node$n" curl -sf -m 10 http://127.0.0.1:9464/metrics >"$SHARE/metrics-$1-$n" || die "no metrics of node $n"
        admin "$n" '/v1/handovers?limit=1000' >"$SHARE/handovers-$1-$n" || die "no list of handovers of node $n"
    done
}

peers_alive() {
    local n
    for n in 1 2; do
        admin "$n" /v1/status | jq -e '[.members[].alive] | length == 2 and all' >/dev/null || return 1
    done
}

# Traffic that is not the cluster's, from a NIC queue to the kernel behind vhost-net and back.
direct_traffic() {
    local n answered
    for n in 1 2; do
        answered=$(netns client ping -q -c "$DIRECT_PINGS" -i 0.1 -W 5 "$WIRE_NET.$n" | grep -oE '[0-9]+ received' || true)
        [[ $answered == "$DIRECT_PINGS received" ]] || die "node$n's own address: $answered of $DIRECT_PINGS pings"
        answered=$(netns client curl -sf -m 30 "http://$WIRE_NET.$n/" || true)
        [[ $answered == "node$n" ]] || die "node$n's own address is answered by '$answered'"
    done
    report "the nodes' own addresses answer pings and HTTP through their twins"
}

transfer() { # NODE WHAT NUMBER: appends "WHAT NODE ANSWERED-BY HTTP-CODE CONTENT" to the list; every second one over IPv6
    local pool node got host=$VIP
    (($3 % 2)) || host="[$VIP6]"
    pool=$([[ $1 == 1 ]] && echo a || echo b)
    local url=http://$host/big/100M args=(-o "$STATE/body") expected=200 content=ok
    if [[ $2 == upload ]]; then
        url=http://$host/upload/file$3 args=(-o /dev/null -T "$STATE/to-upload") expected=201
        rm -f "$(node_dir "$1")/upload/file$3"
    fi
    got=$(netns client curl -s -m 120 -H "X-Pool: $pool" -w '%{http_code} %header{x-node}' "${args[@]}" "$url" || true)
    read -r code node <<<"${got:-000 -}"
    if [[ $2 == upload ]]; then
        cmp -s "$STATE/to-upload" "$(node_dir "$1")/upload/file$3" || content=differs
    else
        cmp -s "$STATE/body" "$STATE/big-100M" || content=differs
    fi
    [[ $code == "$expected" ]] || content=differs
    printf '%s node%s %s %s %s\n' "$2" "$1" "${node:--}" "$code" "$content" >>"$SHARE/transfers"
}

requests_run() {
    local n i
    wait_for 30 "the nodes to see each other" peers_alive || die "the nodes do not see each other"
    for n in 1 2; do admin "$n" /v1/status >"$SHARE/status-$n"; done
    vhost_threads >"$SHARE/vhost-threads"
    head -c "$DOWNLOAD_BYTES" /dev/urandom >"$STATE/big-100M"
    head -c "$UPLOAD_BYTES" /dev/urandom >"$STATE/to-upload"
    direct_traffic

    ask_nodes before
    proc_start capture "$STATE/capture.log" ip netns exec "${PREFIX}client" dumpcap -q -P -i wire0 -B 64 -w "$STATE/client.pcap"
    wait_for 20 "the capture" grep -q "^File: " "$STATE/capture.log" || die "$(<"$STATE/capture.log")"
    netns client python3 "$LAB_DIR/demo.py" curl "$SHARE/requests.json" "$VIP" "$VIP6"
    ask_nodes requests
    step "transfers"
    for n in 1 2; do
        for ((i = 1; i <= TRANSFERS; i++)); do
            transfer "$n" download "$i"
            transfer "$n" upload "$i"
        done
    done
    ask_nodes after
    # The kernel hands blocks to the capture with some delay.
    sleep 2
    proc_stop capture INT
    cp "$STATE/client.pcap" "$SHARE/"
    for n in 1 2; do proc_alive "node$n/dtsd" || die "dtsd of node $n has ended"; done
}
