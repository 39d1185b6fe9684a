# shellcheck shell=bash
# The overlay of a lab (KEY=VALUE) and the configurations rendered from it.

# Every key that --config accepts. NODE<n>_KEY=VALUE holds for one node and wins over KEY=VALUE.
OVERLAY_KEYS=" POLICY DESIGNATED BUCKETS ACCEPT_PAPER KEY WEIGHTS L4 SERVICE_POLICY REPEATS SERVICE_UNAVAILABLE SERVICE_UNAVAILABLE6
 DEADLINE_MS UNKNOWN_MS FIRST_WINDOW REPLAY SPLICE_FIRST SPLICE_LAST
 CORES IDLE IDLE_SLEEP_US HUGEPAGES MEGABYTES MBUFS FLOWS HALF_OPEN TOMBSTONES HOLD_KIB HOLD_FLOW_KIB
 PROBE_MS ANSWER_MS SUSPECT_MS GONE_MS MINORITY_MS DRAIN_S HALF_OPEN_S IDLE_S CLOSING_S TOMBSTONE_S LOG_LEVEL
 HEAD_BYTES HEAD_TIMEOUT_MS CONNECTIONS RETRIES POOL_A POOL_B POOL_C POOL_WHO POOL_ALL
 UNAVAILABLE SPARE ROOM ROOM_FULL ROOM_QUEUE ROOM_QUEUE_MS SLACK LARD_LOW LARD_HIGH LARD_REPLICA_S LARD_ASSIGN
 REPORT_MS NODES_MS METRICS HEALTH HEALTH_MS
 FASTOPEN NICE WIRE_VLAN LINK_VLAN LINK_FAMILY MAC LAYER2 "

overlay_load() { # FILE or ""
    OVERLAY=()
    local file=$1 line key number=0
    [[ -n $file ]] || return 0
    [[ -r $file ]] || die "cannot read $file"
    while IFS= read -r line || [[ -n $line ]]; do
        number=$((number + 1))
        line=${line%%#*}
        line=${line%"${line##*[![:space:]]}"}
        line=${line#"${line%%[![:space:]]*}"}
        [[ -n $line ]] || continue
        [[ $line =~ ^(NODE[0-9]+_)?([A-Z][A-Z0-9_]*)=([A-Za-z0-9.,:/_-]*)$ ]] ||
            die "$file:$number: not KEY=VALUE: $line"
        key=${BASH_REMATCH[2]}
        [[ $OVERLAY_KEYS == *[[:space:]]"$key"[[:space:]]* ]] || die "$file:$number: unknown key $key"
        OVERLAY[${BASH_REMATCH[1]}$key]=${BASH_REMATCH[3]}
    done <"$file"
}

setting() { # NODE KEY DEFAULT
    printf '%s' "${OVERLAY[NODE$1_$2]:-${OVERLAY[$2]:-$3}}"
}

# optional NODE KEY TEXT: TEXT followed by the setting, only when it is set.
optional() {
    local value
    value=$(setting "$1" "$2" "")
    [[ -n $value ]] || return 0
    printf '%s%s\n' "$3" "$value"
}

boolean() { # NODE KEY DEFAULT(0|1)
    case $(setting "$1" "$2" "$3") in
        1 | true | yes | on) echo true ;;
        *) echo false ;;
    esac
}

# A kernel takes its initial sequence numbers from one secret, the clock, the addresses and the ports.
# Nodes of a lab share all but the port: with one of its own each, two stacks that answer the same SYN
# choose as differently as two machines would.
proxy_port() { printf '%s' "$((8000 + $1))"; }

node_dir() { printf '%s/node%s' "$STATE" "$1"; }

# pool_nodes NODE KEY DEFAULT: `1,2:50` -> `1 100` and `2 50` by line.
pool_nodes() {
    local item
    for item in $(setting "$1" "$2" "$3" | tr ',' ' '); do
        [[ $item == *:* ]] || item+=:100
        printf '%s %s\n' "${item%%:*}" "${item##*:}"
    done
}

all_nodes() { seq -s, 1 "$NODES"; }

