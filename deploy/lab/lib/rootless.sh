# shellcheck shell=bash
# Without root the lab lives in a user namespace of its own. A holder process keeps the namespaces between two calls of
# `lab`; every later call enters them.

rootless_enter() { # COMMAND ARGS...
    ((EUID != 0)) || return 0
    local self=$LAB_DIR/lab holder_file=$STATE/holder pid
    if ! pid=$(rootless_holder); then
        [[ $1 == up ]] || { [[ $1 == down ]] && { say "down"; exit 0; }; die "the lab is not up"; }
        if ! unshare -Urnm true 2>/dev/null; then
            die "not root, and this kernel does not permit 'unshare -Urnm' (look at user.max_user_namespaces," \
                "kernel.unprivileged_userns_clone and AppArmor's userns restriction): run the lab as root"
        fi
        [[ ! -L $STATE ]] || die "$STATE is a symbolic link"
        [[ -d $STATE ]] || mkdir -m 0700 "$STATE"
        # `ip netns add` writes to /run/netns, hence the tmpfs; --kill-child would end the lab with this shell.
        # shellcheck disable=SC2016
        setsid unshare -Urnm sh -c 'mount -t tmpfs tmpfs /run && echo $$ >"$1" && exec sleep infinity' sh "$holder_file.new" \
            </dev/null >/dev/null 2>&1 &
        disown
        wait_for 5 "the user namespace" test -s "$holder_file.new" || die "cannot set up the user namespace"
        pid=$(<"$holder_file.new")
        printf '%s %s\n' "$pid" "$(proc_start_time "$pid")" >"$holder_file"
        rm -f "$holder_file.new"
    fi
    local rc=0
    DTS_LAB_ROOTLESS=1 DTS_LAB_PREFIX=$PREFIX DTS_LAB_STATE=$STATE DTS_BIN=$BIN \
        nsenter -t "$pid" -U -n -m --preserve-credentials --wd="$PWD" "$self" "$@" || rc=$?
    # The holder has nothing to hold after `down`, a failed `up` or an interactive session.
    if [[ ! -f $STATE/nodes ]]; then
        kill "$pid" 2>/dev/null || true
        rm -f "$holder_file"
        rmdir "$STATE" 2>/dev/null || true
    fi
    exit "$rc"
}

rootless_holder() {
    local pid started
    [[ -f $STATE/holder ]] || return 1
    read -r pid started <"$STATE/holder"
    [[ $(proc_start_time "$pid" 2>/dev/null) == "$started" ]] || return 1
    printf '%s\n' "$pid"
}
