//! The configuration file: `examples/dts-proxy.yaml` explains every key. A
//! mistake is one line, `FILE:LINE: reason`.

mod pool;

pub use pool::{Full, Member, Pool, Unavailable};

use crate::policy::Policy;
use pool::{BalanceFile, BalanceName, LardFile, PoolFile, StickyFile};
use serde::Deserialize;
use serde_saphyr::Spanned;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A checked configuration.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where to accept connections.
    pub listen: SocketAddr,
    /// Line of `listen`, for what only starting up can find out.
    pub listen_line: u64,
    /// The daemon's socket.
    pub rpc_socket: PathBuf,
    /// What clients speak.
    pub protocol: Protocol,
    /// Bounds on clients.
    pub limits: Limits,
    /// This node's own link address.
    pub local: Option<IpAddr>,
    /// How the daemon is asked about nodes.
    pub nodes: Nodes,
    /// At least one; each has a member that takes connections.
    pub pools: Vec<Pool>,
    /// Of pools, and of rules that have one of their own. Each has a memory of its own.
    pub policies: Vec<Policy>,
    /// In order; the first that matches wins.
    pub rules: Vec<Rule>,
    /// Index into `pools`, for connections that no rule matches.
    pub default_pool: usize,
    /// Other members to ask when one refuses a connection, 0..=16.
    pub retries: usize,
}

/// What clients speak.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// HTTP/1.
    #[default]
    Http,
    /// TLS, of which only the server name is read.
    Tls,
}

/// Bounds on clients.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Largest request head, 256..=65536 bytes.
    pub head_bytes: usize,
    /// Longest time from accept to a complete head, 10 ms to 10 min.
    pub head_timeout: Duration,
    /// Connections at once, 1..=1000000.
    pub connections: u32,
}

/// How the daemon is asked about nodes: their state, health and load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Nodes {
    /// How often, 10 ms to 10 s.
    pub interval: Duration,
    /// How old the last answer may be before all nodes count as healthy and nothing is
    /// known of their load but what was given to them; at least two intervals, at most
    /// 1 min.
    pub stale: Duration,
}

/// A choice of pool; all conditions that are there must hold.
#[derive(Clone, Debug)]
pub struct Rule {
    /// Beginning of the path, case-sensitive.
    pub path_prefix: Option<String>,
    /// Host, lower case.
    pub host: Option<String>,
    /// A header field.
    pub header: Option<HeaderRule>,
    /// Server name, lower case.
    pub sni: Option<String>,
    /// Index into the pools.
    pub pool: usize,
    /// Index into the policies: its pool's, or one of its own.
    pub policy: usize,
}

/// A header field with exactly this value.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HeaderRule {
    /// Compared without regard to case.
    pub name: String,
    /// Compared byte for byte.
    pub value: String,
}

/// A mistake in the configuration.
#[derive(Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// The file as it was named.
    pub file: String,
    /// Line to blame, from 1; `None` when it is the file as a whole.
    pub line: Option<u64>,
    /// What is wrong.
    pub reason: String,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
        }
        write!(f, ": {}", self.reason)
    }
}

