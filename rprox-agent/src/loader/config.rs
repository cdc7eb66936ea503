//! What to attach where: the configuration file, the flags, and how they come together.

#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};
use std::{fs, io};

use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use thiserror::Error;
use toml::Spanned;

use super::hook::HookChoice;
use super::mode::ModeChoice;
use super::owner::Owner;
use super::rule::{Rule, RuleError, RuleSet};

/// Where pins go unless told otherwise: where systemd mounts the bpffs.
pub const DEFAULT_BPFFS: &str = "/sys/fs/bpf";

/// What a direct connection from outside to a TO port gets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Direct {
    /// It is dropped, and counted.
    #[default]
    Deny,
    /// It is let through; direct flows are then tracked.
    Allow,
}

impl Direct {
    /// As it is written.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Deny => "deny",
            Self::Allow => "allow",
        }
    }

    /// Reads what [`Self::name`] gave.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Deny, Self::Allow].into_iter().find(|direct| direct.name() == name)
    }
}

/// What holds on one interface.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// The redirect rules.
    pub rules: RuleSet,
    /// What a direct connection gets.
    pub direct: Direct,
    /// The mode asked for.
    pub mode: ModeChoice,
    /// The owner; `None` if nobody has said.
    pub owner: Option<Owner>,
}

/// What the command line says; what it does not say is `None` or empty.
#[derive(Clone, Debug, Default)]
pub struct Flags {
    /// `--interface`
    pub interfaces: Vec<String>,
    /// `--redirect`
    pub rules: Vec<Rule>,
    /// `--direct`
    pub direct: Option<Direct>,
    /// `--mode`
    pub mode: Option<ModeChoice>,
    /// `--owner`
    pub owner: Option<Owner>,
    /// `--hook`
    pub hook: Option<HookChoice>,
    /// `--bpffs`
    pub bpffs: Option<PathBuf>,
    /// `--metrics-textfile`
    pub metrics_textfile: Option<PathBuf>,
}

/// Everything that attaching needs to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Where pins go.
    pub bpffs: PathBuf,
    /// The hook.
    pub hook: HookChoice,
    /// The interfaces by name, each with its policy. Empty: the default route's interface with `default_policy`.
    pub interfaces: Vec<(String, Policy)>,
    /// The policy of an interface that has none of its own.
    pub default_policy: Policy,
    /// Where `run` writes its metrics.
    pub metrics_textfile: Option<PathBuf>,
}

/// What is wrong with the configuration.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// The file can't be read.
    #[error("reading the configuration {path}: {source}", path = path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The file says something that it can't.
    #[error("{path}:{line}: {reason}", path = path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong.
        reason: String,
    },
    /// Nobody said who the owner is.
    #[error(
        "whose sockets may serve the redirected ports? Name the user that the proxy runs as with `--owner USER` (or a user id); \
         `--owner any` lets every local user serve them. Without it the user who called sudo is taken, and nobody has"
    )]
    NoOwner,
    /// A grant to everybody.
    #[error(
        "{0}: mode grant lets one user bind the FROM ports, so `--owner any` makes no sense with it; name the user"
    )]
    GrantToAny(String),
    /// The rules on the command line contradict each other.
    #[error(transparent)]
    Rules(#[from] RuleError),
    /// An interface name that the kernel would not take.
    #[error("{0:?} is not an interface name: those have 1 to 15 bytes, and no space, '/' or ':'")]
    InterfaceName(String),
    /// An interface is named twice.
    #[error("interface {0} is named twice; name it once")]
    InterfaceTwice(String),
}

/// Rules as they are written; each has its place, so that an error can name the line.
type Rules = Vec<Spanned<String>>;

/// The file as it is written.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    interface: Vec<Spanned<String>>,
    redirect: Option<Spanned<Rules>>,
    direct: Option<Direct>,
    mode: Option<ModeChoice>,
    owner: Option<Owner>,
    hook: Option<HookChoice>,
    bpffs: Option<PathBuf>,
    metrics_textfile: Option<PathBuf>,
    #[serde(default)]
    attachment: Vec<Attachment>,
}

/// An interface that differs from the others.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Attachment {
    interface: Spanned<String>,
    redirect: Option<Spanned<Rules>>,
    direct: Option<Direct>,
    mode: Option<ModeChoice>,
    owner: Option<Owner>,
}

impl Settings {
    /// Brings together the file, if any, and the flags, which win.
    ///
    /// # Errors
    ///
    /// What is wrong, and in a file on which line.
    pub fn load(file: Option<&Path>, flags: Flags) -> Result<Self, ConfigError> {
        match file {
            None => Self::merge(Path::new(""), "", flags),
            Some(path) => {
                let text = fs::read_to_string(path)
                    .map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
                Self::merge(path, &text, flags)
            }
        }
    }

