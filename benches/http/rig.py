"""The lab with a second network, on which a balancer and the servers themselves can be asked, and the CPU time that all of it takes."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
LAB = ROOT / "deploy/lab/lab"
PREFIX = os.environ.get("DTS_LAB_PREFIX", "dtshttp")
# The servers' own network, beside the lab's wire and link.
PLAIN = "10.77.2"
BALANCER = 50
NODES = (1, 2, 3)
HZ = os.sysconf("SC_CLK_TCK")
CORES = sorted(os.sched_getaffinity(0))


def say(text):
    print(f"bench: {text}", file=sys.stderr, flush=True)


def run(*command, **options):
    return subprocess.run([str(c) for c in command], check=True, text=True, **options)


def lab(*arguments, **options):
    env = dict(os.environ, DTS_LAB_PREFIX=PREFIX)
    return run(LAB, *arguments, env=env, **options)


def netns(name, *command):
    return ["ip", "netns", "exec", PREFIX + name, *map(str, command)]


# --- CPU time -------------------------------------------------------------------------------------------------------


def processes():
    """CPU ticks of every process that is no kernel thread, with its parent."""
    found = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                fields = Path(f"/proc/{entry}/stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[1]) != 2 and entry != "2":
                found[int(entry)] = (int(fields[1]), int(fields[11]) + int(fields[12]))
    return found


def idle_ticks():
    """Of all cores: idle, waiting for a disk, or taken by the host. The kernel measures idle time, it does not sample it."""
    fields = list(map(int, Path("/proc/stat").read_text().splitlines()[0].split()[1:]))
    return fields[3] + fields[4] + fields[7]


class CpuMeter:
    """What the machine did between start and stop, and for whom."""

    def __init__(self, system):
        self.system = system

    def start(self):
        self.before = processes()
        self.idle, self.began = idle_ticks(), time.monotonic()

    def stop(self, generator):
        """Seconds of CPU: all, the load generator's, other processes', and `cpu`, which is the rest: the measured system."""
        wall = time.monotonic() - self.began
        all_cpu = wall * os.cpu_count() - (idle_ticks() - self.idle) / HZ
        after = processes()
        ours = set(self.system)
        while more := {p for p, (parent, _) in after.items() if parent in ours and p not in ours}:
            ours |= more
        foreign = sum(t - self.before.get(p, (0, t))[1] for p, (_, t) in after.items() if p not in ours) / HZ
        return {
            "cpu": max(all_cpu - generator - foreign, 1e-6),
            "cpu_with_generator": all_cpu - foreign,
            "cpu_generator": generator,
            "cpu_foreign": foreign,
            "wall": wall,
        }


def timed(command, **options):
    """Runs a load generator; its output and its CPU seconds."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, **options)
    output = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)}: exit {process.returncode}\n{output}")
    return output, usage.ru_utime + usage.ru_stime


# --- the rig --------------------------------------------------------------------------------------------------------


