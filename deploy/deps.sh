#!/usr/bin/env bash
# Installs what building, testing and the lab need on Debian 12, and nothing that is there already. Rust comes by rustup.
set -euo pipefail

PACKAGES=(
    build-essential pkg-config clang libclang-dev libdpdk-dev dpdk dpdk-dev
    iproute2 iputils-ping ethtool nftables procps
    tcpdump tshark curl wrk nginx haproxy jq openssl python3 valgrind prometheus systemd
)

installed() { [[ $(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null || true) == installed ]]; }

missing=()
for package in "${PACKAGES[@]}"; do
    installed "$package" || missing+=("$package")
done

if ((${#missing[@]})); then
    if ((EUID != 0)); then
        echo "deps: not root; install with: sudo apt-get install -y ${missing[*]}" >&2
        exit 1
    fi
    echo "deps: installing ${missing[*]}"
    export DEBIAN_FRONTEND=noninteractive
    # Capturing is for root here; this answers the question of the package before it is asked.
    if command -v debconf-set-selections >/dev/null; then
        echo "wireshark-common wireshark-common/install-setuid boolean false" | debconf-set-selections
    fi
    # The lab, the tests and the benches start their own nginx, haproxy and Prometheus in namespaces. The packaged services must not start on this machine, so for the
    # time of the installation the packages' scripts are told to start nothing, as policy-rc.d(8) describes.
    policy=/usr/sbin/policy-rc.d
    new_services=()
    for service in nginx haproxy prometheus; do installed "$service" || new_services+=("$service"); done
    if [[ ! -e $policy ]]; then
        trap 'rm -f "$policy"' EXIT
        printf '#!/bin/sh\nexit 101\n' >"$policy"
        chmod 0755 "$policy"
    fi
    apt-get update -q
    apt-get install -q -y --no-install-recommends "${missing[@]}"
    # Nor after the next boot. A service that was there before is its owner's business.
    for service in "${new_services[@]}"; do
        if command -v systemctl >/dev/null; then systemctl disable -q "$service" 2>/dev/null || true
        else update-rc.d "$service" disable; fi
    done
fi

command -v cargo >/dev/null || {
    echo "deps: no cargo: install Rust by rustup (https://rustup.rs) and put ~/.cargo/bin in PATH" >&2
    exit 1
}
echo "deps: complete"
