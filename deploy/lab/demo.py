#!/usr/bin/env python3
"""The demo's requests, and its verdict from the client's capture. Standard library, curl and tshark only."""

import collections
import json
import os
import re
import subprocess
import sys

CURL = "%{http_code} %{local_ip} %{local_port} %{time_starttransfer} %header{x-node}"
PER_PREFIX = 8
FAMILIES = ("4", "6")

# Any of these frames means that a client noticed the handover.
ANALYSIS = [
    ("retransmissions", "tcp.analysis.retransmission"),
    ("fast retransmissions", "tcp.analysis.fast_retransmission"),
    ("spurious retransmissions", "tcp.analysis.spurious_retransmission"),
    ("duplicate ACKs", "tcp.analysis.duplicate_ack"),
    ("zero windows", "tcp.analysis.zero_window"),
    ("out of order", "tcp.analysis.out_of_order"),
    ("lost segments", "tcp.analysis.lost_segment"),
]
PLAIN = ["frame.time_epoch", "eth.src", "ip.src", "ip.dst", "ipv6.src", "ipv6.dst", "tcp.srcport", "tcp.dstport", "tcp.stream", "tcp.flags", "tcp.len",
         "ip.checksum.status", "tcp.checksum.status", "tcp.checksum.ffff"]
SYN, RST, ACK = 0x02, 0x04, 0x10
BAD_CHECKSUM = "0"


def family(address):
    return "6" if ":" in address else "4"


def send_requests(output, vips):
    """One curl after the other, each a connection of its own with a port of the kernel's choice; the families in turn."""
    # The default pool goes by the path's hash: each /p/ path is asked for several times, over both families, and all answers
    # must come from one node.
    paths = [path for i in range(PER_PREFIX) for path in (f"/a/{i}", f"/b/{i}", f"/c/{i}", "/who", f"/p/{i % (PER_PREFIX // 2)}")]
    results = []
    for path, vip in ((path, vip) for path in paths for vip in vips):
        host = f"[{vip}]" if family(vip) == "6" else vip
        done = subprocess.run(["curl", "-s", "-m", "5", "-o", "/dev/null", "-w", CURL, f"http://{host}{path}"],
                              capture_output=True, text=True, check=False)
        # Without a connection curl says nothing of its own end.
        words = done.stdout.split()
        code, address, port, first_byte, *node = words if len(words) >= 4 else ["000", "?", "0", "0"]
        results.append({"path": path, "family": family(vip), "code": int(code), "client": f"{address} {port}",
                        "ms": float(first_byte.replace(",", ".")) * 1e3, "node": node[0] if node else ""})
    with open(output, "w", encoding="ascii") as file:
        json.dump(results, file)


def rule(path, nodes):
    """The node that the lab's rules name for a path; None where several may answer."""
    for index, prefix in enumerate(("/a/", "/b/", "/c/")):
        if path.startswith(prefix):
            return f"node{index % nodes + 1}"
    return None


