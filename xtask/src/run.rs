//! `cargo xtask run`: rprox at work, in a playground or on a real interface.

mod host;
mod playground;
mod podman;

use std::ffi::OsStr;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;

use crate::{build, privilege, setup};

/// The flags of `cargo xtask run`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  cargo xtask run                 a playground, until Ctrl-C
  cargo xtask run --once          only its table; exit status 0 if every row is right
  cargo xtask run --podman        a host with real rootless Podman, until Ctrl-C
  cargo xtask run -i eth0 -c rprox.toml
  cargo xtask run -i eth0 -- --route registry.example.com=container-registry:80 --dns-server 10.89.0.1:53")]
pub(crate) struct Arguments {
    /// End after the table
    #[arg(long, conflicts_with = "interface")]
    once: bool,
    /// Instead of the playground, a host with an ordinary user's rootless Podman: real pods, and the proxy in a container
    #[arg(long, conflicts_with = "interface")]
    podman: bool,
    /// Run on this interface of the real host, without a playground
    #[arg(short, long, value_name = "NAME")]
    interface: Option<String>,
    /// The agent's configuration, on the real host
    #[arg(short, long, value_name = "FILE", requires = "interface")]
    config: Option<PathBuf>,
    /// Whom the agent runs as, on the real host [default: who called sudo]
    #[arg(long, value_name = "NAME", requires = "interface")]
    user: Option<String>,
    /// Take everything as set up and built
    #[arg(long, hide = true)]
    prebuilt: bool,
    /// Flags for the agent, on the real host
    #[arg(last = true, value_name = "AGENT FLAG", requires = "interface")]
    agent_flags: Vec<String>,
}

/// Sets up, builds and runs.
pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    // What can be refused is refused before the long steps.
    if let Some(interface) = &arguments.interface {
        host::check(interface, arguments)?;
    }
    if !arguments.prebuilt {
        if arguments.interface.is_none() {
            setup::for_playing()?;
        }
        if arguments.podman {
            setup::for_podman()?;
        }
        build::build(build::Profile::Release)?;
    }
    if !privilege::is_root() {
        let given: Vec<_> = std::env::args_os().skip(1).collect();
        let mut words: Vec<&OsStr> = given.iter().map(AsRef::as_ref).collect();
        words.insert(1, OsStr::new("--prebuilt"));
        let purpose = if arguments.interface.is_some() {
            "attach the kernel programs"
        } else {
            "make network namespaces and attach the kernel programs"
        };
        return privilege::again_as_root(words.into_iter(), purpose);
    }
    match &arguments.interface {
        Some(interface) => host::run(interface, arguments),
        None if arguments.podman => podman::run(arguments.once),
        None => playground::run(arguments.once),
    }
}
