//! The files in `deploy` are what those who read them take them for.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use rprox_tests::{command, programs};

/// The oldest Kubernetes that is still to be met, and the newest whose schemas are there.
const KUBERNETES: [&str; 2] = ["1.27", "1.37"];

/// The keys of podman-systemd.unit(5) that the Quadlet files use.
const QUADLET: [(&str, &[&str]); 3] = [
    ("Network", &["NetworkName"]),
    ("Pod", &["PodName", "Network"]),
    (
        "Container",
        &[
            "Image",
            "ContainerName",
            "Pod",
            "Network",
            "UserNS",
            "User",
            "Group",
            "ReadOnly",
            "DropCapability",
            "NoNewPrivileges",
            "Volume",
            "Notify",
            "PodmanArgs",
        ],
    ),
];

fn deploy(file: &str) -> PathBuf {
    programs::workspace().join("deploy").join(file)
}

#[test]
fn kubernetes_schemas_have_every_field_of_the_manifest() {
    let validate = programs::kubernetes_validate();
    assert!(validate.exists(), "{} is missing: run `cargo xtask setup`", validate.display());
    for version in KUBERNETES {
        let mut command = Command::new(&validate);
        command.args(["--strict", "-k", version]).arg(deploy("kubernetes/rprox.yaml"));
        let checked = command::finish(&mut command).unwrap();
        let said = checked.stdout + &checked.stderr;
        assert_eq!(checked.code, Some(0), "{said}");
        assert_eq!(said.matches("passed for resource").count(), 4, "{said}");
    }
}

#[test]
fn only_the_loader_has_a_privilege_in_kubernetes() {
    let text = fs::read_to_string(deploy("kubernetes/rprox.yaml")).unwrap();
    let (agent, loader) = text.split_once("- name: loader").unwrap();
    let agent = agent.split_once("- name: agent").unwrap().1;
    for line in ["runAsNonRoot: true", "readOnlyRootFilesystem: true", "drop: [\"ALL\"]"] {
        assert!(agent.contains(line), "{line}");
    }
    assert!(!agent.contains("add:"), "{agent}");
    assert!(loader.contains("add: [\"BPF\", \"NET_ADMIN\", \"PERFMON\"]"), "{loader}");
    assert!(!text.contains("privileged: true"));
}

#[test]
fn quadlet_files_have_keys_of_quadlet_alone() {
    let files = fs::read_dir(deploy("quadlet")).unwrap().map(|entry| entry.unwrap().path());
    let mut seen = BTreeSet::new();
    for file in files {
        let kind = file.extension().unwrap().to_str().unwrap().to_owned();
        let text = fs::read_to_string(&file).unwrap();
        let mut section = "";
        for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
            if let Some(name) = line.strip_prefix('[') {
                section = name.trim_end_matches(']');
                continue;
            }
            let (key, _) = line.split_once('=').unwrap_or_else(|| panic!("{}: {line:?}", file.display()));
            if let Some((_, keys)) = QUADLET.iter().find(|(name, _)| *name == section) {
                assert_eq!(section.to_lowercase(), kind, "{}", file.display());
                assert!(keys.contains(&key), "{}: {key}", file.display());
                seen.insert(section.to_owned());
            } else {
                let systemd = ["Unit", "Service", "Socket", "Install"];
                assert!(systemd.contains(&section), "{}: [{section}]", file.display());
            }
        }
    }
    assert_eq!(seen.len(), QUADLET.len());
}

#[test]
fn systemd_takes_the_units_of_the_user() {
    let folder = tempfile::tempdir().unwrap();
    let units = ["quadlet/rprox-http.socket", "quadlet/rprox-https.socket", "systemd/user/rprox.service"];
    let mut verify = Command::new("systemd-analyze");
    verify.args(["--user", "--man=no", "verify"]);
    for unit in units {
        let copy = folder.path().join(deploy(unit).file_name().unwrap());
        fs::copy(deploy(unit), &copy).unwrap();
        verify.arg(copy);
    }
    let drop_in = folder.path().join("rprox.service.d/labels.conf");
    fs::create_dir(drop_in.parent().unwrap()).unwrap();
    fs::copy(deploy("systemd/user/labels.conf"), drop_in).unwrap();
    let checked = command::finish(verify.env("XDG_RUNTIME_DIR", folder.path())).unwrap();
    assert_eq!((checked.code, checked.stderr.as_str()), (Some(0), ""), "{}", checked.stdout);
}
