//! What a process costs: processor time and memory, its children's included.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::process::Pid;

/// Processor time that the process and its children have used so far, to the nanosecond.
///
/// The scheduler's own account (`/proc/PID/task/TID/schedstat`): that of `/proc/PID/stat` counts in ticks of 10 ms. Threads
/// that have ended are not in it, and no peer here ends any while it serves.
pub(super) fn processor_time(pid: Pid) -> Result<Duration> {
    let mut total = 0;
    for task in tasks(pid)? {
        let text = fs::read_to_string(format!("{task}/schedstat")).unwrap_or_default();
        total += text.split_whitespace().next().and_then(|time| time.parse::<u64>().ok()).unwrap_or(0);
    }
    for child in children(pid)? {
        total += u64::try_from(processor_time(child)?.as_nanos())?;
    }
    Ok(Duration::from_nanos(total))
}

/// Memory of the process and its children in bytes, what they share counted once (`Pss` in `/proc/PID/smaps_rollup`).
pub(super) fn memory(pid: Pid) -> Result<u64> {
    let file = format!("/proc/{}/smaps_rollup", pid.as_raw_nonzero());
    let text = fs::read_to_string(&file).with_context(|| file.clone())?;
    let kib = text.lines().find_map(|line| line.strip_prefix("Pss:")?.trim().strip_suffix(" kB"));
    let kib: u64 = kib.with_context(|| format!("{file} has no Pss"))?.trim().parse()?;
    children(pid)?.into_iter().try_fold(kib * 1024, |sum, child| Ok(sum + memory(child)?))
}

fn tasks(pid: Pid) -> Result<Vec<String>> {
    let folder = format!("/proc/{}/task", pid.as_raw_nonzero());
    let entries = fs::read_dir(&folder).with_context(|| format!("{folder}: the process is no more"))?;
    Ok(entries.flatten().map(|entry| entry.path().display().to_string()).collect())
}

fn children(pid: Pid) -> Result<Vec<Pid>> {
    let lists =
        tasks(pid)?.into_iter().map(|task| fs::read_to_string(task + "/children").unwrap_or_default());
    Ok(lists
        .flat_map(|list| list.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<i32>>())
        .filter_map(Pid::from_raw)
        .collect())
}
