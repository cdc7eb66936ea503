//! `rprox-agent`: routes what arrives to pods, without a privilege.

#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::Parser as _;
use rprox_agent::cli::exit;
use rprox_agent::proxy::cli::Cli;

fn main() -> ExitCode {
    match Cli::parse().command.execute() {
        Ok(()) => exit::OK.into(),
        Err(error) => {
            eprintln!("rprox-agent: {error}");
            error.exit_status().into()
        }
    }
}
