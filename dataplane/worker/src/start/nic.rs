//! What else a started NIC on the wire can take off the workers: leading each client's
//! frames to its worker, and dropping what software would drop whatever its state.
//!
//! Both only save work. Software does all of it again, so nothing depends on them.

use dpdk::{Configured, DevInfo, DropRule, Match, rss};
use dts_config::{Config, Offloads};
use dts_core::steer::{SPREAD, Steer};
use dts_core::wire::Mac;

use super::offloads::Report;

/// The counted rules of a NIC, by what they are for.
pub(super) type Rules = Vec<(&'static str, DropRule)>;

/// What the rules are for, as in the report and the metric.
const HIDDEN: &str = "drop_hidden";
const ECHO: &str = "drop_echo";

/// A key that is new at every start: whoever knows it chooses the queue, and so the
/// core, that a flood of chosen clients meets. On the wire it is the steering's.
/// `stated` is the device's length of it, 0 where it states none.
pub(super) fn rss_key(stated: u8, wire: Option<&Steer>) -> Result<Vec<u8>, getrandom::Error> {
    // Drivers that state no length read DPDK's default of 40 bytes.
    let mut key = vec![0; if stated == 0 { 40 } else { stated.into() }];
    getrandom::fill(&mut key)?;
    if let Some(steer) = wire {
        // What exceeds it is for longer tuples than ours.
        let len = key.len().min(steer.rss_key().len());
        key[..len].copy_from_slice(&steer.rss_key()[..len]);
    }
    Ok(key)
}

/// Who leads frames from the wire to their workers: the NIC alone, or software by
/// handing over what a queue should not have had.
pub(super) fn spread(
    port: &dpdk::Port,
    info: &DevInfo,
    done: &Configured,
    queues: u16,
    workers: usize,
) -> (&'static str, &'static str) {
    const TCP: u64 = rss::TCP_V4 | rss::TCP_V6;
    let by = if workers == 1 {
        "off"
    } else if done.rss
        && info.rss_types & TCP == TCP
        && usize::from(queues) == workers
        && port.spread(SPREAD, queues).is_ok()
    {
        "device"
    } else {
        "software"
    };
    ("rx_spread", by)
}

/// What software drops whatever the flow tables hold, and whichever node this is
/// (ADR 0021): TCP to hidden ports, and this node's own frames that come back.
fn wanted(config: &Config, wire_mac: Mac) -> Vec<(&'static str, Match)> {
    let services = &config.services;
    let mut hidden: Vec<u16> = services
        .iter()
        .flat_map(|s| s.proxy_port.into_iter().chain([s.application_port]))
        .filter(|p| services.iter().all(|s| s.port != *p))
        .collect();
    hidden.sort_unstable();
    hidden.dedup();
    let both = |p| [(HIDDEN, Match::TcpV4(p)), (HIDDEN, Match::TcpV6(p))];
    let hidden = hidden.into_iter().flat_map(both);
    hidden.chain([(ECHO, Match::Source(wire_mac))]).collect()
}

/// Asks the started wire NIC for rules. What it cannot do is left to software, and the
/// report tells.
pub(super) fn rules(port: &dpdk::Port, config: &Config, wire_mac: Mac) -> (Rules, Report) {
    let wire = &config.ports.wire;
    // Rules see the wire's frames with their tags on; those with the VLAN's are left to
    // software.
    let may = wire.offloads != Offloads::None && wire.vlan.is_none();
    let (mut rules, mut report) = (Rules::new(), Report::new());
    for (name, what) in wanted(config, wire_mac) {
        let rule = may.then(|| port.drop_rule(what));
        let by = match rule {
            Some(Ok(rule)) => {
                rules.push((name, rule));
                "device"
            }
            Some(Err(error)) => {
                tracing::debug!(%error, ?what, "rule");
                "software"
            }
            None => "software",
        };
        // All of one name, or it is not the device's.
        match report.iter_mut().find(|(n, _)| *n == name) {
            Some((_, all)) if by == "software" => *all = by,
            Some(_) => {}
            None => report.push((name, by)),
        }
    }
    (rules, report)
}

/// Frames that rules have dropped, by what they are for, where the NIC counts them.
pub(super) fn hits(rules: &Rules) -> Vec<(&'static str, u64)> {
    let mut sums: Vec<(&'static str, u64)> = Vec::new();
    for (name, hits) in rules.iter().filter_map(|(n, r)| Some((*n, r.hits()?))) {
        match sums.iter_mut().find(|(n, _)| *n == name) {
            Some((_, sum)) => *sum += hits,
            None => sums.push((name, hits)),
        }
    }
    sums
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rss_keys_have_the_devices_length_and_are_new_each_time() {
        for (stated, bytes) in [(0, 40), (40, 40), (52, 52)] {
            let (one, other) = (rss_key(stated, None), rss_key(stated, None));
            let (one, other) = (one.unwrap(), other.unwrap());
            assert_eq!((one.len(), other.len()), (bytes, bytes));
            assert_ne!(one, other);
            let steer = Steer::new([7; 16]);
            let wire = rss_key(stated, Some(&steer)).unwrap();
            assert_eq!((wire.len(), &wire[..40]), (bytes, &steer.rss_key()[..]));
        }
    }

    /// Ports of the services decide which are hidden, as `View::is_hidden` has it.
    #[test]
    fn rules_are_for_hidden_ports_and_echoes_only() {
        let config = dts_config::parse(
            "node: 1
cluster:
  name: test
  key: 00112233445566778899aabbccddeeff
  mac: 02:00:5e:00:00:64
  members: [{ id: 1, name: a, link: 10.77.1.1 }]
services:
  - { name: a, vip: 192.0.2.1, port: 80, proxy_port: 8001, application_port: 80 }
  - { name: b, vip: 192.0.2.3, port: 80, proxy_port: 8001, application_port: 8080 }
  - { name: c, vip: 192.0.2.2, port: 8080, application_port: 9000 }
ports:
  wire: { device: a, host: { device: b } }
  link: { device: c, host: { device: d } }
workers: { cores: [0] }
",
            "t.yaml",
        )
        .unwrap();
        let mac = [2, 0, 0, 0, 0, 1];
        let tcp = |p| [(HIDDEN, Match::TcpV4(p)), (HIDDEN, Match::TcpV6(p))];
        let expected: Vec<_> = [8001, 9000].into_iter().flat_map(tcp).collect();
        let rules = wanted(&config, mac);
        let (echo, hidden) = rules.split_last().unwrap();
        assert_eq!((hidden, *echo), (&expected[..], (ECHO, Match::Source(mac))));
    }
}
