//! Every key of the file: its type, range and default.
//!
//! What one key says about another is checked in [`crate::check`].

use std::fs::File;
use std::io::Read;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::error::ConfigError;
use crate::health::health;
use crate::origin::Origins;
use crate::reader::{Field, Section};
use crate::scalar::{
    ClusterKey, HostOffloads, Idle, Layer2, LogFormat, LogLevel, NodeId, Offloads, Policy,
    PortRange, Replay, Unavailable,
};
use crate::tree::Node;
use crate::types::{
    Cluster, Config, Control, Handover, HostPort, Log, Member, Memory, Orphans, Peers, PortConfig,
    Ports, Reports, RpcAllow, Service, Timeouts, Workers,
};

type Result<T> = std::result::Result<T, ConfigError>;

/// Bytes of a Unix socket's path: `sun_path` without its end mark (`unix(7)`).
const SUN_PATH_MAX: usize = 107;
/// Bytes of an interface's name: `IFNAMSIZ` without its end mark (`netdevice(7)`).
const IFNAME_MAX: usize = 15;
/// Most entries in any table.
const TABLE_MAX: u32 = 1 << 24;
/// Seven days, in seconds.
const WEEK_S: u32 = 604_800;

pub(crate) fn config(root: &Node, origins: &Origins, file: &Path) -> Result<Config> {
    let root = Section::root(
        root,
        origins,
        &[
            "node", "cluster", "services", "ports", "workers", "memory", "handover", "peers",
            "reports", "timeouts", "orphans", "control", "log",
        ],
    )?;
    let node = node_id(&root.required("node")?)?;
    let cluster = cluster(&root.required("cluster")?, file)?;
    let services = root
        .required("services")?
        .list()?
        .iter()
        .map(|field| service(field, &cluster))
        .collect::<Result<_>>()?;
    let workers = workers(&root.required("workers")?)?;
    let ports = root.required("ports")?.section(&["wire", "link"])?;
    let ports = Ports {
        wire: port(&ports.required("wire")?, &workers)?,
        link: port(&ports.required("link")?, &workers)?,
    };
    Ok(Config {
        node,
        cluster,
        services,
        ports,
        workers,
        memory: memory(&root)?,
        handover: handover(&root)?,
        peers: peers(&root)?,
        reports: reports(&root)?,
        timeouts: timeouts(&root)?,
        orphans: orphans(&root)?,
        control: control(&root)?,
        log: log(&root)?,
        origins: origins.clone(),
    })
}

fn node_id(field: &Field<'_>) -> Result<NodeId> {
    field.number(1..=u16::MAX).map(NodeId)
}

fn cluster(field: &Field<'_>, file: &Path) -> Result<Cluster> {
    let s = field.section(&[
        "name",
        "key",
        "key_file",
        "other_key",
        "other_key_file",
        "bucket_key",
        "bucket_key_file",
        "mac",
        "layer2",
        "announce",
        "policy",
        "designated",
        "buckets",
        "accept_paper_form",
        "members",
    ])?;
    let members = s.required("members")?.list()?;
    let policy = s.choice("policy", Policy::FlowHash)?;
    let designated = s.optional("designated").map(|f| node_id(&f)).transpose()?;
    if policy == Policy::Designated && designated.is_none() {
        return Err(s.error("policy", "designated, but cluster.designated is missing"));
    }
    Ok(Cluster {
        name: s.required("name")?.name()?,
        key: key(&s, file, "key")?
            .ok_or_else(|| s.error("key", "missing (or cluster.key_file)"))?,
        other_key: key(&s, file, "other_key")?,
        bucket_key: key(&s, file, "bucket_key")?,
        mac: s.required("mac")?.value()?,
        layer2: s.choice("layer2", Layer2::Unicast)?,
        announce: s.flag("announce", true)?,
        policy,
        designated,
        buckets: s.number("buckets", 16..=65_536, 4_096)?,
        accept_paper_form: s.flag("accept_paper_form", false)?,
        members: members.iter().map(member).collect::<Result<_>>()?,
    })
}

