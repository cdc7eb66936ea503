//! How packets for port 80 come to port 8080, put on for one round and taken off again.

use anyhow::Result;
use rprox_tests::command;
use rprox_tests::netns::Netns;
use rprox_tests::playground::Playground;
use rprox_tests::topology::INTERFACE;

use super::TO;

/// A way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// The client asks for 8080 itself: the limit.
    Direct,
    Iptables,
    Nftables,
    Rewrite,
    Steer,
}

impl Way {
    pub(super) const ALL: [Self; 5] =
        [Self::Direct, Self::Iptables, Self::Nftables, Self::Rewrite, Self::Steer];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Iptables => "iptables",
            Self::Nftables => "nftables",
            Self::Rewrite => "rprox rewrite",
            Self::Steer => "rprox steer",
        }
    }

    /// The TCP port that a client asks for.
    pub(super) fn port(self) -> u16 {
        if self == Self::Direct { TO } else { 80 }
    }

    /// Puts it on, until the guard goes.
    pub(super) fn apply(self, playground: &Playground) -> Result<Applied<'_>> {
        let host = &playground.topology.host;
        match self {
            Self::Direct => {}
            Self::Iptables => {
                for rule in IPTABLES {
                    iptables(host, "-A", rule)?;
                }
            }
            Self::Nftables => {
                for statement in NFTABLES {
                    nft(host, statement)?;
                }
            }
            Self::Rewrite => attach(playground, "rewrite")?,
            Self::Steer => attach(playground, "steer")?,
        }
        Ok(Applied { way: self, playground })
    }
}

const IPTABLES: [&str; 2] = [
    "PREROUTING -i eth0 -p tcp --dport 80 -j REDIRECT --to-port 8080",
    "PREROUTING -i eth0 -p udp --dport 443 -j REDIRECT --to-port 8443",
];
const NFTABLES: [&str; 4] = [
    "add table inet bench",
    "add chain inet bench prerouting { type nat hook prerouting priority dstnat ; }",
    "add rule inet bench prerouting iifname eth0 tcp dport 80 redirect to :8080",
    "add rule inet bench prerouting iifname eth0 udp dport 443 redirect to :8443",
];

/// A way that is on.
pub(super) struct Applied<'a> {
    way: Way,
    playground: &'a Playground,
}

impl Drop for Applied<'_> {
    fn drop(&mut self) {
        let host = &self.playground.topology.host;
        let undone = match self.way {
            Way::Direct => Ok(()),
            Way::Iptables => IPTABLES.iter().try_for_each(|rule| iptables(host, "-D", rule)),
            Way::Nftables => nft(host, "delete table inet bench"),
            Way::Rewrite | Way::Steer => self.playground.detach(),
        };
        if let Err(error) = undone {
            eprintln!("{} can't be taken off: {error:#}", self.way.name());
        }
    }
}

fn iptables(host: &Netns, action: &str, rule: &str) -> Result<()> {
    let mut command = host.command("iptables");
    command::run(command.args(["-w", "-t", "nat", action]).args(rule.split_whitespace())).map(drop)
}

fn nft(host: &Netns, statement: &str) -> Result<()> {
    command::run(host.command("nft").arg(statement)).map(drop)
}

fn attach(playground: &Playground, mode: &str) -> Result<()> {
    command::run(playground.loader("attach").args(["--interface", INTERFACE, "--mode", mode])).map(drop)
}
