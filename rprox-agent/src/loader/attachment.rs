//! Attachments: making, changing and removing them, everything or nothing.

#![forbid(unsafe_code)]

use std::fmt;

use aya::programs::{ProgramError, SchedClassifier};
use rprox_common::State;
use thiserror::Error;
use tracing::{debug, info, warn};

use super::config::{Direct, Policy};
use super::hook::{self, Hook, HookChoice, HookError};
use super::host::{Host, namespace_exists};
use super::kernel_log;
use super::maps::{Maps, MapsError};
use super::netlink::{Device, NetlinkError};
use super::object::{Direction, Object, ObjectError};
use super::pins::{PinError, Pins};
use super::slots;

/// What went wrong with an attachment.
#[derive(Debug, Error)]
pub enum AttachmentError {
    /// The interface is attached from another network namespace.
    #[error(
        "{interface}: the pins at this bpffs belong to an interface of that name in another network namespace (net:[{netns}]); use \
         another bpffs here (--bpffs DIR), or detach there"
    )]
    OtherNamespace {
        /// The interface.
        interface: String,
        /// The other namespace's inode number.
        netns: u64,
    },
    /// The device that is attached has another name now.
    #[error(
        "{interface}: the attachment of that name is on a device that has been renamed to {now}; run `rprox-loader detach -i \
         {interface}` first"
    )]
    Renamed {
        /// The name it was attached by.
        interface: String,
        /// The name it has.
        now: String,
    },
    /// A program's details can't be had.
    #[error("{interface}: asking for details of {program}: {source}")]
    Info {
        /// The interface.
        interface: String,
        /// The program.
        program: &'static str,
        /// What the kernel said.
        source: Box<ProgramError>,
    },
    /// A map.
    #[error(transparent)]
    Maps(#[from] MapsError),
    /// The object.
    #[error(transparent)]
    Object(#[from] ObjectError),
    /// The hook.
    #[error(transparent)]
    Hook(#[from] HookError),
    /// The bpffs.
    #[error(transparent)]
    Pins(#[from] PinError),
    /// Netlink.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
}

/// What attaching did, and how to take it back.
pub struct Change {
    /// The attachment's place.
    pub pins: Pins,
    /// What was done.
    pub outcome: Outcome,
    undo: Undo,
}

/// What attaching did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// There was no attachment before.
    Attached(Hook),
    /// There was one, and these parts of it are new.
    Updated {
        /// The redirect rules.
        rules: bool,
        /// What a direct connection gets.
        direct: bool,
        /// The programs.
        programs: bool,
        /// Local addresses that came and went.
        addresses: usize,
    },
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let &Self::Updated { rules, direct, programs, addresses } = self else {
            let Self::Attached(hook) = self else { return Ok(()) };
            return write!(f, "attached ({hook})");
        };
        let parts: Vec<&str> = [
            (rules, "rules"),
            (direct, "direct policy"),
            (programs, "programs"),
            (addresses > 0, "local addresses"),
        ]
        .into_iter()
        .filter_map(|(changed, name)| changed.then_some(name))
        .collect();
        if parts.is_empty() {
            f.write_str("already attached, nothing to change")
        } else {
            write!(f, "updated: {}", parts.join(", "))
        }
    }
}

enum Undo {
    /// Remove the attachment, which is new.
    Remove,
    /// Put back what was in force. The programs, if they were replaced, are the old ones.
    Restore { state: State, hook: Hook, programs: Vec<(Direction, SchedClassifier)> },
}

impl Change {
    /// Takes the change back, as far as the kernel lets us; what it does not is logged.
    pub async fn undo(self, host: &Host<'_>) {
        let result = match self.undo {
            Undo::Remove => remove(host, &self.pins).await,
            Undo::Restore { state, hook, programs } => restore(&self.pins, state, hook, programs),
        };
        if let Err(error) = result {
            warn!("{}: undoing: {error}", self.pins.interface());
        }
    }
}

fn restore(
    pins: &Pins,
    state: State,
    hook: Hook,
    programs: Vec<(Direction, SchedClassifier)>,
) -> Result<(), AttachmentError> {
    for (direction, mut program) in programs.into_iter().rev() {
        hook::replace(hook, &mut program, pins.interface(), direction, pins)?;
        pins.put_program(direction, &mut program)?;
    }
    Ok(Maps::open(pins)?.set_state(state)?)
}

/// Attaches to `interface`, or brings the attachment that is there to `policy`. Either all of it happens, or nothing.
///
/// # Errors
///
/// What the kernel refused; what was there before is there still.
pub async fn attach(
    host: &Host<'_>,
    interface: &str,
    policy: &Policy,
    choice: HookChoice,
) -> Result<Change, AttachmentError> {
    let Some(device) = host.device(interface) else {
        let existing = host.devices.iter().map(|device| device.name.clone()).collect();
        return Err(NetlinkError::NoInterface { name: interface.to_owned(), existing }.into());
    };
    let link_header_len = device.link_header_len()?;
    let pins = Pins::new(host.bpffs, interface);
    if pins.exist() {
        let _claim = pins.claim()?;
        if let Some(hook) = live_hook(host, device, &pins).await? {
            if !choice.allows(hook) {
                warn!("{interface}: stays attached by {hook}; to change that, detach first");
            }
            return update(host, pins, link_header_len, policy, hook);
        }
        remove(host, &pins).await?;
    }
    match create(host, device, &pins, link_header_len, policy, choice).await {
        Ok(hook) => Ok(Change { pins, outcome: Outcome::Attached(hook), undo: Undo::Remove }),
        Err(error) => {
            if let Err(error) = remove(host, &pins).await {
                warn!("{interface}: undoing: {error}");
            }
            Err(error)
        }
    }
}

/// The hook of the attachment in `pins` if that is whole and on `device`; `None` if it is only the remains of one.
async fn live_hook(host: &Host<'_>, device: &Device, pins: &Pins) -> Result<Option<Hook>, AttachmentError> {
    let (Some(noted), Some(hook)) = (pins.noted_device(), hook::noted(pins)) else { return Ok(None) };
    if noted != host.id(device) {
        if noted.netns != host.netns {
            return other_namespace(pins, noted.netns, hook).map(|()| None);
        }
        if let Some(renamed) = host.device_of(pins) {
            return Err(AttachmentError::Renamed {
                interface: device.name.clone(),
                now: renamed.name.clone(),
            });
        }
        info!("{}: the device it was attached to is gone; attaching afresh", device.name);
        return Ok(None);
    }
    if hook::is_alive(hook, host.netlink, device, pins).await? {
        return Ok(Some(hook));
    }
    info!("{}: the attachment was taken off the interface; attaching afresh", device.name);
    Ok(None)
}

/// Nothing, if the attachment in `pins` went with its network namespace.
fn other_namespace(pins: &Pins, netns: u64, hook: Hook) -> Result<(), AttachmentError> {
    let alive = match hook {
        Hook::Tcx => {
            hook::tcx::is_alive(Direction::Ingress, pins)? || hook::tcx::is_alive(Direction::Egress, pins)?
        }
        // Filters of another namespace can't be seen from here, but they go when it does.
        Hook::Clsact => namespace_exists(netns),
    };
    if alive {
        return Err(AttachmentError::OtherNamespace { interface: pins.interface().to_owned(), netns });
    }
    Ok(())
}

async fn create(
    host: &Host<'_>,
    device: &Device,
    pins: &Pins,
    link_header_len: u32,
    policy: &Policy,
    choice: HookChoice,
) -> Result<Hook, AttachmentError> {
    let mut object = Object::load(link_header_len, policy.rules.as_slice().len())?;
    pins.create()?;
    pins.note_device(host.id(device))?;
    object.pin_maps(pins)?;
    let mut maps = Maps::open(pins)?;
    maps.sync_addresses(&host.addresses)?;
    let slots = assign(&maps, pins, &[], policy)?;
    // New maps have the generation 0 in force, which is empty: so the programs pass everything, whichever of them is there, until
    // the last step puts both to work at once.
    maps.write_rules(1, &slots)?;
    for direction in Direction::ATTACH_ORDER {
        pins.put_program(direction, object.program(direction)?)?;
    }
    let hook = hook::attach(choice, host.netlink, device, pins, &mut object).await?;
    maps.set_state(State::new(1, policy.direct == Direct::Allow))?;
    Ok(hook)
}

fn assign(
    maps: &Maps,
    pins: &Pins,
    current: &[slots::Slot],
    policy: &Policy,
) -> Result<Vec<slots::Slot>, AttachmentError> {
    let wanted = policy.rules.as_slice();
    let capacity = maps.rule_capacity();
    slots::assign(current, wanted, capacity).ok_or_else(|| {
        let interface = pins.interface().to_owned();
        MapsError::NoRoom { interface, wanted: wanted.len(), capacity }.into()
    })
}

fn update(
    host: &Host<'_>,
    pins: Pins,
    link_header_len: u32,
    policy: &Policy,
    hook: Hook,
) -> Result<Change, AttachmentError> {
    let mut maps = Maps::open(&pins)?;
    let mut object = Object::load_with_pinned_maps(link_header_len, &pins)?;
    let state = maps.state()?;

    let mut current = maps.rules(state.generation())?;
    let slots = assign(&maps, &pins, &current, policy)?;
    let mut sorted = slots.clone();
    sorted.sort_by_key(|slot| slot.index);
    current.sort_by_key(|slot| slot.index);
    let rules = sorted != current;
    let allow = policy.direct == Direct::Allow;
    let generation = if rules { 1 - state.generation() } else { state.generation() };

    let (came, went) = maps.sync_addresses(&host.addresses)?;
    if rules {
        maps.write_rules(generation, &slots)?;
    }
    let direct = allow != state.allow_direct();
    if rules || direct {
        maps.set_state(State::new(generation, allow))?;
    }

    let mut old = Vec::new();
    match replace_programs(&mut object, &pins, hook, &mut old) {
        Ok(()) => {
            let outcome =
                Outcome::Updated { rules, direct, programs: !old.is_empty(), addresses: came + went };
            Ok(Change { pins, outcome, undo: Undo::Restore { state, hook, programs: old } })
        }
        Err(error) => {
            if let Err(error) = restore(&pins, state, hook, old) {
                warn!("{}: undoing: {error}", pins.interface());
            }
            Err(error)
        }
    }
}

/// Puts the programs of `object` in the place of attached ones that differ from them, and those into `old`.
fn replace_programs(
    object: &mut Object,
    pins: &Pins,
    hook: Hook,
    old: &mut Vec<(Direction, SchedClassifier)>,
) -> Result<(), AttachmentError> {
    for direction in Direction::ATTACH_ORDER {
        let failed = |source| AttachmentError::Info {
            interface: pins.interface().to_owned(),
            program: direction.program(),
            source: Box::new(source),
        };
        let attached = SchedClassifier::from_pin(pins.program(direction)).map_err(failed)?;
        let program = object.program(direction)?;
        // The kernel's digest of the program's instructions.
        if kernel_log::is_current(pins)
            && attached.info().map_err(failed)?.tag() == program.info().map_err(failed)?.tag()
        {
            continue;
        }
        hook::replace(hook, program, pins.interface(), direction, pins)?;
        old.push((direction, attached));
        pins.put_program(direction, program)?;
    }
    Ok(())
}

/// Brings the local addresses of the attachment in `pins` up to date. `false` if it is not in force on `device`, and has to be
/// made afresh.
///
/// # Errors
///
/// The kernel refused.
pub async fn refresh(host: &Host<'_>, device: &Device, pins: &Pins) -> Result<bool, AttachmentError> {
    let (Some(noted), Some(hook)) = (pins.noted_device(), hook::noted(pins)) else { return Ok(false) };
    if noted != host.id(device) || !hook::is_alive(hook, host.netlink, device, pins).await? {
        return Ok(false);
    }
    let (came, went) = Maps::open(pins)?.sync_addresses(&host.addresses)?;
    if came + went > 0 {
        info!(
            "{}: local addresses: {came} came, {went} went, {} in all",
            pins.interface(),
            host.addresses.len()
        );
    }
    Ok(true)
}

/// Removes the attachment in `pins`: programs, maps, links, filters, and the qdisc if it was made for them.
///
/// # Errors
///
/// The kernel refused.
pub async fn remove(host: &Host<'_>, pins: &Pins) -> Result<(), AttachmentError> {
    if let Some(noted) = pins.noted_device().filter(|noted| noted.netns != host.netns)
        && hook::noted(pins) == Some(Hook::Clsact)
        && namespace_exists(noted.netns)
    {
        return Err(AttachmentError::OtherNamespace {
            interface: pins.interface().to_owned(),
            netns: noted.netns,
        });
    }
    // Both programs stop at once, before the first of them goes: one alone would leave connections that hang.
    if let Err(error) = Maps::open(pins).and_then(|mut maps| maps.put_out_of_force()) {
        debug!("{}: putting its rules out of force: {error}", pins.interface());
    }
    hook::detach(host.netlink, host.device_of(pins), pins).await?;
    Ok(pins.remove()?)
}
