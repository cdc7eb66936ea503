//! Metrics for Prometheus, as a file for the textfile collector of `node_exporter`.
//!
//! The text format (version 0.0.4) is written by hand: Prometheus' own library writes `OpenMetrics` alone, whose counters that
//! collector takes for metrics without a type.

#![forbid(unsafe_code)]

use std::fmt::Write as _;
use std::io::Write as _;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{fs, io};

use tracing::{debug, warn};

use super::netlink::Netlink;
use super::object;
use super::status::{self, Attachment, ByDirection, Condition, Traffic};

/// How often the file is written: as often as Prometheus asks by default.
pub const EVERY: Duration = Duration::from_secs(15);

/// The file. It goes with this value, since metrics of a service that has ended would look current for ever.
#[derive(Debug)]
pub struct Textfile {
    path: PathBuf,
    /// Whether the last attempt failed: said once, not every 15 s.
    failing: bool,
}

impl Textfile {
    /// The file at `path`, which is not written yet.
    #[must_use]
    pub fn new(path: PathBuf) -> Self {
        Self { path, failing: false }
    }

    /// Writes the metrics of every attachment under `bpffs`. A failure is logged: the redirect matters more.
    pub async fn write(&mut self, netlink: &Netlink, bpffs: &Path) {
        let result = match status::read(netlink, bpffs).await {
            Ok(attachments) => replace(&self.path, &render(&attachments)).map_err(|error| {
                let remedy = match error.kind() {
                    // With the other capabilities went the one to write into other users' folders.
                    io::ErrorKind::PermissionDenied => {
                        ": its folder must be root's, or one that root's group may write to"
                    }
                    _ => "",
                };
                format!("{}: {error}{remedy}", self.path.display())
            }),
            Err(error) => Err(error.to_string()),
        };
        if let Err(error) = &result {
            if self.failing {
                debug!("writing metrics: {error}");
            } else {
                warn!("writing metrics: {error}; trying again every {} s", EVERY.as_secs());
            }
        }
        self.failing = result.is_err();
    }
}

impl Drop for Textfile {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.path) {
            debug!("removing {}: {error}", self.path.display());
        }
    }
}

/// Puts a file with `text`, readable to all, in the place of the one at `path` in one step.
fn replace(path: &Path, text: &str) -> io::Result<()> {
    // The collector reads files that end in .prom.
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let new = path.with_file_name(name);
    match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o644).open(&new)?;
    // Whatever the umask is: the collector is another user.
    file.set_permissions(fs::Permissions::from_mode(0o644))?;
    file.write_all(text.as_bytes())?;
    fs::rename(&new, path)
}

/// One of the counters of a direction.
type Counter = fn(&Traffic) -> u64;

/// The metrics in the text format.
#[must_use]
pub fn render(attachments: &[Attachment]) -> String {
    let mut text = Text::default();
    text.family("rprox_loader_info", "gauge", "This rprox-loader; always 1.");
    let sha256 = object::SHA256;
    text.sample(&[("version", env!("CARGO_PKG_VERSION")), ("object_sha256", sha256)], 1);

    text.family("rprox_attached", "gauge", "Whether the redirect is on its interface.");
    for attachment in attachments {
        let attached = u64::from(attachment.state == Condition::Attached);
        text.sample(&[("interface", &attachment.interface)], attached);
    }
    text.family("rprox_local_addresses", "gauge", "Addresses of this host that the programs know.");
    for attachment in attachments {
        text.sample(&[("interface", &attachment.interface)], attachment.local_addresses as u64);
    }
    text.family(
        "rprox_not_parsed_packets_total",
        "counter",
        "Packets cut short or malformed, passed unchanged.",
    );
    for attachment in attachments {
        let ByDirection { ingress, egress } = attachment.not_parsed;
        for (direction, value) in [("ingress", ingress), ("egress", egress)] {
            text.sample(&[("interface", &attachment.interface), ("direction", direction)], value);
        }
    }

    let traffic: [(&str, &str, Counter); 3] = [
        ("rprox_redirect_packets_total", "Packets whose port was changed.", |traffic| traffic.packets),
        ("rprox_redirect_bytes_total", "Their bytes.", |traffic| traffic.bytes),
        ("rprox_redirect_icmp_errors_total", "ICMP errors whose port was changed.", |traffic| {
            traffic.icmp_errors
        }),
    ];
    for (name, help, value) in traffic {
        text.family(name, "counter", help);
        // No sample says more than one that stays 0.
        for (interface, rule) in rules(attachments).filter(|(_, rule)| rule.packets_counted) {
            let name = rule.rule.to_string();
            for (direction, traffic) in [("ingress", &rule.ingress), ("egress", &rule.egress)] {
                let labels = [("interface", interface), ("rule", name.as_str()), ("direction", direction)];
                text.sample(&labels, value(traffic));
            }
        }
    }
    text.family("rprox_redirect_connections_total", "counter", "TCP connections begun.");
    for (interface, rule) in rules(attachments) {
        text.sample(&[("interface", interface), ("rule", &rule.rule.to_string())], rule.connections);
    }
    text.family(
        "rprox_refused_direct_packets_total",
        "counter",
        "Packets from outside straight to TO, dropped.",
    );
    for (interface, rule) in rules(attachments) {
        text.sample(&[("interface", interface), ("rule", &rule.rule.to_string())], rule.refused_direct);
    }
    text.text
}

fn rules(attachments: &[Attachment]) -> impl Iterator<Item = (&str, &status::RuleStatus)> {
    attachments
        .iter()
        .flat_map(|attachment| attachment.rules.iter().map(|rule| (attachment.interface.as_str(), rule)))
}

/// The text so far, and the metric that samples are of.
#[derive(Default)]
struct Text {
    text: String,
    name: &'static str,
}

impl Text {
    fn family(&mut self, name: &'static str, kind: &str, help: &str) {
        self.name = name;
        _ = write!(self.text, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
    }

    fn sample(&mut self, labels: &[(&str, &str)], value: u64) {
        self.text.push_str(self.name);
        for (place, (label, text)) in labels.iter().enumerate() {
            // An interface's name may hold what ends a label's value.
            let text = text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
            _ = write!(self.text, "{}{label}=\"{text}\"", if place == 0 { '{' } else { ',' });
        }
        _ = writeln!(self.text, "}} {value}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_escaped() {
        let mut text = Text::default();
        text.family("up", "gauge", "Whether.");
        text.sample(&[("interface", "a\"b\\c"), ("direction", "ingress")], 7);
        assert_eq!(
            text.text,
            "# HELP up Whether.\n# TYPE up gauge\nup{interface=\"a\\\"b\\\\c\",direction=\"ingress\"} 7\n"
        );
    }

    #[test]
    fn the_file_is_replaced_readable_to_all_and_goes_with_its_guard() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rprox.prom");
        replace(&path, "1").unwrap();
        replace(&path, "2").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "2");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o644);
        drop(Textfile::new(path));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