impl std::error::Error for ConfigError {}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    listen: Spanned<SocketAddr>,
    #[serde(default = "default_socket")]
    rpc_socket: PathBuf,
    #[serde(default)]
    protocol: Protocol,
    #[serde(default)]
    limits: LimitsFile,
    local: Option<IpAddr>,
    #[serde(default)]
    nodes: NodesFile,
    pools: Spanned<Vec<Spanned<PoolFile>>>,
    #[serde(default)]
    rules: Vec<Spanned<RuleFile>>,
    default_pool: Spanned<String>,
    retries: Option<Spanned<u64>>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct LimitsFile {
    head_bytes: Option<Spanned<u64>>,
    head_timeout_ms: Option<Spanned<u64>>,
    connections: Option<Spanned<u64>>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct NodesFile {
    interval_ms: Option<Spanned<u64>>,
    stale_ms: Option<Spanned<u64>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RuleFile {
    path_prefix: Option<Spanned<String>>,
    host: Option<Spanned<String>>,
    header: Option<Spanned<HeaderRule>>,
    sni: Option<Spanned<String>>,
    pool: Spanned<String>,
    balance: Option<Spanned<BalanceName>>,
    slack_percent: Option<Spanned<u64>>,
    lard: Option<Spanned<LardFile>>,
    sticky: Option<Spanned<StickyFile>>,
}

fn default_socket() -> PathBuf {
    dts_proto::rpc::DEFAULT_SOCKET.into()
}

/// Reads and checks a configuration file.
///
/// # Errors
/// The first mistake, or why the file cannot be read.
pub fn load(path: &Path) -> Result<Config, ConfigError> {
    let file = path.display().to_string();
    match std::fs::read_to_string(path) {
        Ok(text) => parse(&text, &file),
        Err(error) => Err(ConfigError {
            file,
            line: None,
            reason: format!("cannot read: {error}"),
        }),
    }
}

/// Checks the text of a configuration; `file` is what messages call it.
///
/// # Errors
/// The first mistake.
pub fn parse(text: &str, file: &str) -> Result<Config, ConfigError> {
    let read = serde_saphyr::from_str::<File>(text).map_err(|error| yaml_mistake(&error));
    read.and_then(check).map_err(|(line, reason)| ConfigError {
        file: file.to_owned(),
        line,
        reason,
    })
}

type Mistake = (Option<u64>, String);

/// The reader's message in one line, without the position, the picture of it and
/// the advice to programmers that the reader adds.
fn yaml_mistake(error: &serde_saphyr::Error) -> Mistake {
    let line = error.location().map(|location| location.line());
    let text = error.without_snippet().to_string();
    let text = text.lines().next().unwrap_or("malformed");
    let end = [" at line ", ", set DuplicateKeyPolicy"]
        .iter()
        .filter_map(|tail| text.find(tail))
        .min();
    let text = &text[..end.unwrap_or(text.len())];
    (line, text.trim_start_matches("error: ").to_owned())
}

fn at<T>(spanned: &Spanned<T>, reason: impl Into<String>) -> Mistake {
    (Some(spanned.referenced.line()), reason.into())
}

fn number(
    field: Option<&Spanned<u64>>,
    name: &str,
    range: RangeInclusive<u64>,
    default: u64,
) -> Result<u64, Mistake> {
    let Some(field) = field else {
        return Ok(default);
    };
    if !range.contains(&field.value) {
        let (first, last) = range.into_inner();
        return Err(at(
            field,
            format!("{name}: {} is not in {first}..{last}", field.value),
        ));
    }
    Ok(field.value)
}

fn check(file: File) -> Result<Config, Mistake> {
    if file.listen.value.port() == 0 {
        return Err(at(&file.listen, "listen: port 0"));
    }
    let limits = Limits {
        head_bytes: number(
            file.limits.head_bytes.as_ref(),
            "limits.head_bytes",
            256..=65536,
            16384,
        )? as usize,
        head_timeout: Duration::from_millis(number(
            file.limits.head_timeout_ms.as_ref(),
            "limits.head_timeout_ms",
            10..=600_000,
            10_000,
        )?),
        connections: number(
            file.limits.connections.as_ref(),
            "limits.connections",
            1..=1_000_000,
            4096,
        )? as u32,
    };
    let retries = number(file.retries.as_ref(), "retries", 0..=16, 2)? as usize;
    let nodes = check_nodes(&file.nodes)?;
    let mut policies = Vec::new();
    let pools = pool::check(&file.pools, file.protocol, &mut policies)?;
    let find = |name: &Spanned<String>, key: &str| {
        pools
            .iter()
            .position(|pool| pool.name == name.value)
            .ok_or_else(|| at(name, format!("{key}: there is no pool {:?}", name.value)))
    };
    let default_pool = find(&file.default_pool, "default_pool")?;
    let mut rules = Vec::new();
    for rule in file.rules {
        let pool = find(&rule.value.pool, "pool")?;
        let mut policy = pools[pool].policy;
        if let Some(own) = own_policy(&rule.value, file.protocol)? {
            policy = policies.len();
            policies.push(own);
        }
        rules.push(check_rule(rule, file.protocol, pool, policy)?);
    }
    Ok(Config {
        listen: file.listen.value,
        listen_line: file.listen.referenced.line(),
        rpc_socket: file.rpc_socket,
        protocol: file.protocol,
        limits,
        local: file.local,
        nodes,
        pools,
        policies,
        rules,
        default_pool,
        retries,
    })
}

fn check_nodes(file: &NodesFile) -> Result<Nodes, Mistake> {
    let interval = number(
        file.interval_ms.as_ref(),
        "nodes.interval_ms",
        10..=10_000,
        100,
    )?;
    let default = 1_000.max(2 * interval);
    let stale = number(
        file.stale_ms.as_ref(),
        "nodes.stale_ms",
        20..=60_000,
        default,
    )?;
    if let Some(key) = file.stale_ms.as_ref().filter(|_| stale < 2 * interval) {
        let reason = format!("nodes.stale_ms: {stale} is less than two intervals of {interval}");
        return Err(at(key, reason));
    }
    Ok(Nodes {
        interval: Duration::from_millis(interval),
        stale: Duration::from_millis(stale),
    })
}

/// The policy of a rule that has one of its own.
fn own_policy(rule: &RuleFile, protocol: Protocol) -> Result<Option<Policy>, Mistake> {
    let keys = BalanceFile {
        balance: rule.balance.as_ref(),
        slack_percent: rule.slack_percent.as_ref(),
        lard: rule.lard.as_ref(),
        sticky: rule.sticky.as_ref(),
    };
    if rule.balance.is_some() {
        return pool::policy(&keys, protocol).map(Some);
    }
    let stray = [
        rule.slack_percent.as_ref().map(|k| at(k, "slack_percent")),
        rule.lard.as_ref().map(|k| at(k, "lard")),
        rule.sticky.as_ref().map(|k| at(k, "sticky")),
    ];
    match stray.into_iter().flatten().next() {
        Some((line, key)) => Err((line, format!("{key}: the rule has no balance of its own"))),
        None => Ok(None),
    }
}

fn check_rule(
    rule: Spanned<RuleFile>,
    protocol: Protocol,
    pool: usize,
    policy: usize,
) -> Result<Rule, Mistake> {
    let nothing = at(&rule, "rule: no condition; see default_pool");
    let RuleFile {
        path_prefix,
        host,
        header,
        sni,
        ..
    } = rule.value;
    let http_only = path_prefix.is_some() || host.is_some() || header.is_some();
    if !http_only && sni.is_none() {
        return Err(nothing);
    }
    if let (Protocol::Http, Some(sni)) = (protocol, &sni) {
        return Err(at(sni, "sni: can never match with protocol http"));
    }
    if protocol == Protocol::Tls && http_only {
        let reason = "rule: only sni can match with protocol tls";
        return Err((nothing.0, reason.to_owned()));
    }
    if let Some(prefix) = path_prefix.as_ref().filter(|p| !p.value.starts_with('/')) {
        return Err(at(prefix, "path_prefix: must begin with /"));
    }
    for (name, key) in [(&host, "host"), (&sni, "sni")] {
        if let Some(name) = name {
            let colon = name.value.contains(':') && !name.value.starts_with('[');
            if name.value.is_empty() || colon || name.value.contains(['/', '*', ' ']) {
                let value = &name.value;
                return Err(at(
                    name,
                    format!("{key}: {value:?} is no host name (without port)"),
                ));
            }
        }
    }
    if let Some(header) = header.as_ref().filter(|h| h.value.name.is_empty()) {
        return Err(at(header, "header: empty name"));
    }
    let lower = |name: Spanned<String>| name.value.trim_end_matches('.').to_ascii_lowercase();
    Ok(Rule {
        path_prefix: path_prefix.map(|prefix| prefix.value),
        host: host.map(lower),
        header: header.map(|header| header.value),
        sni: sni.map(lower),
        pool,
        policy,
    })
}