    fn merge(path: &Path, text: &str, flags: Flags) -> Result<Self, ConfigError> {
        let wrong = |offset: usize, reason: String| {
            let line = text.bytes().take(offset).filter(|&byte| byte == b'\n').count() + 1;
            ConfigError::File { path: path.to_owned(), line, reason }
        };
        let file: File = toml::from_str(text)
            .map_err(|error| wrong(error.span().map_or(0, |span| span.start), error.message().to_owned()))?;

        // The file is checked whole, also where flags win over it.
        let rules = |rules: Option<Spanned<Rules>>| {
            let Some(rules) = rules else { return Ok(None) };
            let start = rules.span().start;
            let parse = |rule: Spanned<String>| {
                rule.as_ref().parse::<Rule>().map_err(|error| wrong(rule.span().start, error.to_string()))
            };
            let rules = rules.into_inner().into_iter().map(parse).collect::<Result<_, _>>()?;
            RuleSet::new(rules).map(Some).map_err(|error| wrong(start, error.to_string()))
        };
        let flag_rules = if flags.rules.is_empty() { None } else { Some(RuleSet::new(flags.rules)?) };
        let file_rules = rules(file.redirect)?;
        let default_policy = Policy {
            rules: flag_rules.clone().or(file_rules).unwrap_or_default(),
            direct: flags.direct.or(file.direct).unwrap_or_default(),
            mode: flags.mode.or(file.mode).unwrap_or_default(),
            owner: flags.owner.or(file.owner),
        };

        let mut own: Vec<(String, Policy)> = Vec::new();
        let mut add = |name: Spanned<String>, policy: Policy| {
            let start = name.span().start;
            let name = name.into_inner();
            check_interface(&name, &own).map_err(|error| wrong(start, error.to_string()))?;
            own.push((name, policy));
            Ok::<_, ConfigError>(())
        };
        for name in file.interface {
            add(name, default_policy.clone())?;
        }
        for attachment in file.attachment {
            let own_rules = rules(attachment.redirect)?;
            let policy = Policy {
                rules: flag_rules.clone().or(own_rules).unwrap_or_else(|| default_policy.rules.clone()),
                direct: flags.direct.or(attachment.direct).unwrap_or(default_policy.direct),
                mode: flags.mode.or(attachment.mode).unwrap_or(default_policy.mode),
                owner: flags.owner.or(attachment.owner).or(default_policy.owner),
            };
            add(attachment.interface, policy)?;
        }

        let interfaces = if flags.interfaces.is_empty() {
            own
        } else {
            let mut chosen: Vec<(String, Policy)> = Vec::new();
            for name in flags.interfaces {
                check_interface(&name, &chosen)?;
                let policy =
                    own.iter().find(|(own, _)| *own == name).map_or(&default_policy, |(_, policy)| policy);
                chosen.push((name, policy.clone()));
            }
            chosen
        };
        Ok(Self {
            bpffs: flags.bpffs.or(file.bpffs).unwrap_or_else(|| DEFAULT_BPFFS.into()),
            hook: flags.hook.or(file.hook).unwrap_or_default(),
            interfaces,
            default_policy,
            metrics_textfile: flags.metrics_textfile.or(file.metrics_textfile),
        })
    }
}

impl Settings {
    /// Makes `fallback` the owner where nobody has said who that is.
    ///
    /// # Errors
    ///
    /// There is none, or everybody is to be granted a port.
    pub fn settle_owner(&mut self, fallback: Option<Owner>) -> Result<(), ConfigError> {
        let default = self.interfaces.is_empty().then_some((None, &mut self.default_policy));
        let own = self.interfaces.iter_mut().map(|(name, policy)| (Some(&*name), policy));
        for (name, policy) in own.chain(default) {
            policy.owner = policy.owner.or(fallback);
            match policy.owner {
                None => return Err(ConfigError::NoOwner),
                Some(Owner::Any) if policy.mode == ModeChoice::Grant => {
                    let name = name.map_or("the default route's interface", String::as_str);
                    return Err(ConfigError::GrantToAny(name.to_owned()));
                }
                Some(_) => {}
            }
        }
        Ok(())
    }
}

