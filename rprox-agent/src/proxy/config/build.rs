//! From the file and the flags to a [`Config`], or to every mistake in them.

#![forbid(unsafe_code)]

use std::collections::{HashMap, HashSet};
use std::net::{Ipv6Addr, SocketAddr};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use toml::Spanned;

use super::acme::{self, AcmeTable};
use super::error::{ConfigError, Mistake, Place};
use super::file::{File, ListenTable};
use super::flags::Flags;
use super::passthrough;
use super::podman::PodmanTable;
use super::routes::{Context, Written, WrittenRoute};
use super::tls::{ClientCas, Hsts};
use super::units::Addresses;
use super::upstreams::AllAuthorities;
use super::{AcmeConfig, CertificateFiles, Config, DnsConfig, Listen, Timeouts};
use crate::proxy::route::{self, HostPattern, Route, RouteTls};
use crate::proxy::state;
use crate::proxy::tls::{Certificate, CertificateNames};

const HTTP_PORT: u16 = 8080;
const HTTPS_PORT: u16 = 8443;

impl Config {
    /// Reads the configuration file, if `flags` name one, and lets the other flags win over it.
    ///
    /// # Errors
    ///
    /// When the file can't be read, or anything is wrong with the whole: all of it then, not just the first.
    pub fn load(flags: &Flags) -> Result<Self, ConfigError> {
        let path = flags.config.as_deref();
        let text = match path {
            Some(path) => ConfigError::read(path)?,
            None => String::new(),
        };
        Self::read(&text, path, flags).map_err(|mistakes| ConfigError::located(mistakes, path, &text))
    }

    fn read(text: &str, path: Option<&Path>, flags: &Flags) -> Result<Self, Vec<Mistake>> {
        let file: File = toml::from_str(text).map_err(|error| vec![error.into()])?;
        let directory = path.and_then(Path::parent).unwrap_or(Path::new("")).to_owned();
        Builder { directory, mistakes: Vec::new(), certificates: Vec::new(), covered: Vec::new() }
            .build(file, flags)
    }
}

struct Builder {
    /// What paths in the file are relative to.
    directory: PathBuf,
    mistakes: Vec<Mistake>,
    certificates: Vec<CertificateFiles>,
    /// What they are for.
    covered: Vec<Arc<CertificateNames>>,
}

impl Builder {
    fn build(mut self, mut file: File, flags: &Flags) -> Result<Config, Vec<Mistake>> {
        let dns = self.dns(file.dns, flags);
        self.global_certificates(file.certificate, flags);
        let by_labels = file.podman.is_some();
        let podman = file.podman.map(PodmanTable::read).transpose();
        let podman = podman.unwrap_or_else(|mistake| {
            self.mistakes.push(mistake);
            None
        });
        let routes = self.routes(file.route, flags, dns.search.as_deref(), &file.timeouts, &file.hsts);
        if routes.is_empty() && !by_labels && self.mistakes.is_empty() {
            let message = "no route; give --route HOST=UPSTREAM, or -c FILE with a [[route]] in it";
            self.mistakes.push(Mistake::new(Place::Whole, message));
        }
        let state = file.state.map(|state| self.directory.join(state)).or_else(state::default_folder);
        let acme = file.acme.and_then(|acme| self.acme(acme, &routes, state.clone()));
        let secure = !self.certificates.is_empty()
            || file.tls.self_signed
            || acme.is_some()
            || routes.iter().any(|route| route.is_passthrough());
        let proxy_protocol = std::mem::take(&mut file.listen.proxy_protocol);
        let listen = self.listen(file.listen, flags, secure, by_labels);
        let mut log = file.log;
        log.level = flags.log_level.clone().unwrap_or(log.level);
        log.format = flags.log_format.unwrap_or(log.format);
        let admin = file.admin.read().map_err(|mistake| self.mistakes.push(mistake)).ok();
        let (Some(admin), []) = (admin, self.mistakes.as_slice()) else { return Err(self.mistakes) };
        let sets = routes.iter().flat_map(|route| route.upstream.sets());
        let waits = sets.map(|set| set.timeouts.response.min(set.timeouts.body));
        let shortest_wait = waits.fold(file.timeouts.response.min(file.timeouts.body), Duration::min);
        Ok(Config {
            listen,
            dns,
            certificates: self.certificates,
            tls: file.tls,
            state,
            acme,
            podman,
            hsts: file.hsts.0,
            routes,
            proxy_protocol,
            trusted_proxies: given(&flags.trusted_proxies).unwrap_or(file.trusted_proxies),
            drain_timeout: flags.drain_timeout.unwrap_or(file.drain_timeout),
            workers: flags.workers.or(file.workers).unwrap_or_else(processors),
            timeouts: file.timeouts,
            shortest_wait,
            retries: file.retries,
            passive_health: file.passive_health,
            limits: file.limits,
            log,
            admin,
            watch: file.watch,
        })
    }

