//! Whether an attachment is still on its interface, and what stays of it while that is away.
//!
//! The port guard and the listeners that are known are not the interface's. They stay, so that nobody binds TO meanwhile, and so that
//! who listens need not be found out again when the interface is back.

#![forbid(unsafe_code)]

use tracing::info;

use super::AttachmentError;
use crate::loader::hook::{self, Hook};
use crate::loader::host::{Host, namespace_exists};
use crate::loader::linked::{self, Linked};
use crate::loader::mode::Shape;
use crate::loader::netlink::Device;
use crate::loader::object::Direction;
use crate::loader::pins::{PinError, Pins};

/// What it is written down under that the interface is away.
const AWAY: &str = "away";

/// Whether the attachment in `pins` can be built on.
pub(super) enum Liveness {
    /// It is only the remains of one.
    Dead,
    /// It is; with the hook of the programs in the packets' path, if they are in place.
    Live(Option<Hook>),
}

/// Looks at the attachment in `pins`, which is to be on `device`. Programs that are in no packet's path any more go.
pub(super) async fn look(host: &Host<'_>, device: &Device, pins: &Pins) -> Result<Liveness, AttachmentError> {
    let hook = hook::noted(pins);
    let is_whole = is_away(pins) || hook.is_some() || !Shape::noted(pins).has_packet_programs;
    let Some(noted) = pins.noted_device().filter(|_| is_whole) else { return Ok(Liveness::Dead) };
    if noted.netns != host.netns {
        return other_namespace(pins, noted.netns, hook).map(|()| Liveness::Dead);
    }
    if noted == host.id(device) && !is_away(pins) {
        match hook {
            Some(hook) if !hook::is_alive(hook, host.netlink, device, pins).await? => {
                info!("{}: the programs were taken off the interface; attaching them afresh", device.name);
                // `steer`, which is on no interface, goes on meanwhile.
                leave_interface(host, pins).await?;
                return Ok(Liveness::Live(None));
            }
            hook => return Ok(Liveness::Live(hook)),
        }
    } else if let Some(renamed) = host.device_of(pins).filter(|_| noted != host.id(device) && !is_away(pins))
        && Shape::noted(pins).is_for_interface()
    {
        return Err(AttachmentError::Renamed { interface: device.name.clone(), now: renamed.name.clone() });
    }
    leave_path(host, pins).await?;
    Ok(Liveness::Live(None))
}

/// Nothing, if the attachment in `pins` went with its network namespace.
fn other_namespace(pins: &Pins, netns: u64, hook: Option<Hook>) -> Result<(), AttachmentError> {
    let alive = match hook {
        Some(Hook::Tcx) => {
            hook::tcx::is_alive(Direction::Ingress, pins)? || hook::tcx::is_alive(Direction::Egress, pins)?
        }
        // Filters of another namespace can't be seen from here, but they go when it does. Programs on the root cgroup stay, and
        // are then of no use.
        Some(Hook::Clsact) | None => namespace_exists(netns),
    };
    if alive {
        return Err(AttachmentError::OtherNamespace { interface: pins.interface().to_owned(), netns });
    }
    Ok(())
}

/// Makes sure that none of `attached` is on `device` by a name that it had before.
///
/// # Errors
///
/// One is.
pub fn check_name(host: &Host<'_>, device: &Device, attached: &[Pins]) -> Result<(), AttachmentError> {
    let is_on_it = |pins: &&Pins| {
        pins.interface() != device.name
            && host.device_of(pins).is_some_and(|now| now.index == device.index)
            && !is_away(pins)
            && Shape::noted(pins).is_for_interface()
    };
    match attached.iter().find(is_on_it) {
        None => Ok(()),
        Some(pins) => {
            Err(AttachmentError::Renamed { interface: pins.interface().to_owned(), now: device.name.clone() })
        }
    }
}

/// Whether the interface of the attachment in `pins` was last seen gone.
#[must_use]
pub fn is_away(pins: &Pins) -> bool {
    pins.noted(AWAY).is_some()
}

/// Writes down whether the interface is away.
pub(super) fn note_away(pins: &Pins, away: bool) -> Result<(), PinError> {
    if away { pins.note(AWAY, "yes") } else { pins.forget(AWAY).map(drop) }
}

/// Has the attachment in `pins` wait for its interface, which is gone or has another name. Attaching goes on from there.
///
/// # Errors
///
/// The kernel refused.
pub async fn suspend(host: &Host<'_>, pins: &Pins) -> Result<(), AttachmentError> {
    if !Shape::noted(pins).is_for_interface() || (is_away(pins) && hook::noted(pins).is_none()) {
        return Ok(());
    }
    info!("{}: the interface is gone, and the redirect with it until it is back", pins.interface());
    note_away(pins, true)?;
    leave_path(host, pins).await
}

/// Takes what is the interface's off it, as far as it is there.
async fn leave_path(host: &Host<'_>, pins: &Pins) -> Result<(), AttachmentError> {
    linked::detach(Linked::Steer, pins)?;
    leave_interface(host, pins).await
}

async fn leave_interface(host: &Host<'_>, pins: &Pins) -> Result<(), AttachmentError> {
    hook::detach(host.netlink, host.device_of(pins), pins).await?;
    Ok(hook::forget(pins)?)
}
