//! A new build takes the place of the one that runs, and no connection notices.
//!
//! The old process starts the new one and passes on every listening socket, of a `SO_REUSEPORT` group each member: a connection
//! that waits in a socket's queue is then accepted by the one or the other. Only when the new one says that it serves does
//! the old one stop accepting. If it never does, nothing has changed.

#![forbid(unsafe_code)]

use std::env;
use std::ffi::OsString;
use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd, RawFd};
use std::path::PathBuf;
use std::process::{Child, Command};
use std::time::Duration;

use rustix::io::{dup, fcntl_dupfd_cloexec};
use rustix::pipe::{PipeFlags, pipe_with};
use thiserror::Error;
use tokio::io::AsyncReadExt as _;
use tokio::net::unix::pipe::Receiver;
use tokio::time::{Instant, timeout_at};

use super::activation;

/// Says to the new process which descriptor is what, each on a line of its own.
const VARIABLE: &str = "RPROX_HANDOVER";

/// The descriptor by which the new process says that it serves.
const READY: &str = "ready";

/// What it says.
const SERVES: &[u8] = b"serves";

/// How long the new process may take to start.
const PATIENCE: Duration = Duration::from_mins(1);

/// Why no new process has taken over. This one serves on.
#[derive(Debug, Error)]
pub enum HandoverError {
    /// In a container, whose end is that of its first process.
    #[error(
        "as process 1 the agent can't give its place away: replace the container; with sockets passed by systemd no \
         connection is refused meanwhile"
    )]
    First,
    /// There is one already, or this one is ending.
    #[error("another process is taking over already, or this one is ending")]
    Busy,
    /// The new process can't be started.
    #[error("can't start {}: {error}", program.display())]
    Start {
        /// The program.
        program: PathBuf,
        /// What the kernel said.
        #[source]
        error: io::Error,
    },
    /// The new process ended before it served.
    #[error("the new process ended before it served ({0}); the log has its reasons")]
    Ended(String),
    /// The new process took too long.
    #[error("the new process did not serve within {PATIENCE:?} and was ended")]
    Late,
}

/// What was started, and so is to be started again.
pub struct Successor {
    program: PathBuf,
    arguments: Vec<OsString>,
}

/// A new process on its way to serving.
pub struct Starting {
    child: Child,
    ready: Receiver,
    said: Vec<u8>,
    deadline: Instant,
}

impl Successor {
    /// The program at the path that this one was started from, whatever is there when it is started, with the same arguments.
    ///
    /// # Errors
    ///
    /// When that path can't be found out.
    pub fn of_this() -> io::Result<Self> {
        Ok(Self { program: env::current_exe()?, arguments: env::args_os().skip(1).collect() })
    }

    /// Starts it with `sockets`, each with what it is.
    ///
    /// # Errors
    ///
    /// When it can't be started.
    pub fn start(&self, sockets: &[(String, BorrowedFd<'_>)]) -> Result<Starting, HandoverError> {
        if rustix::process::getpid().is_init() {
            return Err(HandoverError::First);
        }
        self.spawn(sockets).map_err(|error| HandoverError::Start { program: self.program.clone(), error })
    }

    fn spawn(&self, sockets: &[(String, BorrowedFd<'_>)]) -> io::Result<Starting> {
        let (ready, says_ready) = pipe_with(PipeFlags::CLOEXEC)?;
        let all = sockets.iter().map(|(name, socket)| (name.as_str(), *socket));
        let mut meaning = String::new();
        // A duplicate lacks the mark that has the kernel close a descriptor when a program starts.
        let mut inherited = Vec::new();
        for (name, socket) in all.chain([(READY, says_ready.as_fd())]) {
            let duplicate = dup(socket)?;
            let _ = writeln!(meaning, "{} {name}", duplicate.as_raw_fd());
            inherited.push(duplicate);
        }
        let child = Command::new(&self.program)
            .args(&self.arguments)
            .env(VARIABLE, meaning)
            // What systemd passed was for this process.
            .env_remove("LISTEN_PID")
            .env_remove("LISTEN_FDS")
            .env_remove("LISTEN_FDNAMES")
            .spawn()?;
        let ready = Receiver::from_owned_fd(ready)?;
        Ok(Starting { child, ready, said: Vec::new(), deadline: Instant::now() + PATIENCE })
    }
}

impl Starting {
    /// Waits until the new process serves; then it is on its own. Returns its process number. Where the wait is broken off it
    /// can be taken up again.
    ///
    /// # Errors
    ///
    /// When it ends first, or takes too long.
    pub async fn serves(&mut self) -> Result<u32, HandoverError> {
        let all = async { while matches!(self.ready.read_buf(&mut self.said).await, Ok(1..)) {} };
        match timeout_at(self.deadline, all).await {
            Ok(()) if self.said == SERVES => Ok(self.child.id()),
            Ok(()) => {
                // Its end of the pipe is closed, so it has ended or is about to.
                let _ = self.child.kill();
                let status =
                    self.child.wait().map_or_else(|error| error.to_string(), |status| status.to_string());
                Err(HandoverError::Ended(status))
            }
            Err(_) => {
                let _ = self.child.kill();
                let _ = self.child.wait();
                Err(HandoverError::Late)
            }
        }
    }
}

/// What the process whose place this one takes has passed on.
#[derive(Default)]
pub struct Inherited {
    sockets: Vec<(String, OwnedFd)>,
    ready: Option<OwnedFd>,
}

impl Inherited {
    /// All of it; nothing where this process takes nobody's place. To be called once.
    ///
    /// # Errors
    ///
    /// When what is said of it is not so.
    pub fn take() -> io::Result<Self> {
        let mut inherited = Self::default();
        let meaning = env::var(VARIABLE).unwrap_or_default();
        for line in meaning.lines() {
            let (number, name) = line.split_once(' ').unwrap_or((line, ""));
            let number: RawFd = number.parse().map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
            let passed = activation::adopt(number)?;
            // Not to be passed on by accident: the duplicate closes when a program starts.
            let socket = fcntl_dupfd_cloexec(&passed, 3)?;
            if name == READY {
                inherited.ready = Some(socket);
            } else {
                inherited.sockets.push((name.to_owned(), socket));
            }
        }
        Ok(inherited)
    }

    /// Those called `name`, in their order.
    pub fn sockets(&mut self, name: &str) -> Vec<OwnedFd> {
        let called = self.sockets.extract_if(.., |(called, _)| called == name);
        called.map(|(_, socket)| socket).collect()
    }

    /// Says that this process serves.
    ///
    /// # Errors
    ///
    /// When nobody listens any more.
    pub fn serves(&mut self) -> io::Result<()> {
        match self.ready.take() {
            Some(ready) => std::fs::File::from(ready).write_all(SERVES),
            None => Ok(()),
        }
    }
}
