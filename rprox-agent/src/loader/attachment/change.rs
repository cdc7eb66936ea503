//! What attaching did, how to take it back, and how to finish it.

#![forbid(unsafe_code)]

use std::fmt;

use aya::programs::SchedClassifier;
use rprox_common::State;
use tracing::warn;

use super::{AttachmentError, globals, liveness, remove};
use crate::loader::hook::{self, Hook};
use crate::loader::host::Host;
use crate::loader::linked::{self, Done, Linked};
use crate::loader::maps::Maps;
use crate::loader::mode::{Mode, Shape};
use crate::loader::object::Direction;
use crate::loader::pins::{DeviceId, Pins};
use crate::loader::takeover::Takeover;

/// What attaching did, and how to take it back.
pub struct Change {
    pins: Pins,
    outcome: Outcome,
    shape: Shape,
    /// `None` if the attachment is new.
    before: Option<Before>,
}

/// What attaching did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// There was no attachment before.
    Attached(Mode, Option<Hook>),
    /// There was one, and these parts of it are new.
    Updated {
        /// The mode.
        mode: bool,
        /// The owner.
        owner: bool,
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
        let &Self::Updated { mode, owner, rules, direct, programs, addresses } = self else {
            return match self {
                Self::Attached(mode, Some(hook)) => write!(f, "attached ({mode}, {hook})"),
                Self::Attached(mode, None) => write!(f, "attached ({mode})"),
                Self::Updated { .. } => Ok(()),
            };
        };
        let parts: Vec<&str> = [
            (mode, "mode"),
            (owner, "owner"),
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

/// What was in force before, as far as it was touched.
pub(super) struct Before {
    pub state: State,
    pub shape: Shape,
    pub globals: Option<String>,
    pub device: Option<DeviceId>,
    /// Whether the interface was away.
    pub away: bool,
    pub hook: Option<Hook>,
    /// The programs in the packets' path that were replaced.
    pub programs: Vec<(Direction, SchedClassifier)>,
    /// What was done to the others.
    pub linked: Vec<Done>,
}

impl Change {
    /// A new attachment.
    pub(super) fn new(pins: Pins, outcome: Outcome, shape: Shape) -> Self {
        Self { pins, outcome, shape, before: None }
    }

    /// A change to one.
    pub(super) fn update(pins: Pins, outcome: Outcome, shape: Shape, before: Before) -> Self {
        Self { pins, outcome, shape, before: Some(before) }
    }

    /// The attachment's place.
    #[must_use]
    pub fn pins(&self) -> &Pins {
        &self.pins
    }

    /// Takes the change back, as far as the kernel lets us; what it does not is logged.
    pub async fn undo(self, host: &Host<'_>) {
        let result = match self.before {
            None => remove(host, &self.pins).await,
            Some(before) => before.restore(host, &self.pins).await,
        };
        if let Err(error) = result {
            warn!("{}: undoing: {error}", self.pins.interface());
        }
    }

    /// Takes off what was in force before and is no part of the attachment any more. There is no way back from here.
    ///
    /// # Errors
    ///
    /// The kernel refused; attaching again tries again.
    pub async fn settle(self, host: &Host<'_>) -> Result<(Pins, Outcome), AttachmentError> {
        let Self { pins, outcome, shape, .. } = self;
        for linked in Linked::ALL.into_iter().rev().filter(|linked| !shape.has(*linked)) {
            linked::detach(linked, &pins)?;
        }
        if shape.mode != Mode::Steer
            && let Err(error) = Takeover::new(&pins).and_then(|mut known| known.forget_all())
        {
            // No program reads them in another mode, and to go back to `steer` makes them known anew.
            warn!("{}: forgetting who listens: {error}", pins.interface());
        }
        if !shape.has_packet_programs && hook::noted(&pins).is_some() {
            remove_packet_programs(host, &pins).await?;
        }
        Ok((pins, outcome))
    }
}

impl Before {
    /// Puts it back in force.
    pub(super) async fn restore(self, host: &Host<'_>, pins: &Pins) -> Result<(), AttachmentError> {
        let mut maps = Maps::open(pins)?;
        let rewrites = self.shape.mode == Mode::Rewrite;
        maps.set_state(if rewrites { self.state.still_rewriting() } else { self.state })?;
        match self.hook {
            Some(hook) => {
                for (direction, mut program) in self.programs.into_iter().rev() {
                    hook::replace(hook, &mut program, pins.interface(), direction, pins)?;
                    pins.put_program(direction, &mut program)?;
                }
            }
            None => remove_packet_programs(host, pins).await?,
        }
        maps.set_state(self.state)?;
        // After them, as they came before: without `steer`, programs that leave TCP to it have connections refused.
        for done in self.linked.into_iter().rev() {
            linked::undo(done, pins)?;
        }
        self.shape.note(pins)?;
        if let Some(device) = self.device {
            pins.note_device(device)?;
        }
        liveness::note_away(pins, self.away)?;
        globals::put_back(pins, self.globals.as_deref())?;
        Ok(())
    }
}

async fn remove_packet_programs(host: &Host<'_>, pins: &Pins) -> Result<(), AttachmentError> {
    hook::detach(host.netlink, host.device_of(pins), pins).await?;
    Ok(hook::forget(pins)?)
}