/// A key that stands in the file or in one of its own. It is never quoted in a
/// message.
fn key(s: &Section<'_>, file: &Path, name: &str) -> Result<Option<ClusterKey>> {
    let name_file = format!("{name}_file");
    match (s.optional(name), s.optional(&name_file)) {
        (Some(_), Some(_)) => {
            Err(s.error(&name_file, &format!("not together with cluster.{name}")))
        }
        (None, None) => Ok(None),
        (Some(field), None) => {
            let text = field
                .text("")
                .map_err(|_| field.error("expected a string of hex digits"))?;
            text.parse::<ClusterKey>()
                .map(Some)
                .map_err(|error| field.error(&error.to_string()))
        }
        (None, Some(field)) => {
            let name = field.text("a path")?;
            // As seen from the file that names it.
            let path = file.parent().unwrap_or(Path::new("")).join(name);
            let mut text = String::new();
            File::open(&path)
                .and_then(|file| file.take(4_096).read_to_string(&mut text))
                .map_err(|error| {
                    field.error(&format!("cannot read {}: {error}", path.display()))
                })?;
            text.trim()
                .parse::<ClusterKey>()
                .map(Some)
                .map_err(|error| field.error(&format!("{}: {error}", path.display())))
        }
    }
}

/// A unicast address that means the same on every interface, in its own family.
fn global(field: &Field<'_>) -> Result<IpAddr> {
    let address = field.address()?;
    if let IpAddr::V6(v6) = address {
        if let Some(v4) = v6.to_ipv4_mapped() {
            return Err(field.error(&format!("an IPv4 address is written as such, {v4}")));
        }
        if v6.is_unicast_link_local() {
            return Err(field.error(
                "a link-local address has no meaning without an interface; \
                 use a global or a unique local one (fd00::/8)",
            ));
        }
    }
    Ok(address)
}

fn member(field: &Field<'_>) -> Result<Member> {
    let s = field.section(&["id", "name", "link", "weight"])?;
    Ok(Member {
        id: node_id(&s.required("id")?)?,
        name: s.required("name")?.name()?,
        link: global(&s.required("link")?)?,
        weight: s.number("weight", 0..=100, 100)?,
    })
}

fn repeats(service: &Section<'_>) -> Result<u8> {
    let repeats = service.number("repeats", 0..=3, 0)?;
    if repeats > 0 && service.optional("proxy_port").is_none() {
        let reason = "without a proxy_port nothing is handed over before it is answered";
        return Err(service.error("repeats", reason));
    }
    Ok(repeats)
}

fn service(field: &Field<'_>, cluster: &Cluster) -> Result<Service> {
    let s = field.section(&[
        "name",
        "vip",
        "port",
        "proxy_port",
        "application_port",
        "policy",
        "designated",
        "unavailable",
        "repeats",
        "health",
    ])?;
    let name = s.required("name")?.name()?;
    let vip_field = s.required("vip")?;
    let vip = global(&vip_field)?;
    if vip.is_loopback() {
        return Err(vip_field.error("a VIP cannot be a loopback address"));
    }
    let port = s.required("port")?.number(1..=u16::MAX)?;
    let policy = s.choice("policy", cluster.policy)?;
    let own = s.optional("designated");
    let designated = match (policy, own) {
        (Policy::Designated, Some(own)) => Some(node_id(&own)?),
        (Policy::Designated, None) if cluster.designated.is_some() => cluster.designated,
        (Policy::Designated, None) => {
            let reason =
                "designated, but neither the service nor the cluster has the key designated";
            return Err(s.error("policy", reason));
        }
        (_, Some(own)) => return Err(own.error(&format!("the policy is {policy}"))),
        (_, None) => None,
    };
    Ok(Service {
        name,
        vip,
        port,
        proxy_port: s
            .optional("proxy_port")
            .map(|f| f.number(1..=u16::MAX))
            .transpose()?,
        application_port: s.number("application_port", 1..=u16::MAX, port)?,
        policy,
        designated,
        unavailable: s.choice("unavailable", Unavailable::Rst)?,
        repeats: repeats(&s)?,
        health: s.optional("health").map(|f| health(&f)).transpose()?,
    })
}

fn port(field: &Field<'_>, workers: &Workers) -> Result<PortConfig> {
    let s = field.section(&["device", "queues", "mtu", "vlan", "offloads", "host"])?;
    let default_queues = u16::try_from(workers.cores.len()).unwrap_or(u16::MAX);
    Ok(PortConfig {
        device: device(&s.required("device")?)?,
        queues: s.number("queues", 1..=1_024, default_queues)?,
        mtu: s.number("mtu", 576..=9_216, 1_500)?,
        vlan: s
            .optional("vlan")
            .map(|f| f.number(1..=4_094))
            .transpose()?,
        offloads: s.choice("offloads", Offloads::Auto)?,
        host: host(&s.required("host")?)?,
    })
}

