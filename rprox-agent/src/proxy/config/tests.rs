//! What files and flags make, and what their mistakes look like.

#[cfg(feature = "podman")]
mod podman;

mod upstreams;

mod passthrough;

mod tls;

use std::fs;

use clap::Parser;
use tempfile::TempDir;

use super::*;
use crate::cli::LogFormat;
use crate::proxy::route::{HostPattern, UpstreamTemplate};

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    flags: Flags,
}

fn flags(words: &[&str]) -> Flags {
    Line::try_parse_from([&["rprox-agent"], words].concat()).unwrap().flags
}

/// A directory with `rprox.toml`, and a certificate for `a.example.com` in `a.crt` and `a.key`, another's key in `b.key`.
fn directory(toml: &str) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("rprox.toml"), toml).unwrap();
    let key = rcgen::KeyPair::generate().unwrap();
    let params = rcgen::CertificateParams::new(vec!["a.example.com".to_owned()]).unwrap();
    fs::write(dir.path().join("a.crt"), params.self_signed(&key).unwrap().pem()).unwrap();
    fs::write(dir.path().join("a.key"), key.serialize_pem()).unwrap();
    fs::write(dir.path().join("b.key"), rcgen::KeyPair::generate().unwrap().serialize_pem()).unwrap();
    dir
}

fn load(toml: &str, words: &[&str]) -> Result<Config, String> {
    let dir = directory(toml);
    let path = dir.path().join("rprox.toml");
    let flags = Flags { config: Some(path), ..flags(words) };
    Config::load(&flags).map_err(|error| error.to_string().replace(&format!("{}/", dir.path().display()), ""))
}

/// Where the route of a host and path leads.
fn leads(config: &Config, label: &str) -> String {
    let route = config.routes.iter().find(|route| route.label == label).unwrap();
    match &route.upstream {
        UpstreamTemplate::Plain(set) => {
            let upstream = &set.upstreams[0].upstream;
            format!("{}{:?}", upstream.name, upstream.port)
        }
        UpstreamTemplate::Template(sets) => {
            let names = sets.values().flat_map(|set| &set.upstreams);
            let mut names = names.map(|weighted| weighted.upstream.name.as_str()).collect::<Vec<_>>();
            names.sort_unstable();
            names.join(" ")
        }
    }
}

#[test]
fn the_least_that_serves_has_every_default() {
    let config = Config::load(&flags(&["--route", "a.example.com=web:80"])).unwrap();
    assert_eq!(config.listen, Listen { http: vec!["[::]:8080".parse().unwrap()], https: Vec::new() });
    assert_eq!(config.dns, DnsConfig::default());
    assert_eq!(config.timeouts, Timeouts::default());
    assert_eq!(config.limits, Limits::default());
    assert_eq!(config.log, Log::default());
    assert_eq!(config.drain_timeout, Duration::from_secs(30));
    assert!(config.trusted_proxies.is_empty() && config.certificates.is_empty());
    assert_eq!(leads(&config, "a.example.com/"), "web.Some(80)");
    assert!(config.routes[0].https_redirect);
}

#[test]
#[allow(clippy::too_many_lines, reason = "it names every key that there is")]
fn every_key_is_taken() {
    let config = load(
        r#"
trusted_proxies = ["10.0.0.0/8", "192.0.2.1"]
drain_timeout = "5s"
workers = 3

[listen]
http = ["127.0.0.1:80", "[::1]:80"]
https = "[::]:443"

[dns]
servers = ["10.89.0.1", "[fd00::1]:5353"]
search = "DNS.podman."
min_ttl = "2s"
max_ttl = "20s"
stale = "0s"
timeout = "500ms"
attempts = 3

[log]
level = "debug"
format = "json"
access = false

[[certificate]]
cert = "a.crt"
key = "a.key"

[[route]]
host = "A.example.com"
path = "/api/"
upstream = "h2c://api:3000"
cert = "a.crt"
key = "a.key"
https_redirect = false

[[route]]
host = "*.pods.example.com"
upstream = "{1}:3000"
allow = ["Grafana", "wiki"]
"#,
        &[],
    )
    .unwrap();
    let s = Duration::from_secs;
    assert_eq!(config.trusted_proxies, ["10.0.0.0/8".parse().unwrap(), "192.0.2.1/32".parse().unwrap()]);
    assert_eq!((config.drain_timeout, config.workers.get()), (s(5), 3));
    assert_eq!(config.listen.http, ["127.0.0.1:80".parse().unwrap(), "[::1]:80".parse().unwrap()]);
    assert_eq!(config.listen.https, ["[::]:443".parse().unwrap()]);
    assert_eq!(
        config.dns,
        DnsConfig {
            servers: vec!["10.89.0.1:53".parse().unwrap(), "[fd00::1]:5353".parse().unwrap()],
            search: Some("dns.podman".to_owned()),
            min_ttl: s(2),
            max_ttl: s(20),
            stale: s(0),
            timeout: Duration::from_millis(500),
            attempts: 3,
        }
    );
    assert_eq!(
        config.log,
        Log { level: "debug".to_owned(), format: LogFormat::Json, access: false, ..Log::default() }
    );
    assert_eq!(config.certificates.len(), 1, "the same pair twice is one certificate");
    assert!(config.certificates[0].cert.is_absolute(), "relative to the file");
    assert_eq!(config.routes[0].host, HostPattern::Exact("a.example.com".to_owned()));
    assert!(!config.routes[0].https_redirect);
    assert_eq!(leads(&config, "a.example.com/api"), "api.dns.podman.Some(3000)");
    assert_eq!(leads(&config, "*.pods.example.com/"), "grafana.dns.podman. wiki.dns.podman.");
}

