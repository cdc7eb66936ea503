//! Runs a machine and reads its console.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::folder;
use super::initramfs::RESULT;
use crate::steps::Step;

/// A machine that says nothing for so long hangs.
const LONGEST_SILENCE: Duration = Duration::from_mins(5);
/// As does one that runs for so long.
const LONGEST_RUN: Duration = Duration::from_mins(20);

/// A running machine, which ends with this guard.
struct Machine(Child);

impl Drop for Machine {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Boots `kernel` with `initramfs`, shows how its tests go, and returns how many passed.
pub(super) fn boot(kernel: &Path, initramfs: &Path, step: &Step) -> Result<usize> {
    let mut qemu = Command::new("qemu-system-x86_64");
    qemu.args(["-accel", "tcg,thread=multi", "-smp", "2", "-m", "1536", "-nographic", "-no-reboot"])
        .args(["-nic", "none", "-append", "console=ttyS0 quiet panic=-1"])
        .arg("-kernel")
        .arg(kernel)
        .arg("-initrd")
        .arg(initramfs)
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    let mut machine = Machine(qemu.spawn().context("run qemu-system-x86_64")?);
    let console = machine.0.stdout.take().context("a pipe")?;
    let (lines, read) = mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(console).split(b'\n').map_while(Result::ok) {
            if lines.send(String::from_utf8_lossy(&line).trim_end().to_owned()).is_err() {
                return;
            }
        }
    });

    let log_path = folder().join("console.log");
    let mut log = File::create(&log_path)?;
    let deadline = Instant::now() + LONGEST_RUN;
    let (mut passed, mut result, mut said) = (0, None, String::new());
    let outcome = loop {
        let patience = deadline.saturating_duration_since(Instant::now()).min(LONGEST_SILENCE);
        match read.recv_timeout(patience) {
            Ok(line) => {
                writeln!(log, "{line}")?;
                said.push_str(&line);
                said.push('\n');
                if let Some(all) = line.strip_prefix(RESULT) {
                    result = Some(all.trim() == "0");
                }
                if line.starts_with("test ") {
                    passed += usize::from(line.ends_with(" ok"));
                    step.note(&line);
                }
            }
            Err(RecvTimeoutError::Disconnected) => {
                break match result {
                    Some(true) if passed > 0 => return Ok(passed),
                    Some(_) => "tests failed in the machine",
                    None => "the machine ended without a result",
                };
            }
            Err(RecvTimeoutError::Timeout) => break "the machine hangs",
        }
    };
    bail!("{said}\n{outcome}; all that it said is above, and in {}", log_path.display())
}
