//! Mode `steer`: making known the sockets that listened on TO before the program that notes them was attached.

#![forbid(unsafe_code)]

use std::collections::BTreeSet;
use std::io;
use std::os::fd::AsRawFd as _;

use aya::maps::{Array, HashMap, Map, MapData, MapError, SockHash};
use procfs::ProcError;
use rprox_common::{Address, Listener, MAX_LISTENERS_PER_ADDRESS, Protocol, map};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};
use thiserror::Error;

use super::conflict::listener::{self, Socket};
use super::conflict::{Port, bound};
use super::owner::Owner;
use super::pins::Pins;

/// `BPF_NOEXIST` of linux/bpf.h.
const NOEXIST: u64 = 1;

/// Why a listener can't be taken over.
#[derive(Debug, Error)]
pub enum TakeoverError {
    /// The map.
    #[error("{interface}: the map {map}: {source}")]
    Map {
        /// The interface.
        interface: String,
        /// The map.
        map: &'static str,
        /// What the kernel said.
        source: Box<MapError>,
    },
    /// The sockets can't be listed.
    #[error("looking for who listens on the TO ports: {0}")]
    Sockets(#[from] ProcError),
    /// Some can't be had.
    #[error(
        "can't take over who listens already, {}: {source}; that needs CAP_SYS_PTRACE and CAP_DAC_READ_SEARCH: without them, start the \
         listener again once this is attached, and it is reached",
        .listeners.join(" and ")
    )]
    Refused {
        /// Who and where.
        listeners: Vec<String>,
        /// What the kernel said.
        source: io::Error,
    },
}

/// The listeners that are known, and the map that holds them.
pub struct Takeover {
    interface: String,
    listeners: SockHash<MapData, Listener>,
    listened: Array<MapData, u64>,
    bound_by: HashMap<MapData, u64, u32>,
    /// Inodes of those that were found, whether they could be had or not.
    seen: BTreeSet<u64>,
}

impl Takeover {
    /// Begins with what the kernel knows of itself in the attachment in `pins`.
    ///
    /// # Errors
    ///
    /// The map is not there.
    pub fn new(pins: &Pins) -> Result<Self, TakeoverError> {
        fn open<M: TryFrom<Map, Error = MapError>>(
            pins: &Pins,
            name: &'static str,
        ) -> Result<M, TakeoverError> {
            let map = MapData::from_pin(pins.map(name)).and_then(Map::from_map_data).and_then(M::try_from);
            map.map_err(|source| TakeoverError::Map {
                interface: pins.interface().to_owned(),
                map: name,
                source: Box::new(source),
            })
        }
        Ok(Self {
            interface: pins.interface().to_owned(),
            listeners: open(pins, map::LISTENERS)?,
            listened: open(pins, map::LISTENED)?,
            bound_by: open(pins, map::BOUND_BY)?,
            seen: BTreeSet::new(),
        })
    }

    /// Forgets every listener.
    ///
    /// # Errors
    ///
    /// The kernel refused.
    pub fn forget_all(&mut self) -> Result<(), TakeoverError> {
        let keys: Vec<Listener> =
            self.listeners.keys().collect::<Result<_, _>>().map_err(|e| self.failed(map::LISTENERS, e))?;
        for key in keys {
            match self.listeners.remove(&key) {
                // Closed meanwhile.
                Ok(()) | Err(MapError::KeyNotFound) => {}
                Err(error) if errno(&error) == Some(Errno::NOENT) => {}
                Err(error) => return Err(self.failed(map::LISTENERS, error)),
            }
        }
        Ok(())
    }

    /// Has the port guard know the `owner`'s sockets that were bound to one of the TCP `ports` before it came, and may listen yet.
    ///
    /// # Errors
    ///
    /// The kernel refused.
    pub fn know_bound(
        &mut self,
        ports: impl Iterator<Item = u16>,
        owner: Owner,
    ) -> Result<(), TakeoverError> {
        let Owner::User(owner) = owner else { return Ok(()) };
        for bound in bound::find(&ports.collect()).iter().filter(|bound| bound.user == owner) {
            self.bound_by
                .insert(bound.cookie, owner, 0)
                .map_err(|error| self.failed(map::BOUND_BY, error))?;
        }
        Ok(())
    }

