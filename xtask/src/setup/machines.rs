//! What it takes to boot another kernel.

use anyhow::Result;

use super::apt;
use crate::steps::Step;

/// Programs, and the Debian packages that have them.
const PROGRAMS: [(&str, &str); 7] = [
    ("qemu-system-x86_64", "qemu-system-x86"),
    ("cpio", "cpio"),
    ("busybox", "busybox-static"),
    ("depmod", "kmod"),
    ("modprobe", "kmod"),
    ("strip", "binutils"),
    ("wg", "wireguard-tools"),
];

/// Installs what is missing.
pub(super) fn set_up() -> Result<()> {
    let step = Step::begin("Programs for virtual machines");
    let missing = apt::install_missing(&step, &PROGRAMS)?;
    step.finish(&missing);
    Ok(())
}
