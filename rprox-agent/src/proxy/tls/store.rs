//! The certificates in force, and how they change while connections run.
//!
//! A certificate's files are read again when they may have changed. What loads takes the old one's place at once and as a
//! whole; what does not is told in the log, and the old one stays.

#![forbid(unsafe_code)]

use std::cell::RefCell;
use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::io::ErrorKind;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use arc_swap::ArcSwap;
use rustls::crypto::aws_lc_rs;
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{ClientHello, NoClientAuth, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{ServerConfig, SupportedProtocolVersion, version};

use super::challenges::Challenges;
use super::client_auth::AskedByHost;
use super::sessions::{self, Asked, Sessions};
use super::{Certificate, Certificates, TlsError, self_signed};
use crate::proxy::config::{CertificateFiles, Config, TlsVersion};
use crate::proxy::metrics::{Kind, Series, labelled};

/// What outlives every configuration.
#[derive(Debug, Default)]
pub struct Kept {
    /// Answers to an ACME server's validations.
    pub challenges: Challenges,
    pub(super) sessions: Sessions,
}

/// Makes TLS connections of TCP ones, by one configuration and the certificates in force.
pub struct TlsAcceptor {
    shown: Shown,
    sources: Mutex<Vec<Source>>,
    /// Hosts that will have a certificate by ACME.
    expected: HashSet<String>,
}

/// What handshakes go by.
pub(super) struct Shown {
    pub(super) certificates: Arc<Current>,
    /// Asks for no certificate.
    pub(super) plain: Arc<ServerConfig>,
    /// For clients of hosts whose routes have `client_ca`.
    pub(super) asking: AskedByHost<Arc<ServerConfig>>,
    pub(super) kept: Arc<Kept>,
}

/// The certificates in force.
#[derive(Debug, Default)]
pub(super) struct Current(ArcSwap<Certificates>);

/// Where a certificate comes from, and the last good one that came.
struct Source {
    /// `None` for one that was made here and is in no file.
    files: Option<CertificateFiles>,
    certificate: Option<Arc<Certificate>>,
    /// Whether it may not be there yet.
    to_come: bool,
    /// What was last complained of, which once is enough.
    trouble: Option<String>,
}

impl fmt::Debug for TlsAcceptor {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("TlsAcceptor")
            .field("certificates", &self.shown.certificates)
            .finish_non_exhaustive()
    }
}

impl ResolvesServerCert for Current {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.0.load().resolve(hello)
    }
}

impl Current {
    pub(super) fn choose(&self, hello: &ClientHello<'_>) -> Result<Arc<Certificate>, TlsError> {
        self.0.load().choose(hello).cloned()
    }
}

impl TlsAcceptor {
    /// Reads the certificates that `config` names.
    ///
    /// # Errors
    ///
    /// When one does not load.
    pub fn new(config: &Config, kept: &Arc<Kept>) -> Result<Self, TlsError> {
        let mut sources = Vec::new();
        for files in &config.certificates {
            let certificate = Certificate::load(files)?;
            warn_of(&certificate);
            sources.push(Source::loaded(Some(files.clone()), certificate));
        }
        let acme = config.acme.as_ref();
        sources.extend(
            acme.into_iter()
                .flat_map(|acme| acme.hosts.iter().map(|host| acme.files(host)))
                .map(|files| Source { files: Some(files), certificate: None, to_come: true, trouble: None }),
        );
        if config.tls.self_signed {
            let names = self_signed::names(config);
            if !names.is_empty() {
                let (files, certificate) = self_signed::obtain(&names, config.state.as_deref())?;
                sources.push(Source::loaded(files, certificate));
            }
        }
        let shown = Shown::new(config, kept)?;
        let expected = acme.map(|acme| acme.hosts.iter().cloned().collect()).unwrap_or_default();
        let acceptor = Self { shown, sources: Mutex::new(sources), expected };
        acceptor.refresh();
        Ok(acceptor)
    }

    pub(super) fn shown(&self) -> &Shown {
        &self.shown
    }

    /// The certificates in force.
    #[must_use]
    pub fn certificates(&self) -> Arc<Certificates> {
        self.shown.certificates.0.load_full()
    }

    /// Whether `host` (normalised) is served over HTTPS: by a certificate that is there or one that is on its way.
    #[must_use]
    pub fn serves(&self, host: &str) -> bool {
        self.shown.certificates.0.load().covers(host) || self.expected.contains(host)
    }

