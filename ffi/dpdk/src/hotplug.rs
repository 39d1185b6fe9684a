//! Adding devices to the running EAL.

use std::mem::MaybeUninit;

use dpdk_sys as sys;

use crate::eal::Live;
use crate::error::{Error, Reason, c_string};
use crate::log;
use crate::port::{self, Port, PortId};

const ATTACH: &str = "cannot attach";

/// Probes a device given by a vdev string (`net_tap0,iface=x`) or a PCI address
/// (`0000:01:00.0`) and returns its ports, at least one.
///
/// # Errors
/// The device is attached already, does not exist, has no driver, or its driver
/// refuses it; the error carries what the driver logged.
pub fn attach(devargs: &str) -> Result<Vec<PortId>, Error> {
    let _live = Live::take()?;
    let fail = |reason| Error::device(devargs, ATTACH, reason);
    let name = devargs.split(',').next().unwrap_or_default();
    if name.is_empty() {
        return Err(fail(Reason::text("no device name")));
    }
    if port::id_by_name(name)?.is_some() {
        return Err(fail(Reason::text(format!("{name} is attached already"))));
    }
    let c_devargs = c_string(devargs)?;
    let mark = log::mark();
    // SAFETY: a C string for the call; the EAL runs.
    let code = unsafe { sys::rte_dev_probe(c_devargs.as_ptr()) };
    if code < 0 {
        return Err(fail(Reason::new(code, mark)));
    }
    let ports = match port::id_by_name(name)? {
        Some(id) => vec![id],
        None => matching(devargs)?,
    };
    if ports.is_empty() {
        return Err(fail(Reason::text("no driver made an Ethernet port of it")));
    }
    Ok(ports)
}

/// As [`attach`] for a device with one port, opened.
///
/// # Errors
/// As [`attach`]; or the device has several ports.
pub fn attach_one(devargs: &str) -> Result<Port, Error> {
    match attach(devargs)?.as_slice() {
        [id] => Port::by_id(*id),
        several => {
            let text = format!("the device has {} ports", several.len());
            Err(Error::device(devargs, ATTACH, Reason::text(text)))
        }
    }
}

/// The ports of the device that `devargs` names, as a PCI device has them.
fn matching(devargs: &str) -> Result<Vec<PortId>, Error> {
    let c_devargs = c_string(devargs)?;
    let mark = log::mark();
    let mut iterator = MaybeUninit::<sys::rte_dev_iterator>::zeroed();
    // SAFETY: the iterator is initialised by this call and used only after it
    // succeeded; the string outlives it.
    let code = unsafe { sys::rte_eth_iterator_init(iterator.as_mut_ptr(), c_devargs.as_ptr()) };
    if code != 0 {
        return Err(Error::device(devargs, ATTACH, Reason::new(code, mark)));
    }
    let mut ports = Vec::new();
    loop {
        // SAFETY: as above; at its end the iterator releases its own memory.
        let id = unsafe { sys::rte_eth_iterator_next(iterator.as_mut_ptr()) };
        if id >= sys::DTS_MAX_ETHPORTS {
            return Ok(ports);
        }
        ports.push(PortId(id));
    }
}
