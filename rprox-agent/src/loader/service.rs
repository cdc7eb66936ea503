//! `rprox-loader run`: keeps attachments current until it is told to stop.

#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::future::pending;
use std::time::Duration;

use futures_util::{FutureExt as _, StreamExt as _};
use procfs::process::Process;
use sd_notify::NotifyState;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{interval, sleep};
use tracing::{debug, info, warn};

use super::attachment;
use super::bpffs::Bpffs;
use super::config::{Policy, Settings};
use super::conflict::mptcp;
use super::host::Host;
use super::kernel_log::{self, Reader};
use super::metrics::{self, Textfile};
use super::mode::{ModeChoice, Shape};
use super::netlink::Netlink;
use super::pins::{Claim, Pins};
use super::{Error, asked, attach_all, choose_interface, conflict, privilege, stacking};

/// How long to wait before trying again what failed.
const RETRY: Duration = Duration::from_secs(5);
/// How often to look for listeners that mode `steer` can't serve: nothing tells of them.
const LISTENERS: Duration = Duration::from_secs(5);

/// Attaches, and returns once told to stop and detached.
///
/// # Errors
///
/// What kept it from attaching at the start, or from detaching at the end. What goes wrong in between is logged and tried
/// again.
pub async fn run(mut settings: Settings) -> Result<(), Error> {
    kernel_log::want_if_debugging();
    // Before anything is attached, so that no signal finds it attached and unwatched.
    let mut signals = Signals::new()?;
    // Before the first look, so that no change after it goes unseen.
    let (netlink, mut changes) = Netlink::watch()?;
    choose_interface(&netlink, &mut settings).await?;
    let mut service =
        Service { netlink: &netlink, settings: &settings, claims: BTreeMap::new(), logs: Vec::new() };
    service.start().await?;
    let may_steer = |(_, policy): &(_, Policy)| matches!(policy.mode, ModeChoice::Auto | ModeChoice::Steer);
    privilege::drop_the_rest(settings.interfaces.iter().any(may_steer))?;
    let mut metrics = settings.metrics_textfile.clone().map(Textfile::new);
    notify(&[NotifyState::Ready, NotifyState::Status("attached")]);

    let mut retry = false;
    // Its first tick is at once.
    let mut write_metrics = interval(metrics::EVERY);
    let signal = loop {
        tokio::select! {
            signal = signals.next() => break signal,
            change = changes.next() => {
                if change.is_none() {
                    return Err(Error::NetlinkClosed);
                }
                // One look serves all that has changed by now.
                while changes.next().now_or_never().flatten().is_some() {}
            }
            () = sleep(RETRY), if retry => {}
            () = sleep(LISTENERS), if !retry && service.is_steer_by_auto() => {
                if !service.has_unfit_listener() {
                    continue;
                }
            }
            _ = write_metrics.tick(), if metrics.is_some() => {
                if let Some(textfile) = &mut metrics {
                    textfile.write(&netlink, &settings.bpffs).await;
                }
                continue;
            }
        }
        retry = service.refresh().await.inspect_err(|error| warn!("{error}")).unwrap_or(true);
        write_metrics.reset_immediately();
    };
    info!("{signal}: detaching");
    notify(&[NotifyState::Stopping]);
    drop(metrics);
    service.stop().await
}

struct Service<'a> {
    netlink: &'a Netlink,
    settings: &'a Settings,
    /// What is attached now.
    claims: BTreeMap<String, Claim>,
    /// What the kernel programs of each say.
    logs: Vec<Reader>,
}

