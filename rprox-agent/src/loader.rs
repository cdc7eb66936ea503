//! The loader: all code of rprox that ever runs as root.
//!
//! It attaches the kernel programs to interfaces, fills the maps that they read, and gets out of the way: links, maps and
//! programs are pinned, so that the redirect works on with no process behind it.

#![deny(unsafe_code)]

pub mod attachment;
pub mod bpffs;
pub mod cgroup;
pub mod cli;
pub mod config;
pub mod conflict;
pub mod guard;
pub mod hook;
pub mod host;
pub mod link;
pub mod linked;
pub mod maps;
pub mod mode;
pub mod netlink;
pub mod netns;
pub mod object;
pub mod owner;
pub mod pins;
pub mod privilege;
pub mod rule;
pub mod service;
pub mod slots;
pub mod status;
pub mod table;
pub mod takeover;

use std::io::{self, Write as _};

use clap::CommandFactory as _;
use thiserror::Error;
use tracing::{info, warn};

use self::attachment::{AttachmentError, Change, Outcome};
use self::bpffs::{Bpffs, BpffsError};
use self::cli::{AttachArgs, Cli, Command, DetachArgs, StatusArgs};
use self::config::{ConfigError, Flags, Settings};
use self::host::{Host, HostError};
use self::netlink::{Netlink, NetlinkError};
use self::owner::Owner;
use self::pins::{PinError, Pins};
use self::privilege::PrivilegeError;
use self::status::StatusError;
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
    /// An attachment.
    #[error(transparent)]
    Attachment(#[from] AttachmentError),
    /// Reading an attachment.
    #[error(transparent)]
    Status(#[from] StatusError),
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
            Self::Output(_) | Self::Signals(_) | Self::NetlinkClosed => exit::FAILED,
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
        Command::Run(args) => service::run(prepare(args)?).await,
        Command::Attach(args) => attach(args).await,
        Command::Detach(args) => detach(args).await,
        Command::Status(args) => status(args).await,
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
fn prepare(args: AttachArgs) -> Result<Settings, Error> {
    let (file, flags) = args.into_parts();
    let mut settings = Settings::load(file.as_deref(), flags)?;
    settings.settle_owner(Owner::from_sudo())?;
    privilege::require_admin()?;
    privilege::lift_memory_limit();
    Ok(settings)
}

async fn attach(args: AttachArgs) -> Result<(), Error> {
    let mut settings = prepare(args)?;
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
    let mut changes: Vec<Change> = Vec::new();
    for (interface, policy) in &settings.interfaces {
        match attachment::attach(&host, interface, policy, settings.hook).await {
            Ok(change) => changes.push(change),
            Err(error) => {
                for change in changes.into_iter().rev() {
                    change.undo(&host).await;
                }
                bpffs.undo();
                return Err(error.into());
            }
        }
    }
    let mut outcomes = Vec::new();
    for change in changes {
        outcomes.push(change.settle(&host).await?);
    }
    Ok((outcomes, bpffs))
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
    if chosen.is_empty() {
        return Ok(());
    }
    let netlink = Netlink::connect()?;
    let host = Host::look(&netlink, &settings.bpffs).await?;
    for pins in chosen {
        let _claim = pins.claim()?;
        attachment::remove(&host, pins).await?;
        info!("{}: detached", pins.interface());
    }
    Ok(())
}

async fn status(args: StatusArgs) -> Result<(), Error> {
    let settings =
        Settings::load(args.place.config.as_deref(), Flags { bpffs: args.place.bpffs, ..Flags::default() })?;
    privilege::require_reader()?;
    let attachments = status::read(&Netlink::connect()?, &settings.bpffs).await?;
    let mut text = Vec::new();
    if args.json {
        status::write_json(&mut text, &attachments)?;
    } else {
        status::write_table(&mut text, &attachments)?;
    }
    print(&text)
}
