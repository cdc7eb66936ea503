//! The kernel programs' object that is built into this binary, and loading it.

use std::error::Error as _;
use std::fmt;

use aya::programs::{Program, ProgramError, SchedClassifier};
use aya::{Ebpf, EbpfError, EbpfLoader, include_bytes_aligned};
use rprox_common::{ANY_OWNER, MIN_RULE_CAPACITY, RewriteTcp, global, map};
use thiserror::Error;
use tracing::debug;

use super::kernel_log;
use super::linked::{self, Linked};
use super::mode::Shape;
use super::pins::{PinError, Pins};

/// Which way packets go through a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Out of the host.
    Egress,
    /// Into the host.
    Ingress,
}

impl Direction {
    /// The order to attach in: egress first, so that no redirected packet is ever answered from TO.
    pub const ATTACH_ORDER: [Self; 2] = [Self::Egress, Self::Ingress];
    /// The order to detach in.
    pub const DETACH_ORDER: [Self; 2] = [Self::Ingress, Self::Egress];

    /// The name of the program for this direction.
    #[must_use]
    pub fn program(self) -> &'static str {
        match self {
            Self::Egress => rprox_common::program::EGRESS,
            Self::Ingress => rprox_common::program::INGRESS,
        }
    }
}

/// Why the programs could not be loaded.
#[derive(Debug, Error)]
pub enum ObjectError {
    /// The binary was built without them.
    #[error(
        "this rprox-loader was built without the kernel programs; build a whole one with `cargo xtask build`"
    )]
    Missing,
    /// The object is not what this loader expects.
    #[error(
        "the built-in kernel programs hold no {kind} {name}; build loader and programs together with `cargo xtask build`"
    )]
    Lacks {
        /// `program` or `map`.
        kind: &'static str,
        /// Its name.
        name: &'static str,
    },
    /// The object or its maps were refused.
    #[error("loading the kernel programs' maps: {reason}{hint}", reason = chain(.0), hint = hint(.0))]
    Maps(#[source] Box<EbpfError>),
    /// The verifier or the kernel refused a program.
    #[error(
        "the kernel refused the program {program}: {reason}; it must be Linux 5.8 or later, and `--log-level debug` shows the \
         verifier's log"
    )]
    Program {
        /// The program's name.
        program: &'static str,
        /// What the kernel said, in a line.
        reason: String,
    },
    /// The pinned maps could not be used.
    #[error(transparent)]
    Pins(#[from] PinError),
}

/// An error with what is behind it, in a line: aya tells the reason of a refused map only there.
fn chain(error: &EbpfError) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let more = error.to_string();
        // Some of aya's errors repeat what is behind them.
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        source = error.source();
    }
    text
}

/// A refused program in a line; the verifier's log goes to the debug log.
fn refused(program: &'static str, error: ProgramError) -> ObjectError {
    let reason = match error {
        ProgramError::LoadError { io_error, verifier_log } => {
            debug!("{program}: the verifier's log:\n{verifier_log}");
            io_error.to_string()
        }
        error => error.to_string(),
    };
    ObjectError::Program { program, reason }
}

/// What to do about a refused map.
fn hint(error: &EbpfError) -> &'static str {
    let EbpfError::MapError(aya::maps::MapError::CreateError { io_error, .. }) = error else { return "" };
    match io_error.kind() {
        std::io::ErrorKind::PermissionDenied => {
            "; the kernel refused eBPF to this process: run it as root outside of a container or user namespace, and check \
             that kernel lockdown and LSMs allow BPF"
        }
        std::io::ErrorKind::OutOfMemory => {
            "; there is too little memory, or the memory cgroup's limit is too low"
        }
        _ => "",
    }
}

/// The object's SHA-256 in hexadecimal, by which `cargo xtask build --reproducible` finds it again.
pub const SHA256: &str = env!("RPROX_EBPF_SHA256");

/// The object as an ELF file; empty if the binary was built without it.
#[must_use]
pub fn bytes() -> &'static [u8] {
    include_bytes_aligned!(concat!(env!("OUT_DIR"), "/rprox-ebpf"))
}

/// What the programs are told when they are loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Globals {
    /// Bytes of link-layer header.
    pub link_header_len: u32,
    /// The interface's index.
    pub interface: u32,
    /// The network namespace's cookie; 0 where the kernel has none.
    pub netns_cookie: u64,
    /// The owner; [`ANY_OWNER`] where the port guard is off.
    pub owner: u32,
    /// Whether the owner may bind FROM.
    pub grant: bool,
    /// What is done with TCP in the packets' path.
    pub rewrite_tcp: RewriteTcp,
}

