//! Bringing an attachment that is there to another policy, mode, owner or build.
//!
//! What is new is put beside or in the place of what is old, so that there is no moment without either. What is then too much goes
//! when the change is settled.

#![forbid(unsafe_code)]

use aya::programs::SchedClassifier;
use rprox_common::{Protocol, RewriteTcp};
use tracing::warn;

use super::change::{Before, Change, Outcome};
use super::{AttachmentError, Target, assign, attach_packet_programs, globals, liveness};
use crate::loader::config::Direct;
use crate::loader::hook::{self, Hook};
use crate::loader::kernel_log;
use crate::loader::linked::{self, Done, Linked};
use crate::loader::maps::Maps;
use crate::loader::mode::{Mode, Shape};
use crate::loader::object::{Direction, Globals, Object};
use crate::loader::pins::Pins;
use crate::loader::slots::Slot;
use crate::loader::takeover::Takeover;

/// Brings the attachment in `pins`, whose programs in the packets' path are at `hook`, to what `target` says.
pub(super) async fn update(
    target: &Target<'_>,
    pins: Pins,
    hook: Option<Hook>,
) -> Result<Change, AttachmentError> {
    let mut maps = Maps::open(&pins)?;
    let mut before = Before {
        state: maps.state()?,
        shape: Shape::noted(&pins),
        globals: globals::text(&pins),
        device: pins.noted_device(),
        away: liveness::is_away(&pins),
        hook,
        programs: Vec::new(),
        linked: Vec::new(),
    };
    let done = match before.globals.as_deref() {
        Some(globals) => globals::rewrite_tcp(globals),
        // A change that was cut short: connections may have been steered until now.
        None if pins.link_of(Linked::Steer).exists() => RewriteTcp::NotSteered,
        None => RewriteTcp::All,
    };
    let tcp = target.shape.tcp(target.device, Some(before.shape.mode), done);
    let target = &target.doing(tcp);
    let globals = globals::of(target.device, &target.shape, tcp)?;
    let mut object = Object::load_with_pinned_maps(&globals, &target.shape, &pins)?;
    match apply(target, &pins, &mut maps, &mut object, &globals, &mut before).await {
        Ok(outcome) => Ok(Change::update(pins, outcome, target.shape.clone(), before)),
        Err(error) => {
            if let Err(error) = before.restore(target.host, &pins).await {
                warn!("{}: undoing: {error}", pins.interface());
            }
            Err(error)
        }
    }
}

async fn apply(
    target: &Target<'_>,
    pins: &Pins,
    maps: &mut Maps,
    object: &mut Object,
    globals: &Globals,
    before: &mut Before,
) -> Result<Outcome, AttachmentError> {
    let Target { host, device, policy, shape, .. } = target;
    let state = before.state;
    let mut current = maps.rules(state.generation())?;
    let slots = assign(maps, pins, &current, policy)?;
    let mut sorted = slots.clone();
    sorted.sort_by_key(|slot| slot.index);
    current.sort_by_key(|slot| slot.index);
    let rules = sorted != current;
    let allow = policy.direct == Direct::Allow;
    let direct = allow != state.allow_direct();

    // Struck out until all programs have the new ones, so that a loader that dies on the way leaves word of it.
    let afresh = before.globals.as_deref() != Some(&globals.to_string()) || !kernel_log::is_current(pins);
    if afresh {
        globals::forget(pins)?;
    }
    pins.note_device(host.id(device))?;
    let (came, went) = maps.sync_addresses(&host.addresses)?;
    let mut bring = |linked, object: &mut Object| {
        let done = linked::bring(linked, object, pins, afresh)?;
        let attached = matches!(done, Some(Done::Attached(_)));
        before.linked.extend(done);
        Ok::<bool, AttachmentError>(attached)
    };
    for linked in linked::of(shape).filter(|linked| matches!(linked, Linked::Bind4 | Linked::Bind6)) {
        bring(linked, object)?;
    }
    let mut listeners = None;
    if shape.mode == Mode::Steer {
        let attached = bring(Linked::Listeners, object)?;
        let mut takeover = Takeover::new(pins)?;
        if attached {
            takeover.forget_all()?;
        }
        // After a change that was cut short, nobody knows how far it came.
        let noted = if attached || before.globals.is_none() { &[][..] } else { &current };
        let ports: Vec<u16> = target.tcp_ports().filter(|port| !has_tcp_port(noted, *port)).collect();
        target.take_over(&mut takeover, ports.iter().copied())?;
        listeners = Some((takeover, ports));
    }
    let generation = if rules { 1 - state.generation() } else { state.generation() };
    if rules {
        maps.write_rules(generation, &slots)?;
    }
    // TCP is left to `steer` until the programs in the packets' path are there to take it, so that there is always somebody who
    // refuses direct connections.
    let last_state = target.state(generation, globals.rewrite_tcp);
    let rewrites = before.shape.mode == Mode::Rewrite || state.still_rewrites();
    let next_state = match globals.rewrite_tcp {
        _ if state.is_left_to_steer() => last_state.left_to_steer(),
        // The programs that were there before would not know a connection that began in another way.
        RewriteTcp::Begun if rewrites => last_state.still_rewriting(),
        _ => last_state,
    };
    if next_state != state {
        maps.set_state(next_state)?;
    }
    if let Some((mut takeover, ports)) = listeners {
        takeover.know_bound(target.tcp_ports(), shape.owner)?;
        // Those that began to listen before there was a rule to note them by.
        target.take_over(&mut takeover, ports.into_iter())?;
        bring(Linked::Steer, object)?;
    }
    match before.hook {
        Some(hook) if shape.has_packet_programs => {
            replace_packet_programs(object, pins, hook, afresh, &mut before.programs)?;
        }
        None if shape.has_packet_programs => {
            attach_packet_programs(target, pins, object).await?;
        }
        _ => {}
    }
    target.check_holders()?;
    if *shape != before.shape {
        shape.note(pins)?;
    }
    if afresh {
        globals::note(pins, globals)?;
    }
    liveness::note_away(pins, false)?;
    // Nothing can fail behind it, so no connection begins in a way that is taken back.
    if last_state != next_state {
        maps.set_state(last_state)?;
    }
    let mode = shape.mode != before.shape.mode;
    let owner = shape.owner != before.shape.owner;
    let replaced = !before.programs.is_empty() || !before.linked.is_empty();
    let programs = replaced && !mode && !owner;
    Ok(Outcome::Updated { mode, owner, rules, direct, programs, addresses: came + went })
}

fn has_tcp_port(slots: &[Slot], port: u16) -> bool {
    slots.iter().any(|slot| slot.rule.protocol == Protocol::Tcp && slot.rule.to == port)
}

/// Puts the programs of `object` in the place of attached ones that differ from them, and those into `old`. `afresh`: of all.
fn replace_packet_programs(
    object: &mut Object,
    pins: &Pins,
    hook: Hook,
    afresh: bool,
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
        if !afresh && attached.info().map_err(failed)?.tag() == program.info().map_err(failed)?.tag() {
            continue;
        }
        hook::replace(hook, program, pins.interface(), direction, pins)?;
        old.push((direction, attached));
        pins.put_program(direction, program)?;
    }
    Ok(())
}