/// Checks a name as the kernel does, and against those before it.
fn check_interface(name: &str, others: &[(String, Policy)]) -> Result<(), ConfigError> {
    let forbidden = |c: char| c == '/' || c == ':' || c.is_ascii_whitespace() || c == '\x0b' || c == '\0';
    if name.is_empty() || name.len() > 15 || name == "." || name == ".." || name.contains(forbidden) {
        return Err(ConfigError::InterfaceName(name.to_owned()));
    }
    if others.iter().any(|(other, _)| other == name) {
        return Err(ConfigError::InterfaceTwice(name.to_owned()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str, flags: Flags) -> Result<Settings, String> {
        Settings::merge(Path::new("rprox.toml"), text, flags).map_err(|error| error.to_string())
    }

    fn rules(texts: &[&str]) -> RuleSet {
        RuleSet::new(texts.iter().map(|text| text.parse().unwrap()).collect()).unwrap()
    }

    const WHOLE: &str = r#"
interface = ["eth0"]
redirect = ["80:8080"]
direct = "allow"
hook = "tcx"
bpffs = "/run/bpf"

[[attachment]]
interface = "wg0"
redirect = ["80:9080", "53:5353/udp"]
direct = "deny"
mode = "grant"
owner = "1000"

[[attachment]]
interface = "eth1"
"#;

    #[test]
    fn without_a_file_the_defaults_hold() {
        let settings = load("", Flags::default()).unwrap();
        assert_eq!(settings.interfaces, []);
        assert_eq!(settings.default_policy, Policy::default());
        assert_eq!((settings.bpffs, settings.hook), (PathBuf::from("/sys/fs/bpf"), HookChoice::Auto));
    }

    #[test]
    fn a_file_gives_rules_for_each_interface() {
        let settings = load(WHOLE, Flags::default()).unwrap();
        let common = Policy { rules: rules(&["80:8080"]), direct: Direct::Allow, ..Policy::default() };
        let own = Policy {
            rules: rules(&["80:9080", "53:5353/udp"]),
            direct: Direct::Deny,
            mode: ModeChoice::Grant,
            owner: Some(Owner::User(1000)),
        };
        assert_eq!(
            settings.interfaces,
            [("eth0".to_owned(), common.clone()), ("wg0".to_owned(), own), ("eth1".to_owned(), common)]
        );
        assert_eq!((settings.bpffs, settings.hook), (PathBuf::from("/run/bpf"), HookChoice::Tcx));
    }

    #[test]
    fn flags_win() {
        let flags = Flags {
            interfaces: vec!["wg0".to_owned(), "eth7".to_owned()],
            rules: vec!["81:8081".parse().unwrap()],
            mode: Some(ModeChoice::Steer),
            bpffs: Some("/bpf".into()),
            ..Flags::default()
        };
        let settings = load(WHOLE, flags).unwrap();
        let common = Policy {
            rules: rules(&["81:8081"]),
            direct: Direct::Allow,
            mode: ModeChoice::Steer,
            owner: None,
        };
        let own = Policy { direct: Direct::Deny, owner: Some(Owner::User(1000)), ..common.clone() };
        assert_eq!(settings.interfaces, [("wg0".to_owned(), own), ("eth7".to_owned(), common)]);
        assert_eq!(settings.bpffs, PathBuf::from("/bpf"));
    }

    #[test]
    fn errors_name_file_line_and_reason() {
        for (text, expected) in [
            ("direct = \"allow\"\nredirct = []\n", "rprox.toml:2: unknown field `redirct`"),
            (
                "\n\nredirect = [\"80-8080\"]\n",
                "rprox.toml:3: redirect rule \"80-8080\": there is no ':' in it",
            ),
            (
                "redirect = [\n  \"80:8080\",\n  \"80:0\",\n]\n",
                "rprox.toml:3: redirect rule \"80:0\": TO port 0",
            ),
            ("redirect = [\"80:8080\", \"80:9090\"]\n", "rprox.toml:1: redirect rules 80:8080 and 80:9090"),
            ("redirect = []\n", "rprox.toml:1: no redirect rule"),
            ("direct = \"maybe\"\n", "rprox.toml:1: unknown variant `maybe`, expected `deny` or `allow`"),
            ("interface = [\"eth0\", \"eth0\"]\n", "rprox.toml:1: interface eth0 is named twice"),
            ("\n[[attachment]]\ninterface = \"a/b\"\n", "rprox.toml:3: \"a/b\" is not an interface name"),
            ("[[attachment]]\ndirect = \"deny\"\n", "rprox.toml:1: missing field `interface`"),
            ("\ninterface = [\n", "rprox.toml:2: unclosed array"),
        ] {
            let error = load(text, Flags::default()).unwrap_err();
            assert!(error.starts_with(expected), "{text:?}: {error}");
        }
    }

    #[test]
    fn somebody_must_own_what_is_attached() {
        let mut settings = load("interface = [\"eth0\"]", Flags::default()).unwrap();
        assert!(settings.settle_owner(None).unwrap_err().to_string().contains("--owner USER"));
        settings.settle_owner(Some(Owner::User(7))).unwrap();
        assert_eq!(settings.interfaces[0].1.owner, Some(Owner::User(7)));
        settings.settle_owner(Some(Owner::User(8))).unwrap();
        assert_eq!(settings.interfaces[0].1.owner, Some(Owner::User(7)));
        let mut settings = load("mode = \"grant\"\nowner = \"any\"", Flags::default()).unwrap();
        assert!(settings.settle_owner(None).unwrap_err().to_string().contains("name the user"));
    }

    #[test]
    fn contradicting_flags_are_refused() {
        let flags = Flags { interfaces: vec!["eth0".to_owned(), "eth0".to_owned()], ..Flags::default() };
        assert_eq!(load("", flags).unwrap_err(), "interface eth0 is named twice; name it once");
        let twice = vec!["80:8080".parse().unwrap(), "80:9090".parse().unwrap()];
        assert!(load("", Flags { rules: twice, ..Flags::default() }).unwrap_err().contains("only once"));
    }
}
