//! The loader: all code of rprox that ever runs as root.
//!
//! It attaches the kernel programs to interfaces, fills the maps that they read, and gets out of the way: links, maps and
//! programs are pinned, so that the redirect works on with no process behind it.

#![deny(unsafe_code)]

pub mod asked;
pub mod attachment;
pub mod bpffs;
pub mod cgroup;
pub mod cli;
pub mod config;
pub mod conflict;
pub mod doctor;
pub mod doubled;
pub mod guard;
pub mod hook;
pub mod host;
pub mod kernel_log;
pub mod link;
pub mod linked;
pub mod lock;
pub mod maps;
pub mod metrics;
pub mod mode;
pub mod netlink;
pub mod netns;
pub mod object;
pub mod owner;
pub mod pins;
pub mod privilege;
pub mod query;
pub mod rule;
pub mod service;
pub mod slots;
pub mod stacking;
pub mod status;
pub mod table;
pub mod takeover;
pub mod verify;

use std::io::{self, Write as _};
use std::path::PathBuf;

use clap::CommandFactory as _;
use thiserror::Error;
use tracing::{error, info, warn};

use self::attachment::{AttachmentError, Change, Outcome};
use self::bpffs::{Bpffs, BpffsError};
use self::cli::{AttachArgs, CheckArgs, Cli, Command, DetachArgs, DoctorArgs, StatusArgs, VerifyArgs};
use self::config::{ConfigError, Flags, Settings};
use self::doubled::DoubledError;
use self::guard::GuardError;
use self::hook::HookError;
use self::host::{Host, HostError};
use self::linked::LinkedError;
use self::maps::MapsError;
use self::mode::{Mode, ModeChoice};
use self::netlink::{Netlink, NetlinkError};
use self::object::ObjectError;
use self::owner::Owner;
use self::pins::{PinError, Pins};
use self::privilege::PrivilegeError;
use self::stacking::StackingError;
use self::status::watch;
use self::verify::{Expectation, VerifyError};
use crate::cli::exit;