#[test]
fn every_limit_is_taken() {
    let toml = r#"
[limits]
connections = 10
passes = 11
header_bytes = "8KiB"
headers = 20
requests = 50
streams = 30
body_bytes = "1GiB"
client_connections = 50
client_prefix = 56
client_rate = "1KiB"
requests_in_flight = 60
memory = "64MiB"
resets = 70
upstream_connections = 40

[[route]]
host = "a.example.com"
upstream = "web:80"
"#;
    let config = load(toml, &[]).unwrap();
    assert_eq!(
        config.limits,
        Limits {
            memory: MemoryLimit::Bytes(64 << 20),
            connections: 10,
            passes: 11,
            header_bytes: 8192,
            headers: 20,
            requests: 50,
            streams: 30,
            body_bytes: Some(1 << 30),
            client_connections: 50,
            client_prefix: 56,
            client_rate: 1024,
            requests_in_flight: 60,
            resets: 70,
            upstream_connections: 40,
        }
    );
}

#[test]
fn memory_is_a_size_or_off_or_follows_from_the_cgroup() {
    let limit = |value: &str| {
        let toml = format!("[limits]\n{value}\n[[route]]\nhost = \"a\"\nupstream = \"b:80\"");
        load(&toml, &[]).map(|config| config.limits.memory)
    };
    assert_eq!(limit("memory = \"off\""), Ok(MemoryLimit::Off));
    assert_eq!(limit("memory = 16777216"), Ok(MemoryLimit::Bytes(16 << 20)));
    assert_eq!(limit(""), Ok(MemoryLimit::Cgroup));
    assert!(limit("memory = \"8MiB\"").unwrap_err().contains("must be at least 16MiB"));
    assert!(limit("memory = \"512MB\"").unwrap_err().contains("\"64KiB\", or \"off\""));
}

#[test]
fn every_time_out_is_taken() {
    let toml = r#"
[timeouts]
header = "1s"
idle = "2s"
body = "3s"
half_closed = "8s"
connect = "4s"
attempt_delay = "40ms"
response = "5s"
expect = "9s"
tunnel = "7s"
upstream_idle = "6s"

[[route]]
host = "a.example.com"
upstream = "web:80"
"#;
    let (config, s) = (load(toml, &[]).unwrap(), Duration::from_secs);
    assert_eq!(
        config.timeouts,
        Timeouts {
            header: s(1),
            idle: s(2),
            body: s(3),
            half_closed: s(8),
            connect: s(4),
            attempt_delay: Duration::from_millis(40),
            response: s(5),
            expect: s(9),
            tunnel: s(7),
            upstream_idle: s(6)
        }
    );
}

#[test]
fn the_access_log_s_keys_are_taken() {
    let toml = "[log]\naccess_format = 'combined'\ntraceparent = 'create'";
    let log = load(toml, &["--route", "a=web:80"]).unwrap().log;
    assert_eq!((log.access_format, log.traceparent), (AccessFormat::Combined, Traceparent::Create));
}

#[test]
fn https_is_listened_on_where_there_is_a_certificate() {
    let toml = "[[route]]\nhost = 'a.example.com'\nupstream = 'web:80'\ncert = 'a.crt'\nkey = 'a.key'\n";
    assert_eq!(load(toml, &[]).unwrap().listen.https, ["[::]:8443".parse().unwrap()]);
}

