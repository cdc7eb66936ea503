//! The command line of `rprox-loader`.

#![forbid(unsafe_code)]

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use clap_complete::Shell;

use super::config::{Direct, Flags};
use super::hook::HookChoice;
use super::mode::ModeChoice;
use super::owner::Owner;
use super::rule::Rule;
use crate::cli::{LogFormat, parse_log_level};

/// Redirects inbound ports of an interface to the unprivileged ports of a rootless proxy, with eBPF.
///
/// Packets that arrive for port FROM reach the socket that listens on port TO, and its answers leave from FROM. Nothing else
/// changes: not the addresses, not forwarded traffic, not a single firewall rule.
#[derive(Debug, Parser)]
#[command(name = "rprox-loader", version, long_version = LONG_VERSION, after_help = EXIT_STATUS, after_long_help = LONG_HELP)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,

    /// Which log lines to write to standard error: a level, or directives such as `info,rprox_agent=debug`
    #[arg(long, global = true, value_name = "LEVEL", default_value = "info", env = "RPROX_LOG", value_parser = parse_log_level)]
    pub log_level: String,

    /// How log lines look
    #[arg(long, global = true, value_name = "FORMAT", value_enum, default_value_t)]
    pub log_format: LogFormat,
}

/// With what `verify` and a reproducible build can be compared with.
const LONG_VERSION: &str =
    concat!(env!("CARGO_PKG_VERSION"), "\nkernel programs: SHA-256 ", env!("RPROX_EBPF_SHA256"));

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Attach, keep the attachment current, and detach when told to stop
    ///
    /// The service: it attaches, tells systemd that it is ready, follows the host's addresses, attaches again when an
    /// interface comes back, and detaches on SIGTERM, SIGINT or, unless nohup has it ignored, SIGHUP. Killed hard, it leaves
    /// the redirect working, and the next `run` takes it over without a gap.
    #[command(after_help = RUN_EXAMPLES)]
    Run(RunArgs),

    /// Attach and return; the redirect stays until `detach` or a reboot
    ///
    /// Attaching again changes only what differs: other rules are put in force at once, a newer build's programs replace
    /// the attached ones with no packet lost, and with nothing new nothing happens. The host's addresses are those of this
    /// moment; where they change (DHCP, IPv6 privacy addresses), use `run`.
    #[command(after_help = ATTACH_EXAMPLES)]
    Attach(AttachArgs),

    /// Remove attachments and everything that belongs to them
    ///
    /// Leaves no pin, link, filter or qdisc behind. Not an error if nothing is attached.
    #[command(after_help = DETACH_EXAMPLES)]
    Detach(DetachArgs),

    /// Show what is attached, and what it has counted
    #[command(after_help = STATUS_EXAMPLES, after_long_help = STATUS_JSON)]
    Status(StatusArgs),

    /// Check what is attached against this program and the rules asked for
    ///
    /// Reads from the kernel which programs are on the interface now, what is ahead of them, and every entry of their maps, and
    /// names what differs. The rules asked for are those of the last `attach` or `run`, unless a configuration file or flags
    /// give others. Changes nothing.
    #[command(after_help = VERIFY_EXAMPLES, after_long_help = VERIFY_JSON)]
    Verify(VerifyArgs),

    /// Find firewall rules and listeners that lay claim to the ports, and say what to run
    ///
    /// For moving from an iptables or nftables redirect to rprox. Looks at the rules in force, at the files that bring iptables rules
    /// back at boot (UFW's, iptables-persistent's), and at who listens on a FROM port. Changes nothing.
    #[command(after_help = CHECK_EXAMPLES)]
    Check(CheckArgs),

    /// Look the host over for what will not work, or not well, and say what to do
    ///
    /// Takes the flags of `attach`, so that it looks for what they ask for. Looks at kernel, capabilities, file systems,
    /// interfaces, ports, owner, firewall rules, and what is attached already. Changes nothing.
    #[command(after_help = DOCTOR_EXAMPLES, after_long_help = DOCTOR_JSON)]
    Doctor(DoctorArgs),

    /// Write a shell's completions to standard output
    #[command(after_help = COMPLETIONS_EXAMPLES)]
    Completions {
        /// The shell
        shell: Shell,
    },

    /// Write the man page to standard output
    #[command(after_help = "Example:\n  rprox-loader man | man -l -")]
    Man,
}

