//! Attaching as filters of a clsact qdisc, for kernels without TCX.
//!
//! A filter stays by itself, without a pin. Its priority and handle, by which it is replaced and deleted, are written down
//! beside the pins.

#![forbid(unsafe_code)]

use std::mem;
use std::pin::pin;

use aya::programs::SchedClassifier;
use aya::programs::tc::{
    NlOptions, SchedClassifierLink, TcAttachOptions, TcError, TcHandle, qdisc_add_clsact,
};
use futures_util::TryStreamExt as _;
use rtnetlink::packet_core::{Nla, NlasIterator};
use rtnetlink::packet_route::tc::{self, TcAttribute, TcMessage};
use rustix::io::Errno;
use tracing::{debug, warn};

use super::{Hook, HookError};
use crate::loader::netlink::{Device, Netlink, NetlinkError};
use crate::loader::object::Direction;
use crate::loader::pins::Pins;

/// What it is written down under that the loader made the qdisc.
const QDISC_NOTE: &str = "qdisc";
/// Attributes of a BPF filter, of `linux/pkt_cls.h`.
const TCA_BPF_NAME: u16 = 7;
const TCA_BPF_TAG: u16 = 10;
const TCA_BPF_ID: u16 = 11;

/// A filter's place in its chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Filter {
    priority: u16,
    handle: u32,
}

impl Filter {
    fn note(direction: Direction) -> String {
        format!("{}_filter", direction.program())
    }

    fn noted(direction: Direction, pins: &Pins) -> Option<Self> {
        let text = pins.noted(&Self::note(direction))?;
        let (priority, handle) = text.split_once(':')?;
        Some(Self { priority: priority.parse().ok()?, handle: handle.parse().ok()? })
    }

    fn link(self, interface: &str, direction: Direction) -> Result<SchedClassifierLink, HookError> {
        let handle = TcHandle::from(self.handle);
        SchedClassifierLink::attached(interface, direction.attach_type(), self.priority, handle, None)
            .map_err(|error| refused(interface, direction, TcError::from(error)))
    }
}

fn refused(
    interface: &str,
    direction: Direction,
    source: impl Into<aya::programs::ProgramError>,
) -> HookError {
    HookError::Attach {
        program: direction.program(),
        interface: interface.to_owned(),
        hook: Hook::Clsact,
        source: Box::new(source.into()),
    }
}

/// Makes the clsact qdisc, unless there is one.
///
/// # Errors
///
/// The kernel refused.
pub fn ensure_qdisc(device: &Device, pins: &Pins) -> Result<(), HookError> {
    // Noted first, so that the qdisc goes even if this process dies in between; taken back if it was there already.
    pins.note(QDISC_NOTE, "made")?;
    match qdisc_add_clsact(&device.name) {
        Ok(()) => Ok(()),
        Err(TcError::NetlinkError(error)) if error.raw_os_error() == Some(Errno::EXIST.raw_os_error()) => {
            Ok(pins.note(QDISC_NOTE, "found")?)
        }
        Err(source) => Err(HookError::Qdisc { interface: device.name.clone(), source: Box::new(source) }),
    }
}

/// Attaches `program` as a filter ahead of the others.
///
/// # Errors
///
/// The kernel refused.
pub async fn attach(
    netlink: &Netlink,
    program: &mut SchedClassifier,
    device: &Device,
    direction: Direction,
    pins: &Pins,
) -> Result<(), HookError> {
    // What a loader left that died before it could write the filter down.
    for filter in filters(netlink, device, direction).await?.into_iter().filter(|found| found.ours) {
        remove(filter.place, &device.name, direction)?;
    }
    // Without a priority the kernel chooses one ahead of every other filter's.
    let options = TcAttachOptions::Netlink(NlOptions::default());
    let failed = |error| refused(&device.name, direction, error);
    let id = program.attach_with_options(&device.name, direction.attach_type(), options).map_err(failed)?;
    let link = program.take_link(id).map_err(failed)?;
    let filter =
        Filter { priority: link.priority().map_err(failed)?, handle: link.handle().map_err(failed)?.into() };
    pins.note(&Filter::note(direction), &format!("{}:{}", filter.priority, filter.handle))?;
    // Dropping it would detach it; until here a failure does just that.
    mem::forget(link);
    Ok(())
}

/// Puts `program` into the filter.
///
/// # Errors
///
/// The kernel refused.
pub fn replace(
    program: &mut SchedClassifier,
    interface: &str,
    direction: Direction,
    pins: &Pins,
) -> Result<(), HookError> {
    let failed = |error| refused(interface, direction, error);
    let Some(filter) = Filter::noted(direction, pins) else {
        return Err(failed(aya::programs::ProgramError::NotAttached));
    };
    let id = program.attach_to_link(filter.link(interface, direction)?).map_err(failed)?;
    mem::forget(program.take_link(id).map_err(failed)?);
    Ok(())
}

/// Whether the filter is still there.
///
/// # Errors
///
/// The kernel did not say.
pub async fn is_alive(
    netlink: &Netlink,
    device: &Device,
    direction: Direction,
    pins: &Pins,
) -> Result<bool, HookError> {
    let Some(noted) = Filter::noted(direction, pins) else { return Ok(false) };
    Ok(filters(netlink, device, direction).await?.iter().any(|filter| filter.ours && filter.place == noted))
}

