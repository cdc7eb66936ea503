//! How packets for port 80 come to port 8080, put on for one round and taken off again.

use std::net::Ipv4Addr;

use anyhow::Result;

use super::TO;
use super::host::Host;

/// A way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// `Direct` once more: how far two figures of the same thing are apart.
    DirectAgain,
    /// The client asks for 8080 itself: the limit.
    Direct,
    Iptables,
    Nftables,
    Rewrite,
    Steer,
    /// `Steer` with a UDP rule too, for which it has programs in the packets' path.
    SteerBesideUdp,
}

impl Way {
    pub(super) const ALL: [Self; 7] = [
        Self::DirectAgain,
        Self::Direct,
        Self::Iptables,
        Self::Nftables,
        Self::Rewrite,
        Self::Steer,
        Self::SteerBesideUdp,
    ];
    /// Those of a quick run.
    pub(super) const QUICK: [Self; 5] =
        [Self::Direct, Self::Iptables, Self::Nftables, Self::Rewrite, Self::Steer];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::DirectAgain => "direct again",
            Self::Direct => "direct",
            Self::Iptables => "iptables",
            Self::Nftables => "nftables",
            Self::Rewrite => "rprox rewrite",
            Self::Steer => "rprox steer",
            Self::SteerBesideUdp => "rprox steer, UDP too",
        }
    }

    pub(super) fn is_direct(self) -> bool {
        matches!(self, Self::Direct | Self::DirectAgain)
    }

    /// Whether kernel programs of ours do it.
    pub(super) fn has_programs(self) -> bool {
        matches!(self, Self::Rewrite | Self::Steer | Self::SteerBesideUdp)
    }

    /// The TCP port that a client asks for.
    pub(super) fn port(self) -> u16 {
        if self.is_direct() { TO } else { 80 }
    }

    /// Where the client asks for it: connections meet nothing that another way has left in `TIME_WAIT`.
    pub(super) fn address(self) -> Ipv4Addr {
        Host::address(self as u8 + 1)
    }

    /// Puts it on with a TCP rule, until the guard goes.
    pub(super) fn apply(self, host: &Host) -> Result<Applied<'_>> {
        self.put_on(host, 1, self == Self::SteerBesideUdp)
    }

    /// The same with a UDP rule too.
    pub(super) fn apply_for_udp(self, host: &Host) -> Result<Applied<'_>> {
        self.put_on(host, 1, true)
    }

    /// The same with so many TCP rules, of which the one that is asked for comes last.
    pub(super) fn apply_with(self, host: &Host, rules: u16) -> Result<Applied<'_>> {
        self.put_on(host, rules, false)
    }

    fn put_on(self, host: &Host, tcp: u16, udp: bool) -> Result<Applied<'_>> {
        let applied = Applied { way: self, host };
        let others = (1..tcp).map(|rule| ("tcp", 10_000 + rule, 30_000 + rule));
        let rules = udp.then_some(("udp", 443, 8443)).into_iter().chain(others).chain([("tcp", 80, TO)]);
        match self {
            Self::DirectAgain | Self::Direct => {}
            Self::Iptables => {
                let rule = |(protocol, from, to)| {
                    format!("-A PREROUTING -i eth0 -p {protocol} --dport {from} -j REDIRECT --to-port {to}\n")
                };
                let text =
                    ["*nat\n".to_owned()].into_iter().chain(rules.map(rule)).chain(["COMMIT\n".to_owned()]);
                host.run("iptables-restore", &[&file(host, text)?])?;
            }
            Self::Nftables => {
                let rule = |(protocol, from, to)| {
                    format!(
                        "add rule inet bench prerouting iifname eth0 {protocol} dport {from} redirect to :{to}\n"
                    )
                };
                let chain = NFTABLES.map(str::to_owned).into_iter();
                host.run("nft", &["-f", &file(host, chain.chain(rules.map(rule)))?])?;
            }
            Self::Rewrite | Self::Steer | Self::SteerBesideUdp => {
                let mode = if self == Self::Rewrite { "rewrite" } else { "steer" };
                let rule = |(protocol, from, to)| format!("\"{from}:{to}/{protocol}\",\n");
                let list = ["redirect = [\n".to_owned()]
                    .into_iter()
                    .chain(rules.map(rule))
                    .chain(["]\n".to_owned()]);
                host.attach(mode, &["--config", &file(host, list)?])?;
            }
        }
        Ok(applied)
    }
}

/// A way that is on.
pub(super) struct Applied<'a> {
    way: Way,
    host: &'a Host,
}

impl Drop for Applied<'_> {
    fn drop(&mut self) {
        // Of iptables and nftables the tables go too, whose hooks would burden the ways that come after.
        let undone = match self.way {
            Way::DirectAgain | Way::Direct => Ok(()),
            Way::Iptables => self.host.run("nft", &["delete", "table", "ip", "nat"]).map(drop),
            Way::Nftables => self.host.run("nft", &["delete", "table", "inet", "bench"]).map(drop),
            Way::Rewrite | Way::Steer | Way::SteerBesideUdp => self.host.playground.detach(),
        };
        if let Err(error) = undone {
            eprintln!("{} can't be taken off: {error:#}", self.way.name());
        }
    }
}

const NFTABLES: [&str; 2] = [
    "add table inet bench\n",
    "add chain inet bench prerouting { type nat hook prerouting priority dstnat; }\n",
];

/// A file with these lines.
fn file(host: &Host, lines: impl Iterator<Item = String>) -> Result<String> {
    let file = host.playground.folder().join("rules");
    std::fs::write(&file, lines.collect::<String>())?;
    Ok(file.display().to_string())
}