/// Where pins are.
#[derive(Debug, Args)]
pub struct PlaceArgs {
    /// Configuration file (TOML); its keys are the long flags' names, and flags win over it
    #[arg(short, long, value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// BPF file system to pin under; one is mounted there if there is none [default: /sys/fs/bpf]
    #[arg(long, value_name = "DIR")]
    pub bpffs: Option<PathBuf>,
}

/// The flags of `run` and `attach`.
#[derive(Debug, Args)]
pub struct AttachArgs {
    /// Interface to attach to; repeatable [default: the default route's]
    #[arg(short, long = "interface", value_name = "NAME")]
    pub interfaces: Vec<String>,

    /// Redirect rule, on every interface; repeatable [default: 80:8080, 443:8443, 443:8443/udp]
    ///
    /// FROM is the port that peers connect to, TO the one that the listener is bound to, PROTO `tcp` or `udp`, and TCP where it
    /// is left out. For rules that differ by interface use a configuration file.
    #[arg(short, long = "redirect", value_name = "FROM:TO[/PROTO]")]
    pub rules: Vec<Rule>,

    /// What a connection from outside straight to a TO port gets: dropped and counted, or let through [default: deny]
    #[arg(long, value_name = "POLICY", value_enum, hide_possible_values = false)]
    pub direct: Option<Direct>,

    /// How it is done: by changing packets, by choosing the socket, or by letting the owner bind FROM itself [default: auto]
    #[arg(long, value_name = "MODE", value_enum)]
    pub mode: Option<ModeChoice>,

    /// The user, by name or id, whose sockets may hold TO; `any` turns the port guard off [default: who called sudo]
    #[arg(long, value_name = "USER|UID|any")]
    pub owner: Option<Owner>,

    /// Where programs attach: TCX, or a clsact qdisc for kernels before 6.6 [default: auto]
    #[arg(long, value_name = "HOOK", value_enum)]
    pub hook: Option<HookChoice>,

    /// Where pins are.
    #[command(flatten)]
    pub place: PlaceArgs,
}

impl AttachArgs {
    /// The file and the flags.
    #[must_use]
    pub fn into_parts(self) -> (Option<PathBuf>, Flags) {
        let Self { interfaces, rules, direct, mode, owner, hook, place: PlaceArgs { config, bpffs } } = self;
        (config, Flags { interfaces, rules, direct, mode, owner, hook, bpffs, ..Flags::default() })
    }
}

/// The flags of `run`.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// What to attach.
    #[command(flatten)]
    pub attach: AttachArgs,

    /// File to write metrics to every 15 s, for the textfile collector of Prometheus' `node_exporter`
    ///
    /// It is replaced in one step, and goes when the service ends. Its name must end in `.prom` for the collector to read it.
    #[arg(long, value_name = "FILE")]
    pub metrics_textfile: Option<PathBuf>,
}

impl RunArgs {
    /// The file and the flags.
    #[must_use]
    pub fn into_parts(self) -> (Option<PathBuf>, Flags) {
        let (config, flags) = self.attach.into_parts();
        (config, Flags { metrics_textfile: self.metrics_textfile, ..flags })
    }
}

/// The flags of `detach`.
#[derive(Debug, Args)]
pub struct DetachArgs {
    /// Interface to detach from; repeatable [default: those of the configuration file, or all that are attached]
    #[arg(short, long = "interface", value_name = "NAME")]
    pub interfaces: Vec<String>,

    /// Where pins are.
    #[command(flatten)]
    pub place: PlaceArgs,
}

/// The flags of `status`.
#[derive(Debug, Args)]
pub struct StatusArgs {
    /// Write JSON: an array with an object for each attachment
    #[arg(long)]
    pub json: bool,

    /// Keep showing it, with what went through in the last second; ends on Ctrl-C
    #[arg(short, long, conflicts_with = "json")]
    pub watch: bool,

    /// Where pins are.
    #[command(flatten)]
    pub place: PlaceArgs,
}

/// The flags of `verify`.
#[derive(Debug, Args)]
pub struct VerifyArgs {
    /// Write JSON
    #[arg(long)]
    pub json: bool,

    /// Interface to verify; repeatable [default: those of the configuration file, or all that are attached]
    #[arg(short, long = "interface", value_name = "NAME")]
    pub interfaces: Vec<String>,

