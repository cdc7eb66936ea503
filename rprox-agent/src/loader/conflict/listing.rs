//! What iptables and nftables have in force, as their own tools list it.
//!
//! No table of iptables is asked for by its name: where there is none yet, the kernel would make it, with hooks in the way of every packet
//! that nothing takes off again. Without a name, those are listed that there are (`/proc/net/ip_tables_names`).

#![forbid(unsafe_code)]

use std::io;
use std::process::{Command, Stdio};

use tracing::debug;

/// The commands that list iptables rules, and the one that edits what each lists. On most hosts two of them are the same.
const IPTABLES: [(&str, &str); 4] = [
    ("iptables-save", "iptables"),
    ("ip6tables-save", "ip6tables"),
    ("iptables-legacy-save", "iptables-legacy"),
    ("ip6tables-legacy-save", "ip6tables-legacy"),
];

/// The table `name` of every iptables, with the command that edits it; empty where there is none.
pub(super) fn iptables(name: &str) -> impl Iterator<Item = (&'static str, String)> {
    IPTABLES
        .into_iter()
        .filter_map(move |(save, edit)| Some((edit, table(&said_by(save, &[])?, name).to_owned())))
}

/// The part of a list by iptables that is the table `name`; empty where there is none.
fn table<'a>(list: &'a str, name: &str) -> &'a str {
    let is_it = |part: &&str| part.lines().any(|line| line.strip_prefix('*') == Some(name));
    list.split_inclusive("\nCOMMIT\n").find(is_it).unwrap_or_default()
}

/// The ruleset of nftables in JSON.
pub(super) fn nftables() -> Option<String> {
    said_by("nft", &["-j", "-n", "list", "ruleset"])
}

/// What `program` says; `None` if it is not installed or fails.
fn said_by(program: &str, args: &[&str]) -> Option<String> {
    let output = Command::new(program).args(args).stdin(Stdio::null()).output();
    match output {
        Ok(output) if output.status.success() => Some(String::from_utf8_lossy(&output.stdout).into_owned()),
        Ok(output) => {
            debug!("{program}: {}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
            None
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => {
            debug!("{program}: {error}");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_found_among_others() {
        let list = "# Generated\n*mangle\n:INPUT DROP [0:0]\nCOMMIT\n# Generated\n*filter\n:INPUT ACCEPT [0:0]\nCOMMIT\n";
        assert_eq!(table(list, "filter"), "# Generated\n*filter\n:INPUT ACCEPT [0:0]\nCOMMIT\n");
        assert_eq!(table(list, "nat"), "");
        assert_eq!(table("", "nat"), "");
    }
}