# Nodes take the cores in turn; which cores there are is the scheduler's word, not 0..n-1.
node_core() { # NODE
    local cores
    mapfile -t cores < <(taskset -cp $$ | sed 's/.*: //' | tr ',' '\n' |
        awk -F- '{ last = NF > 1 ? $2 : $1; for (c = $1; c <= last; c++) print c }')
    printf '%s' "${cores[($1 - 1) % ${#cores[@]}]}"
}

# One service for each family: one port, and on a node one proxy and one application.
render_service() { # NODE NAME VIP KEY OF UNAVAILABLE
    printf '  - name: %s\n    vip: "%s"\n    port: 80\n' "$2" "$3"
    [[ $(boolean "$1" L4 0) == true ]] || printf '    proxy_port: %s\n' "$(proxy_port "$1")"
    printf '    application_port: %s\n' "$APP_PORT"
    optional "$1" SERVICE_POLICY "    policy: "
    optional "$1" "$4" "    unavailable: "
    optional "$1" REPEATS "    repeats: "
    local check period
    check=$(setting "$1" HEALTH "") period=$(setting "$1" HEALTH_MS 200)
    [[ -n $check ]] || return 0
    printf '    health: { check: %s, interval_ms: %s, timeout_ms: %s, fall: 2, rise: 2 }\n' "$check" "$period" "$period"
}

render_dtsd_config() { # NODE
    local n=$1 m weights dir
    dir=$(node_dir "$n")
    IFS=, read -r -a weights <<<"$(setting "$n" WEIGHTS "")"
    cat <<YAML
node: $n
cluster:
  name: $PREFIX
  key: "$(setting "$n" KEY 000102030405060708090a0b0c0d0e0f)"
  mac: "$(setting "$n" MAC "$CLUSTER_MAC")"
$(optional "$n" LAYER2 "  layer2: ")
  policy: $(setting "$n" POLICY flow-hash)
$(optional "$n" DESIGNATED "  designated: ")
$(optional "$n" BUCKETS "  buckets: ")
  accept_paper_form: $(boolean "$n" ACCEPT_PAPER 0)
  members:
YAML
    for ((m = 1; m <= NODES; m++)); do
        printf '    - { id: %s, name: node%s, link: "%s", weight: %s }\n' "$m" "$m" "$(link_address "$m")" "${weights[m - 1]:-100}"
    done
    cat <<YAML
services:
$(render_service "$n" web "$VIP" SERVICE_UNAVAILABLE)
$(render_service "$n" web6 "$VIP6" SERVICE_UNAVAILABLE6)
ports:
  wire:
    device: "net_af_packet0,iface=wire0"
    queues: 1
$(optional "$n" WIRE_VLAN "    vlan: ")
    host:
      device: "net_tap0,iface=dtsw"
      interface: dtsw
      addresses: [$WIRE_NET.$n/24, "$WIRE_NET6$n/64"]
  link:
    device: "net_af_packet1,iface=link0"
    queues: 1
$(optional "$n" LINK_VLAN "    vlan: ")
    host:
      device: "net_tap1,iface=dtsl"
      interface: dtsl
      addresses: ["$(link_address "$n")/$( ((LINK_FAMILY == 6)) && echo 64 || echo 24)"]
workers:
  cores: [$(setting "$n" CORES "$(node_core "$n")")]
  idle: $(setting "$n" IDLE backoff)
  idle_sleep_us: $(setting "$n" IDLE_SLEEP_US 100)
memory:
  hugepages: $(boolean "$n" HUGEPAGES 1)
  megabytes: $(setting "$n" MEGABYTES 256)
$(optional "$n" MBUFS "  mbufs: ")
$(optional "$n" FLOWS "  flows: ")
$(optional "$n" HALF_OPEN "  half_open: ")
$(optional "$n" TOMBSTONES "  tombstones: ")
$(optional "$n" HOLD_KIB "  hold_kib: ")
$(optional "$n" HOLD_FLOW_KIB "  hold_flow_kib: ")
handover:
  deadline_ms: $(setting "$n" DEADLINE_MS 150)
  unknown_deadline_ms: $(setting "$n" UNKNOWN_MS 2000)
$(optional "$n" FIRST_WINDOW "  first_window: ")
  replay: $(setting "$n" REPLAY fast-open)
  splice_ports: { first: $(setting "$n" SPLICE_FIRST 61000), last: $(setting "$n" SPLICE_LAST 64999) }
peers:
  port: 7946
$(optional "$n" PROBE_MS "  probe_ms: ")
$(optional "$n" ANSWER_MS "  answer_ms: ")
$(optional "$n" SUSPECT_MS "  suspect_ms: ")
$(optional "$n" GONE_MS "  gone_ms: ")
$(optional "$n" MINORITY_MS "  minority_ms: ")
reports: { interval_ms: $(setting "$n" REPORT_MS 500), port: 7947 }
timeouts:
  half_open_s: $(setting "$n" HALF_OPEN_S 10)
  idle_s: $(setting "$n" IDLE_S 3600)
  closing_s: $(setting "$n" CLOSING_S 5)
  tombstone_s: $(setting "$n" TOMBSTONE_S 60)
  drain_s: $(setting "$n" DRAIN_S 0)
control:
  rpc_socket: $dir/rpc.sock
  rpc_allow: { uids: [0], gids: [] }
  admin_socket: $dir/admin.sock
  metrics: "$(setting "$n" METRICS 127.0.0.1):9464"
log: { level: $(setting "$n" LOG_LEVEL info), format: text }
YAML
}

