//! Running a command to its end.

use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

/// No command here has more to do than this; one that waits for ever is ended.
const LIMIT: Duration = Duration::from_mins(2);

/// What a command that ended left behind.
#[derive(Debug, Clone)]
pub struct Finished {
    /// Its exit status; `None` when a signal ended it.
    pub code: Option<i32>,
    /// All of standard output.
    pub stdout: String,
    /// All of standard error.
    pub stderr: String,
}

/// Runs `command`, whatever its exit status will be.
///
/// # Errors
///
/// It could not be started, or does not end.
pub fn finish(command: &mut Command) -> Result<Finished> {
    finish_within(LIMIT, command)
}

/// As [`finish`], for commands that have more to do.
///
/// # Errors
///
/// As for [`finish`].
pub fn finish_within(limit: Duration, command: &mut Command) -> Result<Finished> {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.spawn().with_context(|| format!("start {}", line(command)))?;
    let pid = Pid::from_child(&child);
    let (report, ended) = mpsc::channel();
    thread::spawn(move || report.send(child.wait_with_output()));
    let Ok(output) = ended.recv_timeout(limit) else {
        // It has not been waited for, so the id is still its own.
        kill_process(pid, Signal::KILL).with_context(|| format!("end {}", line(command)))?;
        bail!("{} did not end within {limit:?}", line(command));
    };
    let output = output.with_context(|| format!("wait for {}", line(command)))?;
    Ok(Finished {
        code: output.status.code(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    })
}

/// Runs `command` and returns its standard output.
///
/// # Errors
///
/// It could not be started, or failed: then with what it said.
pub fn run(command: &mut Command) -> Result<String> {
    run_within(LIMIT, command)
}

/// As [`run`], for commands that have more to do.
///
/// # Errors
///
/// As for [`run`].
pub fn run_within(limit: Duration, command: &mut Command) -> Result<String> {
    let finished = finish_within(limit, command)?;
    if finished.code != Some(0) {
        let said = format!("{}{}", finished.stdout, finished.stderr);
        bail!("{} ended with {}: {}", line(command), status(finished.code), said.trim());
    }
    Ok(finished.stdout)
}

/// The command as one would type it.
#[must_use]
pub fn line(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| quoted(&word.to_string_lossy())).collect::<Vec<_>>().join(" ")
}

fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=,@%+[]".contains(c);
    if !word.is_empty() && word.chars().all(plain) { word.to_owned() } else { format!("'{word}'") }
}

fn status(code: Option<i32>) -> String {
    code.map_or_else(|| "a signal".to_owned(), |code| format!("status {code}"))
}
