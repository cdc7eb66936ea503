//! Puts another configuration into force while requests run.

#![forbid(unsafe_code)]

mod queue;

use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicI64};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::{fs, iter};

use sd_notify::NotifyState;
use thiserror::Error;

pub use self::queue::{Answer, Queue};
use super::config::{Config, ConfigError, Flags, named_files};
use super::dns::{self, DnsError, Names, RESOLV_CONF};
use super::live::Loaded;
use super::metrics::{Kind, Series, labelled};
use super::run::watcher::{Mark, Watched};
use super::tls::TlsError;
use super::worker::Shared;

/// Why another configuration is refused. The one in force stays.
#[derive(Debug, Error)]
pub enum ReloadError {
    /// It has mistakes.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A certificate does not load.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// DNS can't be set up.
    #[error(transparent)]
    Dns(#[from] DnsError),
    /// It is about what was decided when the process started.
    #[error(
        "{0} can't change while the agent runs: restart it, or `rprox-agent upgrade`, which loses no request"
    )]
    Fixed(String),
    /// HTTPS without a certificate.
    #[error("there is a listener for HTTPS, and no certificate any more")]
    NoCertificate,
}

/// How often the configuration was loaded anew, or refused.
#[derive(Debug, Default)]
pub struct Reloads {
    done: AtomicI64,
    refused: AtomicI64,
    last_was_refused: AtomicBool,
}

impl Reloads {
    fn count(&self, done: bool) {
        let counter = if done { &self.done } else { &self.refused };
        counter.fetch_add(1, Relaxed);
        self.last_was_refused.store(!done, Relaxed);
    }

    /// Whether what is in force is not what the file says.
    #[must_use]
    pub fn last_was_refused(&self) -> bool {
        self.last_was_refused.load(Relaxed)
    }

    /// As a metric.
    #[must_use]
    pub fn series(&self) -> Series {
        let values = [("done", &self.done), ("refused", &self.refused)];
        Series {
            name: "rprox_reloads",
            help: "Times that the configuration was loaded anew",
            kind: Kind::Counter,
            values: values.map(|(result, count)| labelled("result", result, count.load(Relaxed))).into(),
        }
    }
}

/// Loads what the agent was started with again.
pub struct Reloader {
    flags: Flags,
    shared: Arc<Shared>,
    secure: bool,
    /// The files that a configuration names which was refused, as they were then.
    refused: Mutex<Vec<Watched>>,
}

impl Reloader {
    /// For an agent that was started with `flags`; `secure` if it listens for HTTPS.
    #[must_use]
    pub fn new(flags: Flags, shared: Arc<Shared>, secure: bool) -> Self {
        Self { flags, shared, secure, refused: Mutex::default() }
    }

    /// Reads the configuration and all that it names, and puts the whole into force, or nothing of it. The log and the
    /// service manager are told. To be called in the [background](super::background).
    ///
    /// # Errors
    ///
    /// When it is refused.
    pub fn reload(&self) -> Result<(), ReloadError> {
        tell_reloading();
        self.refused().clear();
        let loaded = self.load().or_else(|_| {
            // What it lacks may have come before it could be watched for.
            *self.refused() = self.named();
            self.load()
        });
        let result = loaded.map(|loaded| self.shared.put_into_force(loaded));
        match &result {
            Ok(()) => tracing::info!(file = self.file(), "the configuration was loaded anew"),
            Err(error) => tracing::error!(
                file = self.file(),
                "the new configuration is refused, and the one in force stays:\n{error}"
            ),
        }
        if result.is_err() {
            self.keep_up();
        }
        self.shared.reloads.count(result.is_ok());
        super::run::notify(&[NotifyState::Ready]);
        result
    }

    /// What is not of the configuration itself must not wait for a mistake in it to be mended: certificates that were renewed,
    /// and other DNS servers.
    fn keep_up(&self) {
        let loaded = self.shared.rules.load().loaded().clone();
        loaded.tls.refresh();
        if let Ok(dns) = dns::with_servers(&loaded.config.dns)
            && dns != loaded.dns
        {
            self.shared.put_into_force(Loaded { dns, ..loaded });
        }
    }

