//! `rprox-loader`: started by root, attaches the redirect.

#![forbid(unsafe_code)]

use std::fmt::Display;
use std::io::{self, Write as _};
use std::process::ExitCode;

use clap::Parser as _;
use rprox_agent::cli::{exit, init_logging};
use rprox_agent::loader::{self, cli::Cli};

/// Said unless the operator says otherwise: the netlink library warns of every attribute that is newer than itself.
const QUIET: &str = "netlink_packet_route=error";

/// Says why it failed. Where nobody reads it the exit status still tells.
fn say(error: &dyn Display) {
    _ = writeln!(io::stderr(), "rprox-loader: {error}");
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    if let Err(error) = init_logging(&format!("{QUIET},{}", cli.log_level), cli.log_format) {
        say(&error);
        return exit::USAGE.into();
    }
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            say(&format_args!("starting: {error}"));
            return exit::FAILED.into();
        }
    };
    match runtime.block_on(loader::run(cli.command)) {
        Ok(()) => exit::OK.into(),
        Err(error) => {
            say(&error);
            error.exit_status().into()
        }
    }
}
