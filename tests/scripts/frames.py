#!/usr/bin/env python3
"""Raw frames for the lab tests, by packet sockets in the lab's namespaces. Standard library only; root.

frames.py client=NS node1=NS node2=NS COMMAND...
  option32 N VIP CLIENT
                 N SYNs from CLIENT to the VIP that bear option 32; prints `answers M`
  replay FILE    a splice SYN to node 2 from a capture, sent once more; prints `answers M`
  forge FILE     the same with one bit of its state changed; prints `answers M`
  paper          a source that speaks only the paper's form, on node 1's link, and the client whose connection it hands
                 to node 2; prints `refused`, or `served NODE` when the client got its answer
"""

import ctypes
import os
import select
import socket
import struct
import sys
import time

VIP, CLIENT = "10.77.0.100", "10.77.0.201"  # nobody bears CLIENT, so no stack resets its connections
CLUSTER_MAC, CLIENT_MAC = "02:00:5e:00:00:64", "02:77:00:00:00:c8"
CLONE_NEWNET = 0x40000000
FIN, SYN, RST, PSH, ACK = 1, 2, 4, 8, 16
PORT, SPLICE_PORT = 23456, 64990
LIBC = ctypes.CDLL(None, use_errno=True)


def mac(text):
    return bytes.fromhex(text.replace(":", ""))


def link_mac(node):
    return f"02:77:01:00:00:{node:02x}"


def packet_socket(namespace, interface):
    """A packet socket keeps the namespace that it was made in."""
    fd = os.open(f"/run/netns/{namespace}", os.O_RDONLY)
    if LIBC.setns(fd, CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), f"setns {namespace}")
    os.close(fd)
    sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0003))
    sock.bind((interface, 0x0003))
    return sock


def checksum(data):
    if len(data) % 2:
        data += b"\0"
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def address(text):
    return socket.inet_pton(socket.AF_INET6 if ":" in text else socket.AF_INET, text)


def tcp_sum(source, dest, segment):
    """Over the pseudo-header of IPv4 (RFC 9293, 3.1) or IPv6 (RFC 8200, 8.1): the same numbers."""
    return checksum(source + dest + struct.pack("!II", len(segment), 6) + segment)


def ip_header(source, dest, length):
    if len(source) == 16:
        return struct.pack("!IHBB", 6 << 28, length, 6, 64) + source + dest
    ip = struct.pack("!BBHHHBBH", 0x45, 0, 20 + length, 1, 0x4000, 64, 6, 0) + source + dest
    return ip[:10] + struct.pack("!H", checksum(ip)) + ip[12:]


def frame(eth, ips, ports, seq, ack, flags, window, options=b"", payload=b""):
    """eth and ips are (source, destination)."""
    source, dest = address(ips[0]), address(ips[1])
    head = struct.pack("!HHIIBBHHH", *ports, seq & 0xFFFFFFFF, ack & 0xFFFFFFFF, (20 + len(options)) << 2, flags, window, 0, 0)
    segment = head + options + payload
    segment = segment[:16] + struct.pack("!H", tcp_sum(source, dest, segment)) + segment[18:]
    ethertype = b"\x86\xdd" if len(source) == 16 else b"\x08\x00"
    return mac(eth[1]) + mac(eth[0]) + ethertype + ip_header(source, dest, len(segment)) + segment


