//! Gives an order to the agent that runs.

#![forbid(unsafe_code)]

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use thiserror::Error;

/// Why an order was not carried out.
#[derive(Debug, Error)]
pub enum CallError {
    /// Nobody to give it to.
    #[error("no agent answers at {}: {error}; is it running, and by the same user?", path.display())]
    Connect {
        /// The socket.
        path: PathBuf,
        /// What connecting to it gave.
        #[source]
        error: io::Error,
    },
    /// The agent said something else than yes or no.
    #[error("{}: the answer can't be understood: {answer}", path.display())]
    Answer {
        /// The socket.
        path: PathBuf,
        /// What came.
        answer: String,
    },
    /// The agent said no, and why.
    #[error("{0}")]
    Refused(String),
}

/// Sends `order`, `reload` or the like, to the agent whose admin socket is at `path`, and waits until it is carried out.
///
/// # Errors
///
/// When there is no agent, or it refuses.
pub fn order(path: &Path, order: &str) -> Result<(), CallError> {
    let failed = |error| CallError::Connect { path: path.to_owned(), error };
    let mut stream = UnixStream::connect(path).map_err(failed)?;
    write!(stream, "POST /{order} HTTP/1.1\r\nHost: rprox\r\nContent-Length: 0\r\n\r\n").map_err(failed)?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).map_err(failed)?;
    let body = answer.split_once("\r\n\r\n").map(|(_, body)| body.trim_end().to_owned());
    match (answer.split(' ').nth(1), body) {
        (Some("200"), _) => Ok(()),
        (Some("409" | "503"), Some(reason)) => Err(CallError::Refused(reason)),
        _ => Err(CallError::Answer { path: path.to_owned(), answer }),
    }
}
