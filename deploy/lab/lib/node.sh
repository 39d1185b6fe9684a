# shellcheck shell=bash
# What runs on a node, and when it is ready.

NR_HUGEPAGES=/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages
lock_hugepages() { exec 9>"$NR_HUGEPAGES" && flock -w 60 9; }

# Every lab adds the pages that its nodes take and removes as many at its end, so labs side by side do not share a budget.
hugepages_reserve() {
    local n pages=0 before after
    ((ROOTLESS)) && return
    for ((n = 1; n <= NODES; n++)); do
        if ((STANDIN)) || [[ $(boolean "$n" HUGEPAGES 1) == true ]]; then
            pages=$((pages + $(setting "$n" MEGABYTES 256) / HUGEPAGE_MB))
        fi
    done
    ((pages > 0)) || return 0
    [[ -w $NR_HUGEPAGES ]] || die "no 2 MiB huge pages on this kernel: use --no-hugepages"
    lock_hugepages || die "another lab holds the huge page lock"
    before=$(<"$NR_HUGEPAGES")
    echo $((before + pages)) >"$NR_HUGEPAGES"
    after=$(<"$NR_HUGEPAGES")
    if ((after < before + pages)); then
        # Files that were read lately take the memory, and lie all over it.
        sync
        echo 3 >/proc/sys/vm/drop_caches
        echo 1 >/proc/sys/vm/compact_memory
        echo $((before + pages)) >"$NR_HUGEPAGES"
        after=$(<"$NR_HUGEPAGES")
    fi
    echo $((after - before)) >"$STATE/hugepages"
    exec 9>&-
    if ((after < before + pages)); then
        die "the kernel gave $((after - before)) of $pages huge pages (2 MiB): free memory, or use --no-hugepages"
    fi
}

hugepages_release() {
    [[ -f $STATE/hugepages ]] || return 0
    local added now
    added=$(<"$STATE/hugepages")
    lock_hugepages || return 0
    now=$(<"$NR_HUGEPAGES")
    echo $((now > added ? now - added : 0)) >"$NR_HUGEPAGES"
    exec 9>&-
    rm -f "$STATE/hugepages"
}

# 100 MiB of a fixed key stream: the same bytes on every node and on every machine.
content_create() {
    head -c 104857600 /dev/zero | openssl enc -aes-128-ctr -nosalt -K 64747320636c757374657220636f6e74 \
        -iv 00000000000000000000000000000000 -out "$STATE/big-100M"
    sha256sum "$STATE/big-100M" | cut -d' ' -f1 >"$STATE/big-100M.sha256"
}

node_prepare() { # NODE
    local n=$1 dir
    dir=$(node_dir "$n")
    mkdir -p "$dir/upload"
    # The blank lines are settings that were left to dtsd's defaults.
    render_dtsd_config "$n" | sed '/^$/d' >"$dir/dtsd.yaml"
    render_proxy_config "$n" >"$dir/proxy.yaml"
    render_nginx_config "$n" >"$dir/nginx.conf"
    # Fast Open without cookies for every listener, set before any of them listens:
    # 1 client | 2 server | 0x200 data without a cookie | 0x400 listeners that did not ask.
    local fastopen=0
    [[ $(boolean "$n" FASTOPEN 1) == true ]] && fastopen=1539
    netns "node$n" sysctl -q -w net.ipv4.tcp_fastopen=$fastopen net.ipv4.ip_unprivileged_port_start=0 \
        net.core.somaxconn=4096 net.ipv4.tcp_max_syn_backlog=4096
}

# Does this node have this process? The stand-in needs no proxy, nor does a layer-4 service.
node_has() { # NODE ROLE
    [[ $2 != proxy ]] || { ((!STANDIN)) && [[ $(boolean "$1" L4 0) == false ]]; }
}