    fn dns(&mut self, dns: Spanned<DnsConfig>, flags: &Flags) -> DnsConfig {
        let place = Place::Bytes(dns.span());
        let mut dns = dns.into_inner();
        if dns.min_ttl > dns.max_ttl {
            self.mistakes.push(Mistake::new(place, "dns.min_ttl must not be more than dns.max_ttl"));
        }
        dns.servers = given(&flags.dns_servers).unwrap_or(dns.servers);
        dns.search = flags.dns_search.clone().or(dns.search);
        dns
    }

    fn global_certificates(&mut self, tables: Vec<super::file::CertificateTable>, flags: &Flags) {
        if let (Some(cert), Some(key)) = (&flags.cert, &flags.key) {
            self.certificate(
                CertificateFiles { cert: cert.clone(), key: key.clone() },
                Place::Flag("--cert".into()),
            );
        }
        for table in tables {
            let (cert, key) = (Written::from(table.cert), Written::from(table.key));
            let files = CertificateFiles {
                cert: self.directory.join(cert.value),
                key: self.directory.join(key.value),
            };
            self.certificate(files, cert.place);
        }
    }

    /// Checks a certificate and takes it, once however often it is named.
    fn certificate(&mut self, files: CertificateFiles, place: Place) -> Option<Certificate> {
        let certificate =
            Certificate::load(&files).map_err(|error| self.mistakes.push(Mistake::of_file(place, &error)));
        if !self.certificates.contains(&files) {
            self.certificates.push(files);
            self.covered.extend(certificate.iter().map(|certificate| Arc::clone(&certificate.names)));
        }
        certificate.ok()
    }

    fn routes(
        &mut self,
        tables: Vec<super::file::RouteTable>,
        flags: &Flags,
        search: Option<&str>,
        timeouts: &Timeouts,
        hsts: &Hsts,
    ) -> Vec<Arc<Route>> {
        let directory = self.directory.clone();
        let mut context = Context {
            search,
            directory: &directory,
            timeouts,
            authorities: AllAuthorities::default(),
            client_cas: ClientCas::default(),
        };
        let mut taken = HashMap::new();
        let mut routes: Vec<(Route, Place)> = Vec::new();
        let from_flags = flags.routes.iter().cloned().map(WrittenRoute::from);
        for route in from_flags.chain(tables.into_iter().map(WrittenRoute::from)) {
            let place = route.host.place.clone();
            let made = route.matched().and_then(|(host, path)| {
                route.check_passthrough()?;
                match taken.insert((host.clone(), path.clone(), route.tls()), place.clone()) {
                    // A flag's route was here first, and wins.
                    Some(Place::Flag(flag)) if matches!(place, Place::Bytes(_)) => {
                        taken.insert((host, path, route.tls()), Place::Flag(flag));
                        return Ok(None);
                    }
                    Some(_) if route.tls() == RouteTls::Passthrough => {
                        return Err(route.host.mistake(format!("TLS for {host} is passed through already")));
                    }
                    Some(_) => return Err(route.host.mistake(format!("{host}{path} has a route already"))),
                    None => {}
                }
                self.route_certificate(&route, &host)?;
                route.into_route(host, path, hsts, &mut context).map(Some)
            });
            match made {
                Ok(route) => routes.extend(route.map(|route| (route, place))),
                Err(mistake) => self.mistakes.push(mistake),
            }
        }
        self.mistakes.extend(passthrough::unreached(&routes));
        let mut routes: Vec<_> = routes.into_iter().map(|(route, _)| Arc::new(route)).collect();
        // They were collected in the place of those that they came from, which were thirty times as large.
        routes.shrink_to_fit();
        routes
    }

