//! Capabilities, the bpffs, and the attachments on it.

#![forbid(unsafe_code)]

use std::io;
use std::path::Path;

use crate::findings::Finding;
use crate::loader::privilege::PrivilegeError;

/// `missing`: what attaching takes and this process lacks.
pub(super) fn capabilities(missing: &Result<Vec<String>, PrivilegeError>) -> Vec<Finding> {
    let check = "capabilities";
    match missing {
        Ok(missing) if missing.is_empty() => vec![Finding::fine(check, "all that attaching takes")],
        Ok(missing) => vec![Finding::fault(
            check,
            format!("this process lacks {}, so this can't be all there is to find", missing.join(", ")),
            "run it as root: `sudo rprox-loader doctor`",
        )],
        Err(error @ PrivilegeError::UserNamespace { .. }) => {
            vec![Finding::fault(check, error.to_string(), "run it there: `sudo rprox-loader doctor`")]
        }
        Err(error) => vec![Finding::warning(check, error.to_string(), "mount /proc")],
    }
}

/// `is_bpffs`: whether a bpffs is at `path`; `may_mount`: whether this process could mount one.
pub(super) fn bpffs(path: &Path, is_bpffs: &io::Result<bool>, may_mount: bool) -> Finding {
    let check = "bpffs";
    let path = path.display();
    let mount = format!("run `mount -t bpf bpf {path}`, or name another with --bpffs");
    match is_bpffs {
        Ok(true) => Finding::fine(check, format!("mounted at {path}")),
        Ok(false) if may_mount => Finding::fine(check, format!("none at {path} yet; attaching mounts one")),
        Ok(false) => Finding::fault(check, format!("none is mounted at {path}"), mount),
        Err(error) if error.kind() == io::ErrorKind::NotFound && may_mount => {
            Finding::fine(check, format!("no {path} yet; attaching makes it and mounts one"))
        }
        Err(error) => Finding::fault(check, format!("{path}: {error}"), mount),
    }
}

/// `differences`: how many `verify` finds on `interface`.
pub(super) fn attachment(interface: &str, differences: usize) -> Finding {
    let check = format!("attachment {interface}");
    match differences {
        0 => Finding::fine(check, "as it should be"),
        count => Finding::fault(
            check,
            format!("differs in {count} from what was asked for"),
            format!("run `rprox-loader verify -i {interface}`, which names each and what to do"),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::findings::Severity::{Fault, Fine};

    #[test]
    fn a_missing_bpffs_matters_to_who_can_t_mount_one() {
        let at = Path::new("/sys/fs/bpf");
        assert_eq!(bpffs(at, &Ok(true), false).severity, Fine);
        assert_eq!(bpffs(at, &Ok(false), true).severity, Fine);
        assert_eq!(bpffs(at, &Err(io::ErrorKind::NotFound.into()), true).severity, Fine);
        let missing = bpffs(at, &Ok(false), false);
        assert_eq!(missing.severity, Fault);
        assert!(missing.remedy.unwrap().contains("mount -t bpf bpf /sys/fs/bpf"));
    }

    #[test]
    fn capabilities_are_named_and_differences_lead_to_verify() {
        let found = capabilities(&Ok(vec!["CAP_BPF".to_owned()]));
        assert!(found[0].severity == Fault && found[0].found.contains("lacks CAP_BPF"), "{found:?}");
        assert_eq!(attachment("eth0", 0).severity, Fine);
        assert!(attachment("eth0", 2).remedy.unwrap().contains("verify -i eth0"));
    }
}
