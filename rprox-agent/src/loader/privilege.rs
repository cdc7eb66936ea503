//! The privileges that the loader needs, and giving up the rest.

#![forbid(unsafe_code)]

use std::os::unix::fs::MetadataExt as _;

use caps::{CapSet, Capability, CapsHashSet};
use rustix::process::{Resource, Rlimit, geteuid, setrlimit};
use thiserror::Error;
use tracing::debug;

/// A privilege is missing, or could not be given up.
#[derive(Debug, Error)]
pub enum PrivilegeError {
    /// Capabilities are missing.
    #[error(
        "{purpose} needs {missing}, which this process (uid {uid}) lacks: run it as root (`sudo rprox-loader …`), or as a systemd \
         service with AmbientCapabilities=CAP_BPF CAP_NET_ADMIN CAP_PERFMON"
    )]
    Missing {
        /// What for.
        purpose: &'static str,
        /// Their names.
        missing: String,
        /// Who runs.
        uid: u32,
    },
    /// Capabilities that are not the host's.
    #[error(
        "{purpose} needs root of the host: this process is in a user namespace, as of a rootless container, and the kernel lets nobody \
         load programs from there; run it outside, by sudo or as a systemd service"
    )]
    UserNamespace {
        /// What for.
        purpose: &'static str,
    },
    /// The kernel did not say or did not change.
    #[error("capabilities of this process: {0}")]
    Capabilities(#[from] caps::errors::CapsError),
    /// `no_new_privs` was refused.
    #[error("setting no_new_privs: {0}")]
    NoNewPrivs(#[source] rustix::io::Errno),
}

/// What keeping an attachment takes. `CAP_PERFMON`, since without it the verifier forbids the pointer arithmetic that walking a
/// packet's headers needs.
const KEEPER: [Capability; 3] = [Capability::CAP_BPF, Capability::CAP_NET_ADMIN, Capability::CAP_PERFMON];

/// What taking over a listener of another user's process takes besides: seeing its descriptors, and getting one of them.
const TAKER: [Capability; 2] = [Capability::CAP_SYS_PTRACE, Capability::CAP_DAC_READ_SEARCH];

/// Split off from `CAP_SYS_ADMIN` in Linux 5.8, which still includes them.
const OF_SYS_ADMIN: [Capability; 2] = [Capability::CAP_BPF, Capability::CAP_PERFMON];

const ATTACHING: &str = "attaching and detaching";

/// Checks for what attaching and detaching take.
///
/// # Errors
///
/// What is missing, by name.
pub fn require_admin() -> Result<(), PrivilegeError> {
    require(ATTACHING, &KEEPER)
}

/// Checks for what reading pinned maps takes.
///
/// # Errors
///
/// What is missing, by name.
pub fn require_reader() -> Result<(), PrivilegeError> {
    require("reading an attachment", &[Capability::CAP_BPF])
}

/// Checks for what listing firewall rules takes.
///
/// # Errors
///
/// What is missing, by name.
pub fn require_checker() -> Result<(), PrivilegeError> {
    require("listing firewall rules", &[Capability::CAP_NET_ADMIN])
}

/// What attaching and detaching take and this process lacks, by name.
///
/// # Errors
///
/// The kernel did not say, or they would count for nothing.
pub fn missing_for_attaching() -> Result<Vec<String>, PrivilegeError> {
    if is_in_user_namespace() {
        return Err(PrivilegeError::UserNamespace { purpose: ATTACHING });
    }
    missing(&KEEPER)
}

/// Whether this process is in a user namespace of somebody's: `CAP_BPF` and `CAP_PERFMON` that are held there count for nothing.
fn is_in_user_namespace() -> bool {
    /// `USER_NS_INIT_INO` of `linux/nsfs.h`.
    const INITIAL: u64 = 0xefff_fffd;
    std::fs::metadata("/proc/self/ns/user").is_ok_and(|file| file.ino() != INITIAL)
}

/// Whether this process may mount a file system.
#[must_use]
pub fn may_mount() -> bool {
    caps::has_cap(None, CapSet::Effective, Capability::CAP_SYS_ADMIN).unwrap_or(false)
}

fn missing(needed: &[Capability]) -> Result<Vec<String>, PrivilegeError> {
    let held = caps::read(None, CapSet::Effective)?;
    let admin = held.contains(&Capability::CAP_SYS_ADMIN);
    let lacks = |cap: &&Capability| !(held.contains(cap) || admin && OF_SYS_ADMIN.contains(cap));
    Ok(needed.iter().filter(lacks).map(ToString::to_string).collect())
}

fn require(purpose: &'static str, needed: &[Capability]) -> Result<(), PrivilegeError> {
    let missing = missing(needed)?;
    if needed.contains(&Capability::CAP_BPF) && is_in_user_namespace() {
        return Err(PrivilegeError::UserNamespace { purpose });
    }
    if missing.is_empty() {
        return Ok(());
    }
    Err(PrivilegeError::Missing { purpose, missing: missing.join(", "), uid: geteuid().as_raw() })
}

/// Lets maps of any size be made: kernels before 5.11 count them against the limit on locked memory.
pub fn lift_memory_limit() {
    if let Err(error) = setrlimit(Resource::Memlock, Rlimit { current: None, maximum: None }) {
        debug!("the limit on locked memory stays as it is: {error}");
    }
}

/// Gives up every capability but those that keeping an attachment takes, for good. `may_steer`: an attachment of mode `steer` may
/// have to be made again, and listeners taken over.
///
/// # Errors
///
/// The kernel refused.
pub fn drop_the_rest(may_steer: bool) -> Result<(), PrivilegeError> {
    let held = caps::read(None, CapSet::Permitted)?;
    let mut keep = CapsHashSet::from(KEEPER);
    if !keep.is_subset(&held) {
        keep.insert(Capability::CAP_SYS_ADMIN);
    }
    if may_steer {
        keep.extend(TAKER);
    }
    keep.retain(|cap| held.contains(cap));
    if held.contains(&Capability::CAP_SETPCAP) {
        for cap in caps::read(None, CapSet::Bounding)?.difference(&keep) {
            caps::drop(None, CapSet::Bounding, *cap)?;
        }
    }
    caps::clear(None, CapSet::Ambient)?;
    caps::set(None, CapSet::Effective, &keep)?;
    caps::set(None, CapSet::Permitted, &keep)?;
    caps::clear(None, CapSet::Inheritable)?;
    rustix::thread::set_no_new_privs(true).map_err(PrivilegeError::NoNewPrivs)
}