#[test]
fn flags_win_over_the_file() {
    let toml = "drain_timeout = '5s'\nworkers = 1\n[listen]\nhttp = '[::]:1'\n[dns]\nservers = '192.0.2.1'\nsearch = 'x'\n\
                [log]\nlevel = 'warn'\n[[route]]\nhost = 'a.example.com'\nupstream = 'old:80'\n\
                [[route]]\nhost = 'b.example.com'\nupstream = 'kept:80'\n";
    let words = "--route a.example.com=new:80 --http 127.0.0.1:8080 --dns-server 10.89.0.1 --dns-search dns.podman \
                 --workers 2 --drain-timeout 1s --log-level debug --log-format json --trusted-proxy 10.0.0.0/8";
    let config = load(toml, &words.split_whitespace().collect::<Vec<_>>()).unwrap();
    assert_eq!(config.listen.http, ["127.0.0.1:8080".parse().unwrap()]);
    assert_eq!(config.dns.servers, ["10.89.0.1:53".parse().unwrap()]);
    assert_eq!((config.workers.get(), config.drain_timeout), (2, Duration::from_secs(1)));
    assert_eq!((config.log.level.as_str(), config.log.format), ("debug", LogFormat::Json));
    assert_eq!(config.trusted_proxies.len(), 1);
    assert_eq!(config.routes.len(), 2);
    assert_eq!(leads(&config, "a.example.com/"), "new.dns.podman.Some(80)");
    assert_eq!(leads(&config, "b.example.com/"), "kept.dns.podman.Some(80)");
}

#[test]
fn each_mistake_has_its_line_and_reason() {
    let route = "[[route]]\nhost = 'a.example.com'\nupstream = 'web:80'\n";
    for (toml, expected) in [
        ("[listen\n", "rprox.toml:1:8: "),
        ("nonsense = 1\n", "rprox.toml:1:1: unknown key `nonsense`"),
        ("[dns]\n\nttl = '1s'\n", "rprox.toml:3:1: unknown key `ttl`"),
        ("[log]\nacess = true\n", "rprox.toml:2:1: unknown key `acess`; did you mean `access`?"),
        ("[dns]\nmin_ttl = '1 second'\n", "rprox.toml:2:11: \"1 second\" is not a duration"),
        (
            "[dns]\nmin_ttl = 1\n",
            "rprox.toml:2:11: invalid type: integer `1`, expected a duration such as \"10s\"",
        ),
        ("[dns]\nmin_ttl = '0s'\n", "rprox.toml:2:11: must be more than zero"),
        (
            "[dns]\nmin_ttl = '11s'\n[[route]]\nhost = 'a'\nupstream = 'b'\n",
            "rprox.toml:1:1: dns.min_ttl must not",
        ),
        ("[dns]\nservers = ['10.0.0.1', 'x']\n", "rprox.toml:2:11: \"x\" is not a DNS server's address"),
        ("[dns]\nsearch = 'a b'\n", "rprox.toml:2:10: \"a b\" is not a domain name"),
        ("[dns]\nattempts = 0\n", "rprox.toml:2:12: must be at least 1"),
        ("[listen]\nhttp = '8080'\n", "rprox.toml:2:8: \"8080\" is not an address and port"),
        ("[limits]\nheader_bytes = '1KiB'\n", "rprox.toml:2:16: must be at least 8KiB"),
        ("[limits]\nstreams = -1\n", "rprox.toml:2:11: invalid value"),
        (
            &format!("[admin]\nlisten = '0.0.0.0:9000'\n{route}"),
            "rprox.toml:2:10: 0.0.0.0:9000 is open to others",
        ),
        (
            &format!("[admin]\nlisten = 'agent.sock'\n{route}"),
            "rprox.toml:2:10: \"agent.sock\" is no place for the admin listener",
        ),
        ("[log]\nformat = 'xml'\n", "rprox.toml:2:10: \"xml\" is not a log format"),
        ("[log]\nlevel = 'loud,,=/'\n", "rprox.toml:2:9: "),
        ("workers = 0\n", "rprox.toml:1:11: invalid value"),
        ("trusted_proxies = ['10.0.0.0/40']\n", "rprox.toml:1:19: \"10.0.0.0/40\" is not a network"),
        ("", "no route; give --route"),
        ("[[route]]\nhost = 'a'\n", "rprox.toml:1:1: missing field `upstream`"),
        ("[[route]]\nhost = 'a:80'\nupstream = 'b'\n", "rprox.toml:2:8: \"a:80\" is not a host"),
        ("[[route]]\nhost = 'a'\npath = 'b'\nupstream = 'b'\n", "rprox.toml:3:8: path \"b\" must start with"),
        (
            "[[route]]\nhost = 'a'\npath = '/../b'\nupstream = 'b'\n",
            "rprox.toml:3:8: path \"/../b\" has a segment",
        ),
        (
            "[[route]]\nhost = 'a'\npath = '/b?c'\nupstream = 'b'\n",
            "rprox.toml:3:8: path \"/b?c\" has a character",
        ),
        (
            "[[route]]\nhost = 'a'\nupstream = 'b'\nallow = ['b']\n",
            "rprox.toml:4:9: allow is for an upstream with {1}",
        ),
        (
            "[[route]]\nhost = 'a'\nupstream = '{1}:80'\nallow = ['b']\n",
            "rprox.toml:3:12: {1} stands for what a wildcard",
        ),
        (
            "[[route]]\nhost = '*.a'\nupstream = '{1}:80'\n",
            "rprox.toml:3:12: an upstream with {1} needs allow",
        ),
        (
            "[[route]]\nhost = '*.a'\nupstream = '{2}:80'\nallow = ['b']\n",
            "rprox.toml:3:12: \"{2}:80\": {1} is all",
        ),
        (
            "[[route]]\nhost = '*.a'\nupstream = '{1}:80'\nallow = ['c', 'b.c']\n",
            "rprox.toml:4:15: \"b.c\" is not one label",
        ),
        (&format!("{route}cert = 'a.crt'\n"), "rprox.toml:4:8: cert needs key"),
        (&format!("{route}key = 'a.key'\n"), "rprox.toml:4:7: key needs cert"),
        (&format!("{route}cert = 'none.crt'\nkey = 'a.key'\n"), "rprox.toml:4:8: none.crt: No such file"),
        (
            &format!("{route}cert = 'a.crt'\nkey = 'b.key'\n"),
            "rprox.toml:4:8: b.key is not the private key of",
        ),
        (
            "[[route]]\nhost = 'b.example.com'\nupstream = 'b'\ncert = 'a.crt'\nkey = 'a.key'\n",
            "rprox.toml:4:8: this certificate is not for b.example.com but for a.example.com",
        ),
        (
            &format!("{route}[[certificate]]\ncert = 'a.crt'\nkey = 'b.key'\n"),
            "rprox.toml:5:8: b.key is not the",
        ),
        (
            &format!("{route}[[route]]\nhost = 'A.example.com.'\nupstream = 'b'\n"),
            "rprox.toml:5:8: a.example.com/ has a route",
        ),
        (
            &format!("{route}[listen]\nhttps = '[::]:8443'\n"),
            "rprox.toml:5:9: listening for HTTPS needs a certificate",
        ),
        (
            &format!("{route}[listen]\nhttp = ['[::]:1', '[::]:1']\n"),
            "rprox.toml:5:8: [::]:1 is listened on twice",
        ),
        (&format!("{route}[listen]\nhttp = []\n"), "nothing to listen on"),
    ] {
        let error = load(toml, &[]).expect_err(toml);
        assert!(error.starts_with(expected), "{toml}\nexpected: {expected}\nand got:  {error}");
    }
}

