//! The command line of `rprox-agent`.

#![forbid(unsafe_code)]

use std::fmt;
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::Arc;

use clap::{Args, CommandFactory, Parser, Subcommand};
use clap_complete::Shell;
use rustix::process::geteuid;
use thiserror::Error;

use super::access_log;
use super::admin::{self, CallError};
use super::config::{Config, ConfigError, Flags, admin_socket, schema};
use super::dns::{DnsError, Names};
use super::doctor;
use super::quadlet::{self, QuadletArgs, QuadletError};
use super::route::{Route, UpstreamTemplate};
use super::run::{self, RunError};
use super::tls::{Certificates, TlsError};
use crate::cli::{exit, init_logging, init_logging_to, write_completions, write_man_page};

/// Routes HTTP requests by host name to pods that it finds through DNS, and terminates TLS for them.
///
/// It needs no privilege: it accepts on 8080 and 8443, and rprox-loader redirects ports 80 and 443 there.
#[derive(Debug, Parser)]
#[command(name = "rprox-agent", version, after_help = EXIT_STATUS, after_long_help = LONG_HELP)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Lines of the log that wait to be written, at most.
const LOG_LINES: usize = 4_096;

const EXIT_STATUS: &str = "Exit status: 0 done, 1 it failed while it ran, 2 the command line or the configuration is wrong, \
                           3 a missing privilege or the kernel refused (or it was started as root)";