fn host(field: &Field<'_>) -> Result<HostPort> {
    let s = field.section(&["device", "offloads", "interface", "addresses"])?;
    let addresses = s.optional("addresses").map_or(Ok(vec![]), |f| f.list())?;
    Ok(HostPort {
        device: device(&s.required("device")?)?,
        offloads: s.choice("offloads", HostOffloads::Tso)?,
        interface: s.optional("interface").map(|f| interface(&f)).transpose()?,
        addresses: addresses.iter().map(Field::value).collect::<Result<_>>()?,
    })
}

fn device(field: &Field<'_>) -> Result<String> {
    let text = field.text("a DPDK vdev string or PCI address")?;
    if text.starts_with(',') || text.contains(|c: char| c.is_control() || c.is_whitespace()) {
        return Err(field.error("a device has a name, and no white space"));
    }
    Ok(text.to_owned())
}

fn interface(field: &Field<'_>) -> Result<String> {
    let what = "an interface name of 1 to 15 bytes without slash, colon or white space";
    let text = field.text(what)?;
    let bad = |c: char| c == '/' || c == ':' || c.is_whitespace() || c.is_control();
    if text.len() > IFNAME_MAX || text.contains(bad) || text == "." || text == ".." {
        return Err(field.error(&format!("expected {what}")));
    }
    Ok(text.to_owned())
}

fn workers(field: &Field<'_>) -> Result<Workers> {
    let s = field.section(&["cores", "idle", "idle_sleep_us"])?;
    let cores = s.required("cores")?.list()?;
    let sleep = s.number("idle_sleep_us", 50..=10_000_u32, 50)?;
    Ok(Workers {
        cores: cores
            .iter()
            .map(|core| core.number(0..=1_023))
            .collect::<Result<_>>()?,
        idle: s.choice("idle", Idle::Backoff)?,
        idle_sleep: Duration::from_micros(sleep.into()),
    })
}

fn memory(root: &Section<'_>) -> Result<Memory> {
    let s = root.section(
        "memory",
        &[
            "hugepages",
            "megabytes",
            "mbufs",
            "flows",
            "half_open",
            "tombstones",
            "hold_node_kib",
            "hold_kib",
            "hold_flow_kib",
            "repeat_kib",
        ],
    )?;
    Ok(Memory {
        hugepages: s.flag("hugepages", true)?,
        megabytes: s.number("megabytes", 16..=1 << 20, 256)?,
        mbufs: s.number("mbufs", 512..=TABLE_MAX - 1, 16_384)?,
        flows: s.number("flows", 16..=TABLE_MAX, 65_536)?,
        half_open: s.number("half_open", 16..=TABLE_MAX, 8_192)?,
        tombstones: s.number("tombstones", 16..=TABLE_MAX, 65_536)?,
        hold_node_kib: s.number("hold_node_kib", 1..=1 << 26, 65_536)?,
        hold_kib: s.number("hold_kib", 1..=1 << 22, 4_096)?,
        hold_flow_kib: s.number("hold_flow_kib", 1..=1 << 22, 128)?,
        repeat_kib: s.number("repeat_kib", 1..=1 << 22, 4_096)?,
    })
}

fn handover(root: &Section<'_>) -> Result<Handover> {
    let s = root.section(
        "handover",
        &[
            "deadline_ms",
            "unknown_deadline_ms",
            "first_window",
            "replay",
            "repeat_within_ms",
            "splice_ports",
        ],
    )?;
    let splice = s.section("splice_ports", &["first", "last"])?;
    Ok(Handover {
        deadline: s.millis("deadline_ms", 10..=10_000, 150)?,
        unknown_deadline: s.millis("unknown_deadline_ms", 10..=60_000, 2_000)?,
        first_window: s.number("first_window", 4_096..=60_000, 60_000)?,
        replay: s.choice("replay", Replay::FastOpen)?,
        repeat_within: s.millis("repeat_within_ms", 1_000..=600_000, 60_000)?,
        splice_ports: PortRange {
            first: splice.number("first", 1..=u16::MAX, 61_000)?,
            last: splice.number("last", 1..=u16::MAX, 64_999)?,
        },
    })
}

