//! Attaching through TCX links, which a pin keeps.

#![forbid(unsafe_code)]

use std::io;

use aya::programs::links::{FdLink, LinkError, LinkOrder, PinnedLink};
use aya::programs::tc::{SchedClassifierLink, TcAttachOptions};
use aya::programs::{ProgramError, SchedClassifier};
use aya::sys::SyscallError;
use rustix::io::Errno;

use super::{Hook, HookError};
use crate::loader::link;
use crate::loader::netlink::Device;
use crate::loader::object::Direction;
use crate::loader::pins::{PinError, Pins};

/// Attaches `program` ahead of the others on `device`, and pins its link.
///
/// # Errors
///
/// [`HookError::NoTcx`] if the kernel has none; else that it refused.
pub fn attach(
    program: &mut SchedClassifier,
    device: &Device,
    direction: Direction,
    pins: &Pins,
) -> Result<(), HookError> {
    let interface = device.name.clone();
    let name = direction.program();
    let options = TcAttachOptions::TcxOrder(LinkOrder::first());
    let id = match program.attach_with_options(&device.name, direction.attach_type(), options) {
        Ok(id) => id,
        // A kernel that has never heard of TCX finds the attach type invalid; one built without it, not supported.
        Err(error) if matches!(errno(&error), Some(Errno::INVAL | Errno::OPNOTSUPP)) => {
            return Err(HookError::NoTcx { program: name, interface });
        }
        Err(error) => {
            let source = Box::new(error);
            return Err(HookError::Attach { program: name, interface, hook: Hook::Tcx, source });
        }
    };
    let refused =
        |source| HookError::Attach { program: name, interface: device.name.clone(), hook: Hook::Tcx, source };
    let link = program.take_link(id).map_err(|error| refused(Box::new(error)))?;
    let link =
        FdLink::try_from(link).map_err(|source| HookError::Link { program: name, interface, source })?;
    let path = pins.link(direction);
    link.pin(&path).map_err(|source| PinError::Pin { path, source })?;
    Ok(())
}

/// Puts `program` into the pinned link.
///
/// # Errors
///
/// There is no such link, or it has no device any more.
pub fn replace(program: &mut SchedClassifier, direction: Direction, pins: &Pins) -> Result<(), HookError> {
    let name = direction.program();
    let failed = |source| HookError::Link { program: name, interface: pins.interface().to_owned(), source };
    let refused = |source| HookError::Attach {
        program: name,
        interface: pins.interface().to_owned(),
        hook: Hook::Tcx,
        source: Box::new(source),
    };
    let link = PinnedLink::from_pin(pins.link(direction)).map_err(failed)?;
    let link = SchedClassifierLink::try_from(FdLink::from(link)).map_err(failed)?;
    let id = program.attach_to_link(link).map_err(refused)?;
    // Closes this handle on the link; the pin keeps the link itself.
    drop(program.take_link(id).map_err(refused)?);
    Ok(())
}

/// Takes the program off the device; the pin stays. Nothing to do where there is no link, or its device is gone.
///
/// # Errors
///
/// The kernel refused.
pub fn detach(direction: Direction, pins: &Pins) -> Result<(), HookError> {
    match link::PinnedLink::open(&pins.link(direction)).and_then(|link| link.detach()) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(HookError::Detach {
            program: direction.program(),
            interface: pins.interface().to_owned(),
            source: error,
        }),
        _ => Ok(()),
    }
}

/// Whether the pinned link still is on a device. A link outlives its device, and says so only when it is changed: so put
/// the program into it that is in it already, which changes nothing.
///
/// # Errors
///
/// The kernel refused for another reason.
pub fn is_alive(direction: Direction, pins: &Pins) -> Result<bool, HookError> {
    let mut program = match SchedClassifier::from_pin(pins.program(direction)) {
        Ok(program) => program,
        Err(ProgramError::SyscallError(error)) if not_found(&error) => return Ok(false),
        // What can't be looked at may well be alive, and is not to be taken off for that.
        Err(source) => {
            let (program, interface) = (direction.program(), pins.interface().to_owned());
            return Err(HookError::Program { program, interface, source: Box::new(source) });
        }
    };
    match replace(&mut program, direction, pins) {
        Ok(()) => Ok(true),
        Err(HookError::Attach { source, .. }) if errno(&source) == Some(Errno::NOLINK) => Ok(false),
        Err(HookError::Link { source: LinkError::SyscallError(error), .. }) if not_found(&error) => Ok(false),
        Err(error) => Err(error),
    }
}

fn errno(error: &ProgramError) -> Option<Errno> {
    match error {
        ProgramError::SyscallError(SyscallError { io_error, .. }) => Errno::from_io_error(io_error),
        _ => None,
    }
}

fn not_found(error: &SyscallError) -> bool {
    error.io_error.kind() == io::ErrorKind::NotFound
}
