//! Waiting for a condition, never for a time to pass.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// How long anything in the playground may take to come up: far more than it needs, also on a busy emulated machine, so that only what is
/// broken fails.
pub const READY: Duration = Duration::from_mins(1);

const BETWEEN_LOOKS: Duration = Duration::from_millis(5);

/// Looks until `look` gives a value, and returns it.
///
/// # Errors
///
/// `what` did not come within `limit`.
pub fn until<T>(limit: Duration, what: &str, mut look: impl FnMut() -> Option<T>) -> Result<T> {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(value) = look() {
            return Ok(value);
        }
        if Instant::now() >= deadline {
            bail!("waited {limit:?} for {what}, in vain");
        }
        thread::sleep(BETWEEN_LOOKS);
    }
}