fn peers(root: &Section<'_>) -> Result<Peers> {
    let s = root.section(
        "peers",
        &[
            "probe_ms",
            "answer_ms",
            "suspect_ms",
            "gone_ms",
            "minority_ms",
            "hello_ms",
            "port",
        ],
    )?;
    let hello = s.millis("hello_ms", 0..=10_000, 100)?;
    if !hello.is_zero() && hello < Duration::from_millis(10) {
        return Err(s.error("hello_ms", "expected 0, or 10 to 10000"));
    }
    Ok(Peers {
        hello: Some(hello).filter(|h| !h.is_zero()),
        probe: s.millis("probe_ms", 10..=60_000, 100)?,
        answer: s.millis("answer_ms", 2..=30_000, 20)?,
        suspect: s.millis("suspect_ms", 20..=600_000, 120)?,
        gone: s.millis("gone_ms", 100..=3_600_000, 3_000)?,
        minority: s.millis("minority_ms", 0..=3_600_000, 30_000)?,
        port: s.number("port", 1..=u16::MAX, 7_946)?,
    })
}

fn reports(root: &Section<'_>) -> Result<Reports> {
    let s = root.section("reports", &["interval_ms", "port"])?;
    Ok(Reports {
        interval: s.millis("interval_ms", 10..=10_000, 500)?,
        port: s.number("port", 1..=u16::MAX, 7_947)?,
    })
}

fn timeouts(root: &Section<'_>) -> Result<Timeouts> {
    let s = root.section(
        "timeouts",
        &[
            "half_open_s",
            "idle_s",
            "closing_s",
            "tombstone_s",
            "socket_check_s",
            "drain_s",
        ],
    )?;
    let seconds = |key, default: u32| {
        let seconds = s.number(key, 1..=WEEK_S, default)?;
        Ok(Duration::from_secs(seconds.into()))
    };
    Ok(Timeouts {
        half_open: seconds("half_open_s", 10)?,
        idle: seconds("idle_s", 3_600)?,
        closing: seconds("closing_s", 5)?,
        tombstone: seconds("tombstone_s", 60)?,
        socket_check: seconds("socket_check_s", 5)?,
        drain: Duration::from_secs(s.number("drain_s", 0..=WEEK_S, 30)?.into()),
    })
}

fn orphans(root: &Section<'_>) -> Result<Orphans> {
    let s = root.section("orphans", &["reset", "resets_per_s"])?;
    Ok(Orphans {
        reset: s.flag("reset", true)?,
        resets_per_s: s.number("resets_per_s", 1..=1_000_000, 1_000)?,
    })
}

fn control(root: &Section<'_>) -> Result<Control> {
    let s = root.section(
        "control",
        &["rpc_socket", "rpc_allow", "admin_socket", "metrics"],
    )?;
    let allow = s.section("rpc_allow", &["uids", "gids"])?;
    // 2^32 - 1 means "no id" (`chown(2)`).
    let ids = |key, default: Vec<u32>| match allow.optional(key) {
        Some(list) => list
            .list()?
            .iter()
            .map(|id| id.number(0..=u32::MAX - 1))
            .collect(),
        None => Ok(default),
    };
    Ok(Control {
        rpc_socket: socket(&s, "rpc_socket", "/run/dts/rpc.sock")?,
        rpc_allow: RpcAllow {
            uids: ids("uids", vec![0])?,
            gids: ids("gids", vec![])?,
        },
        admin_socket: socket(&s, "admin_socket", "/run/dts/admin.sock")?,
        metrics: s.optional("metrics").map_or_else(
            || Ok(SocketAddr::from(([127, 0, 0, 1], 9_464))),
            |f| socket_address(&f),
        )?,
    })
}

fn socket(s: &Section<'_>, key: &str, default: &str) -> Result<PathBuf> {
    let Some(field) = s.optional(key) else {
        return Ok(PathBuf::from(default));
    };
    let text = field.text("a path")?;
    if text.len() > SUN_PATH_MAX {
        let length = text.len();
        return Err(field.error(&format!(
            "a socket's path has at most {SUN_PATH_MAX} bytes, this one has {length}"
        )));
    }
    if text.contains('\0') {
        return Err(field.error("a path has no NUL"));
    }
    Ok(PathBuf::from(text))
}

fn socket_address(field: &Field<'_>) -> Result<SocketAddr> {
    let what = "an address and port like 127.0.0.1:9464";
    let text = field.text(what)?;
    match text.parse::<SocketAddr>() {
        Ok(address) if address.port() != 0 => Ok(address),
        _ => Err(field.error(&format!("expected {what}, found \"{text}\""))),
    }
}

fn log(root: &Section<'_>) -> Result<Log> {
    let s = root.section("log", &["level", "format"])?;
    Ok(Log {
        level: s.choice("level", LogLevel::Info)?,
        format: s.choice("format", LogFormat::Text)?,
    })
}
