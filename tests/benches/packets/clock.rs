//! Processor time to fractions of a nanosecond: the kernel's own figure for a run is cut off to whole ones, of which there are few.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// Nanoseconds of this thread's processor time for each of the `repeat` runs that `call` does: the least of `calls`.
pub(crate) fn nanoseconds_each(calls: usize, repeat: u32, mut call: impl FnMut()) -> f64 {
    let times = (0..calls).map(|_| {
        let before = processor_time();
        call();
        processor_time().saturating_sub(before).as_secs_f64() * 1e9 / f64::from(repeat)
    });
    times.fold(f64::INFINITY, f64::min)
}

fn processor_time() -> Duration {
    clock_gettime(ClockId::ThreadCPUTime).try_into().unwrap_or_default()
}