    /// Whether no host is served over HTTPS.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.shown.certificates.0.load().is_empty() && self.expected.is_empty()
    }

    /// When each name's certificate ends, as a metric.
    #[must_use]
    pub fn expiry(&self) -> Series {
        let mut ends: BTreeMap<String, i64> = BTreeMap::new();
        for certificate in self.certificates().iter() {
            let end = certificate.not_after.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
            let end = i64::try_from(end.as_secs()).unwrap_or(i64::MAX);
            for name in certificate.names.iter() {
                // Of several for one name the first to end is the one to see to.
                ends.entry(name).and_modify(|first| *first = end.min(*first)).or_insert(end);
            }
        }
        Series {
            name: "rprox_tls_certificate_expiry_timestamp_seconds",
            help: "When the certificate for a name ends, in seconds since 1970",
            kind: Kind::Gauge,
            values: ends.into_iter().map(|(name, end)| labelled("name", name, end)).collect(),
        }
    }

    /// The files that certificates are read from.
    #[must_use]
    pub fn files(&self) -> Vec<CertificateFiles> {
        let sources = self.sources.lock().unwrap_or_else(PoisonError::into_inner);
        sources.iter().filter_map(|source| source.files.clone()).collect()
    }

    /// Reads all files again and puts in force what is new in them.
    pub fn refresh(&self) {
        let mut sources = self.sources.lock().unwrap_or_else(PoisonError::into_inner);
        for source in &mut *sources {
            source.refresh();
        }
        let certificates = sources.iter().filter_map(|source| source.certificate.clone()).collect();
        self.shown.certificates.0.store(Arc::new(Certificates::new(certificates)));
    }
}

impl Shown {
    fn new(config: &Config, kept: &Arc<Kept>) -> Result<Self, TlsError> {
        let certificates = Arc::new(Current::default());
        let versions = versions(config.tls.min_version);
        let used = RefCell::new(Vec::new());
        let make = |asked: &Asked, verifier: Arc<dyn ClientCertVerifier>| {
            let sessions = kept.sessions.of(asked)?;
            used.borrow_mut().push(asked.clone());
            server(versions, verifier, Arc::clone(&certificates), sessions)
        };
        let plain = make(&Asked::new(), Arc::new(NoClientAuth))?;
        let asking = AskedByHost::of_routes(&config.routes, |cas| make(&cas.asked, cas.verifier))?;
        kept.sessions.keep(&used.borrow());
        Ok(Self { plain, asking, certificates, kept: Arc::clone(kept) })
    }
}

fn versions(least: TlsVersion) -> &'static [&'static SupportedProtocolVersion] {
    static BOTH: [&SupportedProtocolVersion; 2] = [&version::TLS13, &version::TLS12];
    match least {
        TlsVersion::Tls12 => &BOTH,
        TlsVersion::Tls13 => &BOTH[..1],
    }
}

fn server(
    versions: &[&'static SupportedProtocolVersion],
    verifier: Arc<dyn ClientCertVerifier>,
    certificates: Arc<Current>,
    kept: sessions::Kept,
) -> Result<Arc<ServerConfig>, TlsError> {
    let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(versions)
        .map_err(TlsError::Setup)?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(certificates);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    config.ticketer = kept.tickets;
    config.session_storage = kept.sessions;
    Ok(Arc::new(config))
}

impl Source {
    fn loaded(files: Option<CertificateFiles>, certificate: Certificate) -> Self {
        Self { files, certificate: Some(Arc::new(certificate)), to_come: false, trouble: None }
    }

    fn refresh(&mut self) {
        let Some(files) = &self.files else { return };
        match Certificate::load(files) {
            Ok(new) => {
                self.trouble = None;
                if self.certificate.as_ref().is_some_and(|old| old.is_same(&new)) {
                    return;
                }
                let names = new.names.iter().collect::<Vec<_>>().join(", ");
                tracing::info!("certificate for {names} loaded from {}", files.cert.display());
                warn_of(&new);
                self.certificate = Some(Arc::new(new));
            }
            Err(TlsError::Read { source, .. }) if self.to_come && source.kind() == ErrorKind::NotFound => {}
            Err(error) => {
                let trouble = error.to_string();
                if self.trouble.as_ref() != Some(&trouble) {
                    let fate = if self.certificate.is_some() {
                        "the one of before stays in force"
                    } else {
                        "there is none"
                    };
                    tracing::error!("a certificate is refused, {fate}: {trouble}");
                    self.trouble = Some(trouble);
                }
            }
        }
    }
}

fn warn_of(certificate: &Certificate) {
    for warning in &certificate.warnings {
        tracing::warn!("{warning}");
    }
}
