//! The programs that are not in the packets' path: the port guard's and steer's. Each hangs on a link, which is pinned, to the root
//! cgroup or to the network namespace.

#![forbid(unsafe_code)]

use std::fs;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};

use aya::programs::links::{FdLink, LinkError};
use aya::programs::{CgroupAttachMode, Program, ProgramError, ProgramInfo};
use rustix::io::Errno;
use thiserror::Error;

use super::cgroup::{self, CgroupError};
use super::link::{self, PinnedLink};
use super::mode::Shape;
use super::netns;
use super::object::{Object, ObjectError};
use super::pins::{PinError, Pins};

/// One of these programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Linked {
    /// The port guard for IPv4 sockets.
    Bind4,
    /// The port guard for IPv6 and dual-stack sockets.
    Bind6,
    /// Notes the sockets that listen on TO.
    Listeners,
    /// Chooses the socket of a connection.
    Steer,
}

/// What went wrong with one.
#[derive(Debug, Error)]
pub enum LinkedError {
    /// There is no cgroup2.
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    /// The network namespace can't be opened.
    #[error("opening the network namespace: {0}")]
    Namespace(#[source] io::Error),
    /// The kernel refused to attach.
    #[error("{interface}: attaching {program}: {source}")]
    Attach {
        /// The interface.
        interface: String,
        /// The program.
        program: &'static str,
        /// What the kernel said.
        source: Box<ProgramError>,
    },
    /// The link can't be had.
    #[error("{interface}: the link of {program}: {source}")]
    Link {
        /// The interface.
        interface: String,
        /// The program.
        program: &'static str,
        /// Why.
        source: LinkError,
    },
    /// The kernel does not say what it knows of a program.
    #[error("asking for details of {program}: {source}")]
    Info {
        /// The program.
        program: &'static str,
        /// What the kernel said.
        source: Box<ProgramError>,
    },
    /// The kernel refused something else.
    #[error("{interface}: {action} {program}: {source}")]
    Kernel {
        /// The interface.
        interface: String,
        /// What was tried.
        action: &'static str,
        /// The program.
        program: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// The object.
    #[error(transparent)]
    Object(#[from] ObjectError),
    /// The bpffs.
    #[error(transparent)]
    Pins(#[from] PinError),
}

/// What [`bring`] did.
#[derive(Debug)]
pub enum Done {
    /// The program is new.
    Attached(Linked),
    /// It is in the place of this one.
    Replaced(Linked, OwnedFd),
}

impl Linked {
    /// All of them, in the order to attach in: who listens is noted before anybody is steered there.
    pub const ALL: [Self; 4] = [Self::Bind4, Self::Bind6, Self::Listeners, Self::Steer];

    /// The program's name.
    #[must_use]
    pub fn program(self) -> &'static str {
        use rprox_common::program;
        match self {
            Self::Bind4 => program::BIND4,
            Self::Bind6 => program::BIND6,
            Self::Listeners => program::LISTENERS,
            Self::Steer => program::STEER,
        }
    }
}

/// Those that belong to `shape`, in the order to attach in.
pub fn of(shape: &Shape) -> impl Iterator<Item = Linked> {
    Linked::ALL.into_iter().filter(|linked| shape.has(*linked))
}

/// Attaches the program of `object`, or puts it in the place of one that differs, in one step. `afresh`: also of one with the same
/// instructions, as its globals differ. `None` if there was nothing to do.
///
/// # Errors
///
/// The kernel refused; what was attached stays.
pub fn bring(
    linked: Linked,
    object: &mut Object,
    pins: &Pins,
    afresh: bool,
) -> Result<Option<Done>, LinkedError> {
    let kernel = |action| failed(pins, linked, action);
    let refused = |source| LinkedError::Attach {
        interface: pins.interface().to_owned(),
        program: linked.program(),
        source: Box::new(source),
    };
    let program = object.linked(linked)?;
    if is_alive(linked, pins)? {
        let pinned = ProgramInfo::from_pin(pins.program_of(linked)).map_err(refused)?;
        let tag = program_info(program).map_err(refused)?.tag();
        if !afresh && pinned.tag() == tag {
            return Ok(None);
        }
        let old = link::open(&pins.program_of(linked)).map_err(kernel("opening the pin of"))?;
        let link = PinnedLink::open(&pins.link_of(linked)).map_err(kernel("opening the link of"))?;
        link.update(program.fd().map_err(refused)?.as_fd()).map_err(kernel("replacing"))?;
        pins.put(linked.program(), |path| program.pin(path))?;
        return Ok(Some(Done::Replaced(linked, old)));
    }
    detach(linked, pins)?;
    let link = attach(linked, program, pins)?;
    pins.put(linked.program(), |path| program.pin(path))?;
    let path = pins.link_of(linked);
    link.pin(&path).map_err(|source| PinError::Pin { path, source })?;
    Ok(Some(Done::Attached(linked)))
}

fn attach(linked: Linked, program: &mut Program, pins: &Pins) -> Result<FdLink, LinkedError> {
    // A link is for the one program that made it; any number of them can be on a cgroup.
    const MODE: CgroupAttachMode = CgroupAttachMode::Single;
    let refused = |source| LinkedError::Attach {
        interface: pins.interface().to_owned(),
        program: linked.program(),
        source: Box::new(source),
    };
    let unfit = |source| LinkedError::Link {
        interface: pins.interface().to_owned(),
        program: linked.program(),
        source,
    };
    match program {
        Program::CgroupSockAddr(program) => {
            let id = program.attach(cgroup::root()?, MODE).map_err(refused)?;
            program.take_link(id).map_err(refused)?.try_into().map_err(unfit)
        }
        Program::SockOps(program) => {
            let id = program.attach(cgroup::root()?, MODE).map_err(refused)?;
            program.take_link(id).map_err(refused)?.try_into().map_err(unfit)
        }
        Program::SkLookup(program) => {
            let id = program.attach(netns::open().map_err(LinkedError::Namespace)?).map_err(refused)?;
            Ok(program.take_link(id).map_err(refused)?.into())
        }
        _ => Err(ObjectError::Lacks { kind: "program", name: linked.program() }.into()),
    }
}

/// What the kernel says of the program in `object`, which has been loaded.
///
/// # Errors
///
/// The object lacks it, or the kernel does not say.
pub fn info(linked: Linked, object: &mut Object) -> Result<ProgramInfo, LinkedError> {
    let program = object.linked(linked)?;
    program_info(program)
        .map_err(|source| LinkedError::Info { program: linked.program(), source: Box::new(source) })
}

fn program_info(program: &Program) -> Result<ProgramInfo, ProgramError> {
    match program {
        Program::CgroupSockAddr(program) => program.info(),
        Program::SockOps(program) => program.info(),
        Program::SkLookup(program) => program.info(),
        _ => Err(ProgramError::NotLoaded),
    }
}

/// Takes back what [`bring`] did.
///
/// # Errors
///
/// The kernel refused.
pub fn undo(done: Done, pins: &Pins) -> Result<(), LinkedError> {
    match done {
        Done::Attached(linked) => detach(linked, pins),
        Done::Replaced(linked, old) => {
            let kernel = |action| failed(pins, linked, action);
            PinnedLink::open(&pins.link_of(linked))
                .and_then(|link| link.update(old.as_fd()))
                .map_err(kernel("putting back"))?;
            let path = pins.program_of(linked);
            fs::remove_file(&path).and_then(|()| link::pin(old.as_fd(), &path)).map_err(kernel("pinning"))
        }
    }
}

/// Whether the program is attached. A link outlives what it is on, and says so only when it is changed: so put the program into it
/// that is in it already, which changes nothing.
///
/// # Errors
///
/// The kernel refused for another reason.
pub fn is_alive(linked: Linked, pins: &Pins) -> Result<bool, LinkedError> {
    let try_update = || {
        let program = link::open(&pins.program_of(linked))?;
        PinnedLink::open(&pins.link_of(linked))?.update(program.as_fd())
    };
    match try_update() {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) if Errno::from_io_error(&error) == Some(Errno::NOLINK) => Ok(false),
        Err(error) => Err(failed(pins, linked, "looking at the link of")(error)),
    }
}

/// Takes the program off, at once, and its pins away. Nothing to do where it is not attached.
///
/// # Errors
///
/// The kernel refused.
pub fn detach(linked: Linked, pins: &Pins) -> Result<(), LinkedError> {
    let optional = |result: io::Result<()>, action| match result {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed(pins, linked, action)(error)),
        _ => Ok(()),
    };
    let (link, program) = (pins.link_of(linked), pins.program_of(linked));
    if !link.exists() && !program.exists() {
        return Ok(());
    }
    optional(PinnedLink::open(&link).and_then(|link| link.detach()), "detaching")?;
    optional(fs::remove_file(link), "removing the link of")?;
    optional(fs::remove_file(program), "removing the pin of")
}

fn failed(pins: &Pins, linked: Linked, action: &'static str) -> impl FnOnce(io::Error) -> LinkedError {
    let interface = pins.interface().to_owned();
    move |source| LinkedError::Kernel { interface, action, program: linked.program(), source }
}
