//! How much memory the process has, and whether there is room for more work.
//!
//! One task of the main thread looks a few times a second. Workers read a flag, and let go of what nobody uses when it changes.

mod cgroup;
pub mod release;
mod resident;

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use self::resident::Resident;
use super::config::MemoryLimit;
use super::metrics::{Kind, Series, Value};
use super::worker::Shared;

/// How often it is looked at. What a full load of connections can add in this time is to fit between limit and cgroup.
const TICK: Duration = Duration::from_millis(250);

/// How often the allocator is told to give back what is free, at most; how long memory is short at least; and how long clients
/// are told to wait by `Retry-After`.
const PAUSE: Duration = Duration::from_secs(1);

/// How often the cgroup's limits are read, which whoever runs the container may change.
const LOOK_AGAIN: Duration = Duration::from_secs(10);

/// The memory of the process. Aligned so that nothing else that changes is in the flag's cache lines.
#[derive(Debug)]
#[repr(align(128))]
pub struct Memory {
    short: AtomicBool,
    /// 0: none.
    limit: AtomicU64,
    resident: Option<Resident>,
    became: watch::Sender<bool>,
}

impl Memory {
    /// That of this process.
    #[must_use]
    pub fn of_this_process() -> Self {
        let resident = Resident::open();
        let resident =
            resident.inspect_err(|error| tracing::warn!(%error, "limits.memory is without effect"));
        Self {
            short: AtomicBool::new(false),
            limit: AtomicU64::new(0),
            resident: resident.ok(),
            became: watch::Sender::default(),
        }
    }

    /// Whether nothing more is to be begun.
    #[must_use]
    pub fn is_short(&self) -> bool {
        self.short.load(Relaxed)
    }

    /// Tells when that changes.
    pub fn changes(&self) -> watch::Receiver<bool> {
        self.became.subscribe()
    }

    /// As metrics.
    pub fn series(&self) -> Vec<Series> {
        let resident = self.resident.as_ref().and_then(Resident::bytes);
        let limit = Some(self.limit.load(Relaxed)).filter(|limit| *limit > 0);
        [
            ("rprox_memory_bytes", "Memory that the process holds, without mapped files", resident),
            ("rprox_memory_limit_bytes", "limits.memory, or what follows from the cgroup's limit", limit),
        ]
        .map(|(name, help, bytes)| {
            let number = bytes.map(|bytes| Value::Number(i64::try_from(bytes).unwrap_or(i64::MAX)));
            let values = number.into_iter().map(|number| (Vec::new(), number)).collect();
            Series { name, help, kind: Kind::Gauge, values }
        })
        .into()
    }

    fn becomes(&self, short: bool) {
        self.short.store(short, Relaxed);
        self.became.send_replace(short);
    }
}

/// Watches over the memory, for ever.
pub async fn run(shared: Arc<Shared>) {
    let Some(resident) = &shared.memory.resident else { return };
    let mut swapped = shared.swapped.subscribe();
    let mut guard = Guard { shared: &shared, resident, released: None, since: Instant::now() };
    loop {
        let limit = limit(shared.rules.load().config.limits.memory);
        shared.memory.limit.store(limit.unwrap_or(0), Relaxed);
        tokio::select! {
            _ = swapped.changed() => {}
            () = sleep(LOOK_AGAIN) => {}
            () = guard.keep_within(limit) => {}
        }
    }
}

fn limit(configured: MemoryLimit) -> Option<u64> {
    match configured {
        MemoryLimit::Off => None,
        MemoryLimit::Bytes(bytes) => Some(bytes),
        // The rest is for what the kernel holds for the process: sockets' buffers, most of all.
        MemoryLimit::Cgroup => cgroup::limit().map(|bytes| bytes / 5 * 4),
    }
}

struct Guard<'a> {
    shared: &'a Shared,
    resident: &'a Resident,
    /// When the allocator was last told to give back what is free.
    released: Option<Instant>,
    /// When memory became short.
    since: Instant,
}

impl Guard<'_> {
    async fn keep_within(&mut self, limit: Option<u64>) {
        loop {
            self.look(limit.unwrap_or(u64::MAX));
            if limit.is_none() && !self.shared.memory.is_short() {
                return std::future::pending().await;
            }
            sleep(TICK).await;
        }
    }

    fn look(&mut self, limit: u64) {
        let memory = &self.shared.memory;
        let short = memory.is_short();
        let Some(mut held) = self.resident.bytes() else { return };
        let most = if short { limit - limit / 20 } else { limit };
        if held > most && self.released.is_none_or(|released| released.elapsed() >= PAUSE) {
            release::unused();
            self.released = Some(Instant::now());
            held = self.resident.bytes().unwrap_or(held);
        }
        // Where nobody is connected there is nobody whose leaving would help.
        let becomes = held > most && self.shared.connections.count() > 0;
        match (short, becomes) {
            (false, true) => {
                tracing::warn!(held, limit, "limits.memory reached: refusing requests and connections");
                self.since = Instant::now();
                memory.becomes(true);
            }
            (true, false) if self.since.elapsed() >= PAUSE => {
                tracing::info!(held, limit, "memory is below limits.memory: taking requests again");
                memory.becomes(false);
            }
            _ => {}
        }
    }
}
