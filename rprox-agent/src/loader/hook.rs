//! Where in the kernel's packet path the programs attach: TCX, or a clsact qdisc on kernels before 6.6.

#![forbid(unsafe_code)]

pub mod clsact;
pub mod tcx;

use std::fmt;
use std::str::FromStr;

use aya::programs::links::LinkError;
use aya::programs::{ProgramError, SchedClassifier, TcAttachType};
use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use thiserror::Error;
use tracing::debug;

use super::netlink::{Device, Netlink, NetlinkError};
use super::object::{Direction, Object, ObjectError};
use super::pins::{PinError, Pins};

/// A kind of hook.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Hook {
    /// TCX links, Linux 6.6 and later.
    Tcx,
    /// Filters on a clsact qdisc.
    Clsact,
}

/// The hook that an operator asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HookChoice {
    /// TCX, or clsact where the kernel has no TCX.
    #[default]
    Auto,
    /// TCX only.
    Tcx,
    /// A clsact qdisc only.
    Clsact,
}

impl HookChoice {
    /// Whether `hook` is what was asked for.
    #[must_use]
    pub fn allows(self, hook: Hook) -> bool {
        match self {
            Self::Auto => true,
            Self::Tcx => hook == Hook::Tcx,
            Self::Clsact => hook == Hook::Clsact,
        }
    }
}

/// What went wrong at a hook.
#[derive(Debug, Error)]
pub enum HookError {
    /// The kernel refused to attach.
    #[error("attaching {program} to {interface} by {hook}: {source}")]
    Attach {
        /// The program.
        program: &'static str,
        /// The interface.
        interface: String,
        /// The hook.
        hook: Hook,
        /// What the kernel said.
        source: Box<ProgramError>,
    },
    /// There is no TCX.
    #[error(
        "attaching {program} to {interface} by tcx: this kernel has no TCX (it came with Linux 6.6); use `--hook auto` or `--hook \
         clsact`"
    )]
    NoTcx {
        /// The program.
        program: &'static str,
        /// The interface.
        interface: String,
    },
    /// The qdisc could not be made.
    #[error(
        "adding a clsact qdisc to {interface}: {source}; the kernel needs CONFIG_NET_CLS_ACT and CONFIG_NET_SCH_INGRESS"
    )]
    Qdisc {
        /// The interface.
        interface: String,
        /// What the kernel said.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The kernel refused to detach.
    #[error("detaching {program} from {interface}: {source}; `rprox-loader detach` tries again")]
    Detach {
        /// The program.
        program: &'static str,
        /// The interface.
        interface: String,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// A program could not be opened.
    #[error("the pinned program {program} of {interface}: {source}")]
    Program {
        /// The program.
        program: &'static str,
        /// The interface.
        interface: String,
        /// What the kernel said.
        source: Box<ProgramError>,
    },
    /// A link could not be used.
    #[error("the pinned link of {program} on {interface}: {source}")]
    Link {
        /// The program.
        program: &'static str,
        /// The interface.
        interface: String,
        /// What the kernel said.
        source: LinkError,
    },
    /// The programs are missing.
    #[error(transparent)]
    Object(#[from] ObjectError),
    /// The bpffs refused.
    #[error(transparent)]
    Pins(#[from] PinError),
    /// Netlink failed.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
}

impl Direction {
    /// The direction as aya names it.
    fn attach_type(self) -> TcAttachType {
        match self {
            Self::Egress => TcAttachType::Egress,
            Self::Ingress => TcAttachType::Ingress,
        }
    }
}

impl fmt::Display for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcx => "tcx",
            Self::Clsact => "clsact",
        })
    }
}

impl FromStr for Hook {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        match text {
            "tcx" => Ok(Self::Tcx),
            "clsact" => Ok(Self::Clsact),
            _ => Err(()),
        }
    }
}