    /// Redirect rule to expect; repeatable [default: those last asked for]
    #[arg(short, long = "redirect", value_name = "FROM:TO[/PROTO]")]
    pub rules: Vec<Rule>,

    /// Direct policy to expect [default: the one last asked for]
    #[arg(long, value_name = "POLICY", value_enum)]
    pub direct: Option<Direct>,

    /// Where pins are.
    #[command(flatten)]
    pub place: PlaceArgs,
}

/// The flags of `check`.
#[derive(Debug, Args)]
pub struct CheckArgs {
    /// Interface that is to be attached to; repeatable [default: the default route's]
    #[arg(short, long = "interface", value_name = "NAME")]
    pub interfaces: Vec<String>,

    /// Redirect rule that is to be; repeatable [default: 80:8080, 443:8443, 443:8443/udp]
    #[arg(short, long = "redirect", value_name = "FROM:TO[/PROTO]")]
    pub rules: Vec<Rule>,

    /// Where pins are.
    #[command(flatten)]
    pub place: PlaceArgs,
}

/// The flags of `doctor`.
#[derive(Debug, Args)]
pub struct DoctorArgs {
    /// Write JSON
    #[arg(long)]
    pub json: bool,

    /// What is to be attached.
    #[command(flatten)]
    pub attach: AttachArgs,
}

const EXIT_STATUS: &str = "\
Exit status: 0 done, 1 failed while running, 2 wrong usage or configuration, 3 refused by the kernel or for a missing privilege.

Example:
  sudo rprox-loader run -i eth0";

const LONG_HELP: &str = "\
Exit status:
  0  done
  1  failed while it ran
  2  the command line or the configuration is wrong
  3  the kernel, or a missing privilege, refused

Examples:
  Ports 80 and 443 of the default route's interface, to 8080 and 8443:
    sudo rprox-loader run
  Other ports, on two interfaces:
    sudo rprox-loader attach -i eth0 -i wlan0 -r 80:9080 -r 53:5353/udp
  What is attached:
    sudo rprox-loader status
  Take it all away:
    sudo rprox-loader detach

