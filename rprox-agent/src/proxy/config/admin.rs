//! Where the agent answers its operator.

#![forbid(unsafe_code)]

use std::env;
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::Deserialize;
use toml::Spanned;

use super::error::{ConfigError, Mistake};
use super::routes::Written;

/// The admin listener's table, as it is written.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct AdminTable {
    #[schemars(with = "Option<String>")]
    pub(super) listen: Option<Spanned<String>>,
    pub(super) allow_remote: bool,
}

/// The admin listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdminConfig {
    /// Where it listens.
    pub listen: AdminListen,
    /// Whether the configuration says so; else it is the default, which gives way where it can't be had.
    pub is_explicit: bool,
}

/// An address of the admin listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AdminListen {
    /// None.
    Off,
    /// A Unix socket, for its owner alone.
    Unix(PathBuf),
    /// TCP.
    Tcp(SocketAddr),
}

impl fmt::Display for AdminListen {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Off => formatter.write_str("off"),
            Self::Unix(path) => write!(formatter, "unix:{}", path.display()),
            Self::Tcp(address) => write!(formatter, "{address}"),
        }
    }
}

/// The admin socket of an agent that runs by `file`, also where the rest of that file has mistakes: to be told of them is
/// what one would ask the agent for. `None` where it has none.
///
/// # Errors
///
/// When the file can't be read or is no TOML, or the address is wrong.
pub fn admin_socket(file: Option<&Path>) -> Result<Option<PathBuf>, ConfigError> {
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct JustAdmin {
        admin: AdminTable,
    }
    let text = file.map_or_else(|| Ok(String::new()), ConfigError::read)?;
    let refused = |mistake| ConfigError::located(vec![mistake], file, &text);
    let just: JustAdmin = toml::from_str(&text).map_err(|error| refused(error.into()))?;
    let admin = just.admin.read().map_err(refused)?;
    Ok(match admin.listen {
        AdminListen::Unix(path) => Some(path),
        AdminListen::Off | AdminListen::Tcp(_) => None,
    })
}

impl AdminTable {
    pub(super) fn read(self) -> Result<AdminConfig, Mistake> {
        let Some(listen) = self.listen.map(Written::from) else {
            return Ok(AdminConfig { listen: default_listen(), is_explicit: false });
        };
        let address = parse(&listen.value).ok_or_else(|| {
            listen.mistake(format!(
                "{:?} is no place for the admin listener; write \"unix:/PATH\", \"127.0.0.1:PORT\", \"[::1]:PORT\" or \"off\"",
                listen.value
            ))
        })?;
        if let AdminListen::Tcp(address) = address
            && !address.ip().to_canonical().is_loopback()
            && !self.allow_remote
        {
            return Err(listen.mistake(format!(
                "{address} is open to others, and who reaches it reads routes, endpoints and numbers; use loopback or a \
                 Unix socket, or set admin.allow_remote"
            )));
        }
        Ok(AdminConfig { listen: address, is_explicit: true })
    }
}

fn parse(text: &str) -> Option<AdminListen> {
    if text == "off" {
        return Some(AdminListen::Off);
    }
    match text.strip_prefix("unix:") {
        Some(path) => path.starts_with('/').then(|| AdminListen::Unix(path.into())),
        None => text.parse().ok().map(AdminListen::Tcp),
    }
}

/// In the folder that a login session or a user's service has for sockets; elsewhere nowhere.
fn default_listen() -> AdminListen {
    match env::var_os("XDG_RUNTIME_DIR") {
        Some(folder) if !folder.is_empty() => {
            AdminListen::Unix(PathBuf::from(folder).join("rprox/agent.sock"))
        }
        _ => AdminListen::Off,
    }
}