    fn route_certificate(&mut self, route: &WrittenRoute, host: &HostPattern) -> Result<(), Mistake> {
        let (cert, key) = match (&route.cert, &route.key) {
            (None, None) => return Ok(()),
            (Some(cert), Some(key)) => (cert, key),
            (Some(cert), None) => return Err(cert.mistake("cert needs key, the file with its private key")),
            (None, Some(key)) => return Err(key.mistake("key needs cert, the file with its certificate")),
        };
        let files =
            CertificateFiles { cert: self.directory.join(&cert.value), key: self.directory.join(&key.value) };
        let certificate = self.certificate(files, cert.place.clone());
        if let (Some(certificate), HostPattern::Exact(host)) = (certificate, host)
            && !certificate.names.covers(host)
        {
            let names = certificate.names.iter().collect::<Vec<_>>().join(", ");
            return Err(cert.mistake(format!("this certificate is not for {host} but for {names}")));
        }
        Ok(())
    }

    /// Certificates by ACME: for the hosts that it lists, or else for those of routes that have none yet.
    fn acme(
        &mut self,
        table: AcmeTable,
        routes: &[Arc<Route>],
        state: Option<PathBuf>,
    ) -> Option<AcmeConfig> {
        let mut hosts: Vec<String> = Vec::new();
        for host in route::terminated(routes) {
            if let HostPattern::Exact(host) = host
                && acme::is_issuable(host)
                && !hosts.contains(host)
                && !self.covered.iter().any(|names| names.covers(host))
            {
                hosts.push(host.clone());
            }
        }
        table.read(hosts, state, &self.directory).map_err(|mistake| self.mistakes.push(mistake)).ok()
    }

    /// Where to listen; `secure` if there is, or will be, a certificate, or an upstream that has one. A container that comes may
    /// have one too, if routes are made `by_labels`.
    fn listen(&mut self, table: ListenTable, flags: &Flags, secure: bool, by_labels: bool) -> Listen {
        let http = choose(&flags.http, table.http, "--http");
        let https = choose(&flags.https, table.https, "--https");
        if let Some(https) = &https
            && !https.value.is_empty()
            && !secure
            && !by_labels
        {
            let message = "listening for HTTPS needs a certificate; give --cert and --key, a [[certificate]], a route's cert and key, \
                 [acme], or tls = \"self-signed\"; or a route with tls = \"passthrough\", whose upstream has it";
            self.mistakes.push(https.mistake(message));
        }
        let default_https = if secure { vec![any(HTTPS_PORT)] } else { Vec::new() };
        let mut taken = HashSet::new();
        for list in [&http, &https].into_iter().flatten() {
            for address in &list.value {
                if address.port() != 0 && !taken.insert(*address) {
                    self.mistakes.push(list.mistake(format!("{address} is listened on twice")));
                }
            }
        }
        let listen = Listen {
            http: http.map_or_else(|| vec![any(HTTP_PORT)], |http| http.value),
            https: https.map_or(default_https, |https| https.value),
        };
        if listen.http.is_empty() && listen.https.is_empty() {
            let message =
                "nothing to listen on: listen.http is empty, and listen.https too or without a certificate";
            self.mistakes.push(Mistake::new(Place::Whole, message));
        }
        listen
    }
}

/// The flag's addresses, else the file's.
fn choose(
    flag: &[SocketAddr],
    file: Option<Spanned<Addresses>>,
    name: &str,
) -> Option<Written<Vec<SocketAddr>>> {
    if let Some(value) = given(flag) {
        return Some(Written { value, place: Place::Flag(name.to_owned()) });
    }
    let file = Written::from(file?);
    Some(Written { value: file.value.0, place: file.place })
}

/// What a repeatable flag was given, if it was.
fn given<T: Clone>(flag: &[T]) -> Option<Vec<T>> {
    (!flag.is_empty()).then(|| flag.to_vec())
}

fn any(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv6Addr::UNSPECIFIED, port))
}

fn processors() -> NonZeroUsize {
    thread::available_parallelism().unwrap_or(NonZeroUsize::MIN)
}
