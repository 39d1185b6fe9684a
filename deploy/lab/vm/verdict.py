#!/usr/bin/env python3
"""Judges what the virtual machine left behind: usage: verdict.py SHARE. Exit status 0 only if everything holds."""

import collections
import json
import math
import os
import re
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
import demo  # noqa: E402  the lab's reader of captures and of the nodes' records

NODES = 2
CLIENTS = ("10.77.0.200", "fd77:77::200")
WIRE_MACS = {f"02:77:00:00:00:{n:02x}": f"node{n}" for n in range(1, NODES + 1)}
MIN_REQUESTS = 50
# Frames that each queue of node 1's wire must have received between the first and the last request.
MIN_QUEUE_FRAMES = 20
# Of so many frames one may come to another worker's queue: what is no TCP belongs to worker 0, wherever its hash leads it, and
# QEMU's igb hashes TCP over IPv6 by its addresses alone unless it is asked for extension headers too. By chance it were every
# second one.
STRAY = 10
TWIN, NIC = "net_virtio_user", "net_e1000_igb"
# One thread of the kernel for each pair of queues: two twins with two on node 1, two twins with one on node 2.
VHOST_THREADS = 6
# An emulated machine stalls for longer than Linux waits for an ACK (its tail-loss probe waits two round trips). What a stall
# repeats is one segment now and then; a handover that loses or misplaces segments repeats one on every connection.
CONNECTIONS_PER_REPETITION = 4


def metric(share, tag, node, name, **wanted):
    """The sum of a metric's series that bear the wanted labels."""
    total = 0.0
    with open(f"{share}/metrics-{tag}-{node}", encoding="utf-8") as file:
        for line in file:
            match = re.match(name + r"(?:\{(.*)\})? ([0-9.eE+]+)$", line.strip())
            if match:
                labels = dict(re.findall(r'(\w+)="([^"]*)"', match.group(1) or ""))
                if wanted.items() <= labels.items():
                    total += float(match.group(2))
    return int(total)


def grown(share, node, name, **wanted):
    return metric(share, "after", node, name, **wanted) - metric(share, "before", node, name, **wanted)