const LONG_HELP: &str = "\
Exit status:
  0  done; for `run`: it was told to stop, and what ran has finished
  1  it failed while it ran
  2  the command line or the configuration is wrong
  3  the kernel refused (an address that is taken or not this host's), or it was started as root

Signals:
  SIGTERM, SIGINT  stop accepting, finish what runs within drain_timeout, and end
  SIGHUP           load the configuration anew, as when its file changes; if it is wrong the log says so and nothing changes
  SIGUSR2          let the program that is now where this one was started from take over

Examples:
  rprox-agent run --route registry.example.com=container-registry:80 --dns-search dns.podman
  rprox-agent run -c rprox.toml
  rprox-agent check -c rprox.toml";

const RUN_EXAMPLES: &str = "\
Examples:
  One service, found by its container's name:
    rprox-agent run --route registry.example.com=container-registry:80 --dns-search dns.podman

  The same with HTTPS; plain HTTP is then redirected to it:
    rprox-agent run --route registry.example.com=container-registry:80 --dns-search dns.podman \\
        --cert registry.pem --key registry.key

  Everything else goes to a second service, and paths under /api to a third:
    rprox-agent run --route registry.example.com=container-registry:80 --route '*=site:3000' --route '*/api=api:3000'

  From a file, with more to see:
    rprox-agent run -c rprox.toml --log-level debug";

const CHECK_EXAMPLES: &str = "\
Examples:
  rprox-agent check -c rprox.toml
  rprox-agent check -c rprox.toml --https '[::]:9443'

Exit status: 0 it is valid, 2 it is not; each mistake is on a line of its own, with its place.";

const DOCTOR_EXAMPLES: &str = "\
Examples:
  rprox-agent doctor
  rprox-agent doctor -c rprox.toml
  podman exec rprox /rprox-agent doctor -c /etc/rprox/rprox.toml
  rprox-agent doctor --json | jq -r '.findings[] | select(.severity != \"fine\") | .remedy'

JSON, an object of:
  ok        whether nothing is a fault
  findings  array of {check, severity, found, remedy}; severity: \"fine\", \"warning\" or \"fault\"; remedy: what to do,
            null where it is fine

Exit status: 0 all is fine or there are warnings only, 1 something will not work, 2 the configuration is wrong.";

const RELOAD_EXAMPLES: &str = "\
Examples:
  rprox-agent reload
  rprox-agent reload -c rprox.toml
  rprox-agent reload --socket /run/user/1000/rprox/agent.sock

Exit status: 0 it is in force, 1 no agent answers, 2 it is refused; the one that was in force then stays.";

const UPGRADE_EXAMPLES: &str = "\
Example:
  install -m 755 target/release/rprox-agent /usr/local/bin/ && rprox-agent upgrade -c rprox.toml

Exit status: 0 the new one serves, 1 no agent answers, 2 the new one did not start; the old one then serves on.";

const QUADLET_EXAMPLES: &str = "\
Examples:
  rprox-agent quadlet -c ~/.config/rprox/rprox.toml
  rprox-agent quadlet -c ~/.config/rprox/rprox.toml --network apps --image registry.example.com/rprox-agent:0.1.0

Each unit has its file's name above it. Sockets belong into ~/.config/systemd/user, the others into ~/.config/containers/systemd.";

const COMPLETIONS_EXAMPLES: &str = "\
Examples:
  rprox-agent completions bash > ~/.local/share/bash-completion/completions/rprox-agent
  rprox-agent completions fish > ~/.config/fish/completions/rprox-agent.fish";

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve until told to stop
    #[command(after_help = RUN_EXAMPLES)]
    Run(RunArgs),

    /// Validate the configuration, certificates included, and show what it says
    #[command(after_help = CHECK_EXAMPLES)]
    Check(RunArgs),

    /// Look the host, or the container, over for what will keep the agent from serving, and say what to do
    ///
    /// Takes the flags of `run`; with neither a file nor a route it looks at the host alone. Looks at the user, Podman and its
    /// network backend, the ports, limits, certificates, what DNS answers for each upstream, and the ACME server with its
    /// clock. Run it as the agent's user, and for DNS in the agent's container. Changes nothing.
    #[command(after_help = DOCTOR_EXAMPLES)]
    Doctor(DoctorArgs),

    /// Have the agent that runs load its configuration anew, and show what is wrong with it if it refuses
    #[command(after_help = RELOAD_EXAMPLES)]
    Reload(CallArgs),

    /// Have a new build take the place of the agent that runs, without a lost request
    ///
    /// Put the new program where the old one is, then run this. The new one is started with the same arguments and gets the
    /// old one's sockets; once it serves, the old one finishes what it has and ends. If it can't start, the old one serves on.
    #[command(after_help = UPGRADE_EXAMPLES)]
    Upgrade(CallArgs),

    /// Write the JSON schema of the configuration file to standard output
    #[command(after_help = "Example:\n  rprox-agent schema > rprox.schema.json")]
    Schema,

    /// Write the units that run the agent in a rootless container, for Podman's Quadlet
    ///
    /// Those of the network, the listeners' sockets and the container, by the addresses, files and times of the configuration.
    /// `deploy/quadlet` explains them.
    #[command(after_help = QUADLET_EXAMPLES)]
    Quadlet(QuadletArgs),

    /// Write a shell's completions to standard output
    #[command(after_help = COMPLETIONS_EXAMPLES)]
    Completions {
        /// The shell
        shell: Shell,
    },

    /// Write the man page to standard output
    #[command(after_help = "Example:\n  rprox-agent man | man -l -")]
    Man,
}

/// The flags of `run`; `check` takes the same, so that a command line can be checked by changing one word.
#[derive(Args, Debug)]
pub struct RunArgs {
    /// Where the configuration comes from.
    #[command(flatten)]
    pub flags: Flags,

    /// Run even as root, which gives a flaw in a program that faces the network all of root's power
    #[arg(long)]
    pub allow_root: bool,
}

/// The flags of `doctor`.
#[derive(Args, Debug)]
pub struct DoctorArgs {
    /// Write JSON
    #[arg(long)]
    pub json: bool,

    /// Where the configuration comes from.
    #[command(flatten)]
    pub flags: Flags,
}

impl DoctorArgs {
    fn examine(&self) -> Result<(), CliError> {
        let findings = doctor::examine(&self.flags)?;
        let mut out = io::stdout().lock();
        if self.json {
            findings.write_json(&mut out)?;
        } else {
            findings.write_text(&mut out)?;
        }
        if findings.ok() { Ok(()) } else { Err(CliError::Faulty) }
    }
}

/// Which of the agents that run is meant.
#[derive(Args, Debug)]
pub struct CallArgs {
    /// The configuration file that the agent runs by: its admin.listen says where to find it
    #[arg(short, long, value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// The agent's admin socket [default: admin.listen of the file, or of its default]
    #[arg(long, value_name = "PATH")]
    pub socket: Option<PathBuf>,
}