class Capture:
    """What tshark says of the client's capture, by frame and by connection."""

    def __init__(self, path, clients, nodes_by_mac, run_ends):
        self.counts = collections.Counter()
        self.owner, self.server, self.client = {}, {}, {}
        self.by_family = collections.Counter()
        self.resets, self.excluded, self.frames = 0, 0, 0
        fields = PLAIN + [field for _, field in ANALYSIS]
        command = ["tshark", "-n", "-r", path, "-Y", "tcp", "-o", "tcp.check_checksum:TRUE", "-o", "ip.check_checksum:TRUE",
                   "-T", "fields", "-E", "occurrence=f"] + [arg for field in fields for arg in ("-e", field)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as tshark:
            for line in tshark.stdout:
                self.frame(line.rstrip("\n").split("\t"), clients, nodes_by_mac, run_ends)
        if tshark.returncode:
            raise SystemExit(f"demo: tshark failed with status {tshark.returncode}")

    def frame(self, row, clients, nodes_by_mac, run_ends):
        time, mac, source4, dest4, source6, dest6, source_port, port, stream, flags, length, ip_sum, tcp_sum, all_ones = \
            row[:len(PLAIN)]
        source, dest = source4 or source6, dest4 or dest6
        self.frames += 1
        self.by_family[family(source)] += 1
        flags, from_client = int(flags, 16), source in clients
        for (name, _), value in zip(ANALYSIS, row[len(PLAIN):]):
            self.counts[name] += bool(value)
        # Linux writes a TCP checksum of 0 as 0xffff where it sums in software (skb_checksum_help). Every receiver takes the
        # two zeros of one's complement for the same; tshark calls the second one bad, about once in 65,536 frames.
        self.counts["bad checksums"] += ip_sum == BAD_CHECKSUM or (tcp_sum == BAD_CHECKSUM and not all_ones)
        # wrk closes what is still open when its run ends; a socket closed before its answer is read says RST. That is the
        # load generator's doing: leave out RSTs that the client sent after the end of the run, and no others.
        if flags & RST:
            late = from_client and float(time) >= run_ends[family(source)]
            self.excluded += late
            self.resets += not late
        if from_client:
            self.client.setdefault(stream, f"{source} {source_port}")
        else:
            node = nodes_by_mac.get(mac, mac)
            if flags & (SYN | ACK) == SYN | ACK:
                self.owner[stream] = node
            elif int(length or 0):
                self.server.setdefault(stream, node)
            self.client.setdefault(stream, f"{dest} {port}")

    def by_client(self):
        """The first connection of every client address and port; they are not reused between the curl requests."""
        streams = {}
        for stream, client in sorted(self.client.items(), key=lambda item: int(item[0])):
            streams.setdefault(client, stream)
        return streams


def accepted(work, tag, node):
    """Accepted handovers that the node counted as their source; None where its metrics cannot be read."""
    total = None
    with open(f"{work}/metrics-{tag}-{node}", encoding="utf-8") as file:
        for line in file:
            match = re.match(r"dts_handovers_total\{(.*)\} ([0-9.eE+]+)$", line.strip())
            if not match:
                continue
            labels = dict(re.findall(r'(\w+)="([^"]*)"', match.group(1)))
            total = total or 0
            if labels.get("role", "source") == "source" and "accepted" in (labels.get("result"), labels.get("outcome")):
                total += int(float(match.group(2)))
    return total


def node_name(value):
    return value if str(value).startswith("node") else f"node{value}"


def handovers_by_client(work, nodes):
    """The nodes' own record of the curl requests: client -> (source, destination, replay, outcome)."""
    record = {}
    for node in range(1, nodes + 1):
        try:
            with open(f"{work}/handovers-requests-{node}", encoding="utf-8") as file:
                entries = json.load(file)
        except ValueError:
            continue
        if isinstance(entries, dict):
            entries = entries.get("handovers", [])
        for entry in entries:
            # Both ends may remember a handover; the source's word on the outcome counts.
            address, port = entry["client"].rsplit(":", 1)
            if node_name(entry["source"]) == f"node{node}":
                record[f"{address.strip('[]')} {port}"] = (node_name(entry["source"]), node_name(entry["destination"]),
                                                           entry.get("replay", ""), entry.get("outcome", ""))
    return record


def table(requests, capture, record, nodes):
    """Prints the requests and returns (mismatches, first-byte times)."""
    streams, mismatches, by_path = capture.by_client(), 0, {}
    print(f"{'request':<10} {'family':<7} {'SYN owner':<10} {'answered by':<12} {'rule says':<10} {'replay':<10} first byte")
    for request in requests:
        stream = streams.get(request["client"])
        owner, server = capture.owner.get(stream, "?"), capture.server.get(stream, "?")
        expected, answer, notes = rule(request["path"], nodes), request["node"], []
        if request["path"].startswith("/p/"):
            expected = by_path.setdefault(request["path"], answer)
        if request["code"] != 200:
            notes.append(f"FAILED ({request['code']})")
        if expected not in (None, answer):
            notes.append("WRONG NODE")
        if server not in ("?", answer):
            notes.append(f"the data came from {server}")
        told = record.get(request["client"])
        if told and told[:2] != (owner, answer):
            notes.append(f"the nodes say {told[0]} to {told[1]}")
        mismatches += bool(notes)
        print(f"{request['path']:<10} {'IPv' + request['family']:<7} {owner:<10} {answer or '-':<12} {expected or 'any':<10} "
              f"{told[2] if told else '-':<10} {request['ms']:7.2f} ms {', '.join(notes)}".rstrip())
    return mismatches


def wrk_mismatches(work, nodes):
    """Requests of wrk that a node answered against the rules, or that were executed twice, by the nodes' access logs."""
    wrong, executed = 0, collections.Counter()
    for node in range(1, nodes + 1):
        with open(f"{work}/access-{node}", encoding="ascii") as file:
            for line in file:
                path = line.split('"')[1].split()[1]
                if "wrk-" in path:
                    executed[path] += 1
                    wrong += rule(path, nodes) not in (None, f"node{node}")
    twice = sum(count - 1 for count in executed.values())
    return wrong, twice


def quantile(values, share):
    values = sorted(values)
    return values[min(len(values) - 1, int(share * len(values)))] if values else 0.0


def first_bytes(version, times):
    print(f"first byte of {len(times)} curl requests over IPv{version}: median {quantile(times, .5):.2f} ms, "
          f"99th percentile {quantile(times, .99):.2f} ms, largest {max(times, default=0):.2f} ms")


def verdict(work):
    with open(f"{work}/env", encoding="ascii") as file:
        env = dict(line.rstrip("\n").split("=", 1) for line in file)
    nodes = int(env["NODES"])
    with open(f"{work}/requests.json", encoding="ascii") as file:
        requests = json.load(file)
    answers, errors, run_ends = {}, {}, {}
    for version in FAMILIES:
        with open(f"{work}/wrk-{version}.txt", encoding="utf-8") as file:
            wrk = re.search(r"demo answers=(\d+) errors=(\d+) end=([0-9.]+)", file.read())
        answers[version], errors[version], run_ends[version] = int(wrk[1]), int(wrk[2]), float(wrk[3])
    macs = {env[f"NODE{n}_WIRE_MAC"]: f"node{n}" for n in range(1, nodes + 1)}
    capture = Capture(f"{work}/client.pcap", (env["CLIENT"], env["CLIENT6"]), macs, run_ends)

    mismatches = table(requests, capture, handovers_by_client(work, nodes), nodes)
    print()
    for version in FAMILIES:
        first_bytes(version, [r["ms"] for r in requests if r["code"] == 200 and r["family"] == version])

    wrong, twice = wrk_mismatches(work, nodes)
    mismatches += wrong + twice + sum(errors.values())
    print("wrk, a connection for each request: " +
          ", ".join(f"{answers[v]} answered over IPv{v}, {errors[v]} errors" for v in FAMILIES) +
          f"; {wrong} by the wrong node, {twice} executed twice")

    # The source MAC of a frame is its node's own: the SYN-ACK's tells the owner, the answer's who served.
    owners = collections.Counter(capture.owner.values())
    total = sum(owners.values()) or 1
    print(f"SYN owners of {sum(owners.values())} connections: " +
          ", ".join(f"{name} {count} ({100 * count / total:.1f} %)" for name, count in sorted(owners.items())))
    served = collections.Counter(capture.server.values())
    print("answers: " + ", ".join(f"{name} {count}" for name, count in sorted(served.items())))
    elsewhere = sum(capture.owner.get(stream) != node for stream, node in capture.server.items())

    counted = [(accepted(work, "before", n), accepted(work, "after", n)) for n in range(1, nodes + 1)]
    handovers = sum((after or 0) - (before or 0) for before, after in counted)
    if any(after is None for _, after in counted):
        print("the metrics of at least one node could not be read")

    counts = capture.counts
    print("capture at the client: " + ", ".join(f"{capture.by_family[v]} frames of IPv{v}" for v in FAMILIES) + ", " +
          ", ".join(f"{name} {counts[name]}" for name in [name for name, _ in ANALYSIS] + ["bad checksums"]) +
          f", resets {capture.resets}")
    print(f"left out: {capture.excluded} RST that the client itself sent after wrk's run had ended, "
          "for connections that wrk closed unread")

    answered = sum(request["code"] == 200 for request in requests) + sum(answers.values())
    retransmissions = sum(counts[name] for name in ("retransmissions", "fast retransmissions", "spurious retransmissions"))
    others = sum(counts.values()) - retransmissions
    good = not (retransmissions or capture.resets or mismatches or others)
    if handovers < answered:
        print(f"FAIL: {answered} answers, but the nodes counted only {handovers} handovers")
        good = False
    for version in FAMILIES:
        if not (capture.by_family[version] and answers[version]):
            print(f"FAIL: nothing was seen over IPv{version}")
            good = False
    if others:
        print(f"FAIL: {others} frames with another anomaly, see the capture's line above")
    print(f"demo: requests={answered} handovers={handovers} served_elsewhere={elsewhere} retransmissions={retransmissions} "
          f"resets={capture.resets} mismatches={mismatches} {'ok' if good else 'FAIL'}")
    return 0 if good else 1


def main(arguments):
    if len(arguments) >= 3 and arguments[0] == "curl":
        send_requests(arguments[1], arguments[2:])
        return 0
    if len(arguments) == 2 and arguments[0] == "verdict" and os.path.isdir(arguments[1]):
        return verdict(arguments[1])
    print("usage: demo.py curl OUTPUT VIP... | verdict DIRECTORY", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