class Rig:
    """The lab, up; `with` takes it down."""

    def __init__(self, config=None):
        self.config, self.balancers = config, {}

    def __enter__(self):
        try:
            self.up()
        except BaseException:
            self.down()
            raise
        return self

    def __exit__(self, *_):
        self.down()

    def up(self):
        self.down()
        config = ["--config", self.config] if self.config else []
        lab("up", "--nodes", len(NODES), *config)
        facts = lab("env", stdout=subprocess.PIPE).stdout
        self.env = dict(line.split("=", 1) for line in facts.splitlines())
        self.state, self.bin = Path(self.env["STATE"]), Path(self.env["BIN"])
        self.vip = self.env["VIP"]
        self.servers = [f"{PLAIN}.{n}" for n in NODES]
        self.plain()
        for n in NODES:
            # Every connection of the load stands in one of these for a minute after its end.
            run(*netns(f"node{n}", "sysctl", "-q", "-w", "net.ipv4.tcp_max_tw_buckets=262144"))
        run(*netns("client", "sysctl", "-q", "-w", "net.ipv4.ip_local_port_range=1024 65535"))

    def down(self):
        for process in self.balancers.values():
            self.signal_all([process.pid], signal.SIGKILL)
            process.wait()
        self.balancers = {}
        self.signal_all(self.pids("dtsd", "proxy"), signal.SIGCONT)
        if (Path("/run/netns") / f"{PREFIX}lb").exists():
            run("ip", "netns", "del", f"{PREFIX}lb")
        lab("down", stderr=subprocess.DEVNULL)

    def plug(self, namespace, iface, bridge, port, address):
        """A cable as the lab's: no offloads, so that no frame is longer than a wire takes."""
        switch = f"{PREFIX}sw"
        run("ip", "-n", switch, "link", "add", port, "mtu", 1500, "type", "veth",
            "peer", "name", iface, "mtu", 1500, "netns", PREFIX + namespace)
        for name, dev in (("sw", port), (namespace, iface)):
            run(*netns(name, "ethtool", "-K", dev, *"tx off rx off sg off tso off gso off gro off rxvlan off txvlan off".split()),
                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        run("ip", "-n", switch, "link", "set", port, "master", bridge, "up")
        run("ip", "-n", PREFIX + namespace, "addr", "add", f"{address}/24", "dev", iface)
        run("ip", "-n", PREFIX + namespace, "link", "set", iface, "up")

    def plain(self):
        switch = f"{PREFIX}sw"
        run("ip", "-n", switch, "link", "add", "brplain", "type", "bridge", "stp_state", 0, "mcast_snooping", 0, "forward_delay", 0)
        run("ip", "-n", switch, "link", "set", "brplain", "up")
        run("ip", "netns", "add", f"{PREFIX}lb")
        run("ip", "-n", f"{PREFIX}lb", "link", "set", "lo", "up")
        run(*netns("lb", "sysctl", "-q", "-w", "net.core.somaxconn=4096", "net.ipv4.tcp_max_syn_backlog=4096",
                   "net.ipv4.ip_local_port_range=1024 65535", "net.ipv4.tcp_max_tw_buckets=262144",
                   "net.ipv6.conf.all.disable_ipv6=1",
                   "net.ipv4.conf.all.arp_ignore=1", "net.ipv4.conf.all.arp_announce=2"))
        self.front = f"{self.env['WIRE_NET']}.{BALANCER}"
        self.plug("lb", "wire0", "brwire", "wlb", self.front)
        self.plug("lb", "plain0", "brplain", "plb", f"{PLAIN}.{BALANCER}")
        self.plug("client", "plain0", "brplain", "pc", f"{PLAIN}.200")
        for n in NODES:
            self.plug(f"node{n}", "plain0", "brplain", f"p{n}", f"{PLAIN}.{n}")

    def balance(self):
        """Starts HAProxy (port 80) and nginx (port 81) over the nodes' servers."""
        facts = {"cores": len(CORES), "front": self.front, "state": self.state}
        lines = {
            "haproxy.cfg": "\n    ".join(f"server node{n} {PLAIN}.{n}:80" for n in NODES),
            "nginx.conf": "\n        ".join(f"server {PLAIN}.{n}:80;" for n in NODES),
        }
        files = {}
        for name, servers in lines.items():
            text = re.sub(r"\{(\w+)\}", lambda m: str({**facts, "servers": servers}[m[1]]), (HERE / name).read_text())
            files[name] = self.state / f"balancer-{name}"
            files[name].write_text(text)
        log = open(self.state / "balancer.log", "w")
        self.balancers = {
            "haproxy": subprocess.Popen(netns("lb", "haproxy", "-db", "-f", files["haproxy.cfg"]), stdout=log, stderr=log),
            "nginx": subprocess.Popen(netns("lb", "nginx", "-c", files["nginx.conf"], "-e", self.state / "balancer-nginx.log"),
                                      stdout=log, stderr=log),
        }
        for port in (80, 81):
            if any(p.poll() is not None for p in self.balancers.values()):
                raise RuntimeError((self.state / "balancer.log").read_text())
            self.wait(f"the balancer at port {port}", ["curl", "-sf", "-m", "1", f"http://{self.front}:{port}/"])

    def wait(self, what, command, seconds=10):
        deadline = time.monotonic() + seconds
        while subprocess.run(netns("client", *command), capture_output=True).returncode:
            if time.monotonic() > deadline:
                raise RuntimeError(f"gave up waiting for {what}")
            time.sleep(0.05)

    def pids(self, *roles):
        state = Path(os.environ.get("DTS_LAB_STATE", f"/tmp/{PREFIX}-lab"))
        files = [state / f"run/node{n}/{role}.pid" for n in NODES for role in roles]
        return [int(f.read_text().split()[0]) for f in files if f.exists()]

    @staticmethod
    def signal_all(pids, number):
        for pid in pids:
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                pass

    def rest(self, resting):
        """Stops the nodes' data planes while a peer is measured, so that their polling is not on its bill."""
        self.signal_all(self.pids("dtsd", "proxy"), signal.SIGSTOP if resting else signal.SIGCONT)
        if not resting:
            # Hellos are exchanged every 100 ms; each node must have heard the others.
            time.sleep(0.5)
            for n in NODES:
                pool = "abc"[n - 1]
                self.wait(f"node {n}", ["curl", "-sf", "-m", "1", "-H", f"X-Pool: {pool}", f"http://{self.vip}/"])

    def metrics(self):
        """All nodes' series, summed."""
        total = {}
        for n in NODES:
            text = run(*netns(f"node{n}", "curl", "-sf", "-m", 5, "http://127.0.0.1:9464/metrics"), stdout=subprocess.PIPE).stdout
            for line in text.splitlines():
                if line and line[0] != "#":
                    name, value = line.rsplit(" ", 1)
                    total[name] = total.get(name, 0.0) + float(value)
        return total

    # --- load ---

    def wrk(self, url, seconds, connections, headers, direct=False):
        command = netns("client", "wrk", "-t3", f"-c{connections}", f"-d{seconds}s", "--timeout", "20s",
                        "-s", HERE / "wrk.lua", *[a for h in headers for a in ("-H", h)], url)
        env = dict(os.environ)
        if direct:
            env["DIRECT"] = ",".join(self.servers)
        output, cpu = timed(command, env=env)
        line = next((l for l in output.splitlines() if l.startswith("bench ")), None)
        if line is None:
            raise RuntimeError(f"wrk said\n{output}")
        return json.loads(line[6:]), cpu

    def firstbyte(self, targets, *arguments):
        command = netns("client", self.bin / "firstbyte", *[f"to={t}" for t in targets], *arguments)
        output, cpu = timed(command)
        return [json.loads(line) for line in output.splitlines()], cpu
