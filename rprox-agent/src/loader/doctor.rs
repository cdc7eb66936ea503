//! `rprox-loader doctor`: what on this host will not work, or not well, and what to do.
//!
//! Facts are read here, and each check is a function of facts. A fact that can't be had is a finding too: the others are still
//! told. Nothing is changed.

#![forbid(unsafe_code)]

mod files;
mod interface;
mod kernel;
mod owner;
mod ports;

use std::fs;
use std::io;

use self::interface::Neighbours;
use self::kernel::Kernel;
use super::config::{Policy, Settings};
use super::conflict::input::Input;
use super::mode::{Mode, ModeChoice, Shape};
use super::netlink::Netlink;
use super::owner::Owner;
use super::pins::Pins;
use super::verify::{self, Expectation};
use super::{Error, bpffs, conflict, privilege, stacking};
use crate::findings::{Finding, Findings};
use crate::users;

/// Looks at what attaching by `settings` meets on this host.
pub async fn examine(mut settings: Settings) -> Findings {
    // Who the owner is, or that nobody is, is told below.
    let owner = settings.settle_owner(Owner::from_sudo());
    let missing = privilege::missing_for_attaching();
    let mut findings = files::capabilities(&missing);
    let is_bpffs = bpffs::is_bpffs(&settings.bpffs);
    findings.push(files::bpffs(&settings.bpffs, &is_bpffs, privilege::may_mount()));
    let attached = match is_bpffs {
        Ok(true) => Pins::list(&settings.bpffs).unwrap_or_default(),
        _ => Vec::new(),
    };

    match on_interfaces(&mut settings, &attached).await {
        Ok(found) => findings.extend(found),
        Err(error) => findings.push(Finding::fault(
            "interface",
            error.to_string(),
            "name an interface that there is, with -i",
        )),
    }
    let policies: Vec<&Policy> = match settings.interfaces.as_slice() {
        [] => vec![&settings.default_policy],
        own => own.iter().map(|(_, policy)| policy).collect(),
    };
    findings.extend(kernel::check(&Kernel::read(), kernel::Wants::of(settings.hook, &policies)));
    if let Err(error) = owner {
        findings.push(Finding::fault("owner", error.to_string(), "name the owner, with --owner"));
    } else {
        let users = users::read();
        findings.extend(owner::check(policies.iter().filter_map(|policy| policy.owner), &users));
    }
    findings.extend(policies.iter().flat_map(|policy| ports::of_policy(policy)));
    findings
        .extend(ports::claims(&conflict::claims(&settings, |name, policy| mode(&attached, name, policy))));
    let is_open = |policy: &Policy, name: &String| {
        policy.mode == ModeChoice::Auto && !attached.iter().any(|pins| pins.interface() == name)
    };
    for (name, policy) in &settings.interfaces {
        let mode = mode(&attached, name, policy);
        // Which of the two `--mode auto` would take is open, and `steer` has fewer packets changed.
        let changing = if is_open(policy, name) { Mode::Steer } else { mode };
        findings.extend(ports::outgoing_from(policy, changing));
        match mode {
            Mode::Steer => findings.extend(ports::unfit(policy)),
            Mode::Grant => findings.extend(ports::granted(policy)),
            Mode::Rewrite => {}
        }
    }
    let input = Input::read();
    for (name, policy) in &settings.interfaces {
        let mode = (!is_open(policy, name)).then(|| mode(&attached, name, policy));
        findings.extend(ports::refused(name, policy, mode, &input));
    }
    if missing.as_ref().is_ok_and(Vec::is_empty) && !attached.is_empty() {
        findings.extend(attachments(settings).await);
    } else if attached.is_empty() {
        findings.push(Finding::fine("attachment", "nothing is attached yet"));
    }
    Findings::new(findings)
}

/// How `name` is served, or would be. `--mode auto` gives way to a firewall rule, so it counts as `rewrite`.
fn mode(attached: &[Pins], name: &str, policy: &Policy) -> Mode {
    if let Some(pins) = attached.iter().find(|pins| pins.interface() == name) {
        return Shape::noted(pins).mode;
    }
    match policy.mode {
        ModeChoice::Steer => Mode::Steer,
        ModeChoice::Grant => Mode::Grant,
        ModeChoice::Auto | ModeChoice::Rewrite => Mode::Rewrite,
    }
}

async fn on_interfaces(settings: &mut Settings, attached: &[Pins]) -> Result<Vec<Finding>, Error> {
    let netlink = Netlink::connect()?;
    let devices = netlink.devices().await?;
    super::choose_interface(&netlink, settings).await?;
    let mut findings = Vec::new();
    for (name, _) in &settings.interfaces {
        let neighbours = match devices.iter().find(|device| device.name == *name) {
            Some(device) => Neighbours::read(&netlink, device, &Pins::new(&settings.bpffs, name)).await,
            None => Neighbours::default(),
        };
        findings.extend(interface::check(name, &devices, &neighbours));
    }
    if let Err(error) = stacking::check(&devices, settings, attached) {
        findings.push(Finding::fault("interface", error.to_string(), "name one of the two"));
    }
    Ok(findings)
}

/// What `verify` says of what is attached.
async fn attachments(settings: Settings) -> Vec<Finding> {
    let everything = Settings { interfaces: Vec::new(), ..settings };
    let expectation = Expectation { settings: everything, rules_given: false, direct_given: false };
    let verified = match Netlink::connect() {
        Ok(netlink) => verify::verify(&netlink, &expectation).await,
        Err(error) => Err(error.into()),
    };
    match verified {
        Err(error) => {
            vec![Finding::fault(
                "attachment",
                format!("it can't be verified: {error}"),
                "run `rprox-loader verify`",
            )]
        }
        Ok(report) => report.counts().map(|(interface, count)| files::attachment(interface, count)).collect(),
    }
}

/// The number in a file of `/proc/sys`; `None` where the kernel has no such setting.
fn setting(path: &str) -> io::Result<Option<u32>> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(text.trim().parse().ok()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}
