//! Processes that run beside the test, and end with their guard.

use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

use crate::{command, wait};

/// A running process with all that it has said; killed with this guard.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    said: Arc<Mutex<Vec<String>>>,
}

impl Process {
    /// Starts `command`. It gets a process group of its own, so that Ctrl-C reaches it through us and in our order.
    ///
    /// # Errors
    ///
    /// It could not be started.
    pub fn start(name: &str, mut command: Command) -> Result<Self> {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn()
            .with_context(|| format!("start {}", command::line(&command)))?;
        let said = Arc::default();
        for stream in [child.stdout.take().map(boxed), child.stderr.take().map(boxed)].into_iter().flatten() {
            collect(stream, Arc::clone(&said));
        }
        Ok(Self { name: name.to_owned(), child, said })
    }

    /// Starts `command`, which writes to where we write. Nothing of what it says is kept.
    ///
    /// # Errors
    ///
    /// It could not be started.
    pub fn start_in_view(name: &str, mut command: Command) -> Result<Self> {
        let child = command.stdin(Stdio::null()).process_group(0).spawn();
        let child = child.with_context(|| format!("start {}", command::line(&command)))?;
        Ok(Self { name: name.to_owned(), child, said: Arc::default() })
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// Its exit status, once it has ended.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// All lines that it wrote so far, to standard output and standard error.
    #[must_use]
    pub fn said(&self) -> Vec<String> {
        self.said.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits until `ready` holds.
    ///
    /// # Errors
    ///
    /// The process ended, or `ready` did not come to hold in time: with what the process said.
    pub fn wait_until(&mut self, what: &str, mut ready: impl FnMut(&Self) -> bool) -> Result<()> {
        let outcome = wait::until(wait::READY, what, || {
            if let Some(status) = self.ended() {
                return Some(Err(status));
            }
            ready(self).then_some(Ok(()))
        });
        match outcome {
            Ok(Ok(())) => Ok(()),
            Ok(Err(status)) => bail!("{} ended ({status}) before {what}. {}", self.name, self.last_words()),
            Err(error) => Err(error.context(self.last_words())),
        }
    }

    /// Waits until it has written a line with `text` in it.
    ///
    /// # Errors
    ///
    /// As for [`Self::wait_until`].
    pub fn wait_for_line(&mut self, text: &str) -> Result<()> {
        self.wait_until(&format!("a line with {text:?}"), |process| {
            process.said().iter().any(|line| line.contains(text))
        })
    }

    /// Sends `signal`.
    ///
    /// # Errors
    ///
    /// It is gone.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        kill_process(self.pid(), signal).with_context(|| format!("signal {}", self.name))
    }

    /// Waits for its end.
    ///
    /// # Errors
    ///
    /// It still runs after `limit`.
    pub fn wait(&mut self, limit: Duration) -> Result<ExitStatus> {
        wait::until(limit, &format!("{} to end", self.name), || self.child.try_wait().transpose())?
            .with_context(|| format!("wait for {}", self.name))
    }

    /// Asks it to end with SIGTERM, and waits.
    ///
    /// # Errors
    ///
    /// It was gone already, or does not obey.
    pub fn stop(&mut self) -> Result<ExitStatus> {
        self.signal(Signal::TERM)?;
        self.wait(wait::READY).with_context(|| self.last_words())
    }

    /// Ends it as a crash would: with SIGKILL.
    ///
    /// # Errors
    ///
    /// It is gone.
    pub fn kill(&mut self) -> Result<()> {
        self.signal(Signal::KILL)?;
        self.wait(wait::READY).map(drop)
    }

    fn last_words(&self) -> String {
        const SHOWN: usize = 30;
        let said = self.said();
        let mut words = format!("{} said:", self.name);
        for line in &said[said.len().saturating_sub(SHOWN)..] {
            let _ = write!(words, "\n    {line}");
        }
        words
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.ended().is_none() {
            // Only our own child is meant, and it has not been waited for: the id can't be another's.
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
        if thread::panicking() {
            eprintln!("{}", self.last_words());
        }
    }
}

fn boxed(stream: impl Read + Send + 'static) -> Box<dyn Read + Send> {
    Box::new(stream)
}

fn collect(stream: Box<dyn Read + Send>, said: Arc<Mutex<Vec<String>>>) {
    thread::spawn(move || {
        let mut stream = BufReader::new(stream);
        let mut line = Vec::new();
        while stream.read_until(b'\n', &mut line).is_ok_and(|length| length > 0) {
            let text = String::from_utf8_lossy(&line).trim_end().to_owned();
            said.lock().unwrap_or_else(PoisonError::into_inner).push(text);
            line.clear();
        }
    });
}