node_start() { # NODE ROLE
    local n=$1 role=$2 dir command
    dir=$(node_dir "$n")
    node_has "$n" "$role" || return 0
    proc_alive "node$n/$role" && return
    case $role in
        dtsd)
            if ((STANDIN)); then
                mapfile -t command < <(standin_command "$n")
            else
                rm -f "$dir/rpc.sock" "$dir/admin.sock"
                command=("$BIN/dtsd" --config "$dir/dtsd.yaml")
                # A stall of 8 ms is enough for Linux to repeat a FIN (its tail-loss probe), and here several nodes share a
                # core with their clients. A worker that sleeps when idle may go first; one that spins would starve the rest.
                if ((!ROOTLESS)) && [[ $(setting "$n" IDLE backoff) == backoff ]]; then
                    command=(nice -n "$(setting "$n" NICE -5)" "${command[@]}")
                fi
            fi
            ;;
        proxy) command=("$BIN/dts-proxy" --config "$dir/proxy.yaml") ;;
        nginx)
            command=(nginx -c "$dir/nginx.conf" -e "$dir/nginx-error.log")
            # nginx drops privileges when its user is 0, which a namespace with one user does not allow.
            ((ROOTLESS)) && command=(unshare --user --map-user=1000 --map-group=1000 "${command[@]}")
            ;;
    esac
    proc_start "node$n/$role" "$dir/$role.log" ip netns exec "${PREFIX}node$n" "${command[@]}"
}

node_stop() { # NODE ROLE
    proc_stop "node$1/$2" || die "node$1 $2 does not end"
}

node_wait() { # NODE ROLE
    local n=$1 role=$2 limit=10
    node_has "$n" "$role" || return 0
    [[ $role == dtsd ]] && limit=${DTSD_READY_S:-30}
    wait_for "$limit" "node$n $role" ready_or_dead "$n" "$role" && proc_alive "node$n/$role" && return
    say "node$n $role is not ready; the end of its log:"
    tail -n 20 "$(node_dir "$n")/$role.log" >&2
    return 1
}

# A process that has ended will not become ready: stop waiting for it.
ready_or_dead() { "${2}_ready" "$1" || proc_dead "node$1/$2"; }

dtsd_ready() {
    if ((STANDIN)); then standin_ready "$1"; return; fi
    curl -sf -m 2 --unix-socket "$(node_dir "$1")/admin.sock" http://dtsd/v1/status | jq -e '.ready == true'
}

# A socket on [::] serves both families; one on 0.0.0.0 does not.
listening() { [[ -n $(netns "node$1" ss -Hltn6 "sport = :$2") ]]; }
nginx_ready() { listening "$1" "$APP_PORT"; }
proxy_ready() { listening "$1" "$(proxy_port "$1")"; }

# Nodes meet some time after they are ready; before that nobody hands anything to them.
hears_all() { # NODE
    if ((STANDIN)); then return; fi
    curl -sf -m 2 --unix-socket "$(node_dir "$1")/admin.sock" http://dtsd/v1/status | jq -e '[.members[].alive] | all'
}

vip_resolves() { # VIP
    netns client ping -c 1 -W 1 "$1" || true
    [[ $(ip -n "${PREFIX}client" neigh show "$1") == *lladdr* ]]
}

lab_start() {
    local n
    for ((n = 1; n <= NODES; n++)); do
        node_start "$n" dtsd
        node_start "$n" nginx
    done
    # The proxy asks dtsd, so it starts once dtsd answers.
    for ((n = 1; n <= NODES; n++)); do
        node_wait "$n" dtsd
        node_start "$n" proxy
    done
    for ((n = 1; n <= NODES; n++)); do
        node_wait "$n" nginx
        node_wait "$n" proxy
    done
    for ((n = 1; n <= NODES; n++)); do
        wait_for 10 "node$n to hear of all nodes" hears_all "$n"
    done
    wait_for 10 "an answer to ARP for $VIP" vip_resolves "$VIP"
    wait_for 10 "an answer to neighbour discovery for $VIP6" vip_resolves "$VIP6"
}

lab_is_whole() {
    local n role
    for ((n = 1; n <= NODES; n++)); do
        for role in dtsd proxy nginx; do
            ! node_has "$n" "$role" || proc_alive "node$n/$role" || return 1
        done
    done
    ns_exists client
}

