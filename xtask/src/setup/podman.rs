//! What a host with rootless Podman is made of, and who visits it.

use std::path::Path;

use anyhow::{Result, bail};
use rprox_tests::programs;

use super::apt;
use crate::steps::Step;

/// Programs, and the Debian packages that have them.
const PROGRAMS: [(&str, &str); 10] = [
    ("podman", "podman"),
    ("crun", "crun"),
    ("catatonit", "catatonit"),
    ("slirp4netns", "slirp4netns"),
    ("newuidmap", "uidmap"),
    ("skopeo", "skopeo"),
    ("systemctl", "systemd"),
    ("strip", "binutils"),
    ("ldd", "libc-bin"),
    ("busybox", "busybox-static"),
];

/// What packages have that is no program on the search path.
const FILES: [(&str, &str); 6] = [
    ("/usr/lib/podman/netavark", "netavark"),
    ("/usr/lib/podman/aardvark-dns", "aardvark-dns"),
    ("/usr/lib/systemd/user/dbus.socket", "dbus-user-session"),
    ("/usr/lib/python3/dist-packages/websockets", "python3-websockets"),
    ("/usr/lib/python3/dist-packages/yaml", "python3-yaml"),
    ("/etc/ssl/certs/ca-certificates.crt", "ca-certificates"),
];

/// Installs what is missing.
pub(super) fn set_up() -> Result<()> {
    let step = Step::begin("Rootless Podman");
    let files = FILES.iter().filter(|(file, _)| apt::is_here() && !Path::new(file).exists());
    let mut missing = apt::missing(&PROGRAMS);
    missing.extend(files.map(|(_, package)| (*package).to_owned()));
    if !missing.is_empty() {
        apt::install(&step, &missing)?;
    }
    if programs::registry().is_none() {
        if !apt::is_here() {
            bail!("there is no docker-registry, which is served in a pod: install it");
        }
        apt::unpack(&step, "docker-registry")?;
        missing.push("docker-registry".to_owned());
    }
    step.finish(&apt::installed(&missing));
    Ok(())
}
