//! Ctrl-C and SIGTERM, which ask for everything to be taken down.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock};

use anyhow::Result;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

static ASKED: LazyLock<Arc<AtomicBool>> = LazyLock::new(Arc::default);

/// From now on the signals are noted, not fatal. A second one ends the program at once, as for any other.
pub(crate) fn catch() -> Result<()> {
    for signal in [SIGINT, SIGTERM] {
        flag::register_conditional_default(signal, Arc::clone(&ASKED))?;
        flag::register(signal, Arc::clone(&ASKED))?;
    }
    Ok(())
}

/// Whether the user asked for the end.
pub(crate) fn came() -> bool {
    ASKED.load(Ordering::Relaxed)
}
