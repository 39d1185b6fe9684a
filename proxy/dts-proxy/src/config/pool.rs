//! Pools: members, the policy that chooses among them, and what happens where none has
//! room.

use super::{Mistake, at, number};
use crate::policy::{Policy, lard, sticky};
use serde::Deserialize;
use serde_saphyr::Spanned;
use std::collections::HashSet;
use std::net::SocketAddr;
use std::time::Duration;

/// Destinations that can answer the same requests.
#[derive(Clone, Debug)]
pub struct Pool {
    /// As rules name it.
    pub name: String,
    /// At least one that is no backup has a weight above 0.
    pub members: Vec<Member>,
    /// Index into [`super::Config::policies`].
    pub policy: usize,
    /// Most connections of one member, 1..=1000000; `None`: no bound.
    pub max_connections: Option<u32>,
    /// What is done where the chosen member has no room.
    pub full: Full,
    /// Most connections that wait for room, 0..=100000.
    pub queue_length: usize,
    /// Longest time that one waits, 1 ms to 1 min.
    pub queue_timeout: Duration,
    /// What a client gets whom no member takes.
    pub unavailable: Unavailable,
}

/// One destination.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Member {
    /// Link address of a node, and the application port there.
    pub address: SocketAddr,
    /// Name, unique in its pool.
    pub name: Option<String>,
    /// Share of connections, 0..=100; 0 takes none.
    pub weight: u8,
    /// Takes connections only where no other member is healthy.
    pub backup: bool,
}

/// What is done where the chosen member has no room.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Full {
    /// The policy chooses among those that have; only when none has, the connection waits.
    #[default]
    Next,
    /// The connection waits for that member; only after its time another one is asked.
    Wait,
}

/// What a client gets whom no member takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Unavailable {
    /// Its connection is closed.
    #[default]
    Close,
    /// A RST.
    Reset,
    /// HTTP: an answer with status 503, then the end.
    #[serde(rename = "503")]
    Answer503,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Balance {
    #[default]
    PathHash,
    BoundedHash,
    Lard,
    LardReplication,
    LeastConnections,
    Weight,
    Sticky,
}