class Segment:
    """A received TCP frame; `ok` is false for everything else, also for IPv6 with extension headers."""

    def __init__(self, data):
        kind = data[12:14]
        if kind == b"\x86\xdd" and len(data) >= 74 and data[20] == 6:
            self.start = 14 + 40
            self.end = self.start + struct.unpack("!H", data[18:20])[0]
            ips = data[22:38], data[38:54]
            family = socket.AF_INET6
        elif kind == b"\x08\x00" and len(data) >= 54 and data[23] == 6:
            self.start = 14 + (data[14] & 15) * 4
            self.end = 14 + struct.unpack("!H", data[16:18])[0]
            ips = data[26:30], data[30:34]
            family = socket.AF_INET
        else:
            self.ok = False
            return
        self.ok = True
        self.source_mac = ":".join(f"{b:02x}" for b in data[6:12])
        self.ips = socket.inet_ntop(family, ips[0]), socket.inet_ntop(family, ips[1])
        segment = data[self.start:self.end]
        sport, dport, self.seq, self.ack, offset, self.flags, self.window = struct.unpack("!HHIIBBH", segment[:16])
        self.ports = sport, dport
        self.payload = segment[(offset >> 4) * 4:]
        self.sum_ok = tcp_sum(*ips, segment) == 0


def segments(sock, seconds):
    """What comes in (not what this machine's end sends) within `seconds`."""
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        if not select.select([sock], [], [], left)[0]:
            return
        data, address = sock.recvfrom(65535)
        if address[2] == socket.PACKET_OUTGOING:
            continue
        segment = Segment(data)
        if segment.ok:
            yield segment


def splice_option(port, init_seq):
    """The paper's table 1: kind 32, length 12, client address, client port, sequence number."""
    return struct.pack("!BB4sHI", 32, 12, socket.inet_aton(CLIENT), port, init_seq)


def option32(names, count, vip, client):
    wire = packet_socket(names["client"], "wire0")
    for n in range(count):
        options = struct.pack("!BBH", 2, 4, 1460) + splice_option(PORT + n, 1)
        wire.send(frame((CLIENT_MAC, CLUSTER_MAC), (client, vip), (PORT + n, 80), 1000, 0, SYN, 65535, options))
    answers = sum(s.ips == (vip, client) for s in segments(wire, 0.5))
    print("answers", answers)


def splice_of(path):
    """The first frame of a capture that is a splice SYN from another node to node 2."""
    with open(path, "rb") as file:
        data = file.read()
    order = {b"\xd4\xc3\xb2\xa1": "<", b"\xa1\xb2\xc3\xd4": ">", b"\x4d\x3c\xb2\xa1": "<"}[data[:4]]
    at = 24
    while at < len(data):
        length = struct.unpack(order + "I", data[at + 8:at + 12])[0]
        found = data[at + 16:at + 16 + length]
        at += 16 + length
        segment = Segment(found)
        if segment.ok and segment.flags == SYN and segment.ips[1] == "10.77.1.2" and segment.payload[:2] == b"\xd7\x5b":
            return found, segment
    raise SystemExit(f"{path}: no splice SYN to node 2")


def again(names, path, forge):
    found, segment = splice_of(path)
    if forge:
        # One bit in the block's first field: the state that moves.
        found = bytearray(found)
        start = segment.start
        payload = start + (found[start + 12] >> 4) * 4
        found[payload + 116 + 2] ^= 1
        found[start + 16:start + 18] = b"\0\0"
        total = tcp_sum(*map(address, segment.ips), bytes(found[start:segment.end]))
        found[start + 16:start + 18] = struct.pack("!H", total)
    # From a node's cable; the answer goes to the node whose address it bears.
    node = int(segment.ips[0].rsplit(".", 1)[1])
    link = packet_socket(names[f"node{node}"] if f"node{node}" in names else names["node1"][:-1] + str(node), "link0")
    link.send(bytes(found))
    answers = sum(s.ips == (segment.ips[1], segment.ips[0]) and s.ports == segment.ports[::-1] for s in segments(link, 0.5))
    print("answers", answers)


def expect(sock, what, wanted, seconds=2):
    for segment in segments(sock, seconds):
        if wanted(segment):
            if not segment.sum_ok:
                raise SystemExit(f"{what}: bad checksum")
            return segment
    raise SystemExit(f"no {what} within {seconds} s")