#[test]
fn all_mistakes_are_told_at_once() {
    let toml = "[[route]]\nhost = 'a b'\nupstream = 'web'\n[[route]]\nhost = 'c'\nupstream = 'we b'\n";
    let error = load(toml, &[]).unwrap_err();
    let lines = error.lines().map(|line| &line[..16]).collect::<Vec<_>>();
    assert_eq!(lines, ["rprox.toml:2:8: ", "rprox.toml:6:12:"], "{error}");
}

#[test]
fn mistakes_in_flags_name_the_flag() {
    for (words, expected) in [
        (&["--route", "a:80=web:80"][..], "--route a:80=web:80: \"a:80\" is not a host"),
        (&["--route", "a=web:x"], "--route a=web:x: upstream \"web:x\": the port"),
        (&["--route", "a=web:80", "--route", "A=web:80"], "--route A=web:80: a/ has a route already"),
        (&["--route", "a=web:80", "--https", "[::]:443"], "--https: listening for HTTPS needs a certificate"),
        (&["--route", "a=web:80", "--cert", "/none", "--key", "/none"], "--cert: /none: No such file"),
    ] {
        let error = Config::load(&flags(words)).unwrap_err().to_string();
        assert!(error.starts_with(expected), "{error}");
    }
}

#[test]
fn a_flag_route_can_have_a_path() {
    let config = Config::load(&flags(&["--route", "a/api=api:80", "--route", "a=web:80"])).unwrap();
    assert_eq!(leads(&config, "a/api"), "api.Some(80)");
    assert_eq!(leads(&config, "a/"), "web.Some(80)");
}

#[test]
fn a_missing_file_is_named() {
    let flags = Flags { config: Some("/none/rprox.toml".into()), ..Flags::default() };
    let error = Config::load(&flags).unwrap_err().to_string();
    assert!(error.starts_with("/none/rprox.toml: No such file"), "{error}");
}