class Verdict:
    """Collects reasons to fail."""

    def __init__(self):
        self.failures = []

    def check(self, holds, what):
        if not holds:
            self.failures.append(what)

    def ports(self, share):
        for node in range(1, NODES + 1):
            with open(f"{share}/status-{node}", encoding="utf-8") as file:
                ports = {port["port"]: port for port in json.load(file)["ports"]}
            for name, port in ports.items():
                offloads = " ".join(f"{what}={by}" for what, by in sorted(port["offloads"].items()))
                print(f"node{node} {name:<10} {port['driver']:<16} {port['queues']} queues  {port['device']}  {offloads}")
            twins = {ports[name]["driver"] for name in ("wire_host", "link_host")}
            self.check(twins == {TWIN}, f"node{node}: the twins are {', '.join(sorted(twins))} and not {TWIN}")
            if node == 1:
                wire = ports["wire"]
                self.check((wire["driver"], wire["queues"]) == (NIC, 2),
                           f"node1: the wire is {wire['driver']} with {wire['queues']} queues and not {NIC} with 2")
                self.check(wire["offloads"]["rx_spread"] == "device", "node1: igb does not lead frames to their workers")
        with open(f"{share}/vhost-threads", encoding="ascii") as file:
            threads = int(file.read() or 0)
        print(f"kernel threads that serve /dev/vhost-net: {threads}")
        self.check(threads >= VHOST_THREADS, f"only {threads} vhost threads of {VHOST_THREADS}")

    def queues(self, share):
        for port in ("wire", "link", "wire_host", "link_host"):
            frames = [grown(share, 1, "dts_port_rx_packets_total", port=port, worker=str(w)) for w in (0, 1)]
            print(f"node1 {port}: frames received by queue 0: {frames[0]}, by queue 1: {frames[1]}")
            handed = grown(share, 1, "dts_port_handed_over_total", port=port)
            print(f"node1 {port}: frames that came to the other worker's queue: {handed}")
            if port == "wire":
                self.check(handed * STRAY <= sum(frames), f"{handed} of node1's {sum(frames)} wire frames came to the wrong queue")
                self.check(min(frames) >= MIN_QUEUE_FRAMES, f"node1's wire queues received {frames}: no spread by RSS")

    def offloads(self, share):
        """The twins hand over large frames; igb cuts them by itself, af_packet's are cut in software."""
        for node, by in ((1, "device"), (2, "software")):
            counts = {f"{what} {who}": grown(share, node, "dts_offload_frames_total", what=what, by=who)
                      for what in ("tso", "checksum") for who in ("device", "software")}
            print(f"node{node}: frames finished for the wire and the link: " + ", ".join(f"{k} {v}" for k, v in counts.items()))
            self.check(counts[f"tso {by}"] > 0, f"node{node}: no large frame was cut by {by}")
            long = grown(share, node, "dts_drops_total", reason="too_long")
            self.check(long == 0, f"node{node}: {long} frames were too long")
        # The client's interface has no offloads: what it shows was on the wire.
        long = subprocess.run(["tshark", "-n", "-r", f"{share}/client.pcap", "-Y", "frame.len > 1514"],
                              check=True, capture_output=True, text=True).stdout.splitlines()
        self.check(not long, f"{len(long)} frames above the MTU at the client: {long[:1]}")

    def handovers(self, share):
        for node in range(1, NODES + 1):
            results = {r: grown(share, node, "dts_handovers_total", result=r)
                       for r in ("accepted", "refused", "aborted", "unknown", "not_eligible", "unreachable", "busy")}
            replays = {r: grown(share, node, "dts_replays_total", replay=r) for r in ("fast_open", "handshake", "paper")}
            print(f"node{node}: handovers " + ", ".join(f"{k} {v}" for k, v in results.items()) +
                  "; replays " + ", ".join(f"{k} {v}" for k, v in replays.items()))
            self.check(results["accepted"] > 0, f"node{node} handed nothing over")
            self.check(results["unknown"] == 0, f"node{node}: {results['unknown']} handovers with an unknown outcome")
            missed = sum(grown(share, node, "dts_port_rx_missed_packets_total", port=p) for p in ("wire", "link"))
            print(f"node{node}: frames missed by its NICs: {missed}")

    def transfers(self, share):
        bad, count = 0, 0
        with open(f"{share}/transfers", encoding="ascii") as file:
            for line in file:
                what, expected, node, code, content = line.split()
                count += 1
                good = node == expected and content == "ok"
                bad += not good
                if not good:
                    print(f"{what}: expected {expected}, answered by {node} with {code}, content {content}")
        print(f"transfers: {count} of 4 MiB down or 1 MiB up, {bad} bad")
        self.check(count > 0 and bad == 0, f"{bad} of {count} transfers are bad")
        return count

    def capture(self, share, requests):
        """Returns the handovers that the client's capture shows, by direction."""
        capture = demo.Capture(f"{share}/client.pcap", CLIENTS, WIRE_MACS, {v: math.inf for v in demo.FAMILIES})
        record = demo.handovers_by_client(share, NODES)
        mismatches = demo.table(requests, capture, record, NODES)
        times = [request["ms"] for request in requests if request["code"] == 200]
        print(f"\nfirst byte: median {demo.quantile(times, .5):.0f} ms, largest {max(times, default=0):.0f} ms (emulation)")
        self.check(mismatches == 0, f"{mismatches} requests were answered wrongly or by the wrong node")
        self.check(len(times) >= MIN_REQUESTS, f"only {len(times)} requests were answered, {MIN_REQUESTS} are needed")

        streams = capture.by_client()
        ways = collections.Counter((capture.owner.get(streams.get(r["client"]), "?"), r["node"]) for r in requests)
        for (owner, node), count in sorted(ways.items()):
            print(f"SYN owned by {owner}, answered by {node}: {count}")
        for way in (("node1", "node2"), ("node2", "node1")):
            self.check(ways[way] > 0, f"no request went from {way[0]} to {way[1]}")
        for version in demo.FAMILIES:
            self.check(any(r["code"] == 200 and r["family"] == version for r in requests), f"nothing was answered over IPv{version}")

        counts = capture.counts
        print(f"capture at the client: {capture.frames} frames, " +
              ", ".join(f"{name} {counts[name]}" for name in [name for name, _ in demo.ANALYSIS] + ["bad checksums"]) +
              f", resets {capture.resets}")
        # tshark counts a fast or spurious retransmission as a retransmission as well.
        repeated = counts["retransmissions"]
        allowed = len(capture.owner) // CONNECTIONS_PER_REPETITION
        self.check(repeated <= allowed, f"{repeated} retransmissions, more than the {allowed} that emulation may explain")
        self.check(counts["bad checksums"] == 0, f"{counts['bad checksums']} bad checksums")
        self.check(capture.resets == 0, f"{capture.resets} resets")
        return sum(count for (owner, node), count in ways.items() if owner != node), repeated, capture.resets


def main(arguments):
    if len(arguments) != 1:
        print("usage: verdict.py SHARE", file=sys.stderr)
        return 2
    share = arguments[0]
    with open(f"{share}/requests.json", encoding="ascii") as file:
        requests = json.load(file)
    verdict = Verdict()
    elsewhere, repeated, resets = verdict.capture(share, requests)
    verdict.ports(share)
    verdict.queues(share)
    verdict.offloads(share)
    verdict.handovers(share)
    transfers = verdict.transfers(share)
    for failure in verdict.failures:
        print(f"FAIL: {failure}")
    print(f"test-vm: requests={len(requests)} transfers={transfers} served_elsewhere={elsewhere} retransmissions={repeated} "
          f"resets={resets} {'FAIL' if verdict.failures else 'ok'}")
    return 1 if verdict.failures else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