impl Balance {
    fn name(self) -> &'static str {
        match self {
            Self::PathHash => "path-hash",
            Self::BoundedHash => "bounded-hash",
            Self::Lard => "lard",
            Self::LardReplication => "lard-replication",
            Self::LeastConnections => "least-connections",
            Self::Weight => "weight",
            Self::Sticky => "sticky",
        }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum AssignFile {
    #[default]
    Hash,
    LeastLoaded,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct LardFile {
    low: Option<Spanned<u64>>,
    high: Option<Spanned<u64>>,
    replica_s: Option<Spanned<u64>>,
    targets: Option<Spanned<u64>>,
    #[serde(default)]
    assign: AssignFile,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct StickyFile {
    #[serde(default)]
    source: bool,
    cookie: Option<String>,
}

/// The keys of a policy, in a pool or in a rule.
pub(super) struct BalanceFile<'a> {
    pub balance: Option<&'a Spanned<BalanceName>>,
    pub slack_percent: Option<&'a Spanned<u64>>,
    pub lard: Option<&'a Spanned<LardFile>>,
    pub sticky: Option<&'a Spanned<StickyFile>>,
}

/// The value of `balance`.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(transparent)]
pub(super) struct BalanceName(Balance);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PoolFile {
    name: Spanned<String>,
    members: Spanned<Vec<Spanned<MemberFile>>>,
    balance: Option<Spanned<BalanceName>>,
    slack_percent: Option<Spanned<u64>>,
    lard: Option<Spanned<LardFile>>,
    sticky: Option<Spanned<StickyFile>>,
    max_connections: Option<Spanned<u64>>,
    full: Option<Spanned<Full>>,
    queue: Option<Spanned<QueueFile>>,
    unavailable: Option<Spanned<Unavailable>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct QueueFile {
    length: Option<Spanned<u64>>,
    timeout_ms: Option<Spanned<u64>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct MemberFile {
    address: SocketAddr,
    name: Option<String>,
    #[serde(default = "full_weight")]
    weight: u64,
    #[serde(default)]
    backup: bool,
}

fn full_weight() -> u64 {
    100
}

/// Checks all pools; their policies are put behind `policies`.
pub(super) fn check(
    files: &Spanned<Vec<Spanned<PoolFile>>>,
    protocol: super::Protocol,
    policies: &mut Vec<Policy>,
) -> Result<Vec<Pool>, Mistake> {
    if files.value.is_empty() {
        return Err(at(files, "pools: at least one is needed"));
    }
    let mut names = HashSet::new();
    let mut pools = Vec::new();
    for file in &files.value {
        let file = &file.value;
        let name = &file.name;
        if !names.insert(&name.value) {
            return Err(at(name, format!("name: a second pool {:?}", name.value)));
        }
        let members = members(&file.members, &name.value)?;
        let keys = BalanceFile {
            balance: file.balance.as_ref(),
            slack_percent: file.slack_percent.as_ref(),
            lard: file.lard.as_ref(),
            sticky: file.sticky.as_ref(),
        };
        policies.push(policy(&keys, protocol)?);
        let max_connections = file.max_connections.as_ref();
        let bound = number(max_connections, "max_connections", 1..=1_000_000, 0)?;
        if bound == 0 {
            let needless = [
                file.full.as_ref().map(|f| at(f, "full")),
                file.queue.as_ref().map(|q| at(q, "queue")),
            ];
            if let Some((line, key)) = needless.into_iter().flatten().next() {
                return Err((line, format!("{key}: without max_connections none is full")));
            }
        }
        let queue = file.queue.as_ref().map(|queue| &queue.value);
        let length = queue.and_then(|queue| queue.length.as_ref());
        let timeout = queue.and_then(|queue| queue.timeout_ms.as_ref());
        let unavailable = file.unavailable.as_ref();
        if let Some(found) = unavailable
            && found.value == Unavailable::Answer503
            && protocol == super::Protocol::Tls
        {
            return Err(at(found, "unavailable: 503 is no answer with protocol tls"));
        }
        pools.push(Pool {
            name: name.value.clone(),
            members,
            policy: policies.len() - 1,
            max_connections: u32::try_from(bound).ok().filter(|&bound| bound > 0),
            full: file.full.as_ref().map_or(Full::Next, |full| full.value),
            queue_length: number(length, "queue.length", 0..=100_000, 0)? as usize,
            queue_timeout: Duration::from_millis(number(
                timeout,
                "queue.timeout_ms",
                1..=60_000,
                1_000,
            )?),
            unavailable: unavailable.map_or(Unavailable::Close, |found| found.value),
        });
    }
    Ok(pools)
}

fn members(files: &Spanned<Vec<Spanned<MemberFile>>>, pool: &str) -> Result<Vec<Member>, Mistake> {
    let (mut addresses, mut names) = (HashSet::new(), HashSet::new());
    let mut members = Vec::new();
    for file in &files.value {
        let member = &file.value;
        let address = member.address;
        if address.port() == 0 {
            return Err(at(file, format!("address: {address}: port 0")));
        }
        let weight = u8::try_from(member.weight).ok().filter(|&w| w <= 100);
        let Some(weight) = weight else {
            let reason = format!("weight: {} is not in 0..100", member.weight);
            return Err(at(file, reason));
        };
        if !addresses.insert(address) {
            return Err(at(file, format!("address: {address} is there twice")));
        }
        if let Some(name) = &member.name {
            let fit = |b: u8| b.is_ascii_alphanumeric() || b"_-".contains(&b);
            if name.is_empty() || !name.bytes().all(fit) {
                let reason = format!("name: {name:?} is not of letters, digits, - and _");
                return Err(at(file, reason));
            }
            if !names.insert(name) {
                return Err(at(file, format!("name: a second member {name:?}")));
            }
        }
        members.push(Member {
            address,
            name: member.name.clone(),
            weight,
            backup: member.backup,
        });
    }
    if members.iter().all(|member| member.weight == 0) {
        let reason = format!("members: none of pool {pool:?} has a weight");
        return Err(at(files, reason));
    }
    if members.iter().all(|m| m.weight == 0 || m.backup) {
        let reason = format!("members: all of pool {pool:?} are backups");
        return Err(at(files, reason));
    }
    Ok(members)
}

/// The policy that a pool or rule describes. Parameters of another one are a mistake.
pub(super) fn policy(keys: &BalanceFile<'_>, protocol: super::Protocol) -> Result<Policy, Mistake> {
    let balance = keys.balance.map_or(Balance::PathHash, |b| b.value.0);
    let stray = [
        (
            keys.slack_percent.map(|k| at(k, "slack_percent")),
            balance == Balance::BoundedHash,
        ),
        (
            keys.lard.map(|k| at(k, "lard")),
            matches!(balance, Balance::Lard | Balance::LardReplication),
        ),
        (
            keys.sticky.map(|k| at(k, "sticky")),
            balance == Balance::Sticky,
        ),
    ];
    for (key, fits) in stray {
        if let Some((line, key)) = key.filter(|_| !fits) {
            return Err((line, format!("{key}: balance is {}", balance.name())));
        }
    }
    Ok(match balance {
        Balance::PathHash => Policy::PathHash,
        Balance::BoundedHash => {
            let slack = number(keys.slack_percent, "slack_percent", 1..=1_000, 25)?;
            Policy::BoundedHash {
                slack_percent: slack as u32,
            }
        }
        Balance::LeastConnections => Policy::LeastConnections,
        Balance::Weight => Policy::Weight,
        Balance::Lard | Balance::LardReplication => {
            lard_params(keys.lard, balance == Balance::LardReplication)?
        }
        Balance::Sticky => sticky_by(keys, protocol)?,
    })
}

fn lard_params(file: Option<&Spanned<LardFile>>, replicated: bool) -> Result<Policy, Mistake> {
    let none = LardFile::default();
    let keys = file.map_or(&none, |file| &file.value);
    let low = number(keys.low.as_ref(), "lard.low", 1..=100_000, 25)?;
    let high = number(keys.high.as_ref(), "lard.high", 2..=1_000_000, 65)?;
    if let Some(file) = file.filter(|_| high <= low) {
        let reason = format!("lard.high: {high} is not above lard.low, {low}");
        return Err(keys
            .high
            .as_ref()
            .map_or_else(|| at(file, reason.as_str()), |key| at(key, reason.as_str())));
    }
    if let Some(key) = keys.replica_s.as_ref().filter(|_| !replicated) {
        return Err(at(key, "lard.replica_s: balance is lard"));
    }
    let replica = number(keys.replica_s.as_ref(), "lard.replica_s", 1..=3_600, 20)?;
    let targets = number(
        keys.targets.as_ref(),
        "lard.targets",
        1..=10_000_000,
        65_536,
    )?;
    Ok(Policy::Lard(lard::Params {
        low: low as u32,
        high: high as u32,
        replicas: replicated.then(|| Duration::from_secs(replica)),
        targets: targets as usize,
        assign: match keys.assign {
            AssignFile::Hash => lard::Assign::Hash,
            AssignFile::LeastLoaded => lard::Assign::LeastLoaded,
        },
    }))
}

fn sticky_by(keys: &BalanceFile<'_>, protocol: super::Protocol) -> Result<Policy, Mistake> {
    let Some(file) = keys.sticky else {
        let mistake = "balance: sticky, but there is no key sticky (source or cookie)";
        return Err(keys
            .balance
            .map_or((None, mistake.to_owned()), |balance| at(balance, mistake)));
    };
    let by = match (&file.value.cookie, file.value.source) {
        (None, true) => sticky::By::Source,
        (Some(_), false) if protocol == super::Protocol::Tls => {
            return Err(at(
                file,
                "sticky.cookie: can never be seen with protocol tls",
            ));
        }
        (Some(name), false) if name.is_empty() || name.contains(['=', ';', ' ', ',']) => {
            return Err(at(
                file,
                format!("sticky.cookie: {name:?} is no cookie's name"),
            ));
        }
        (Some(name), false) => sticky::By::Cookie(name.clone()),
        (None, false) | (Some(_), true) => {
            return Err(at(file, "sticky: either source: true or cookie: NAME"));
        }
    };
    Ok(Policy::Sticky(by))
}
