//! Podman and what makes its networks, with the faults that versions of them are known for.

#![forbid(unsafe_code)]

use std::io::{self, Read as _};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use serde_json::Value;

use crate::findings::Finding;

/// How long Podman may take to answer. A lock that somebody holds makes it wait for ever.
const PATIENCE: Duration = Duration::from_secs(20);

/// Where distributions have netavark and aardvark-dns.
const FOLDERS: [&str; 2] = ["/usr/lib/podman", "/usr/libexec/podman"];

/// The first Podman with netavark, and the first on which `deploy/quadlet` works.
const NETAVARK: Version = (4, 0);
const QUADLET: Version = (5, 0);
/// The first aardvark-dns that loses no query when a container comes or goes.
const RELOADS: Version = (1, 11);
/// The first netavark that leaves a bridge's address alone when a container goes.
const KEEPS_ADDRESS: Version = (1, 13);

type Version = (u32, u32);

/// What Podman says of itself.
#[derive(Clone, Debug)]
pub(super) enum Podman {
    /// It failed, or did not answer.
    Failed(String),
    /// It works.
    Works {
        version: String,
        backend: String,
        /// What each says to `--version`; `None` where it isn't found.
        netavark: Option<String>,
        aardvark: Option<String>,
    },
}

impl Podman {
    /// `None` where it isn't installed.
    pub(super) fn read() -> Option<Self> {
        let info = match said(Command::new("podman").args(["info", "--format", "json"])) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
            Err(error) => return Some(Self::Failed(error.to_string())),
            Ok(info) => info,
        };
        let Ok(info) = serde_json::from_str(&info) else {
            return Some(Self::Failed("`podman info --format json` writes no JSON".to_owned()));
        };
        let Self::Works { version, backend, netavark, aardvark } = Self::from_info(&info) else {
            return None;
        };
        Some(Self::Works {
            version,
            backend,
            netavark: netavark.or_else(|| of_program("netavark")),
            aardvark: aardvark.or_else(|| of_program("aardvark-dns")),
        })
    }

    /// Reads `podman info`; Podman before 4.5 doesn't say which netavark and aardvark-dns it has.
    fn from_info(info: &Value) -> Self {
        let text = |place: &str| info.pointer(place).and_then(Value::as_str).map(str::to_owned);
        Self::Works {
            version: text("/version/Version").unwrap_or_default(),
            backend: text("/host/networkBackend").unwrap_or_default(),
            netavark: text("/host/networkBackendInfo/version"),
            aardvark: text("/host/networkBackendInfo/dns/version"),
        }
    }
}

fn of_program(name: &str) -> Option<String> {
    FOLDERS.iter().find_map(|folder| said(Command::new(format!("{folder}/{name}")).arg("--version")).ok())
}

/// What `command` writes, if it succeeds in time.
fn said(command: &mut Command) -> io::Result<String> {
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let (Some(mut out), Some(mut err)) = (child.stdout.take(), child.stderr.take()) else {
        return Err(io::ErrorKind::BrokenPipe.into());
    };
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let (mut text, mut complaint) = (String::new(), String::new());
        let read = out.read_to_string(&mut text).and_then(|_| err.read_to_string(&mut complaint));
        // Nobody waits any more where it took too long.
        let _ = sender.send(read.map(|_| (text, complaint)));
    });
    let Ok(read) = receiver.recv_timeout(PATIENCE) else {
        end(&mut child);
        return Err(io::Error::other(format!("it does not answer within {}s", PATIENCE.as_secs())));
    };
    let (text, complaint) = read.inspect_err(|_| end(&mut child))?;
    if child.wait()?.success() { Ok(text) } else { Err(io::Error::other(complaint.trim().to_owned())) }
}

fn end(child: &mut Child) {
    // It may have ended by itself.
    let _ = child.kill();
    let _ = child.wait();
}

pub(super) fn check(podman: &Podman) -> Vec<Finding> {
    let (version, backend, netavark, aardvark) = match podman {
        Podman::Failed(reason) => {
            return vec![Finding::fault(
                "podman",
                format!("`podman info` fails: {reason}"),
                "see that it works for this user first: `podman info`",
            )];
        }
        Podman::Works { version, backend, netavark, aardvark } => (version, backend, netavark, aardvark),
    };
    let mut findings = Vec::new();
    findings.push(match parse(version) {
        Some(known) if known >= QUADLET => Finding::fine("podman", version),
        Some(known) if known >= NETAVARK => Finding::warning(
            "podman",
            format!("{version}: the Quadlet files of deploy/quadlet want Podman 5"),
            "take deploy/systemd/user/rprox.service instead, which needs no Quadlet",
        ),
        _ => Finding::warning(
            "podman",
            format!("{version}: rprox is tested with 4.3 and later"),
            "update it: netavark and aardvark-dns came with 4.0",
        ),
    });
    if backend != "netavark" {
        let backend = if backend.is_empty() { "CNI" } else { backend };
        findings.push(Finding::warning(
            "network backend",
            format!("{backend}: names on its networks are not aardvark-dns's, with which rprox is tested"),
            "set `network_backend = \"netavark\"` in the section [network] of containers.conf, and make the networks anew \
             (`podman system reset` takes all containers away)",
        ));
        return findings;
    }
    findings.push(component("netavark", netavark.as_deref(), KEEPS_ADDRESS, (
        "the bridge's address changes when a container goes, and for half a minute names aren't found",
        "update it, or give upstreams two endpoints; README, \"Troubleshooting\", has a way to prevent it",
    )));
    findings.push(component(
        "aardvark-dns",
        aardvark.as_deref(),
        RELOADS,
        (
            "when a container comes or goes it loses the queries that are on their way (aardvark-dns#389)",
            "update it; until then the agent asks again, and serves what it knows for dns.stale",
        ),
    ));
    findings
}