/// Why a command failed.
#[derive(Debug, Error)]
pub enum Error {
    /// The configuration.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A privilege.
    #[error(transparent)]
    Privilege(#[from] PrivilegeError),
    /// The bpffs.
    #[error(transparent)]
    Bpffs(#[from] BpffsError),
    /// Pins.
    #[error(transparent)]
    Pins(#[from] PinError),
    /// Netlink.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    /// The host.
    #[error(transparent)]
    Host(#[from] HostError),
    /// Interfaces on top of each other.
    #[error(transparent)]
    Stacking(#[from] StackingError),
    /// The port guard.
    #[error(transparent)]
    Guard(#[from] GuardError),
    /// Another attachment of the same interface.
    #[error(transparent)]
    Doubled(#[from] DoubledError),
    /// An attachment.
    #[error(transparent)]
    Attachment(#[from] AttachmentError),
    /// Maps.
    #[error(transparent)]
    Maps(#[from] MapsError),
    /// The object.
    #[error(transparent)]
    Object(#[from] ObjectError),
    /// A hook.
    #[error(transparent)]
    Hook(#[from] HookError),
    /// A program out of the packets' path.
    #[error(transparent)]
    Linked(#[from] LinkedError),
    /// Verifying an attachment.
    #[error(transparent)]
    Verify(#[from] VerifyError),
    /// Watching.
    #[error("watching: {0}")]
    Watch(#[source] io::Error),
    /// `verify` found differences, and has written them.
    #[error("what is attached differs from what it should be; see above")]
    Differs,
    /// `check` found what is in the way, and has written it.
    #[error("something lays claim to a redirected port; see above")]
    InTheWay,
    /// `doctor` found what will not work, and has written it.
    #[error("something will not work; see above")]
    Faulty,
    /// Signals can't be watched.
    #[error("watching for signals: {0}")]
    Signals(#[source] io::Error),
    /// The kernel closed the connection.
    #[error(
        "the netlink connection ended; the redirect works on, but its local addresses are no longer kept current"
    )]
    NetlinkClosed,
    /// Standard output.
    #[error("writing to standard output: {0}")]
    Output(#[from] io::Error),
}

impl Error {
    /// The exit status that stands for this error.
    #[must_use]
    pub fn exit_status(&self) -> u8 {
        match self {
            Self::Config(_) => exit::USAGE,
            Self::Output(_)
            | Self::Signals(_)
            | Self::NetlinkClosed
            | Self::Differs
            | Self::InTheWay
            | Self::Faulty => exit::FAILED,
            _ => exit::REFUSED,
        }
    }
}

/// Does what `command` says. Needs a tokio runtime, on one thread.
///
/// # Errors
///
/// Why it could not.
pub async fn run(command: Command) -> Result<(), Error> {
    match command {
        Command::Run(args) => service::run(prepare(args.into_parts())?).await,
        Command::Attach(args) => attach(args).await,
        Command::Detach(args) => detach(args).await,
        Command::Status(args) => status(args).await,
        Command::Verify(args) => verify(args).await,
        Command::Check(args) => check(args).await,
        Command::Doctor(args) => doctor(args).await,
        Command::Completions { shell } => {
            let mut text = Vec::new();
            crate::cli::write_completions(Cli::command(), shell, &mut text);
            print(&text)
        }
        Command::Man => {
            let mut text = Vec::new();
            crate::cli::write_man_page(Cli::command(), &mut text)?;
            print(&text)
        }
    }
}

/// Writes to standard output. A reader that has seen enough (`| head`) is no failure.
fn print(text: &[u8]) -> Result<(), Error> {
    match io::stdout().lock().write_all(text) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => Ok(result?),
    }
}

/// Reads the configuration and makes sure of the privileges to carry it out.
fn prepare((file, flags): (Option<PathBuf>, Flags)) -> Result<Settings, Error> {
    let mut settings = Settings::load(file.as_deref(), flags)?;
    settings.settle_owner(Owner::from_sudo())?;
    privilege::require_admin()?;
    privilege::lift_memory_limit();
    Ok(settings)
}

async fn attach(args: AttachArgs) -> Result<(), Error> {
    let mut settings = prepare(args.into_parts())?;
    let netlink = Netlink::connect()?;
    choose_interface(&netlink, &mut settings).await?;
    let (changes, _bpffs) = attach_all(&netlink, &settings).await?;
    for (pins, outcome) in changes {
        info!("{}: {outcome}", pins.interface());
    }
    conflict::warn_of_all(&settings);
    Ok(())
}

/// Names the default route's interface where none is named.
async fn choose_interface(netlink: &Netlink, settings: &mut Settings) -> Result<(), Error> {
    if settings.interfaces.is_empty() {
        let name = netlink.default_interface().await?;
        settings.interfaces.push((name, settings.default_policy.clone()));
    }
    Ok(())
}

/// Attaches to every interface of `settings`, or to none. The bpffs that comes back is still locked.
async fn attach_all(netlink: &Netlink, settings: &Settings) -> Result<(Vec<(Pins, Outcome)>, Bpffs), Error> {
    let bpffs = Bpffs::open_or_mount(&settings.bpffs)?;
    let host = Host::look(netlink, bpffs.path()).await?;
    for (interface, _) in settings.interfaces.iter().filter(|(_, policy)| policy.owner == Some(Owner::Any)) {
        warn!(
            "{interface}: the port guard is off (--owner any): whoever binds a TO port first gets its connections"
        );
    }
    let mut changes = Vec::new();
    if let Err(error) = attach_each(&host, settings, &mut changes).await {
        for change in changes.into_iter().rev() {
            change.undo(&host).await;
        }
        bpffs.undo();
        return Err(error);
    }
    let mut outcomes = Vec::new();
    for change in changes {
        outcomes.push(change.settle(&host).await?);
    }
    Ok((outcomes, bpffs))
}

/// Attaches to every interface of `settings`. What it did until it failed is in `changes`, for the caller to undo.
async fn attach_each(host: &Host<'_>, settings: &Settings, changes: &mut Vec<Change>) -> Result<(), Error> {
    let attached = Pins::list(host.bpffs)?;
    stacking::check(&host.devices, settings, &attached)?;
    guard::check_owners(host, settings, &attached)?;
    for (interface, policy) in &settings.interfaces {
        if let Some(device) = host.device(interface) {
            attachment::check_name(host, device, &attached)?;
            doubled::check(host.bpffs, device, policy.rules.as_slice())?;
        }
    }
    for (interface, policy) in &settings.interfaces {
        changes.push(attachment::attach(host, interface, policy, settings.hook).await?);
    }
    // Only now is it what holds, as far as attaching goes.
    for (change, (_, policy)) in changes.iter().zip(&settings.interfaces) {
        asked::note(change.pins(), policy)?;
    }
    Ok(())
}

async fn detach(args: DetachArgs) -> Result<(), Error> {
    let DetachArgs { interfaces, place } = args;
    let flags = Flags { interfaces, bpffs: place.bpffs, ..Flags::default() };
    let settings = Settings::load(place.config.as_deref(), flags)?;
    privilege::require_admin()?;
    let named: Vec<&str> = settings.interfaces.iter().map(|(name, _)| name.as_str()).collect();
    let bpffs = Bpffs::open(&settings.bpffs)?;
    let attached = bpffs.as_ref().map_or(Ok(Vec::new()), |bpffs| Pins::list(bpffs.path()))?;
    let chosen: Vec<&Pins> =
        attached.iter().filter(|pins| named.is_empty() || named.contains(&pins.interface())).collect();
    for name in named.iter().filter(|name| !chosen.iter().any(|pins| pins.interface() == **name)) {
        info!("{name}: nothing attached");
    }
    if attached.is_empty() && named.is_empty() {
        info!("nothing attached");
    }
    if let (Some(bpffs), true) = (&bpffs, attached.is_empty()) {
        // What a detach left that died at its last step.
        Pins::tidy(bpffs.path())?;
    }
    if chosen.is_empty() {
        return Ok(());
    }
    let netlink = Netlink::connect()?;
    let host = Host::look(&netlink, &settings.bpffs).await?;
    // What one of them can't do keeps the others from nothing.
    let mut result = Ok(());
    for pins in chosen {
        match detach_one(&host, pins).await {
            Ok(()) => info!("{}: detached", pins.interface()),
            Err(error) => {
                if let Err(earlier) = std::mem::replace(&mut result, Err(error)) {
                    error!("{earlier}");
                }
            }
        }
    }
    result
}

async fn detach_one(host: &Host<'_>, pins: &Pins) -> Result<(), Error> {
    let _claim = pins.claim()?;
    Ok(attachment::remove(host, pins).await?)
}

async fn status(args: StatusArgs) -> Result<(), Error> {
    let settings =
        Settings::load(args.place.config.as_deref(), Flags { bpffs: args.place.bpffs, ..Flags::default() })?;
    privilege::require_reader()?;
    if args.watch {
        return watch::watch(&Netlink::connect()?, &settings.bpffs).await;
    }
    let attachments = status::read(&Netlink::connect()?, &settings.bpffs).await?;
    let mut text = Vec::new();
    if args.json {
        status::write_json(&mut text, &attachments)?;
    } else {
        status::write_table(&mut text, &attachments)?;
    }
    print(&text)
}

async fn verify(args: VerifyArgs) -> Result<(), Error> {
    let VerifyArgs { json, interfaces, rules, direct, place } = args;
    let file = place.config.is_some();
    let (rules_given, direct_given) = (file || !rules.is_empty(), file || direct.is_some());
    let flags = Flags { interfaces, rules, direct, bpffs: place.bpffs, ..Flags::default() };
    let settings = Settings::load(place.config.as_deref(), flags)?;
    privilege::require_admin()?;
    privilege::lift_memory_limit();
    let expectation = Expectation { settings, rules_given, direct_given };
    let report = verify::verify(&Netlink::connect()?, &expectation).await?;
    let mut text = Vec::new();
    if json {
        report.write_json(&mut text)?;
    } else {
        report.write_text(&mut text)?;
    }
    print(&text)?;
    if report.ok() { Ok(()) } else { Err(Error::Differs) }
}

async fn check(args: CheckArgs) -> Result<(), Error> {
    let CheckArgs { interfaces, rules, place } = args;
    let flags = Flags { interfaces, rules, bpffs: place.bpffs, ..Flags::default() };
    let mut settings = Settings::load(place.config.as_deref(), flags)?;
    privilege::require_checker()?;
    choose_interface(&Netlink::connect()?, &mut settings).await?;
    // As the command that it proposes does it, unless the configuration says otherwise.
    let claims = conflict::claims(&settings, |_, policy| match policy.mode {
        ModeChoice::Steer => Mode::Steer,
        ModeChoice::Grant => Mode::Grant,
        ModeChoice::Auto | ModeChoice::Rewrite => Mode::Rewrite,
    });
    let mut text = Vec::new();
    conflict::write_claims(&mut text, &claims, &settings)?;
    print(&text)?;
    if claims.is_empty() { Ok(()) } else { Err(Error::InTheWay) }
}

async fn doctor(DoctorArgs { json, attach }: DoctorArgs) -> Result<(), Error> {
    let (file, flags) = attach.into_parts();
    let settings = Settings::load(file.as_deref(), flags)?;
    let findings = doctor::examine(settings).await;
    let mut text = Vec::new();
    if json {
        findings.write_json(&mut text)?;
    } else {
        findings.write_text(&mut text)?;
    }
    print(&text)?;
    if findings.ok() { Ok(()) } else { Err(Error::Faulty) }
}
