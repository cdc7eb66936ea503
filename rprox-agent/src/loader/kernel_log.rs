//! Log lines of the kernel programs: a sample of the packets that they refuse or can't parse, for `run --log-level debug` alone.
//!
//! Whether programs write them is fixed when they are loaded, so that it costs nothing where nobody reads them.

#![forbid(unsafe_code)]

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use aya::EbpfLoader;
use aya_log::EbpfLogger;
use rprox_common::map;
use thiserror::Error;
use tokio::task::JoinHandle;
use tokio::time::interval;

use super::object;
use super::pins::{PinError, Pins};

/// Of so many events one gets a line.
const SAMPLE: u32 = 64;
/// How often the ring buffer is looked at: soon enough for somebody who reads along.
const LOOK: Duration = Duration::from_millis(250);
/// What it is written down under.
const NOTE: &str = "log_one_in";

/// As the log level is, it is the process' own: of how many events one gets a line; 0 is none.
static ONE_IN: AtomicU32 = AtomicU32::new(0);

/// Why the lines can't be read.
#[derive(Debug, Error)]
pub enum KernelLogError {
    /// The ring buffer can't be opened.
    #[error("opening the kernel programs' log: {0}")]
    Open(#[from] Box<aya::EbpfError>),
    /// It is no log.
    #[error("reading the kernel programs' log: {0}")]
    Logger(#[from] aya_log::Error),
}

/// Has programs that are loaded from now on write lines, if debug lines are wanted.
pub fn want_if_debugging() {
    if tracing::enabled!(tracing::Level::DEBUG) {
        ONE_IN.store(SAMPLE, Ordering::Relaxed);
    }
}

/// Of how many events one gets a line, in programs that are loaded now; 0 is none.
#[must_use]
pub fn one_in() -> u32 {
    ONE_IN.load(Ordering::Relaxed)
}

/// Writes down what the attached programs were loaded with.
///
/// # Errors
///
/// The bpffs refused.
pub fn note(pins: &Pins) -> Result<(), PinError> {
    pins.note(NOTE, &one_in().to_string())
}

/// Whether the attached programs log as programs that are loaded now would: their tags don't tell.
#[must_use]
pub fn is_current(pins: &Pins) -> bool {
    noted(pins) == one_in()
}

/// What the attached programs were loaded with, as written down.
#[must_use]
pub fn noted(pins: &Pins) -> u32 {
    pins.noted(NOTE).map_or(0, |noted| noted.parse().unwrap_or(0))
}

/// Writes the lines of an attachment to the log, as long as it lives.
#[derive(Debug)]
pub struct Reader(JoinHandle<()>);

impl Reader {
    /// Reads the lines of the attachment in `pins`; `None` where none are wanted.
    ///
    /// # Errors
    ///
    /// The kernel refused.
    pub fn open(pins: &Pins) -> Result<Option<Self>, KernelLogError> {
        if one_in() == 0 {
            return Ok(None);
        }
        let mut loader = EbpfLoader::new();
        loader.btf(None);
        for name in map::ALL {
            loader.map_pin_path(name, pins.map(name));
        }
        // The programs are not loaded: this only opens the pinned maps.
        let mut ebpf = loader.load(object::bytes()).map_err(Box::new)?;
        let mut logger = EbpfLogger::init(&mut ebpf)?;
        Ok(Some(Self(tokio::spawn(async move {
            let mut looks = interval(LOOK);
            loop {
                looks.tick().await;
                logger.flush();
            }
        }))))
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.0.abort();
    }
}
