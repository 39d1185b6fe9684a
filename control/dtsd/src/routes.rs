//! Routes for what services send.
//!
//! The data plane gives every frame of a service flow its destination address
//! from the flow's own entry, so the kernel must not wait until it has found one
//! by ARP or neighbour discovery: it would hold a SYN-ACK for a client whose address
//! it has never resolved. Rules by VIP and source port therefore lead those packets to a
//! table of their own, whose one route has a next hop with a permanent entry.

use dts_config::Config;
use futures_util::TryStreamExt;
use rtnetlink::packet_route::IpProtocol;
use rtnetlink::packet_route::neighbour::NeighbourState;
use rtnetlink::packet_route::rule::{RuleAction, RuleAttribute, RuleMessage, RulePortRange};
use rtnetlink::{Error, Handle, IpVersion, RouteMessageBuilder, RuleAddRequest};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

/// Number of the table, and priority of the rules, by which they are known as
/// ours.
pub const TABLE: u32 = 7700;
/// The next hop that stands for every IPv4 client.
pub const NEXT_HOP: Ipv4Addr = Ipv4Addr::new(169, 254, 77, 1);
/// The one that stands for every IPv6 client.
pub const NEXT_HOP_V6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0x77, 1);
/// Their Ethernet address; never seen on the wire.
pub const NEXT_HOP_MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 0x01];

/// The VIPs and ports whose packets the data plane addresses.
fn intakes(config: &Config) -> Vec<(IpAddr, u16)> {
    let mut all = Vec::new();
    for service in &config.services {
        for port in service
            .proxy_port
            .into_iter()
            .chain([service.application_port])
        {
            if !all.contains(&(service.vip, port)) {
                all.push((service.vip, port));
            }
        }
    }
    all
}

/// Makes table and rules for the wire twin, interface number `index`, in each
/// family that has a VIP.
///
/// # Errors
/// What the kernel says.
pub async fn set_up(handle: &Handle, index: u32, config: &Config) -> Result<(), Error> {
    remove_rules(handle).await?;
    let intakes = intakes(config);
    if intakes.iter().any(|(vip, _)| vip.is_ipv4()) {
        neighbour(handle, index, NEXT_HOP.into()).await?;
        let route = RouteMessageBuilder::<Ipv4Addr>::new()
            .table_id(TABLE)
            .gateway(NEXT_HOP)
            .output_interface(index)
            .onlink()
            .build();
        handle.route().add(route).replace().execute().await?;
    }
    if intakes.iter().any(|(vip, _)| vip.is_ipv6()) {
        neighbour(handle, index, NEXT_HOP_V6.into()).await?;
        let route = RouteMessageBuilder::<Ipv6Addr>::new()
            .table_id(TABLE)
            .gateway(NEXT_HOP_V6)
            .output_interface(index)
            .onlink()
            .build();
        handle.route().add(route).replace().execute().await?;
    }
    for (vip, port) in intakes {
        let rule = handle.rule().add();
        match vip {
            IpAddr::V4(vip) => add_rule(rule.v4().source_prefix(vip, 32), port).await?,
            IpAddr::V6(vip) => add_rule(rule.v6().source_prefix(vip, 128), port).await?,
        }
    }
    Ok(())
}

async fn neighbour(handle: &Handle, index: u32, next_hop: IpAddr) -> Result<(), Error> {
    let neighbour = handle
        .neighbours()
        .add(index, next_hop)
        .state(NeighbourState::Permanent)
        .link_layer_address(&NEXT_HOP_MAC);
    neighbour.replace().execute().await
}

async fn add_rule<T>(mut rule: RuleAddRequest<T>, port: u16) -> Result<(), Error> {
    let message = rule.message_mut();
    message
        .attributes
        .push(RuleAttribute::IpProtocol(IpProtocol::Tcp));
    let ports = RulePortRange {
        start: port,
        end: port,
    };
    message
        .attributes
        .push(RuleAttribute::SourcePortRange(ports));
    rule.table_id(TABLE)
        .priority(TABLE)
        .action(RuleAction::ToTable)
        .execute()
        .await
}

fn ours(rule: &RuleMessage) -> bool {
    let has = |wanted: &RuleAttribute| rule.attributes.contains(wanted);
    has(&RuleAttribute::Table(TABLE)) && has(&RuleAttribute::Priority(TABLE))
}

/// How many rules there are for what `config` asks for.
#[must_use]
pub fn rules_of(config: &Config) -> usize {
    intakes(config).len()
}

/// How many of them the kernel has. Needs a tokio runtime.
///
/// # Errors
/// What the kernel says.
pub async fn count_rules() -> anyhow::Result<usize> {
    let (connection, handle, _) = rtnetlink::new_connection()?;
    let connection = tokio::spawn(connection);
    let rules = our_rules(&handle).await;
    connection.abort();
    Ok(rules?.len())
}

/// The rules of this and of earlier runs, of both families.
async fn our_rules(handle: &Handle) -> Result<Vec<RuleMessage>, Error> {
    let mut all = Vec::new();
    for family in [IpVersion::V4, IpVersion::V6] {
        // A kernel without IPv6 knows no rules for it.
        if matches!(family, IpVersion::V6) && !Path::new("/proc/sys/net/ipv6").exists() {
            continue;
        }
        let rules: Vec<RuleMessage> = handle.rule().get(family).execute().try_collect().await?;
        all.extend(rules.into_iter().filter(ours));
    }
    Ok(all)
}

/// Removes the rules of this and of earlier runs; the route goes with its
/// interface.
///
/// # Errors
/// What the kernel says.
pub async fn remove_rules(handle: &Handle) -> Result<(), Error> {
    for rule in our_rules(handle).await? {
        handle.rule().del(rule).execute().await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_port_that_a_service_answers_from_has_one_rule() {
        let config = crate::testkit::config();
        let vip = IpAddr::from([10, 77, 0, 100]);
        assert_eq!(intakes(&config), [(vip, 8001), (vip, 80)]);
    }
}