/// Attaches both programs, egress first, by the hook that `choice` and the kernel allow. After a failure some may be
/// attached, for the caller to [`detach`].
///
/// # Errors
///
/// The kernel refused.
pub async fn attach(
    choice: HookChoice,
    netlink: &Netlink,
    device: &Device,
    pins: &Pins,
    object: &mut Object,
) -> Result<Hook, HookError> {
    let first = if choice == HookChoice::Clsact { Hook::Clsact } else { Hook::Tcx };
    match attach_by(first, netlink, device, pins, object).await {
        Err(HookError::NoTcx { .. }) if choice == HookChoice::Auto => {
            debug!("{}: this kernel has no TCX; using a clsact qdisc", device.name);
            attach_by(Hook::Clsact, netlink, device, pins, object).await?;
            Ok(Hook::Clsact)
        }
        result => result.map(|()| first),
    }
}

async fn attach_by(
    hook: Hook,
    netlink: &Netlink,
    device: &Device,
    pins: &Pins,
    object: &mut Object,
) -> Result<(), HookError> {
    // Noted first: filters outlive a loader that dies half-way, and the next one must find them.
    pins.note(NOTE, &hook.to_string())?;
    if hook == Hook::Clsact {
        clsact::ensure_qdisc(device, pins)?;
    }
    for direction in Direction::ATTACH_ORDER {
        let program = object.program(direction)?;
        match hook {
            Hook::Tcx => tcx::attach(program, device, direction, pins)?,
            Hook::Clsact => clsact::attach(netlink, program, device, direction, pins).await?,
        }
    }
    Ok(())
}

/// The hook that an attachment uses, if that was written down.
#[must_use]
pub fn noted(pins: &Pins) -> Option<Hook> {
    pins.noted(NOTE)?.parse().ok()
}

/// Whether both programs of the attachment still are where they were attached.
///
/// # Errors
///
/// The kernel did not say.
pub async fn is_alive(
    hook: Hook,
    netlink: &Netlink,
    device: &Device,
    pins: &Pins,
) -> Result<bool, HookError> {
    for direction in Direction::ATTACH_ORDER {
        let alive = match hook {
            Hook::Tcx => tcx::is_alive(direction, pins)?,
            Hook::Clsact => clsact::is_alive(netlink, device, direction, pins).await?,
        };
        if !alive {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Puts `program` in the place of the attached one, in one step.
///
/// # Errors
///
/// The kernel refused; the attached one stays.
pub fn replace(
    hook: Hook,
    program: &mut SchedClassifier,
    interface: &str,
    direction: Direction,
    pins: &Pins,
) -> Result<(), HookError> {
    match hook {
        Hook::Tcx => tcx::replace(program, direction, pins),
        Hook::Clsact => clsact::replace(program, interface, direction, pins),
    }
}

/// Takes the programs off the interface, ingress first, and the qdisc away if the loader made it and nobody else uses it.
/// `device` is the device that the attachment is on, if it still exists in this network namespace.
///
/// # Errors
///
/// The kernel refused.
pub async fn detach(netlink: &Netlink, device: Option<&Device>, pins: &Pins) -> Result<(), HookError> {
    match (noted(pins), device) {
        (Some(Hook::Clsact), Some(device)) => clsact::detach(netlink, device, pins).await,
        (Some(Hook::Tcx), _) => {
            Direction::ATTACH_ORDER.iter().rev().try_for_each(|direction| tcx::detach(*direction, pins))
        }
        _ => Ok(()),
    }
}

/// Removes what the pins say of detached programs.
///
/// # Errors
///
/// The bpffs refused.
pub fn forget(pins: &Pins) -> Result<(), PinError> {
    for direction in Direction::DETACH_ORDER {
        pins.forget(direction.program())?;
        pins.forget(&format!("{}_link", direction.program()))?;
    }
    pins.forget(NOTE).map(drop)
}

/// What the hook is written down under.
const NOTE: &str = "hook";
