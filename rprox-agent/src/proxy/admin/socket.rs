//! The admin listener's socket.

#![forbid(unsafe_code)]

use std::fmt;
use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::fs::{DirBuilderExt as _, FileTypeExt as _, PermissionsExt as _};
use std::os::unix::net::{UnixListener as StdUnixListener, UnixStream as StdUnixStream};
use std::path::{Path, PathBuf};
use std::pin::Pin;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};

use crate::proxy::config::{AdminConfig, AdminListen};
use crate::proxy::run::handover::Inherited;

/// Why there is no admin listener.
#[derive(Debug, thiserror::Error)]
#[error("can't listen for admin.listen on {at}: {error}")]
pub struct AdminError {
    at: AdminListen,
    #[source]
    error: io::Error,
}

/// A client's connection.
pub trait Stream: AsyncRead + AsyncWrite {}

impl<S: AsyncRead + AsyncWrite> Stream for S {}

/// A socket for operators.
pub enum AdminListener {
    /// For the agent's own user.
    Unix(UnixListener, PathBuf),
    /// For whoever reaches it.
    Tcp(TcpListener),
}

/// Listens where `config` says, or takes the socket for it that was `inherited`. Where the default can't be had the log says
/// so, and there is none.
///
/// # Errors
///
/// When an address that the configuration names can't be had.
pub fn open(config: &AdminConfig, inherited: &mut Inherited) -> Result<Option<AdminListener>, AdminError> {
    let passed = inherited.sockets(&name(&config.listen)).pop();
    let opened = match &config.listen {
        AdminListen::Off => return Ok(None),
        AdminListen::Unix(path) => {
            passed.map_or_else(|| bind(path), |socket| Ok(socket.into())).and_then(|listener| {
                listener.set_nonblocking(true)?;
                Ok(AdminListener::Unix(UnixListener::from_std(listener)?, path.clone()))
            })
        }
        AdminListen::Tcp(address) => passed
            .map_or_else(|| std::net::TcpListener::bind(address), |socket| Ok(socket.into()))
            .and_then(|listener| {
                listener.set_nonblocking(true)?;
                Ok(AdminListener::Tcp(TcpListener::from_std(listener)?))
            }),
    };
    match opened {
        Ok(listener) => Ok(Some(listener)),
        Err(error) => {
            let error = AdminError { at: config.listen.clone(), error };
            if config.is_explicit {
                return Err(error);
            }
            tracing::warn!("{error}; going without: set admin.listen to another place, or to \"off\"");
            Ok(None)
        }
    }
}

/// What the socket at `listen` is called when it is passed on.
fn name(listen: &AdminListen) -> String {
    format!("admin {listen}")
}

/// Listens at `path`, and takes the place of a socket there that nobody listens on. Nobody else can connect at any time.
fn bind(path: &Path) -> io::Result<StdUnixListener> {
    let folder = path.parent().unwrap_or(Path::new("/"));
    DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    if fs::metadata(path).is_ok_and(|found| !found.file_type().is_socket()) {
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, "there is something that is no socket"));
    }
    if StdUnixStream::connect(path).is_ok() {
        return Err(io::Error::new(io::ErrorKind::AddrInUse, "another agent listens there"));
    }
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{}", std::process::id()));
    let unfinished = PathBuf::from(name);
    let _ = fs::remove_file(&unfinished);
    let listener = StdUnixListener::bind(&unfinished)?;
    fs::set_permissions(&unfinished, Permissions::from_mode(0o600))
        .and_then(|()| fs::rename(&unfinished, path))
        .inspect_err(|_| drop(fs::remove_file(&unfinished)))?;
    Ok(listener)
}

impl AdminListener {
    /// Whether its clients are the agent's own user.
    #[must_use]
    pub fn is_local(&self) -> bool {
        matches!(self, Self::Unix(..))
    }

    /// What is passed on to a process that takes over, with its name; `config` is where it was opened.
    #[must_use]
    pub fn pass_on(&self, config: &AdminConfig) -> (String, BorrowedFd<'_>) {
        let socket = match self {
            Self::Unix(listener, _) => listener.as_fd(),
            Self::Tcp(listener) => listener.as_fd(),
        };
        (name(&config.listen), socket)
    }

    /// Takes a Unix socket out of the file system, where nobody has taken it over.
    pub fn remove(&self) {
        if let Self::Unix(_, path) = self {
            let _ = fs::remove_file(path);
        }
    }

    /// The next client.
    ///
    /// # Errors
    ///
    /// When the kernel has none to give.
    pub async fn accept(&self) -> io::Result<Pin<Box<dyn Stream>>> {
        Ok(match self {
            Self::Unix(listener, _) => Box::pin(listener.accept().await?.0),
            Self::Tcp(listener) => Box::pin(listener.accept().await?.0),
        })
    }
}

impl fmt::Display for AdminListener {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(_, path) => write!(formatter, "unix:{}", path.display()),
            Self::Tcp(listener) => match listener.local_addr() {
                Ok(address) => write!(formatter, "{address}"),
                Err(_) => formatter.write_str("an unknown address"),
            },
        }
    }
}