lab_teardown() { # KEEP(0|1)
    local file id role entry
    if [[ -d $STATE/run ]]; then
        for role in 'capture-*' 'node*/proxy' 'node*/dtsd' 'node*/nginx'; do
            # shellcheck disable=SC2231 # the patterns are meant to expand
            for file in "$STATE"/run/$role.pid; do
                [[ -e $file ]] || continue
                id=${file#"$STATE/run/"}
                proc_stop "${id%.pid}" || say "process ${id%.pid} does not end"
            done
        done
    fi
    net_down
    hugepages_release
    [[ -d $STATE && ! -L $STATE && -O $STATE ]] || return 0
    if (($1)); then
        rm -rf "$STATE/run" "$STATE/nodes" "$STATE/overlay" "$STATE/identity" "$STATE/big-100M"
        return
    fi
    for entry in "$STATE"/*; do
        # The holder of a rootless lab is ended by the caller, outside this namespace.
        [[ $entry == "$STATE/holder" || ! -e $entry ]] || rm -rf "$entry"
    done
    [[ -e $STATE/holder ]] || rmdir "$STATE"
}

on_failed_up() {
    local rc=$?
    trap - EXIT
    say "up failed: cleaning up"
    lab_teardown 0 || true
    exit "$((rc ? rc : 1))"
}

cmd_status() {
    state_load
    local n role pid
    printf 'prefix %s, %s nodes, VIPs %s and %s, state %s\n' "$PREFIX" "$NODES" "$VIP" "$VIP6" "$STATE"
    ip netns list | awk '{print $1}' | grep -E "^$PREFIX(sw|client|node[0-9]+)\$" | sort | sed 's/^/namespace /'
    for ((n = 1; n <= NODES; n++)); do
        for role in dtsd proxy nginx; do
            node_has "$n" "$role" || continue
            if pid=$(proc_pid "node$n/$role" 2>/dev/null); then
                printf 'node%s %-5s running, pid %s\n' "$n" "$role" "$pid"
            else
                printf 'node%s %-5s not running\n' "$n" "$role"
            fi
        done
        ip -br -n "${PREFIX}node$n" addr show 2>/dev/null | awk -v n="$n" '{ $1 = $1; print "node" n " " $0 }'
    done
}

# --- dpdk-testpmd in dtsd's place: frames pass unchanged between each port and its TAP -------------------------------

standin_command() { # NODE
    printf '%s\n' dpdk-testpmd -l "$(taskset -cp $$ | sed 's/.*: //')" --no-pci --file-prefix "$PREFIX-$1"
    # --in-memory and --no-huge exclude each other.
    if ((ROOTLESS)); then printf '%s\n' --no-huge --no-shconf -m 256; else printf '%s\n' --in-memory -m 128; fi
    printf '%s\n' --vdev=net_af_packet0,iface=wire0 --vdev=net_tap0,iface=dtsw \
        --vdev=net_af_packet1,iface=link0 --vdev=net_tap1,iface=dtsl \
        -- --forward-mode=io --auto-start --stats-period=3600 --total-num-mbufs=8192 --nb-cores=1 --no-mlockall
}

# The first node stands in for the cluster and bears the VIP.
standin_ready() { # NODE
    local n=$1 ns=${PREFIX}node$1
    ip -n "$ns" link show dtsw && ip -n "$ns" link show dtsl || return 1
    if [[ $(ip -n "$ns" addr show dtsl) != *"$LINK_NET.$n/24"* ]]; then
        wire_like "node$n" dtsw
        wire_like "node$n" dtsl
        ipv6_on "node$n" dtsw
        ipv6_on "node$n" dtsl
        ip -n "$ns" addr replace "$WIRE_NET.$n/24" dev dtsw
        ip -n "$ns" addr replace "$WIRE_NET6$n/64" dev dtsw nodad
        if ((n == 1)); then
            ip -n "$ns" addr replace "$VIP/32" dev dtsw
            ip -n "$ns" addr replace "$VIP6/128" dev dtsw nodad
        fi
        ip -n "$ns" link set dev dtsw up
        ip -n "$ns" link set dev dtsl up
        ip -n "$ns" addr replace "$LINK_NET6$n/64" dev dtsl nodad
        ip -n "$ns" addr replace "$LINK_NET.$n/24" dev dtsl
    fi
    grep -q "packet forwarding" "$(node_dir "$n")/dtsd.log"
}
