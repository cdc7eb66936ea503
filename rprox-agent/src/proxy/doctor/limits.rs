//! Limits of the process and the kernel that are below the agent's own.

#![forbid(unsafe_code)]

use crate::findings::Finding;
use crate::proxy::config::Limits;
use crate::proxy::listen::BACKLOG;
use crate::proxy::open_files;

/// The most connections that wait on a listener.
pub(super) const SOMAXCONN: &str = "/proc/sys/net/core/somaxconn";

/// `connections`: `limits.connections`; `descriptors`: to how many the agent can raise what it may open, `None` for any number; `backlog`: what
/// [`SOMAXCONN`] says.
pub(super) fn check(
    connections: Option<usize>,
    descriptors: Option<u64>,
    backlog: Option<i32>,
) -> Vec<Finding> {
    let connections = connections.unwrap_or(Limits::default().connections);
    let wanted = open_files::wanted(connections);
    let open = "open files";
    let mut findings = vec![match descriptors {
        Some(few) if few < wanted => Finding::warning(
            open,
            format!(
                "a process started from here may open {few} at most, and limits.connections is {connections}, each of which may take two"
            ),
            format!(
                "give the agent more (`LimitNOFILE={wanted}` in its unit, `podman run --ulimit nofile={wanted}`, `ulimit -Hn` here), or \
                 lower limits.connections to {}",
                few / 2
            ),
        ),
        Some(enough) => Finding::fine(open, enough.to_string()),
        None => Finding::fine(open, "without limit"),
    }];
    findings.extend(backlog.map(|backlog| {
        if backlog < BACKLOG {
            Finding::warning(
                "somaxconn",
                format!(
                    "{backlog} connections wait at most on a listener, of {BACKLOG} that the agent asks for"
                ),
                format!("run `sudo sysctl -w net.core.somaxconn={BACKLOG}`, and put it into /etc/sysctl.d"),
            )
        } else {
            Finding::fine("somaxconn", backlog.to_string())
        }
    }));
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::findings::Severity::{self, Fine, Warning};

    #[test]
    fn limits_below_the_agent_s_are_told() {
        let of = |connections, descriptors, backlog| -> Vec<Severity> {
            check(connections, descriptors, backlog).iter().map(|finding| finding.severity).collect()
        };
        assert_eq!(of(None, Some(1024), Some(128)), [Warning, Warning]);
        assert_eq!(of(Some(512), Some(1024), Some(4096)), [Fine, Fine]);
        assert_eq!(of(None, None, None), [Fine]);
        assert!(check(None, Some(1024), None)[0].remedy.as_ref().unwrap().contains("to 512"));
    }
}
