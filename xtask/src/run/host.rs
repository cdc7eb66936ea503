//! rprox on an interface of the real host: no playground, the user's own network.

use std::net::{Ipv4Addr, UdpSocket};
use std::path::Path;
use std::process::{Command, ExitCode};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rprox_tests::command;
use rprox_tests::process::Process;
use rprox_tests::programs::Programs;
use rprox_tests::run_dir::RunDir;

use super::Arguments;
use crate::{interrupt, privilege};

/// Refuses what can't work, before anything is built.
pub(super) fn check(interface: &str, arguments: &Arguments) -> Result<()> {
    if !has_interface(interface)? {
        bail!("there is no interface {interface}: `ip -brief link` lists them");
    }
    if arguments.config.is_none() && arguments.agent_flags.is_empty() {
        bail!(
            "the agent needs to know what to route where: give --config rprox.toml, or flags after `--`, such as\n  \
             cargo xtask run --interface {interface} -- --route registry.example.com=container-registry:80 \
             --dns-server 10.89.0.1:53"
        );
    }
    if let Some(file) = arguments.config.as_deref().filter(|file| !file.exists()) {
        bail!("there is no configuration {}", file.display());
    }
    if privilege::is_root() {
        user(arguments)?;
    }
    Ok(())
}

/// Runs agent and loader until Ctrl-C or until one of them ends.
pub(super) fn run(interface: &str, arguments: &Arguments) -> Result<ExitCode> {
    let programs = Programs::find()?;
    interrupt::catch()?;
    // A copy: the build may lie where the agent's user can't reach it.
    let run_dir = RunDir::new()?;
    let agent = run_dir.copy_of(&programs.agent)?;

    let user = user(arguments)?;
    let mut command = unprivileged(&user, &agent)?;
    command.arg("run");
    if let Some(file) = &arguments.config {
        command.arg("--config").arg(std::path::absolute(file)?);
    }
    command.args(&arguments.agent_flags);
    eprintln!("==> rprox-agent as {user}");
    let agent = Process::start_in_view("rprox-agent", command)?;

    eprintln!("==> rprox-loader on {interface}");
    let mut command = Command::new(&programs.loader);
    command.args(["run", "--interface", interface, "--owner", &user]);
    let loader = Process::start_in_view("rprox-loader", command)?;
    eprintln!("    Ctrl-C ends both and removes the redirect");

    // In the order they are to end: the agent's connections need the redirect until they are drained.
    let mut running = [("rprox-agent", agent), ("rprox-loader", loader)];
    let mut failed = false;
    while !interrupt::came() && !failed {
        for (name, process) in &mut running {
            if let Some(status) = process.ended() {
                eprintln!("error: {name} ended by itself ({status})");
                failed = true;
            }
        }
        thread::sleep(Duration::from_millis(100));
    }
    for (name, process) in &mut running {
        if process.ended().is_none() {
            eprintln!("==> {name} is asked to end");
            process.signal(rustix::process::Signal::TERM)?;
            // As long as draining may take by default, and then some.
            let status = process.wait(Duration::from_mins(1))?;
            failed |= !status.success();
        }
    }
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn has_interface(name: &str) -> Result<bool> {
    // Any socket will do to ask the kernel by.
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    Ok(rustix::net::netdevice::name_to_index(&socket, name).is_ok())
}

/// Whom the agent is to run as.
fn user(arguments: &Arguments) -> Result<String> {
    let asked = arguments.user.clone().or_else(|| std::env::var("SUDO_USER").ok());
    let user = asked.context("the agent must not run as root: say whom it is to run as with --user NAME")?;
    let id =
        command::run(Command::new("id").args(["-u", &user])).with_context(|| format!("no user {user}"))?;
    if id.trim() == "0" {
        bail!("the agent must not run as root: say another user with --user NAME");
    }
    Ok(user)
}

/// A command that runs `program` as `user` with the user's groups, no capability and no way to get one.
fn unprivileged(user: &str, program: &Path) -> Result<Command> {
    let group = command::run(Command::new("id").args(["-g", user]))?;
    let mut command = Command::new("setpriv");
    command
        .args(["--reuid", user, "--regid", group.trim(), "--init-groups"])
        .args(["--no-new-privs", "--inh-caps=-all", "--bounding-set=-all", "--"])
        .arg(program);
    Ok(command)
}