impl Service<'_> {
    async fn start(&mut self) -> Result<(), Error> {
        // Claims outlast the lock on the bpffs, so no other loader comes in between.
        let (changes, _bpffs) = attach_all(self.netlink, self.settings).await?;
        for (pins, outcome) in changes {
            let interface = pins.interface().to_owned();
            info!("{interface}: {outcome}");
            self.claims.insert(interface, pins.claim()?);
        }
        self.read_logs();
        conflict::warn_of_all(self.settings);
        Ok(())
    }

    /// Reads the kernel programs' lines, of attachments that may be new.
    fn read_logs(&mut self) {
        let pins = self.claims.keys().map(|interface| Pins::new(&self.settings.bpffs, interface));
        let readers =
            pins.map(|pins| Reader::open(&pins).inspect_err(|error| warn!("{}: {error}", pins.interface())));
        self.logs = readers.filter_map(|reader| reader.ok().flatten()).collect();
    }

    /// Brings every attachment to what the host is like now. Returns whether something failed that is worth another try.
    async fn refresh(&mut self) -> Result<bool, Error> {
        let bpffs = Bpffs::open_or_mount(&self.settings.bpffs)?;
        let host = Host::look(self.netlink, bpffs.path()).await?;
        let mut again = false;
        for (interface, policy) in &self.settings.interfaces {
            let pins = Pins::new(bpffs.path(), interface);
            // A claim ends with the directory that it is on, and nobody else gets in while the bpffs is locked.
            let held = self.claims.remove(interface);
            let claimed = held.is_some();
            // Where the bpffs was unmounted, the claim alone keeps the attachment in force, until there is another.
            let _orphan = held.filter(|claim| !claim.is_on(&pins));
            match self.keep(&host, &pins, policy, claimed).await {
                Ok(true) => {
                    self.claims.insert(interface.clone(), pins.claim()?);
                }
                Ok(false) => {}
                Err(error) => {
                    warn!("{error}; trying again in {} s", RETRY.as_secs());
                    if claimed && pins.exist() {
                        self.claims.insert(interface.clone(), pins.claim()?);
                    }
                    again = true;
                }
            }
        }
        self.read_logs();
        Ok(again)
    }

    /// Keeps one attachment current: refreshes it, or puts it on its interface again. Without the interface it waits until that is
    /// back. Returns whether there is one. `ours`: this service made it.
    async fn keep(&self, host: &Host<'_>, pins: &Pins, policy: &Policy, ours: bool) -> Result<bool, Error> {
        let interface = pins.interface();
        let Some(device) = host.device(interface) else {
            if ours && pins.exist() {
                attachment::suspend(host, pins).await?;
            }
            return Ok(ours && pins.exist());
        };
        let overtaken = Shape::noted(pins).overtaken(policy, device).filter(|_| ours);
        if let Some(reason) = &overtaken {
            info!("{interface}: mode steer won't do any more: {reason}");
        }
        if ours && overtaken.is_none() && attachment::refresh(host, device, pins).await? {
            return Ok(true);
        }
        // It may have another's name by now, and this one be new.
        if ours && host.device_of(pins).is_some_and(|device| device.name != interface) {
            attachment::suspend(host, pins).await?;
        }
        stacking::check(&host.devices, self.settings, &Pins::list(host.bpffs)?)?;
        let change = attachment::attach(host, interface, policy, self.settings.hook).await?;
        let (pins, outcome) = change.settle(host).await?;
        asked::note(&pins, policy)?;
        info!("{interface}: {outcome}");
        Ok(true)
    }

    /// Those that `--mode auto` took `steer` for.
    fn steered_by_auto(&self) -> impl Iterator<Item = &Policy> {
        let claimed = self.settings.interfaces.iter().filter(|(name, _)| self.claims.contains_key(name));
        let steered = claimed.filter(|(name, policy)| {
            Shape::noted(&Pins::new(&self.settings.bpffs, name)).is_steer_by_auto(policy)
        });
        steered.map(|(_, policy)| policy)
    }

    fn is_steer_by_auto(&self) -> bool {
        self.steered_by_auto().next().is_some()
    }

    /// Whether one of them has a listener now that `steer` can't serve.
    fn has_unfit_listener(&self) -> bool {
        self.steered_by_auto().any(|policy| mptcp::hindrance(policy.rules.as_slice()).is_some())
    }

    async fn stop(mut self) -> Result<(), Error> {
        let Some(bpffs) = Bpffs::open(&self.settings.bpffs)? else { return Ok(()) };
        let host = Host::look(self.netlink, bpffs.path()).await?;
        let mut result = Ok(());
        while let Some((interface, claim)) = self.claims.pop_first() {
            match attachment::remove(&host, &Pins::new(bpffs.path(), &interface)).await {
                Ok(()) => info!("{interface}: detached"),
                Err(error) => result = Err(error.into()),
            }
            drop(claim);
        }
        result
    }
}

/// The signals that end the service.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    /// The terminal is gone. `None` where that is to end nothing, as under nohup.
    hang_up: Option<Signal>,
}

impl Signals {
    fn new() -> Result<Self, Error> {
        let listen = |kind| signal(kind).map_err(Error::Signals);
        let hang_up = SignalKind::hangup();
        Ok(Self {
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
            hang_up: if is_ignored(hang_up) { None } else { Some(listen(hang_up)?) },
        })
    }

    async fn next(&mut self) -> &'static str {
        let hang_up = async {
            match &mut self.hang_up {
                Some(signal) => signal.recv().await,
                None => pending().await,
            }
        };
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
            _ = hang_up => "SIGHUP",
        }
    }
}

/// Whether this process was started with a signal ignored.
fn is_ignored(signal: SignalKind) -> bool {
    let status = Process::myself().and_then(|process| process.status());
    status.is_ok_and(|status| status.sigign & 1 << (signal.as_raw_value() - 1) != 0)
}

/// Tells systemd, if it started this process.
fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(false, states) {
        debug!("telling systemd: {error}");
    }
}
