//! Which port bears which address.

use dts_config::Config;
use dts_core::frame::Port;
use dts_core::wire::Mac;
use siphasher::sip::SipHasher13;
use std::hash::Hasher;

use super::StartError;
use super::devargs::{Colons, Kind, argument};

/// The address of a port, or the reason why it tells none.
fn of(port: Port, opened: &dpdk::Port) -> Result<Mac, StartError> {
    opened.mac().map_err(|e| StartError::of_port(port, e))
}

/// The address that leaves on the wire: the NIC's own. Switches learn it, so it
/// must not be the cluster's.
pub(super) fn wire(config: &Config, nic: &dpdk::Port) -> Result<Mac, StartError> {
    let mac = of(Port::Wire, nic)?;
    if mac == config.cluster.mac.0 {
        let reason = format!(
            "its address {} is cluster.mac, which no NIC may bear",
            Colons(mac)
        );
        return Err(StartError::of_port(Port::Wire, reason));
    }
    // Memory devices have none.
    Ok(if mac == [0; 6] {
        derived(config, "wire", mac)
    } else {
        mac
    })
}

/// The node's address on the link.
///
/// Behind a NIC of our own it is the NIC's. A virtual device may stand on a
/// kernel interface, and then that kernel would answer for its address too: the
/// node has one of its own there, the configured one or one that is the same
/// after every start. Two nodes that are given one id by mistake must not have one
/// address too, or the network would take from one what is for the other; so the
/// interface's address goes into it.
pub(super) fn link(config: &Config, nic: &dpdk::Port) -> Result<Mac, StartError> {
    let of_nic = of(Port::Link, nic)?;
    let twin = &config.ports.link.host.device;
    let below = if Kind::of(&config.ports.link.device).is_network() {
        of_nic
    } else {
        [0; 6]
    };
    let own = match argument(twin, "mac") {
        Some(text) => text
            .parse()
            .map(|m: dts_config::MacAddr| m.0)
            .map_err(|_| {
                StartError::of_port(Port::LinkHost, format!("mac={text} is not an address"))
            })?,
        None if Kind::of(&config.ports.link.device) == Kind::Pci => return Ok(of_nic),
        None => derived(config, "link", below),
    };
    if Kind::of(&config.ports.link.device) == Kind::AfPacket && own == of_nic {
        let reason = format!(
            "mac={} is the address of ports.link.device, whose kernel would answer too",
            Colons(own)
        );
        return Err(StartError::of_port(Port::LinkHost, reason));
    }
    Ok(own)
}

/// A locally administered unicast address that is the same after every start,
/// and another one on every node of every cluster, and above every interface. Nothing
/// secret or hostile goes in, so the key is a constant.
fn derived(config: &Config, what: &str, below: Mac) -> Mac {
    let mut h = SipHasher13::new_with_key(b"dts port address");
    h.write(what.as_bytes());
    h.write_u16(config.node.0);
    h.write(config.cluster.name.as_bytes());
    if below != [0; 6] {
        h.write(&below);
    }
    let [mut a, b, c, d, e, f, ..] = h.finish().to_be_bytes();
    a = a & 0xfc | 0x02;
    [a, b, c, d, e, f]
}

/// Makes sure that a twin bears its address. Drivers that cannot, as those of
/// capture files, have no kernel behind them that would care.
pub(super) fn set_twin(port: Port, opened: &dpdk::Port, mac: Mac) -> Result<(), StartError> {
    let kind = Kind::of_driver(
        &opened
            .info()
            .map_err(|e| StartError::of_port(port, e))?
            .driver,
    );
    let is = of(port, opened)?;
    if is == mac {
        return Ok(());
    }
    match opened.set_mac(mac) {
        Err(e) if matches!(kind, Kind::Tap | Kind::VirtioUser | Kind::Pci) => {
            let reason = format!(
                "its address is {} and must be {}: {e}",
                Colons(is),
                Colons(mac)
            );
            Err(StartError::of_port(port, reason))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(node: u16, name: &str) -> Config {
        let text = format!(
            "node: {node}
cluster:
  name: {name}
  key: 00112233445566778899aabbccddeeff
  mac: 02:00:00:00:00:01
  members: [{{ id: 1, name: a, link: 10.0.0.1 }}, {{ id: 2, name: b, link: 10.0.0.2 }}]
ports:
  wire: {{ device: net_ring0, host: {{ device: net_ring1 }} }}
  link: {{ device: net_ring2, host: {{ device: net_ring3 }} }}
services: []
workers: {{ cores: [0] }}
"
        );
        dts_config::parse(&text, "t").unwrap_or_else(|e| panic!("{e}"))
    }

    #[test]
    fn derived_addresses_are_stable_local_and_differ() {
        let all = [
            derived(&config(1, "x"), "link", [0; 6]),
            derived(&config(2, "x"), "link", [0; 6]),
            derived(&config(1, "y"), "link", [0; 6]),
            derived(&config(1, "x"), "wire", [0; 6]),
            derived(&config(1, "x"), "link", [2, 0, 0, 0, 0, 1]),
            derived(&config(1, "x"), "link", [2, 0, 0, 0, 0, 2]),
        ];
        for (i, a) in all.iter().enumerate() {
            assert_eq!(a[0] & 3, 2);
            assert!(all[..i].iter().all(|b| b != a));
        }
        assert_eq!(all[0], derived(&config(1, "x"), "link", [0; 6]));
    }
}
