//! What the programs are told when they are loaded, and writing it down: it doesn't show in their tags.

#![forbid(unsafe_code)]

use rprox_common::{ANY_OWNER, RewriteTcp};

use super::AttachmentError;
use crate::loader::linked;
use crate::loader::mode::{Mode, Shape};
use crate::loader::netlink::Device;
use crate::loader::netns;
use crate::loader::object::Globals;
use crate::loader::pins::{PinError, Pins};

/// What it is written down under.
const NOTE: &str = "globals";

/// What programs of `shape` on `device` are told, where they are to do `rewrite_tcp`.
pub(super) fn of(
    device: &Device,
    shape: &Shape,
    rewrite_tcp: RewriteTcp,
) -> Result<Globals, AttachmentError> {
    let netns_cookie = match netns::cookie() {
        Ok(cookie) => cookie,
        // Only programs that see other namespaces too ask for it.
        Err(_) if linked::of(shape).next().is_none() => 0,
        Err(error) => return Err(AttachmentError::Cookie(error)),
    };
    Ok(Globals {
        link_header_len: device.link_header_len()?,
        interface: device.index,
        netns_cookie,
        owner: shape.owner.user().unwrap_or(ANY_OWNER),
        grant: shape.mode == Mode::Grant,
        rewrite_tcp,
    })
}

/// What the programs of the attachment in `pins`, which has `shape` and is on `device`, should have been told. `None` where nothing is
/// written down, as while they change.
///
/// # Errors
///
/// The kernel can't tell namespaces apart.
pub fn noted(pins: &Pins, device: &Device, shape: &Shape) -> Result<Option<Globals>, AttachmentError> {
    let Some(text) = text(pins) else { return Ok(None) };
    of(device, shape, shape.tcp(device, Some(shape.mode), rewrite_tcp(&text))).map(Some)
}

/// Whether the attachment in `pins`, which has `shape`, leaves TCP to `steer`.
#[must_use]
pub fn is_tcp_left_to_steer(pins: &Pins, shape: &Shape) -> bool {
    shape.mode == Mode::Steer && text(pins).is_some_and(|text| rewrite_tcp(&text) == RewriteTcp::None)
}

/// What is written down.
pub(super) fn text(pins: &Pins) -> Option<String> {
    pins.noted(NOTE)
}

/// Writes it down.
pub(super) fn note(pins: &Pins, globals: &Globals) -> Result<(), PinError> {
    pins.note(NOTE, &globals.to_string())
}

/// Strikes it out.
pub(super) fn forget(pins: &Pins) -> Result<(), PinError> {
    pins.forget(NOTE).map(drop)
}

/// Writes down again what was written down before.
pub(super) fn put_back(pins: &Pins, before: Option<&str>) -> Result<(), PinError> {
    before.map_or_else(|| forget(pins), |text| pins.note(NOTE, text))
}

/// What the programs that were told `globals` do with TCP.
pub(super) fn rewrite_tcp(globals: &str) -> RewriteTcp {
    match globals.rsplit_once("tcp=") {
        Some((_, "0")) => RewriteTcp::Begun,
        Some((_, "2")) => RewriteTcp::NotSteered,
        Some((_, "3")) => RewriteTcp::None,
        _ => RewriteTcp::All,
    }
}