render_pool() { # NODE NAME KEY DEFAULT BALANCE [SPARE NODES]
    local member weight
    printf '  - name: %s\n    balance: %s\n    unavailable: %s\n    members:\n' "$2" "$5" "$(setting "$1" UNAVAILABLE close)"
    while read -r member weight; do
        printf '      - { address: "%s:%s", name: node%s, weight: %s, backup: %s }\n' "$(link_host "$member")" "$APP_PORT" \
            "$member" "$weight" "$([[ ",${6:-}," == *",$member,"* ]] && echo true || echo false)"
    done < <(pool_nodes "$1" "$3" "$4")
}

render_proxy_config() { # NODE
    local n=$1
    cat <<YAML
listen: "[::]:$(proxy_port "$n")"
rpc_socket: $(node_dir "$n")/rpc.sock
protocol: http
limits:
  head_bytes: $(setting "$n" HEAD_BYTES 16384)
  head_timeout_ms: $(setting "$n" HEAD_TIMEOUT_MS 10000)
  connections: $(setting "$n" CONNECTIONS 4096)
local: "$(link_address "$n")"
pools:
YAML
    render_pool "$n" a POOL_A 1 path-hash
    render_pool "$n" b POOL_B $((1 % NODES + 1)) path-hash
    render_pool "$n" c POOL_C $((2 % NODES + 1)) path-hash
    render_pool "$n" who POOL_WHO "$(all_nodes)" weight
    render_pool "$n" all POOL_ALL "$(all_nodes)" path-hash
    # Members of `spare` that are none but backups, and a pool with room for few.
    render_pool "$n" spare POOL_ALL "$(all_nodes)" path-hash "$(setting "$n" SPARE "$(seq -s, 2 "$NODES")")"
    render_pool "$n" room POOL_ALL "$(all_nodes)" path-hash
    cat <<YAML
    max_connections: $(setting "$n" ROOM 2)
    full: $(setting "$n" ROOM_FULL next)
    queue: { length: $(setting "$n" ROOM_QUEUE 1), timeout_ms: $(setting "$n" ROOM_QUEUE_MS 1000) }
nodes: { interval_ms: $(setting "$n" NODES_MS 100) }
rules:
  - { path_prefix: /spare/, pool: spare }
  - { path_prefix: /room/, pool: room }
  - { path_prefix: /least/, pool: all, balance: least-connections }
  - { path_prefix: /random/, pool: all, balance: weight }
  - { path_prefix: /bounded/, pool: all, balance: bounded-hash, slack_percent: $(setting "$n" SLACK 25) }
  - { path_prefix: /cookie/, pool: all, balance: sticky, sticky: { cookie: id } }
  - { path_prefix: /source/, pool: all, balance: sticky, sticky: { source: true } }
  - path_prefix: /lard/
    pool: all
    balance: lard
    lard: { low: $(setting "$n" LARD_LOW 25), high: $(setting "$n" LARD_HIGH 65), assign: $(setting "$n" LARD_ASSIGN hash) }
  - path_prefix: /lardr/
    pool: all
    balance: lard-replication
    lard:
      low: $(setting "$n" LARD_LOW 25)
      high: $(setting "$n" LARD_HIGH 65)
      replica_s: $(setting "$n" LARD_REPLICA_S 20)
      assign: $(setting "$n" LARD_ASSIGN hash)
  - { path_prefix: /a/, pool: a }
  - { path_prefix: /b/, pool: b }
  - { path_prefix: /c/, pool: c }
  - { path_prefix: /who, pool: who }
  - { host: a.lab, pool: a }
  - { host: b.lab, pool: b }
  - { host: c.lab, pool: c }
  - { header: { name: X-Pool, value: a }, pool: a }
  - { header: { name: X-Pool, value: b }, pool: b }
  - { header: { name: X-Pool, value: c }, pool: c }
default_pool: all
retries: $(setting "$n" RETRIES 2)
YAML
}

