//! Certificates from an ACME server (RFC 8555), had and renewed on a thread of their own: no handshake and no request waits
//! for it.

#![forbid(unsafe_code)]

mod account;
mod client;
mod error;
mod order;
mod schedule;

use std::sync::Arc;
use std::sync::atomic::AtomicI64;
use std::sync::atomic::Ordering::Relaxed;
use std::thread;
use std::time::{Duration, SystemTime};

use tokio::sync::watch;
use tokio::time::sleep;

use self::account::Accounts;
use self::client::{Https, RetryAfter};
use self::error::AcmeError;
use self::schedule::{Schedule, Task};
use super::config::AcmeConfig;
use super::metrics::{Kind, Series, labelled};
use super::state::StateFolder;
use super::worker::Shared;

/// How often to see whether a state folder that could not be used can be now.
const FOLDER_PAUSE: Duration = Duration::from_mins(1);

/// How orders ended.
#[derive(Debug, Default)]
pub struct Orders {
    issued: AtomicI64,
    failed: AtomicI64,
    stopped: watch::Sender<bool>,
}

impl Orders {
    fn count(&self, issued: bool) {
        let counter = if issued { &self.issued } else { &self.failed };
        counter.fetch_add(1, Relaxed);
    }

    /// No order is made any more, and one that is running is given up.
    pub fn stop(&self) {
        self.stopped.send_replace(true);
    }

    /// As a metric.
    #[must_use]
    pub fn series(&self) -> Series {
        let values = [("issued", &self.issued), ("failed", &self.failed)];
        Series {
            name: "rprox_acme_orders",
            help: "Certificates asked for by ACME",
            kind: Kind::Counter,
            values: values.map(|(result, count)| labelled("result", result, count.load(Relaxed))).into(),
        }
    }
}

/// Asks the server for its directory, and returns the date of its answer, if it says one.
///
/// # Errors
///
/// Why it does not answer with a directory.
pub async fn directory_date(config: &AcmeConfig) -> Result<Option<SystemTime>, String> {
    Https::new(config, RetryAfter::default())
        .map_err(|error| error.to_string())?
        .date_of(&config.directory)
        .await
}

/// Waits for a configuration with `[acme]`, and starts the thread then.
pub async fn start(shared: Arc<Shared>) {
    let mut swapped = shared.swapped.subscribe();
    while shared.rules.load().config.acme.is_none() {
        if swapped.changed().await.is_err() {
            return;
        }
    }
    let spawned = thread::Builder::new().name("acme".to_owned()).spawn(move || run(&shared));
    if let Err(error) = spawned {
        tracing::error!(%error, "no thread for ACME: no certificate will be had or renewed");
    }
}

fn run(shared: &Arc<Shared>) {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            return tracing::error!(%error, "no event loop for ACME: no certificate will be had or renewed");
        }
    };
    runtime.block_on(async {
        let mut swapped = shared.swapped.subscribe();
        let mut stopped = shared.acme.stopped.subscribe();
        loop {
            let config = shared.rules.load().config.acme.clone();
            tokio::select! {
                () = keep(shared, config.as_ref()) => {}
                () = other_than(config.as_ref(), shared, &mut swapped) => {}
                _ = stopped.wait_for(|stopped| *stopped) => return,
            }
        }
    });
}

/// Waits until `[acme]` has changed. What runs goes on through reloads that are about other things: a server counts orders.
async fn other_than(config: Option<&AcmeConfig>, shared: &Shared, swapped: &mut watch::Receiver<()>) {
    loop {
        // The sender is in `shared`.
        let _ = swapped.changed().await;
        if shared.rules.load().config.acme.as_ref() != config {
            return;
        }
    }
}

/// Has the hosts' certificates and renews them, for good.
async fn keep(shared: &Shared, config: Option<&AcmeConfig>) {
    let Some(config) = config else { return std::future::pending().await };
    let folders = loop {
        let opened = StateFolder::open(&config.state)
            .and_then(|state| Ok((state.clone(), StateFolder::open(&state.path("certificates"))?)));
        match opened {
            Ok(folders) => break folders,
            Err(error) => tracing::error!("no certificate can be had by ACME: {error}"),
        }
        sleep(FOLDER_PAUSE).await;
    };
    let (state, certificates) = folders;
    let mut accounts = Accounts::new(config, state.clone());
    let mut schedule = Schedule::new(config);
    loop {
        let (host, task) = schedule.next().await;
        match task {
            Task::LookUp => {
                let suggestion = accounts.suggestion(&config.files(&host)).await;
                schedule.suggested(&host, suggestion);
            }
            Task::Order(plan) => {
                // What can't be kept is lost once it is issued, and servers count it.
                if let Err(error) = state.try_out().and_then(|()| certificates.try_out()) {
                    shared.acme.count(false);
                    fail(&mut schedule, &host, &error.into(), None);
                    continue;
                }
                match accounts.order(&host, &plan, &shared.tls.challenges).await {
                    Ok(pem) => {
                        shared.acme.count(true);
                        match certificates.write(&format!("{host}.pem"), pem.as_bytes()) {
                            Ok(()) => {
                                shared.refresh_certificates().await;
                                if let Some(pause) = schedule.done(&host) {
                                    tracing::warn!(
                                        host,
                                        "the certificate that has come is due for renewal already: are this host's clock and the ACME \
                                     server's right? The next is ordered in {:.1}s",
                                        pause.as_secs_f64()
                                    );
                                }
                            }
                            Err(error) => fail(&mut schedule, &host, &error.into(), None),
                        }
                    }
                    Err(error) => {
                        shared.acme.count(false);
                        fail(&mut schedule, &host, &error, accounts.retry_after());
                    }
                }
            }
        }
    }
}

fn fail(schedule: &mut Schedule<'_>, host: &str, error: &AcmeError, least: Option<Duration>) {
    let pause = schedule.failed(host, error, least);
    tracing::warn!(host, "no certificate by ACME, trying again in {:.1}s: {error}", pause.as_secs_f64());
}
