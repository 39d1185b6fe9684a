//! Looks at the kernel's sockets on the VIPs (`sock_diag(7)`) and tells the workers,
//! so that the life of a flow follows its socket.

use crate::plane::Plane;
use crate::threads;
use arc_swap::ArcSwap;
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use dts_core::command::Command;
use dts_core::life::SocketSet;
use dts_core::view::View;
use netlink_packet_core::{
    NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_sock_diag::SockDiagMessage;
use netlink_packet_sock_diag::constants::{AF_INET, AF_INET6, IPPROTO_TCP};
use netlink_packet_sock_diag::inet::{ExtensionFlags, InetRequest, SocketId, StateFlags};
use netlink_sys::{Socket, protocols::NETLINK_SOCK_DIAG};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

/// The running thread; dropping this ends it.
pub struct Life {
    wishes: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Life {
    /// Looks every `period` from now on.
    ///
    /// # Errors
    /// The process has no room for another thread.
    pub fn start(
        period: Duration,
        plane: Arc<dyn Plane>,
        views: Arc<ArcSwap<View>>,
    ) -> io::Result<Self> {
        // One wish waits; more are the same wish.
        let (wishes, inbox) = bounded(1);
        let body = move || run(period, &inbox, &*plane, &views);
        Ok(Self {
            wishes: Some(wishes),
            thread: Some(threads::spawn("dts-life", body)?),
        })
    }

    /// Lets it look now. A flow needs two looks to be over.
    pub fn look_now(&self) {
        if let Some(wishes) = &self.wishes {
            // Full: a look is about to begin.
            let _ = wishes.try_send(());
        }
    }
}

impl Drop for Life {
    fn drop(&mut self) {
        self.wishes = None;
        if let Some(thread) = self.thread.take() {
            // It panicked if this fails, and has said so.
            let _ = thread.join();
        }
    }
}

fn run(period: Duration, inbox: &Receiver<()>, plane: &dyn Plane, views: &ArcSwap<View>) {
    let mut number = 0;
    let mut failing = false;
    while inbox.recv_timeout(period) != Err(RecvTimeoutError::Disconnected) {
        match look(&views.load()) {
            Ok(sockets) => {
                failing = false;
                number += 1;
                tell(plane, SocketSet::new(number, sockets));
            }
            // A kernel without inet_diag says so every time; the idle limits remain.
            Err(error) if !failing => {
                failing = true;
                tracing::warn!(%error, "cannot look at the kernel's sockets");
            }
            Err(_) => {}
        }
    }
}

/// A worker whose queue is full hears of the next look.
fn tell(plane: &dyn Plane, set: SocketSet) {
    let set = Arc::new(set);
    for worker in 0..plane.workers() {
        let set = Arc::clone(&set);
        let _ = plane.command(worker, Command::Sockets { set });
    }
}

/// Every socket on a proxy or application port of a VIP, local address first.
///
/// # Errors
/// What the kernel says, or an answer that is none.
pub fn look(view: &View) -> io::Result<Vec<(SocketAddr, SocketAddr)>> {
    let mut all = Vec::new();
    // Sockets of a dual-stack listener are of the IPv6 family, whatever their peer is.
    for family in FAMILIES {
        dump(
            family,
            StateFlags::all() - StateFlags::LISTEN,
            None,
            |local, remote| {
                let vip = local.ip().into();
                if view.service_of_local(&vip, local.port()).is_some() {
                    all.push((local, remote));
                }
            },
        )?;
    }
    Ok(all)
}

/// Both families, as the kernel numbers them.
pub(crate) const FAMILIES: [u8; 2] = [AF_INET, AF_INET6];
/// States of a connection that the application has and has not closed. A replay by Fast
/// Open is in SYN_RECV until its client has acknowledged something.
pub(crate) const TALKING: StateFlags = StateFlags::ESTABLISHED
    .union(StateFlags::SYN_RECV)
    .union(StateFlags::CLOSE_WAIT);

/// Gives each TCP socket of `family` in one of `states` to `found`, those at local port
/// `port` alone where one is named.
pub(crate) fn dump(
    family: u8,
    states: StateFlags,
    port: Option<u16>,
    mut found: impl FnMut(SocketAddr, SocketAddr),
) -> io::Result<()> {
    let mut socket = Socket::new(NETLINK_SOCK_DIAG)?;
    socket.bind_auto()?;
    socket.connect(&netlink_sys::SocketAddr::new(0, 0))?;
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | NLM_F_DUMP;
    let mut socket_id = match family {
        AF_INET => SocketId::new_v4(),
        _ => SocketId::new_v6(),
    };
    // A dump looks at the ports of this, where they are not 0, and at nothing else.
    socket_id.source_port = port.unwrap_or(0);
    let request = InetRequest {
        family,
        protocol: IPPROTO_TCP,
        extensions: ExtensionFlags::empty(),
        states,
        socket_id,
    };
    let request = SockDiagMessage::InetRequest(request);
    let mut message = NetlinkMessage::new(header, request.into());
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    socket.send(&bytes, 0)?;
    loop {
        let (datagram, _) = socket.recv_from_full()?;
        let mut rest = &datagram[..];
        while !rest.is_empty() {
            let message = NetlinkMessage::<SockDiagMessage>::deserialize(rest)
                .map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e.to_string()))?;
            match message.payload {
                NetlinkPayload::Done(_) => return Ok(()),
                NetlinkPayload::Error(e) => return Err(e.to_io()),
                NetlinkPayload::InnerMessage(SockDiagMessage::InetResponse(r)) => {
                    let id = &r.header.socket_id;
                    found(
                        canonical(id.source_address, id.source_port),
                        canonical(id.destination_address, id.destination_port),
                    );
                }
                _ => {}
            }
            // Messages are aligned to 4 bytes (`netlink(7)`).
            let length = (message.header.length as usize).next_multiple_of(4).max(16);
            rest = rest.get(length..).unwrap_or_default();
        }
    }
}

fn canonical(ip: std::net::IpAddr, port: u16) -> SocketAddr {
    SocketAddr::new(ip.to_canonical(), port)
}

#[cfg(test)]
#[path = "life_tests.rs"]
mod tests;