Configuration file:
  interface = [\"eth0\", \"eth1\"]           # without it: the default route's
  redirect = [\"80:8080\", \"443:8443\"]     # for every interface that has none of its own
  direct = \"deny\"                        # or \"allow\"
  mode = \"auto\"                          # or \"rewrite\", \"steer\", \"grant\"
  owner = \"proxy\"                        # the user that the proxy runs as, or its id; \"any\" for no port guard
  hook = \"auto\"                          # or \"tcx\", \"clsact\"
  bpffs = \"/sys/fs/bpf\"
  metrics_textfile = \"/var/lib/prometheus/node-exporter/rprox.prom\"

  [[attachment]]                         # an interface that differs; what it leaves out is as above
  interface = \"wg0\"
  redirect = [\"80:9080\"]
  direct = \"allow\"
  mode = \"rewrite\"
  owner = \"1000\"";

const RUN_EXAMPLES: &str = "\
Examples:
  sudo rprox-loader run
  sudo rprox-loader run -i eth0 -r 80:8080 -r 443:8443
  sudo rprox-loader run -c /etc/rprox/loader.toml
  sudo rprox-loader run --metrics-textfile /var/lib/prometheus/node-exporter/rprox.prom";

const ATTACH_EXAMPLES: &str = "\
Examples:
  sudo rprox-loader attach -i eth0
  sudo rprox-loader attach -i eth0 -r 80:8080 -r 443:8443 -r 443:8443/udp --direct allow";

const DETACH_EXAMPLES: &str = "\
Examples:
  sudo rprox-loader detach
  sudo rprox-loader detach -i eth0";

const STATUS_EXAMPLES: &str = "\
Examples:
  sudo rprox-loader status
  sudo rprox-loader status --watch
  sudo rprox-loader status --json | jq '.[].rules[].connections'";

const STATUS_JSON: &str = "\
Examples:
  sudo rprox-loader status
  sudo rprox-loader status --watch
  sudo rprox-loader status --json | jq '.[].rules[].connections'

JSON, an array of:
  interface             name
  mode                  \"rewrite\", \"steer\" or \"grant\"
  reason                why it is that mode
  owner                 the id of the user whose sockets may hold TO; null if the port guard is off
  hook                  \"tcx\" or \"clsact\"; null if unknown
  state                 \"attached\"; \"gone\": its interface is; \"elsewhere\": in another network namespace;
                        \"incomplete\": what an attempt to attach or detach left
  service               whether a running `rprox-loader run` keeps it
  direct                \"deny\" or \"allow\"
  programs              {ingress, egress}: the kernel's tag of each program
  object_sha256         the SHA-256 of the object that they are of, as the loader that attached them wrote down
  local_addresses       how many addresses of this host are known
  not_parsed            {ingress, egress}: packets that were cut short or malformed, and passed unchanged
  rules                 array of {rule, from, to, protocol, connections, refused_direct, packets_counted,
                        ingress: {packets, bytes, icmp_errors}, egress: {packets, bytes, icmp_errors}};
                        packets_counted: whether packets and bytes are the rule's traffic; steered connections
                        pass no program that counts";

const VERIFY_EXAMPLES: &str = "\
Exit status: 0 all as it should be, 1 something differs, 2 wrong usage or configuration, 3 refused.

Examples:
  sudo rprox-loader verify
  sudo rprox-loader verify -c /etc/rprox/loader.toml
  sudo rprox-loader verify --json | jq -r '.attachments[].differences[].what'";

const VERIFY_JSON: &str = "\
Exit status: 0 all as it should be, 1 something differs, 2 wrong usage or configuration, 3 refused.

Examples:
  sudo rprox-loader verify
  sudo rprox-loader verify -c /etc/rprox/loader.toml
  sudo rprox-loader verify --json | jq -r '.attachments[].differences[].what'

What is compared:
  programs    the one in the link or filter on the interface: its tag with that of this program's own, its maps with the
              pinned ones; the link's interface; that no other program or filter is ahead
  PORTS       every entry with the rules asked for; the other generation for sense
  STATE       with the direct policy asked for
  globals     what each program was told when it was loaded: interface, network namespace, owner, mode (the kernel shows
              it to CAP_SYS_ADMIN alone)
  addresses   LOCAL_ADDRESSES with the host's, and ADDRESS_SLOTS with it
  pins        owned by root, and not writable by others

JSON, an object of:
  ok             whether nothing differs
  object_sha256  the SHA-256 of the kernel programs' object in this rprox-loader
  attachments    array of {interface, ok, globals_seen, differences: array of {what, expected, found, remedy}};
                 globals_seen: whether the kernel showed the programs' globals";

const CHECK_EXAMPLES: &str = "\
Exit status: 0 nothing is in the way, 1 something is, 2 wrong usage or configuration, 3 refused.

Examples:
  sudo rprox-loader check
  sudo rprox-loader check -i eth0 -r 80:8080";

const DOCTOR_EXAMPLES: &str = "\
Exit status: 0 all is fine or there are warnings only, 1 something will not work, 2 wrong usage or configuration.

Examples:
  sudo rprox-loader doctor
  sudo rprox-loader doctor -c /etc/rprox/loader.toml
  sudo rprox-loader doctor --json | jq -r '.findings[] | select(.severity != \"fine\") | .remedy'";

const DOCTOR_JSON: &str = "\
Exit status: 0 all is fine or there are warnings only, 1 something will not work, 2 wrong usage or configuration.

Examples:
  sudo rprox-loader doctor
  sudo rprox-loader doctor -c /etc/rprox/loader.toml
  sudo rprox-loader doctor --json | jq -r '.findings[] | select(.severity != \"fine\") | .remedy'

JSON, an object of:
  ok        whether nothing is a fault
  findings  array of {check, severity, found, remedy}; severity: \"fine\", \"warning\" or \"fault\"; remedy: what to do,
            null where it is fine";

const COMPLETIONS_EXAMPLES: &str = "\
Examples:
  rprox-loader completions bash > /etc/bash_completion.d/rprox-loader
  rprox-loader completions fish > ~/.config/fish/completions/rprox-loader.fish";

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn bad_rules_are_usage_errors_that_show_the_form() {
        let error = Cli::try_parse_from(["rprox-loader", "attach", "-r", "80-8080"]).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        assert!(error.to_string().contains("write FROM:TO or FROM:TO/PROTO, such as 80:8080"), "{error}");
    }
}
