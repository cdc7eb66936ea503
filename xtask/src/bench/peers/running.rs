//! A proxy at work, and what it costs.

use std::time::Duration;

use anyhow::{Result, ensure};
use rprox_tests::process::Process;
use rustix::process::Signal;

use super::super::cost;
use super::Peer;

/// A proxy that runs.
pub(in super::super) struct Running {
    pub(in super::super) peer: Peer,
    pub(super) process: Process,
}

impl Running {
    /// Has it end in its own way.
    ///
    /// # Errors
    ///
    /// It was gone already, or does not end well.
    pub(in super::super) fn stop(mut self) -> Result<()> {
        let status = self.process.stop()?;
        ensure!(status.success(), "{} ended with {status}", self.peer.name());
        Ok(())
    }

    /// Processor time that it uses while `work` is done.
    ///
    /// # Errors
    ///
    /// It has ended, or those of `work`.
    pub(in super::super) fn time_for(&self, work: impl FnOnce() -> Result<()>) -> Result<Duration> {
        let before = cost::processor_time(self.process.pid())?;
        work()?;
        Ok(cost::processor_time(self.process.pid())?.saturating_sub(before))
    }

    /// Memory that it has, in bytes.
    pub(in super::super) fn memory(&self) -> Result<u64> {
        cost::memory(self.process.pid())
    }

    /// Has it load its configuration anew, and waits for the line with `done`.
    ///
    /// # Errors
    ///
    /// It has ended, or does not say so.
    pub(in super::super) fn reload(&mut self, done: &str) -> Result<()> {
        let count = |process: &Process| process.said().iter().filter(|line| line.contains(done)).count();
        let before = count(&self.process);
        self.process.signal(Signal::HUP)?;
        self.process.wait_until("a reload", |process| count(process) > before)
    }
}
