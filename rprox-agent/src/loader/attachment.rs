//! Attachments: making, changing and removing them, everything or nothing.

#![forbid(unsafe_code)]

mod change;
mod globals;
mod liveness;
mod update;

use std::io;
use std::path::PathBuf;

use aya::programs::ProgramError;
use rprox_common::{Protocol, RewriteTcp, State, program};
use thiserror::Error;
use tracing::{debug, info, warn};

pub use self::change::{Change, Outcome};
pub use self::globals::{is_tcp_left_to_steer, noted as noted_globals};
use self::liveness::Liveness;
pub use self::liveness::{check_name, is_away, suspend};
use super::config::{Direct, Policy};
use super::guard::{self, GuardError};
use super::hook::{self, Hook, HookChoice, HookError};
use super::host::{Host, namespace_exists};
use super::linked::{self, Linked, LinkedError};
use super::maps::{Maps, MapsError};
use super::mode::{Mode, ModeChoice, Shape};
use super::netlink::{Device, NetlinkError};
use super::object::{Direction, Object, ObjectError};
use super::pins::{PinError, Pins};
use super::slots;
use super::takeover::{Takeover, TakeoverError};

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
    /// A build whose maps this one can't read is attached.
    #[error(
        "{interface}: another version of rprox-loader is attached, whose maps have another layout ({}); run `rprox-loader detach -i \
         {interface}` of that version first", pins.display()
    )]
    OtherLayout {
        /// The interface.
        interface: String,
        /// Where its pins are.
        pins: PathBuf,
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
    /// The network namespace can't be told from others.
    #[error(
        "asking for the network namespace's cookie: {0}; the port guard and mode steer need Linux 5.14 or later: use `--mode rewrite \
         --owner any`"
    )]
    Cookie(#[source] io::Error),
    /// A TO port is somebody else's.
    #[error("{interface}: {source}")]
    Guard {
        /// The interface.
        interface: String,
        /// Whose.
        source: Box<GuardError>,
    },
    /// A program that is not in the packets' path.
    #[error(transparent)]
    Linked(#[from] LinkedError),
    /// A listener that was there before.
    #[error(transparent)]
    Takeover(#[from] TakeoverError),
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

impl AttachmentError {
    /// Whether this is about mode `steer`, so that another mode may do.
    fn is_of_steer(&self) -> bool {
        let is_steers = |name: &str| [program::STEER, program::LISTENERS].contains(&name);
        match self {
            Self::Takeover(_)
            | Self::Cookie(_)
            | Self::Linked(LinkedError::Cgroup(_) | LinkedError::Namespace(_)) => true,
            Self::Object(ObjectError::Program { program, .. })
            | Self::Linked(LinkedError::Attach { program, .. }) => is_steers(program),
            _ => false,
        }
    }
}

/// Attaches to `interface`, or brings the attachment that is there to `policy`. Either all of it happens, or nothing. What is then
/// too much goes with [`Change::settle`].
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
    let target = Target { host, device, policy, choice, shape: Shape::of(policy, device) };
    match attach_to(&target).await {
        Err(error)
            if policy.mode == ModeChoice::Auto && target.shape.mode == Mode::Steer && error.is_of_steer() =>
        {
            let shape = target.shape.clone().by_rewrite(&error);
            debug!("{interface}: {}", shape.reason);
            attach_to(&Target { shape, ..target }).await
        }
        result => result,
    }
}

/// What to attach, and where.
struct Target<'a> {
    host: &'a Host<'a>,
    device: &'a Device,
    policy: &'a Policy,
    choice: HookChoice,
    shape: Shape,
}

impl<'a> Target<'a> {
    /// The same where the packet programs do `tcp`.
    fn doing(&self, tcp: RewriteTcp) -> Target<'a> {
        Target { shape: self.shape.clone().doing(tcp), ..*self }
    }

    /// The state that puts `generation` in force, where the packet programs do `tcp`.
    fn state(&self, generation: u32, tcp: RewriteTcp) -> State {
        let state = State::new(generation, self.policy.direct == Direct::Allow);
        if self.shape.mode == Mode::Steer && tcp == RewriteTcp::None { state.left_to_steer() } else { state }
    }

    /// Makes sure that nobody but the owner holds a TO port.
    fn check_holders(&self) -> Result<(), AttachmentError> {
        guard::check_holders(self.policy.rules.as_slice(), self.shape.owner).map_err(|source| {
            AttachmentError::Guard { interface: self.device.name.clone(), source: Box::new(source) }
        })
    }

    /// Has `takeover` make known who listens on `ports`. Where the operator asked for `steer`, whom it can't have is only told.
    fn take_over(
        &self,
        takeover: &mut Takeover,
        ports: impl Iterator<Item = u16>,
    ) -> Result<(), TakeoverError> {
        match takeover.take(ports) {
            Err(error @ TakeoverError::Refused { .. }) if self.policy.mode == ModeChoice::Steer => {
                warn!("{}: {error}", self.device.name);
                Ok(())
            }
            result => result,
        }
    }

    /// The TCP rules' TO ports.
    fn tcp_ports(&self) -> impl Iterator<Item = u16> {
        let rules = self.policy.rules.as_slice().iter();
        rules.filter(|rule| rule.protocol == Protocol::Tcp).map(|rule| rule.to)
    }
}