    /// Makes known every socket that listens on one of the TCP `ports`, if this value has not seen it before.
    ///
    /// # Errors
    ///
    /// Sockets can't be had, which all others are not concerned by, or the kernel refused one.
    pub fn take(&mut self, ports: impl Iterator<Item = u16>) -> Result<(), TakeoverError> {
        let ports: BTreeSet<Port> = ports.map(|port| (Protocol::Tcp, port)).collect();
        let mut sockets = listener::sockets(&ports)?;
        sockets.retain(|socket| !self.seen.contains(&socket.inode));
        // By what they are called: a worker for each processor may listen on the port, and nothing tells those apart.
        let (mut refused, mut reason) = (BTreeSet::new(), Errno::PERM);
        for holder in listener::holders(sockets.iter().map(|socket| socket.inode))? {
            let Some(socket) = sockets.iter().find(|socket| socket.inode == holder.inode) else { continue };
            if self.seen.contains(&socket.inode) {
                continue;
            }
            let fd = Pid::from_raw(holder.pid).ok_or(Errno::SRCH).and_then(|pid| {
                pidfd_getfd(pidfd_open(pid, PidfdFlags::empty())?, holder.fd, PidfdGetfdFlags::empty())
            });
            match fd {
                Ok(fd) => self.insert(socket, &fd)?,
                // The process, or its descriptor, has gone meanwhile.
                Err(Errno::SRCH | Errno::BADF) => {}
                Err(error) => {
                    self.seen.insert(socket.inode);
                    refused.insert(format!("{} (pid {}) on port {}", holder.name, holder.pid, socket.port.1));
                    reason = error;
                }
            }
        }
        // What nobody seems to hold is held by a process that may not be looked into, or has been closed.
        sockets.retain(|socket| !self.seen.contains(&socket.inode));
        for socket in listener::sockets(&ports)?.iter().filter(|socket| sockets.contains(socket)) {
            self.seen.insert(socket.inode);
            refused.insert(format!("a process of user {} on port {}", socket.user, socket.port.1));
        }
        if refused.is_empty() {
            return Ok(());
        }
        Err(TakeoverError::Refused { listeners: refused.into_iter().collect(), source: reason.into() })
    }

    fn insert(&mut self, socket: &Socket, fd: &rustix::fd::OwnedFd) -> Result<(), TakeoverError> {
        self.seen.insert(socket.inode);
        let (address, port) = (Address::from(socket.address), socket.port.1.into());
        let place = Listener { address, port, slot: 0 }.place();
        self.listened.set(place, 1, 0).map_err(|error| self.failed(map::LISTENED, error))?;
        for slot in 0..MAX_LISTENERS_PER_ADDRESS {
            let key = Listener { address, port, slot };
            match self.listeners.insert(key, fd.as_raw_fd(), NOEXIST) {
                Ok(()) => return Ok(()),
                Err(error) if errno(&error) == Some(Errno::EXIST) => {}
                // It listens no more, or is not of the plain kind.
                Err(error) if errno(&error) == Some(Errno::OPNOTSUPP) => return Ok(()),
                Err(error) => return Err(self.failed(map::LISTENERS, error)),
            }
        }
        // The kernel spreads the connections over the whole group that those known are of.
        Ok(())
    }

    fn failed(&self, map: &'static str, source: MapError) -> TakeoverError {
        TakeoverError::Map { interface: self.interface.clone(), map, source: Box::new(source) }
    }
}

fn errno(error: &MapError) -> Option<Errno> {
    match error {
        MapError::SyscallError(error) => Errno::from_io_error(&error.io_error),
        _ => None,
    }
}