render_nginx_config() { # NODE
    local n=$1 dir
    dir=$(node_dir "$n")
    # In a user namespace with a single user nginx runs as that user and must not try to change it.
    ((ROOTLESS)) || echo "user root;"
    cat <<NGINX
daemon off;
worker_processes 1;
worker_rlimit_nofile 8192;
pid $dir/nginx.master;
error_log $dir/nginx-error.log warn;
events { worker_connections 4096; }
http {
    log_format lab '\$msec \$remote_addr:\$remote_port "\$request_method \$request_uri" \$status \$body_bytes_sent \$request_length';
    access_log $dir/access.log lab;
    client_body_temp_path $dir/tmp-body;
    proxy_temp_path $dir/tmp-proxy;
    fastcgi_temp_path $dir/tmp-fastcgi;
    uwsgi_temp_path $dir/tmp-uwsgi;
    scgi_temp_path $dir/tmp-scgi;
    client_max_body_size 64m;
    default_type text/plain;
    sendfile on;
    tcp_nodelay on;
    keepalive_timeout 75s;
    # X-Close: 1 asks for an answer that says Connection: close on a connection that stays open, so that the client closes.
    map \$http_x_close \$lab_connection { "1" close; }
    server {
        listen 0.0.0.0:$APP_PORT backlog=4096;
        listen [::]:$APP_PORT backlog=4096 ipv6only=on;
        add_header X-Node node$n always;
        add_header Connection \$lab_connection always;
        location / { return 200 "node$n\n"; }
        location = /big/100M { alias $STATE/big-100M; }
        location /upload/ {
            root $dir;
            dav_methods PUT DELETE;
            create_full_put_path on;
        }
    }
}
NGINX
}

cmd_configs() {
    state_load
    local n file
    for ((n = 1; n <= NODES; n++)); do
        for file in dtsd.yaml proxy.yaml nginx.conf; do
            printf '# ===== %s\n' "$(node_dir "$n")/$file"
            cat "$(node_dir "$n")/$file"
        done
    done
}

cmd_env() {
    state_load
    printf '%s=%s\n' PREFIX "$PREFIX" STATE "$STATE" NODES "$NODES" VIP "$VIP" CLIENT "$CLIENT_IP" \
        VIP6 "$VIP6" CLIENT6 "$CLIENT_IP6" WIRE_NET6 "$WIRE_NET6" LINK_NET6 "$LINK_NET6" LINK_FAMILY "$LINK_FAMILY" \
        WIRE_NET "$WIRE_NET" LINK_NET "$LINK_NET" CLUSTER_MAC "$CLUSTER_MAC" BIN "$BIN" STANDIN "$STANDIN"
    local n
    for ((n = 1; n <= NODES; n++)); do
        printf 'NODE%s_DIR=%s\nNODE%s_WIRE_MAC=%s\nNODE%s_LINK_MAC=%s\nNODE%s_LINK=%s\n' "$n" "$(node_dir "$n")" \
            "$n" "$(wire_mac "$n")" "$n" "$(link_mac "$n")" "$n" "$(link_host "$n")"
    done
}