def paper(names):
    wire = packet_socket(names["client"], "wire0")
    link = packet_socket(names["node1"], "link0")
    ends, ports = ("10.77.1.1", "10.77.1.2"), (SPLICE_PORT, 80)
    port = PORT + int(time.time()) % 9000
    # Both next to the wrap of sequence numbers.
    c_base, s_base = 0xFFFFFFF0, 0xFFFFFF00
    request = f"GET /b/paper-{port} HTTP/1.1\r\nHost: lab\r\nX-Close: 1\r\n\r\n".encode()

    def send(seq, flags, options=b"", payload=b""):
        ack = s_base + 1 if flags & ACK else 0
        link.send(frame((link_mac(1), link_mac(2)), ends, ports, seq, ack, flags, 0, options, payload))

    def from_node(segment):
        return segment.ips == ends[::-1] and segment.ports == ports[::-1]

    def acked(up_to):
        return lambda s: from_node(s) and s.flags & ACK and not s.flags & RST and s.ack == up_to & 0xFFFFFFFF

    send(c_base, SYN, struct.pack("!BBH", 2, 4, 1460) + splice_option(port, s_base))
    answer = expect(link, "answer to the splice SYN", from_node)
    if answer.flags & RST:
        print("refused")
        return
    if not (answer.flags & (SYN | ACK) == SYN | ACK and answer.seq == s_base and answer.ack == (c_base + 1) & 0xFFFFFFFF):
        raise SystemExit(f"SYN-ACK with flags {answer.flags}, seq {answer.seq}, ack {answer.ack}")
    send(c_base + 1, ACK)
    # In two segments, across the wrap.
    at = c_base + 1
    for part in (request[:20], request[20:]):
        send(at, ACK | PSH, payload=part)
        at += len(part)
        expect(link, "acknowledgement of the request's data", acked(at))
    send(at, FIN | ACK)
    expect(link, "acknowledgement of the end mark", acked(at + 1))

    def to_client(segment):
        return segment.ips == (VIP, CLIENT) and segment.ports == (80, port)

    reply = expect(wire, "answer on the wire", lambda s: to_client(s) and s.payload)
    if reply.seq != (s_base + 1) & 0xFFFFFFFF or reply.ack != at & 0xFFFFFFFF:
        raise SystemExit(f"the answer has seq {reply.seq} and ack {reply.ack}")
    head = reply.payload.decode("ascii", "replace")
    node = next((line[8:].strip() for line in head.split("\r\n") if line.lower().startswith("x-node:")), "nobody")
    if not head.startswith("HTTP/1.1 200 "):
        raise SystemExit(f"the answer is {head!r}")

    def from_client(seq, flags):
        wire.send(frame((CLIENT_MAC, CLUSTER_MAC), (CLIENT, VIP), (port, 80), seq, reply.seq + len(reply.payload), flags, 65535))

    # The client's acknowledgement and FIN reach the node that has the connection: its FIN comes back in the client's numbers.
    from_client(at, ACK)
    from_client(at, FIN | ACK)
    end = expect(wire, "end of the connection", lambda s: to_client(s) and s.flags & FIN)
    if end.ack != (at + 1) & 0xFFFFFFFF:
        raise SystemExit(f"the server's FIN acknowledges {end.ack}")
    wire.send(frame((CLIENT_MAC, CLUSTER_MAC), (CLIENT, VIP), (port, 80), at + 1, end.seq + len(end.payload) + 1, ACK, 65535))
    print("served", node)


def main(arguments):
    names = dict(a.split("=", 1) for a in arguments if "=" in a)
    command = [a for a in arguments if "=" not in a]
    if command[:1] == ["option32"] and len(command) == 4:
        option32(names, int(command[1]), *command[2:])
    elif command[:1] in (["replay"], ["forge"]) and len(command) == 2:
        again(names, command[1], command[0] == "forge")
    elif command == ["paper"]:
        paper(names)
    else:
        print(__doc__, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