/// What is to be said of `name` that says of itself `told`, where versions before `good` have a `fault` and a way round it.
fn component(name: &str, told: Option<&str>, good: Version, (fault, remedy): (&str, &str)) -> Finding {
    let Some(told) = told else {
        let remedy = format!("install it: the package {name}");
        return Finding::fault(name, "it isn't found, and without it containers have no names", remedy);
    };
    let told = told.trim();
    match parse(told) {
        Some(version) if version < good => Finding::warning(name, format!("{told}: {fault}"), remedy),
        _ => Finding::fine(name, told),
    }
}

/// Major and minor version of `4.3.1`, or of `netavark 1.4.0`.
fn parse(text: &str) -> Option<Version> {
    let version =
        text.split_ascii_whitespace().find(|word| word.starts_with(|c: char| c.is_ascii_digit()))?;
    let mut parts = version.split(|c: char| !c.is_ascii_digit());
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::findings::Severity::{self, Fault, Fine, Warning};

    fn severities(podman: &Podman) -> Vec<(String, Severity)> {
        check(podman).into_iter().map(|finding| (finding.check, finding.severity)).collect()
    }

    fn works(version: &str, backend: &str, netavark: Option<&str>, aardvark: Option<&str>) -> Podman {
        Podman::Works {
            version: version.to_owned(),
            backend: backend.to_owned(),
            netavark: netavark.map(str::to_owned),
            aardvark: aardvark.map(str::to_owned),
        }
    }

    #[test]
    fn podman_info_is_read_in_its_old_form_and_its_new_one() {
        let mut info = json!({"host": {"networkBackend": "netavark"}, "version": {"Version": "4.3.1"}});
        let Podman::Works { version, netavark, .. } = Podman::from_info(&info) else { panic!() };
        assert_eq!((version.as_str(), netavark), ("4.3.1", None));
        info["host"]["networkBackendInfo"] =
            json!({"version": "netavark 1.14.0", "dns": {"version": "aardvark-dns 1.14.0"}});
        let podman = Podman::from_info(&info);
        let Podman::Works { aardvark, .. } = &podman else { panic!() };
        assert_eq!(aardvark.as_deref(), Some("aardvark-dns 1.14.0"));
        assert_eq!(parse("aardvark-dns 1.14.0\n"), Some((1, 14)));
        assert_eq!(parse("5.0.0-rc1"), Some((5, 0)));
        assert_eq!(parse("none"), None);
    }

    #[test]
    fn debian_12_s_podman_works_with_known_faults() {
        let debian = works("4.3.1", "netavark", Some("netavark 1.4.0"), Some("aardvark-dns 1.4.0"));
        assert!(severities(&debian).iter().all(|(_, severity)| *severity == Warning));
        let recent = works("5.4.2", "netavark", Some("netavark 1.14.1"), Some("aardvark-dns 1.14.0"));
        assert!(severities(&recent).iter().all(|(_, severity)| *severity == Fine));
    }

    #[test]
    fn cni_and_a_missing_dns_server_are_told() {
        let cni = severities(&works("4.3.1", "cni", None, None));
        assert!(cni.contains(&("network backend".to_owned(), Warning)), "{cni:?}");
        let nameless = severities(&works("5.4.2", "netavark", Some("netavark 1.14.1"), None));
        assert!(nameless.contains(&("aardvark-dns".to_owned(), Fault)), "{nameless:?}");
        assert_eq!(severities(&Podman::Failed("newuidmap".to_owned())), [("podman".to_owned(), Fault)]);
    }

    #[test]
    fn a_program_s_failure_is_what_it_says() {
        assert_eq!(said(Command::new("sh").args(["-c", "echo yes"])).unwrap(), "yes\n");
        let error = said(Command::new("sh").args(["-c", "echo no >&2; exit 3"])).unwrap_err();
        assert_eq!(error.to_string(), "no");
        assert_eq!(said(&mut Command::new("/no/such")).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
