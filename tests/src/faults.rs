//! Faults at chosen steps of a program, without a change to it: strace ends it at a system call, or has the call fail.

use std::collections::HashMap;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::command::{self, Finished};
use crate::programs;

/// The system calls by which the loader changes anything: kernel objects, pins and notes, mounts, qdiscs and filters. Those that
/// an architecture lacks are left out (`?`).
const CALLS: &str = "bpf,?mkdir,?mkdirat,?symlink,?symlinkat,?rename,?renameat,?renameat2,?unlink,?unlinkat,?rmdir,mount,sendto";

/// Commands of bpf(2) that change nothing which outlives the process.
const PASSING: [&str; 8] = [
    "BPF_BTF_LOAD",
    "BPF_MAP_CREATE",
    "BPF_MAP_FREEZE",
    "BPF_MAP_GET_NEXT_KEY",
    "BPF_MAP_LOOKUP_",
    "BPF_OBJ_GET",
    "BPF_PROG_LOAD",
    "BPF_PROG_TEST_RUN",
];

/// How strace writes the flag of a netlink request that only asks (`NLM_F_DUMP`).
const DUMP: &str = "0x300";

/// What happens at a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The program is killed, and the call is not carried out.
    Killed,
    /// The call is refused, with EPERM.
    Refused,
    /// The program is stopped, as by `kill -STOP`, right after the call.
    Suspended,
}

/// One system call of a program's run.
#[derive(Debug, Clone)]
pub struct Step {
    /// The system call.
    call: String,
    /// Which of the calls of that name it is, from 1.
    place: usize,
    /// The call as strace writes it.
    line: String,
}

impl Step {
    /// Whether what the call does outlives the process.
    #[must_use]
    pub fn lasts(&self) -> bool {
        let asks = self.call == "sendto" && self.line.contains(DUMP);
        !asks && !PASSING.iter().any(|passing| self.line.contains(&format!("bpf({passing}")))
    }

    /// Whether the kernel can refuse the call. What is wrong with a netlink request it says in an answer; the sending does not fail.
    #[must_use]
    pub fn can_be_refused(&self) -> bool {
        self.call != "sendto"
    }

    /// Whether the call as strace writes it has `text` in it.
    #[must_use]
    pub fn holds(&self, text: &str) -> bool {
        self.line.contains(text)
    }

    /// The system call, with the command of bpf(2): what two similar steps have in common.
    #[must_use]
    pub fn kind(&self) -> &str {
        self.line.split([',', '"', '/']).next().unwrap_or(&self.call)
    }
}

impl std::fmt::Display for Step {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        const SHOWN: usize = 110;
        write!(f, "{} {}: {:.SHOWN$}", self.call, self.place, self.line)
    }
}

/// Runs `command` to its end, and returns the steps that it took.
///
/// # Errors
///
/// strace is missing, or the command failed.
pub fn steps(command: &Command, folder: &Path) -> Result<Vec<Step>> {
    let trace = folder.join("trace");
    let mut strace = strace(command, &["-e", &format!("trace={CALLS}"), "-o"], &trace)?;
    command::run(&mut strace)?;
    let text = std::fs::read_to_string(&trace).context("read what strace wrote")?;
    let mut places: HashMap<&str, usize> = HashMap::new();
    let mut steps = Vec::new();
    for line in text.lines() {
        let Some((call, _)) = line.split_once('(') else { continue };
        let place = places.entry(call).or_default();
        *place += 1;
        steps.push(Step { call: call.to_owned(), place: *place, line: line.to_owned() });
    }
    if steps.is_empty() {
        bail!("strace saw no step of {}", command::line(command));
    }
    Ok(steps)
}

/// The command that runs `command` with `fault` at `step`.
///
/// # Errors
///
/// strace is missing.
pub fn faulty(command: &Command, fault: Fault, step: &Step) -> Result<Command> {
    let Step { call, place, .. } = step;
    let injection = match fault {
        Fault::Killed => format!("inject={call}:signal=KILL:when={place}"),
        Fault::Refused => format!("inject={call}:error=EPERM:when={place}"),
        Fault::Suspended => format!("inject={call}:signal=STOP:when={place}"),
    };
    strace(command, &["-e", &format!("trace={call}"), "-e", &injection, "-o"], Path::new("/dev/null"))
}

/// Runs `command` with `fault` at `step`.
///
/// # Errors
///
/// strace is missing, or the command does not end.
pub fn run(command: &Command, fault: Fault, step: &Step) -> Result<Finished> {
    command::finish(&mut faulty(command, fault, step)?)
}

fn strace(command: &Command, flags: &[&str], output: &Path) -> Result<Command> {
    let Some(strace) = programs::find("strace") else {
        bail!("strace, which makes the faults, is missing: `cargo xtask setup` installs it");
    };
    let mut traced = Command::new(strace);
    // Only the thread that does the work: the loader has one, and what it starts is not to be hit.
    traced.args(["-qqq", "--signal=none"]).args(flags).arg(output);
    traced.arg(command.get_program()).args(command.get_args());
    Ok(traced)
}
