# shellcheck shell=bash
# Names, messages, the state directory, and processes that the lab started (and no others).

# Addresses of the lab's two networks; the last octet, or the last group, of a node is its number.
WIRE_NET=10.77.0
LINK_NET=10.77.1
VIP=$WIRE_NET.100
CLIENT_IP=$WIRE_NET.200
WIRE_NET6=fd77:77::
LINK_NET6=fd77:77:0:1::
VIP6=${WIRE_NET6}100
CLIENT_IP6=${WIRE_NET6}200
CLUSTER_MAC=02:00:5e:00:00:64
APP_PORT=80
HUGEPAGE_MB=2

# The settings of --config, see config.sh.
declare -gA OVERLAY=()

common_init() { # PREFIX
    PREFIX=$1
    STATE=${DTS_LAB_STATE:-/tmp/$PREFIX-lab}
    ROOT=$(cd "$LAB_DIR/../.." && pwd)
    BIN=${DTS_BIN:-${CARGO_TARGET_DIR:-$ROOT/target}/release}
    NODES=0
    STANDIN=0
    LINK_FAMILY=4
    ROOTLESS=${DTS_LAB_ROOTLESS:-0}
    PATH=$PATH:/usr/sbin:/sbin
}

say() { printf 'lab %s: %s\n' "$PREFIX" "$*" >&2; }
die() { printf 'lab %s: error: %s\n' "${PREFIX:-}" "$*" >&2; exit 1; }
usage_error() { printf 'lab: %s\n' "$*" >&2; usage >&2; exit 2; }
need_value() { (($# >= 2)) || usage_error "$1 needs a value"; }

# wait_for SECONDS WHAT CMD...: polls CMD until it succeeds; says WHAT and fails when the time is over.
wait_for() {
    local limit=$1 what=$2 deadline
    shift 2
    deadline=$((${EPOCHREALTIME/./} + limit * 1000000))
    until "$@" >/dev/null 2>&1; do
        if ((${EPOCHREALTIME/./} > deadline)); then
            say "gave up after $limit s waiting for $what"
            return 1
        fi
        sleep 0.05
    done
}

require_tools() {
    local tool missing=()
    for tool in ip ethtool nginx curl jq dumpcap openssl ss; do
        command -v "$tool" >/dev/null || missing+=("$tool")
    done
    ((${#missing[@]} == 0)) || die "missing: ${missing[*]}; run deploy/deps.sh"
    if ((STANDIN)); then
        command -v dpdk-testpmd >/dev/null || die "missing: dpdk-testpmd; run deploy/deps.sh"
        return
    fi
    for tool in dtsd dts-proxy; do
        [[ -x $BIN/$tool ]] || die "no $BIN/$tool: run 'make build' or set DTS_BIN"
    done
}

# A node's address on the link, in the one family that the cluster's members use there.
link_address() { # NODE
    if ((LINK_FAMILY == 6)); then printf '%s%s' "$LINK_NET6" "$1"; else printf '%s.%s' "$LINK_NET" "$1"; fi
}

# The same as it stands in front of a port.
link_host() { # NODE
    if ((LINK_FAMILY == 6)); then printf '[%s%s]' "$LINK_NET6" "$1"; else printf '%s.%s' "$LINK_NET" "$1"; fi
}

# --- state -----------------------------------------------------------------------------------------------------------

state_create() {
    [[ ! -L $STATE ]] || die "$STATE is a symbolic link"
    [[ -d $STATE ]] || mkdir -m 0700 "$STATE"
    [[ -O $STATE ]] || die "$STATE belongs to somebody else"
    mkdir -p "$STATE/run"
    local key
    for key in "${!OVERLAY[@]}"; do printf '%s=%s\n' "$key" "${OVERLAY[$key]}"; done >"$STATE/overlay"
    printf 'STANDIN=%s\nLINK_FAMILY=%s\n' "$STANDIN" "$LINK_FAMILY" >>"$STATE/overlay"
}

state_load() {
    [[ -f $STATE/nodes ]] || die "the lab is not up"
    NODES=$(<"$STATE/nodes")
    [[ -f $STATE/overlay ]] || return 0
    local key value
    while IFS='=' read -r key value; do OVERLAY[$key]=$value; done <"$STATE/overlay"
    STANDIN=${OVERLAY[STANDIN]:-0}
    LINK_FAMILY=${OVERLAY[LINK_FAMILY]:-4}
}

# What a lab is made of: the same identity means that `up` has nothing to do.
lab_identity() {
    local key
    printf 'nodes=%s standin=%s link=%s bin=%s' "$NODES" "$STANDIN" "$LINK_FAMILY" "$BIN"
    for key in $(printf '%s\n' "${!OVERLAY[@]}" | sort); do printf ' %s=%s' "$key" "${OVERLAY[$key]}"; done
}

# --- processes -------------------------------------------------------------------------------------------------------
# A pid file holds pid and start time: a recycled pid is never mistaken for ours.

proc_start_time() { # PID
    local stat
    # Not $(<FILE): where FILE is gone, bash 5.2 leaves an EXIT trap there, and the clean-up with it.
    { read -r stat <"/proc/$1/stat"; } 2>/dev/null || return 1
    stat=${stat##*) }
    # Field 22 of proc(5); two fields stand before the cut.
    cut -d' ' -f20 <<<"$stat"
}

proc_start() { # ID LOG CMD...
    local id=$1 log=$2 pid
    shift 2
    mkdir -p "$(dirname "$STATE/run/$id")"
    : >"$log"
    setsid "$@" </dev/null >>"$log" 2>&1 &
    pid=$!
    disown "$pid"
    printf '%s %s\n' "$pid" "$(proc_start_time "$pid" 2>/dev/null || echo 0)" >"$STATE/run/$id.pid"
}

proc_pid() { # ID -> pid of the living process
    local pid started state
    [[ -f $STATE/run/$1.pid ]] || return 1
    read -r pid started <"$STATE/run/$1.pid"
    [[ $(proc_start_time "$pid" 2>/dev/null) == "$started" ]] || return 1
    { read -r state <"/proc/$pid/stat"; } 2>/dev/null || return 1
    state=${state##*) }
    [[ ${state:0:1} != Z ]] || return 1
    printf '%s\n' "$pid"
}

proc_alive() { proc_pid "$1" >/dev/null 2>&1; }
proc_dead() { ! proc_alive "$1"; }

proc_signal() { # ID SIGNAL
    local pid
    pid=$(proc_pid "$1" 2>/dev/null) || return 1
    kill -s "${2#SIG}" "$pid"
}

proc_stop() { # ID [SIGNAL]: asks, waits, then forces
    proc_signal "$1" "${2:-TERM}" 2>/dev/null || { rm -f "$STATE/run/$1.pid"; return 0; }
    if ! wait_for 5 "$1 to end" proc_dead "$1"; then
        proc_signal "$1" KILL 2>/dev/null || true
        wait_for 5 "$1 to die" proc_dead "$1" || return 1
    fi
    rm -f "$STATE/run/$1.pid"
}