impl fmt::Display for Globals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let &Self { link_header_len, interface, netns_cookie, owner, grant, rewrite_tcp } = self;
        let (grant, tcp) = (u32::from(grant), rewrite_tcp as u32);
        write!(
            f,
            "link-header={link_header_len} interface={interface} netns={netns_cookie} owner={owner} grant={grant} tcp={tcp}"
        )
    }
}

impl Default for Globals {
    fn default() -> Self {
        Self {
            link_header_len: 14,
            interface: 0,
            netns_cookie: 0,
            owner: ANY_OWNER,
            grant: false,
            rewrite_tcp: RewriteTcp::All,
        }
    }
}

/// The programs of an attachment, loaded into the kernel, with their maps.
pub struct Object {
    ebpf: Ebpf,
}

impl Object {
    /// Loads the programs with new maps that have room for `rules` rules.
    ///
    /// # Errors
    ///
    /// The binary holds no programs, or the kernel refused them.
    pub fn load(globals: &Globals, shape: &Shape, rules: usize) -> Result<Self, ObjectError> {
        let capacity = u32::try_from(rules).unwrap_or(u32::MAX).max(MIN_RULE_CAPACITY);
        Self::load_with(globals, shape, |loader| {
            loader.map_max_entries(map::RULE_COUNTERS, capacity);
        })
    }

    /// Loads the programs on top of the maps that are pinned in `pins`. Whether these fit is for the caller to check.
    ///
    /// # Errors
    ///
    /// As [`Self::load`].
    pub fn load_with_pinned_maps(globals: &Globals, shape: &Shape, pins: &Pins) -> Result<Self, ObjectError> {
        Self::load_with(globals, shape, |loader| {
            for name in map::ALL {
                loader.map_pin_path(name, pins.map(name));
            }
        })
    }

    fn load_with(
        globals: &Globals,
        shape: &Shape,
        configure: impl FnOnce(&mut EbpfLoader<'_>),
    ) -> Result<Self, ObjectError> {
        if bytes().is_empty() {
            return Err(ObjectError::Missing);
        }
        let mut loader = EbpfLoader::new();
        // The programs need no relocation against the kernel's types, so a kernel without BTF runs them just as well.
        loader.btf(None);
        let (grant, rewrite_tcp) = (u32::from(globals.grant), globals.rewrite_tcp as u32);
        let log_one_in = kernel_log::one_in();
        loader
            .override_global(global::LINK_HEADER_LEN, &globals.link_header_len, true)
            .override_global(global::LOG_ONE_IN, &log_one_in, true)
            .override_global(global::INTERFACE, &globals.interface, true)
            .override_global(global::NETNS_COOKIE, &globals.netns_cookie, true)
            .override_global(global::OWNER, &globals.owner, true)
            .override_global(global::GRANT, &grant, true)
            .override_global(global::REWRITE_TCP, &rewrite_tcp, true);
        configure(&mut loader);
        let mut object =
            Self { ebpf: loader.load(bytes()).map_err(|error| ObjectError::Maps(Box::new(error)))? };
        if shape.has_packet_programs {
            for direction in Direction::ATTACH_ORDER {
                object.program(direction)?.load().map_err(|error| refused(direction.program(), error))?;
            }
        }
        for linked in linked::of(shape) {
            let result = match object.linked(linked)? {
                Program::CgroupSockAddr(program) => program.load(),
                Program::SockOps(program) => program.load(),
                Program::SkLookup(program) => program.load(),
                _ => return Err(ObjectError::Lacks { kind: "program", name: linked.program() }),
            };
            result.map_err(|error| refused(linked.program(), error))?;
        }
        Ok(object)
    }

    /// The program for `direction`.
    ///
    /// # Errors
    ///
    /// The object has no such classifier.
    pub fn program(&mut self, direction: Direction) -> Result<&mut SchedClassifier, ObjectError> {
        let name = direction.program();
        let program = self.ebpf.program_mut(name).and_then(|program| program.try_into().ok());
        program.ok_or(ObjectError::Lacks { kind: "program", name })
    }

    /// A program that is not in the packets' path.
    ///
    /// # Errors
    ///
    /// The object has none of that name.
    pub fn linked(&mut self, linked: Linked) -> Result<&mut Program, ObjectError> {
        let name = linked.program();
        self.ebpf.program_mut(name).ok_or(ObjectError::Lacks { kind: "program", name })
    }

    /// Pins every map.
    ///
    /// # Errors
    ///
    /// The object lacks a map, or the bpffs refused.
    pub fn pin_maps(&self, pins: &Pins) -> Result<(), ObjectError> {
        for name in map::ALL {
            let map = self.ebpf.map(name).ok_or(ObjectError::Lacks { kind: "map", name })?;
            let path = pins.map(name);
            map.pin(&path).map_err(|source| PinError::Pin { path, source })?;
        }
        Ok(())
    }
}