/// Removes our filters, and the qdisc if the loader made it and nobody else uses it.
///
/// # Errors
///
/// The kernel refused.
pub async fn detach(netlink: &Netlink, device: &Device, pins: &Pins) -> Result<(), HookError> {
    let mut others = 0;
    for direction in Direction::DETACH_ORDER {
        for filter in filters(netlink, device, direction).await? {
            if filter.ours {
                remove(filter.place, &device.name, direction)?;
            } else {
                others += 1;
            }
        }
    }
    if pins.noted(QDISC_NOTE).as_deref() != Some("made") {
        return Ok(());
    }
    if others > 0 {
        warn!("{}: the clsact qdisc stays, for others have filters on it ({others})", device.name);
        return Ok(());
    }
    remove_qdisc(netlink, device).await
}

fn remove(filter: Filter, interface: &str, direction: Direction) -> Result<(), HookError> {
    use aya::programs::links::Link as _;
    filter.link(interface, direction)?.detach().map_err(|error| refused(interface, direction, error))
}

async fn remove_qdisc(netlink: &Netlink, device: &Device) -> Result<(), HookError> {
    let mut request = netlink.handle().qdisc().del(index(device));
    let header = &mut request.message_mut().header;
    header.parent = tc::TcHandle::CLSACT;
    header.handle = tc::TcHandle { major: tc::TcHandle::CLSACT.major, minor: 0 };
    match request.execute().await {
        Ok(()) => Ok(()),
        Err(rtnetlink::Error::NetlinkError(error)) if gone(error.raw_code()) => Ok(()),
        Err(source) => Err(NetlinkError::Request { what: "clsact qdisc to go", source }.into()),
    }
}

/// A filter on an interface.
struct Found {
    place: Filter,
    /// What kind it is.
    kind: String,
    /// Of a BPF filter: its name, and its program's tag and id.
    name: Option<String>,
    tag: Option<u64>,
    program: Option<u32>,
    ours: bool,
}

/// A filter as `verify` sees it, in the order in which packets meet them.
pub struct Chained {
    /// What to call it: `filter NAME (bpf, priority N)`.
    pub title: String,
    /// Its program's tag, if it is a BPF filter.
    pub tag: Option<u64>,
    /// Its program's id, if it is a BPF filter.
    pub program: Option<u32>,
    /// Whether it is in the place that was written down for our program.
    pub ours: bool,
}

/// The filters of `device` in one direction.
///
/// # Errors
///
/// The kernel did not say.
pub async fn chain(
    netlink: &Netlink,
    device: &Device,
    direction: Direction,
    pins: &Pins,
) -> Result<Vec<Chained>, HookError> {
    let noted = Filter::noted(direction, pins);
    let chained = |found: Found| Chained {
        title: format!(
            "filter {} ({}, priority {})",
            found.name.as_deref().unwrap_or("without a name"),
            found.kind,
            found.place.priority
        ),
        tag: found.tag,
        program: found.program,
        ours: noted == Some(found.place),
    };
    Ok(filters(netlink, device, direction).await?.into_iter().map(chained).collect())
}

/// The filters of `device` in one direction; none if it has no clsact qdisc.
async fn filters(
    netlink: &Netlink,
    device: &Device,
    direction: Direction,
) -> Result<Vec<Found>, NetlinkError> {
    let mut handle = netlink.handle().traffic_filter(index(device));
    let request = match direction {
        Direction::Egress => handle.get().egress(),
        Direction::Ingress => handle.get().ingress(),
    };
    let mut messages = pin!(request.execute());
    let mut found = Vec::new();
    loop {
        match messages.try_next().await {
            Ok(Some(message)) => found.extend(filter(&message, direction)),
            Ok(None) => return Ok(found),
            Err(rtnetlink::Error::NetlinkError(error)) if gone(error.raw_code()) => {
                debug!("{}: no clsact qdisc", device.name);
                return Ok(found);
            }
            Err(source) => return Err(NetlinkError::Request { what: "filters", source }),
        }
    }
}

/// Reads a filter out of a message; `None` for what only heads a list of filters.
fn filter(message: &TcMessage, direction: Direction) -> Option<Found> {
    let handle = message.header.handle.into();
    if handle == 0 {
        return None;
    }
    // netlink-packet-route does not know this kind of filter, and leaves its nested attributes as they came.
    let options = message.attributes.iter().find_map(|attribute| match attribute {
        TcAttribute::Options(options) => options.first(),
        _ => None,
    });
    let mut nested = vec![0; options.map_or(0, Nla::value_len)];
    if let Some(options) = options {
        options.emit_value(&mut nested);
    }
    let attribute = |kind| {
        let mut attributes = NlasIterator::new(&nested).flatten();
        attributes.find(|attribute| attribute.kind() == kind).map(|attribute| attribute.value().to_vec())
    };
    let kind = message.attributes.iter().find_map(|attribute| match attribute {
        TcAttribute::Kind(kind) => Some(kind.clone()),
        _ => None,
    });
    let name =
        attribute(TCA_BPF_NAME).map(|name| String::from_utf8_lossy(&name).trim_end_matches('\0').to_owned());
    // The upper half of `info` is the priority, the lower the protocol.
    let priority = u16::try_from(message.header.info >> 16).ok()?;
    Some(Found {
        place: Filter { priority, handle },
        kind: kind.unwrap_or_default(),
        ours: name.as_deref() == Some(direction.program()),
        name,
        tag: attribute(TCA_BPF_TAG).and_then(|tag| Some(u64::from_be_bytes(tag.try_into().ok()?))),
        program: attribute(TCA_BPF_ID).and_then(|id| Some(u32::from_ne_bytes(id.try_into().ok()?))),
    })
}

/// Whether an error code says that there is no such qdisc or device.
fn gone(code: i32) -> bool {
    [Errno::NOENT, Errno::INVAL, Errno::NODEV].iter().any(|errno| errno.raw_os_error() == -code)
}

fn index(device: &Device) -> i32 {
    i32::try_from(device.index).unwrap_or(i32::MAX)
}
