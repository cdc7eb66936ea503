//! Follows Podman: routes come and go with the containers whose labels ask for them.
//!
//! All on the main thread, but for arranging the routes: no request waits for Podman, and without it the last known routes serve on for a time, those of the
//! configuration for ever. Podman's events only say when to look; what is there is always looked at as a whole, so that an event
//! that was lost, or came in an unknown form, costs a delay and never the truth.

#![forbid(unsafe_code)]

mod api;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use self::api::{Api, ApiError, Inspected, Listed};
use super::config::PodmanConfig;
use super::labels::Census;
use super::labels::claim::{self, Container};
use super::worker::Shared;

/// The pause after a first failure, and the longest.
const PAUSES: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));

/// How long to wait after an event for those that come with it.
const SETTLE: Duration = Duration::from_millis(50);

/// How long the start waits for the first look.
const FIRST_LOOK: Duration = Duration::from_secs(2);

/// Looks once, for an agent that is about to serve: after a restart, and in the place of another agent, no host is unknown that
/// was known before. Where that fails, [`run`] tells.
pub async fn first_look(shared: &Arc<Shared>) {
    if let Some(config) = shared.rules.load().config.podman.clone() {
        let api = Api::new(&config.socket);
        let _ = timeout(FIRST_LOOK, resync(shared, &config, &api)).await;
    }
}

/// Follows the Podman that the rules in force name, for ever.
pub async fn run(shared: Arc<Shared>) {
    let mut swapped = shared.swapped.subscribe();
    loop {
        let config = shared.rules.load().config.podman.clone();
        tokio::select! {
            () = follow(&shared, config.as_ref()) => {}
            () = other_than(config.as_ref(), &shared, &mut swapped) => {}
        }
        let socket = |config: &Option<PodmanConfig>| config.as_ref().map(|config| config.socket.clone());
        // What another Podman told is no longer true.
        if socket(&shared.rules.load().config.podman) != socket(&config) {
            forget(&shared).await;
        }
    }
}

/// Waits until `[podman]` has changed.
async fn other_than(config: Option<&PodmanConfig>, shared: &Arc<Shared>, swapped: &mut watch::Receiver<()>) {
    loop {
        // The sender is in `shared`.
        let _ = swapped.changed().await;
        if shared.rules.load().config.podman.as_ref() != config {
            return;
        }
    }
}

async fn follow(shared: &Arc<Shared>, config: Option<&PodmanConfig>) {
    let Some(config) = config else { return std::future::pending().await };
    let api = Api::new(&config.socket);
    let mut failures = 0;
    loop {
        let error = match watch_events(shared, config, &api, &mut failures).await {
            Ok(never) => match never {},
            Err(error) => error,
        };
        if shared.labels.failed(&error.to_string()) {
            tracing::warn!(
                "Podman can't be followed by {}, and routes by label stay as they are for {:?}: {error}",
                config.socket.display(),
                config.stale
            );
        }
        let pause = PAUSES.0.saturating_mul(1 << failures.min(10)).min(PAUSES.1);
        failures += 1;
        wait_out(shared, config, pause.mul_f64(0.75 + fastrand::f64() / 2.0)).await;
    }
}

/// Waits for `pause`, and lets the last known routes go when it is time.
async fn wait_out(shared: &Arc<Shared>, config: &PodmanConfig, pause: Duration) {
    let left = config.stale.saturating_sub(shared.labels.age().unwrap_or_default());
    sleep(pause.min(left)).await;
    if shared.labels.age().is_some_and(|age| age >= config.stale) && forget(shared).await {
        tracing::error!("Podman has been silent for podman.stale: the routes by label are gone");
    }
    sleep(pause.saturating_sub(left)).await;
}

async fn forget(shared: &Arc<Shared>) -> bool {
    let is_news = shared.labels.forget();
    if is_news {
        shared.follow_labels().await;
    }
    is_news
}

/// Has the routes agree with the containers until Podman fails.
async fn watch_events(
    shared: &Arc<Shared>,
    config: &PodmanConfig,
    api: &Api,
    failures: &mut u32,
) -> Result<std::convert::Infallible, ApiError> {
    // Events first, and then a look: so nothing can change between them unseen. The look helps even where there are no events.
    let events = api.events().await;
    resync(shared, config, api).await?;
    let mut events = events?;
    *failures = 0;
    if shared.labels.recovered() {
        tracing::info!("Podman can be followed again");
    }
    loop {
        // Many agents should not come at the same moments for ever.
        let pause = config.resync.mul_f64(0.9 + fastrand::f64() / 5.0);
        tokio::select! {
            event = events.next() => {
                event?;
                sleep(SETTLE).await;
                events.skip_waiting()?;
            }
            () = sleep(pause) => {}
        }
        resync(shared, config, api).await?;
    }
}

/// Looks at all labelled containers, and puts into force what they ask for.
async fn resync(shared: &Arc<Shared>, config: &PodmanConfig, api: &Api) -> Result<(), ApiError> {
    let mut connection = api.connect().await?;
    let mut census = Census::default();
    for listed in connection.containers().await? {
        if !claim::asks(&listed.labels) {
            let mistake = claim::misspelt(listed.name(), &listed.labels);
            census.malformed.extend(mistake);
            continue;
        }
        // It may have gone since.
        let Some(inspected) = connection.inspect(&listed.id).await? else { continue };
        census.containers += 1;
        match container(listed, &inspected, config).and_then(|container| container.claims()) {
            Ok(claims) => census.claims.extend(claims),
            Err(mistake) => drop(census.malformed.insert(mistake)),
        }
    }
    census.claims.sort();
    let containers = census.containers;
    if shared.labels.note(census) {
        shared.follow_labels().await;
        tracing::info!(containers, "the routes by label are others now");
    }
    Ok(())
}

/// The container on the first of the configured networks that it is on.
fn container(listed: Listed, inspected: &Inspected, config: &PodmanConfig) -> Result<Container, String> {
    let name = listed.name().to_owned();
    let networks = inspected.networks();
    let found =
        config.networks.iter().find_map(|network| Some((network.clone(), networks.get(network)?.address()?)));
    let Some(at) = found else {
        return Err(format!(
            "the labels of container {name} are ignored: it has no address on {}",
            config.networks.join(" or ")
        ));
    };
    Ok(Container { name, age: (inspected.created.clone(), listed.id), labels: listed.labels, at })
}