    fn load(&self) -> Result<Loaded, ReloadError> {
        let config = Config::load(&self.flags)?;
        let before = self.shared.rules.load();
        let fixed = fixed(&before.config, &config);
        if !fixed.is_empty() {
            return Err(ReloadError::Fixed(fixed.join(", ")));
        }
        // Workers set DNS up for themselves; what would keep them from it shows here.
        let dns = dns::with_servers(&config.dns)?;
        Names::new(&dns, Arc::default(), |_, _| {})?;
        let loaded = Loaded::new(config, dns, &self.shared.tls)?;
        if self.secure && !loaded.may_serve_https() {
            return Err(ReloadError::NoCertificate);
        }
        Ok(loaded)
    }

    /// The files that what is in force came from, if the configuration wants them watched. Where another was refused those that it
    /// names are among them, since it may have come before a file of its own.
    #[must_use]
    pub fn watched(&self) -> Vec<Watched> {
        let rules = self.shared.rules.load();
        if !rules.config.watch {
            return Vec::new();
        }
        let certificates = rules.config.certificates.iter();
        let certificates = certificates.flat_map(|files| [files.cert.clone(), files.key.clone()]);
        let cas = rules.config.routes.iter().filter_map(|route| Some(&route.client_auth.as_ref()?.ca));
        let cas = cas.flat_map(|ca| iter::once(ca.path.clone()).chain(ca.crl.clone()));
        let upstreams = rules.config.routes.iter().flat_map(|route| route.upstream.sets());
        let upstream_cas = upstreams.flat_map(|set| &set.upstreams).filter_map(|one| one.ca.clone());
        let resolv_conf = rules.config.dns.servers.is_empty().then(|| PathBuf::from(RESOLV_CONF));
        let files = self.flags.config.clone().into_iter().chain(resolv_conf).chain(certificates).chain(cas);
        let files = files.chain(upstream_cas).map(|file| (file, None));
        self.refused().iter().cloned().chain(files).collect()
    }

    /// The files that the configuration names now, as far as it can be read.
    fn named(&self) -> Vec<Watched> {
        let file = self.flags.config.as_deref();
        let table = file.and_then(|file| fs::read_to_string(file).ok()?.parse().ok());
        let directory = file.and_then(Path::parent).unwrap_or(Path::new(""));
        let files = table.map_or_else(Vec::new, |table| named_files(&table, directory));
        files.into_iter().map(|file| (file.clone(), Some(Mark::of(&file)))).collect()
    }

    fn refused(&self) -> MutexGuard<'_, Vec<Watched>> {
        // Nothing panics while it is held.
        self.refused.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The configuration file, if there is one.
    #[must_use]
    pub fn config_file(&self) -> Option<PathBuf> {
        self.flags.config.clone()
    }

    fn file(&self) -> Option<tracing::field::DisplayValue<std::path::Display<'_>>> {
        self.flags.config.as_deref().map(|file| tracing::field::display(file.display()))
    }
}

/// The keys that differ and can't while the process runs.
fn fixed(before: &Config, after: &Config) -> Vec<&'static str> {
    let keys = [
        ("listen.http", before.listen.http == after.listen.http),
        ("listen.https", before.listen.https == after.listen.https),
        ("workers", before.workers == after.workers),
        ("log.level", before.log.level == after.log.level),
        ("log.format", before.log.format == after.log.format),
        ("admin.listen", before.admin.listen == after.admin.listen),
    ];
    keys.into_iter().filter(|(_, same)| !same).map(|(key, _)| key).collect()
}

/// With the time, without which systemd could not tell an old message from the answer to its signal.
fn tell_reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => super::run::notify(&[NotifyState::Reloading, now]),
        Err(error) => tracing::warn!(%error, "systemd can't be told of the reload"),
    }
}