impl CallArgs {
    fn order(&self, order: &str) -> Result<(), CliError> {
        let socket = match &self.socket {
            Some(path) => Some(path.clone()),
            None => admin_socket(self.config.as_deref())?,
        };
        Ok(admin::order(&socket.ok_or(CliError::NoSocket)?, order)?)
    }
}

/// Why a subcommand failed.
#[derive(Debug, Error)]
pub enum CliError {
    /// Started as root.
    #[error(
        "refusing to run as root: serving needs no privilege, and as root a flaw in this program would hand the host over. \
         Run it as an ordinary user (systemd: User=, podman run: --user, sudo -u USER); rprox-loader is what root runs. \
         If it must be root: --allow-root"
    )]
    Root,
    /// The configuration is wrong.
    #[error("the configuration is refused:\n{0}")]
    Config(#[from] ConfigError),
    /// A certificate does not load.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// DNS can't be set up.
    #[error(transparent)]
    Dns(#[from] DnsError),
    /// No admin socket is known.
    #[error(
        "no admin socket is known: name it with --socket, or the agent's configuration with -c, in which \
         admin.listen is \"unix:/PATH\"; or send SIGHUP, and see the log"
    )]
    NoSocket,
    /// There are no units.
    #[error(transparent)]
    Quadlet(#[from] QuadletError),
    /// An order was not carried out.
    #[error(transparent)]
    Call(#[from] CallError),
    /// `doctor` found what will not work, and has written it.
    #[error("something will not work; see above")]
    Faulty,
    /// Logging can't be set up.
    #[error("{0}")]
    Logging(String),
    /// Standard output.
    #[error("writing to standard output: {0}")]
    Output(#[from] io::Error),
    /// It could not serve.
    #[error(transparent)]
    Run(#[from] RunError),
}

impl CliError {
    /// What the process ends with.
    #[must_use]
    pub fn exit_status(&self) -> u8 {
        match self {
            Self::Root | Self::Run(RunError::Listen(_) | RunError::Activation(_) | RunError::Admin(_)) => {
                exit::REFUSED
            }
            Self::Config(_)
            | Self::Quadlet(QuadletError::Config(_) | QuadletError::Path(_) | QuadletError::Admin(_))
            | Self::Tls(_)
            | Self::Dns(_)
            | Self::Logging(_)
            | Self::NoSocket
            | Self::Call(CallError::Refused(_))
            | Self::Run(RunError::Tls(_) | RunError::Dns(_) | RunError::NoCertificate) => exit::USAGE,
            Self::Call(_) | Self::Faulty | Self::Quadlet(_) | Self::Output(_) | Self::Run(_) => exit::FAILED,
        }
    }
}

impl Command {
    /// Does what the command line asks for.
    ///
    /// # Errors
    ///
    /// When it can't.
    pub fn execute(self) -> Result<(), CliError> {
        match self {
            Self::Run(RunArgs { flags, allow_root }) => {
                if geteuid().is_root() && !allow_root {
                    return Err(CliError::Root);
                }
                let config = Config::load(&flags)?;
                // As `check`: workers would find out once there are listeners.
                Names::new(&config.dns, Arc::default(), |_, _| {})?;
                // No worker waits for whoever reads the log.
                let (log, _all_written) = access_log::queue("log", LOG_LINES, io::stderr());
                init_logging_to(log, &config.log.level, config.log.format).map_err(CliError::Logging)?;
                Ok(run::run(flags, config)?)
            }
            Self::Check(RunArgs { flags, .. }) => check(&flags),
            Self::Doctor(args) => args.examine(),
            Self::Reload(args) => {
                args.order("reload")?;
                println!("The configuration was loaded anew.");
                Ok(())
            }
            Self::Upgrade(args) => {
                args.order("upgrade")?;
                println!("A new process serves.");
                Ok(())
            }
            Self::Schema => Ok(writeln!(io::stdout(), "{:#}", schema().as_value())?),
            Self::Quadlet(args) => Ok(quadlet::write(&args)?),
            Self::Completions { shell } => {
                write_completions(Cli::command(), shell, &mut io::stdout());
                Ok(())
            }
            Self::Man => Ok(write_man_page(Cli::command(), &mut io::stdout())?),
        }
    }
}

fn check(flags: &Flags) -> Result<(), CliError> {
    let config = Config::load(flags)?;
    init_logging(&config.log.level, config.log.format).map_err(CliError::Logging)?;
    let certificates = Certificates::load(&config.certificates)?;
    // With no servers of its own, the configuration is only as good as /etc/resolv.conf.
    Names::new(&config.dns, Arc::default(), |_, _| {})?;
    let mut out = io::stdout().lock();
    write!(out, "{}", Summary { config: &config, certificates: &certificates })?;
    Ok(out.flush()?)
}

/// What a configuration says, for people.
struct Summary<'a> {
    config: &'a Config,
    certificates: &'a Certificates,
}

impl fmt::Display for Summary<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { config, certificates } = self;
        writeln!(formatter, "The configuration is valid.\n\nListeners")?;
        for address in &config.listen.http {
            writeln!(formatter, "  http   {address}")?;
        }
        for address in &config.listen.https {
            writeln!(formatter, "  https  {address}")?;
        }
        writeln!(formatter, "  admin  {}", config.admin.listen)?;
        writeln!(formatter, "\nRoutes")?;
        let width = config.routes.iter().map(|route| route.label.len()).max().unwrap_or(0);
        for route in &config.routes {
            let redirect = match (route.https_redirect, route.is_passthrough(), self.has_certificate(route)) {
                (true, true, _) => "  (TLS is passed through, plain HTTP is redirected to HTTPS)",
                (false, true, _) => "  (TLS is passed through)",
                (true, false, true) => "  (plain HTTP is redirected to HTTPS)",
                _ => "",
            };
            writeln!(formatter, "  {:width$}  -> {}{redirect}", route.label, leads_to(route))?;
        }
        if !certificates.is_empty() {
            writeln!(formatter, "\nCertificates")?;
            for certificate in certificates.iter() {
                let names = certificate.names.iter().collect::<Vec<_>>().join(", ");
                writeln!(formatter, "  {}: {names}", certificate.file.display())?;
            }
        }
        if let Some(acme) = &config.acme {
            writeln!(formatter, "\nCertificates by ACME, from {}", acme.directory)?;
            for host in &acme.hosts {
                writeln!(formatter, "  {host}")?;
            }
            writeln!(formatter, "  kept in {}", acme.state.display())?;
        }
        if let Some(podman) = &config.podman {
            let networks = podman.networks.join(", ");
            writeln!(
                formatter,
                "\nRoutes by labels of containers on {networks}, by {}",
                podman.socket.display()
            )?;
        }
        let servers = match config.dns.servers.as_slice() {
            [] => "those of /etc/resolv.conf".to_owned(),
            servers => servers.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
        };
        writeln!(formatter, "\nDNS servers: {servers}")
    }
}

impl Summary<'_> {
    /// Whether requests for the route's host can come over HTTPS at all.
    fn has_certificate(&self, route: &Route) -> bool {
        use super::route::HostPattern::{Any, Exact, Wildcard};
        let own = self.config.tls.self_signed;
        match &route.host {
            Exact(host) => own || self.certificates.covers(host) || self.is_by_acme(host),
            // Any label will do: a wildcard certificate is what covers them all.
            Wildcard(domain) => own || self.certificates.covers(&format!("x.{domain}")),
            Any => false,
        }
    }

    fn is_by_acme(&self, host: &str) -> bool {
        self.config.acme.as_ref().is_some_and(|acme| acme.hosts.iter().any(|by| by == host))
    }
}

fn leads_to(route: &Route) -> String {
    match &route.upstream {
        UpstreamTemplate::Plain(upstreams) => upstreams.label.clone(),
        UpstreamTemplate::Template(sets) => {
            let mut all = sets.values().map(|upstreams| upstreams.label.as_str()).collect::<Vec<_>>();
            all.sort_unstable();
            all.join(", ")
        }
    }
}