async fn attach_to(target: &Target<'_>) -> Result<Change, AttachmentError> {
    let Target { host, device, shape, .. } = target;
    let interface = &device.name;
    // First, so that a refusal disturbs nothing. Once the port guard is in force it is done again: nobody gets in after that.
    target.check_holders()?;
    let pins = Pins::new(host.bpffs, interface);
    // With the programs of both, one would take for a direct connection what the other has redirected.
    if let Some(pins) = pins.of_another_layout() {
        return Err(AttachmentError::OtherLayout { interface: interface.clone(), pins });
    }
    if pins.exist() {
        let _claim = pins.claim()?;
        match liveness::look(host, device, &pins).await? {
            Liveness::Dead => remove(host, &pins).await?,
            Liveness::Live(hook) => {
                if let Some(hook) = hook.filter(|hook| !target.choice.allows(*hook)) {
                    warn!("{interface}: stays attached by {hook}; to change that, detach first");
                }
                return update::update(target, pins, hook).await;
            }
        }
    }
    let tcp = shape.tcp(device, None, RewriteTcp::All);
    let target = target.doing(tcp);
    match create(&target, &pins, tcp).await {
        Ok(hook) => Ok(Change::new(pins, Outcome::Attached(shape.mode, hook), target.shape)),
        Err(error) => {
            if let Err(error) = remove(host, &pins).await {
                warn!("{interface}: undoing: {error}");
            }
            Err(error)
        }
    }
}

async fn create(target: &Target<'_>, pins: &Pins, tcp: RewriteTcp) -> Result<Option<Hook>, AttachmentError> {
    let Target { host, device, policy, shape, .. } = target;
    let globals = globals::of(device, shape, tcp)?;
    let mut object = Object::load(&globals, shape, policy.rules.as_slice().len())?;
    pins.create()?;
    pins.note_device(host.id(device))?;
    shape.note(pins)?;
    object.pin_maps(pins)?;
    let mut maps = Maps::open(pins)?;
    maps.sync_addresses(&host.addresses)?;
    let slots = assign(&maps, pins, &[], policy)?;
    // New maps have the generation 0 in force, which is empty: so the programs pass everything, whichever of them is there, until
    // the last step puts all to work at once.
    maps.write_rules(1, &slots)?;
    for linked in linked::of(shape) {
        linked::bring(linked, &mut object, pins, false)?;
    }
    let mut takeover = if shape.mode == Mode::Steer { Some(Takeover::new(pins)?) } else { None };
    if let Some(takeover) = &mut takeover {
        target.take_over(takeover, target.tcp_ports())?;
    }
    let mut hook = None;
    if shape.has_packet_programs {
        hook = Some(attach_packet_programs(target, pins, &mut object).await?);
    }
    maps.set_state(target.state(1, tcp))?;
    // Those that began to listen while no rule was in force to note them by.
    if let Some(takeover) = &mut takeover {
        takeover.know_bound(target.tcp_ports(), shape.owner)?;
        target.take_over(takeover, target.tcp_ports())?;
    }
    target.check_holders()?;
    globals::note(pins, &globals)?;
    Ok(hook)
}

async fn attach_packet_programs(
    target: &Target<'_>,
    pins: &Pins,
    object: &mut Object,
) -> Result<Hook, AttachmentError> {
    for direction in Direction::ATTACH_ORDER {
        pins.put_program(direction, object.program(direction)?)?;
    }
    Ok(hook::attach(target.choice, target.host.netlink, target.device, pins, object).await?)
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

/// Brings the local addresses of the attachment in `pins` up to date. `false` if it is not in force on `device`, and has to be
/// made afresh.
///
/// # Errors
///
/// The kernel refused.
pub async fn refresh(host: &Host<'_>, device: &Device, pins: &Pins) -> Result<bool, AttachmentError> {
    let shape = Shape::noted(pins);
    if pins.noted_device() != Some(host.id(device)) {
        return Ok(false);
    }
    match hook::noted(pins) {
        Some(hook) if hook::is_alive(hook, host.netlink, device, pins).await? => {}
        None if !shape.has_packet_programs => {}
        _ => return Ok(false),
    }
    for linked in linked::of(&shape) {
        if !linked::is_alive(linked, pins)? {
            return Ok(false);
        }
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
    // All programs stop at once, before the first of them goes: one alone would leave connections that hang.
    if let Err(error) = Maps::open(pins).and_then(|mut maps| maps.put_out_of_force()) {
        debug!("{}: putting its rules out of force: {error}", pins.interface());
    }
    Linked::ALL.into_iter().rev().try_for_each(|linked| linked::detach(linked, pins))?;
    hook::detach(host.netlink, host.device_of(pins), pins).await?;
    Ok(pins.remove()?)
}
