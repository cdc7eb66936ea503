//! `doctor` of both programs on a host with rootless Podman: as root, as the user, and in the agent's container.

use std::process::Command;

use rprox_tests::command;
use rprox_tests::rootless::USER;
use rprox_tests::rootless::site::Site;
use rprox_tests::topology::INTERFACE;
use serde_json::Value;

/// What one `doctor` found: severity, check and the rest, each on a line.
struct Findings(String);

impl Findings {
    fn of(doctor: &mut Command) -> Self {
        let said = command::finish(doctor.arg("--json")).unwrap();
        let report: Value =
            serde_json::from_str(&said.stdout).unwrap_or_else(|error| panic!("{error}: {}", said.stderr));
        let line = |finding: &Value| {
            let [severity, check, found, remedy] =
                ["severity", "check", "found", "remedy"].map(|key| finding[key].as_str().unwrap_or_default());
            format!("{severity} {check}: {found} -> {remedy}\n")
        };
        Self(report["findings"].as_array().unwrap().iter().map(line).collect())
    }

    /// Asserts that one line begins so and has all of `parts`.
    fn assert(&self, start: &str, parts: &[&str]) {
        let is_it = |line: &str| line.starts_with(start) && parts.iter().all(|part| line.contains(part));
        assert_eq!(self.0.lines().filter(|line| is_it(line)).count(), 1, "{start} {parts:?} in\n{}", self.0);
    }

    fn faults(&self) -> usize {
        self.0.lines().filter(|line| line.starts_with("fault ")).count()
    }
}

#[test]
fn doctor_knows_a_host_with_rootless_podman_from_each_of_its_sides() {
    let site = Site::start().unwrap();

    let mut doctor = site.host.root("rprox-loader");
    let root = Findings::of(doctor.args(["doctor", "-i", INTERFACE, "-i", "lo", "--owner", USER]));
    assert_eq!(root.faults(), 0, "{}", root.0);
    for check in
        ["kernel", "capabilities", "bpffs", "cgroup2", "owner: web", "attachment eth0", "attachment lo"]
    {
        root.assert(&format!("fine {check}"), &[]);
    }
    for port in [8080, 8443] {
        root.assert(&format!("fine port {port}"), &["somebody listens on it"]);
    }
    root.assert("fine firewall rules", &["none is in the way"]);

    // The user's files are there for the container, by other paths.
    let mut doctor = site.host.user("rprox-agent");
    let user = Findings::of(doctor.args(["doctor", "-c", ".config/rprox/rprox.toml"]));
    assert_eq!(user.faults(), 0, "{}", user.0);
    for port in [8080, 8443] {
        user.assert(&format!("fine port {port}"), &["held by systemd", "as it should be"]);
    }
    for check in ["XDG_RUNTIME_DIR: /run/user/", "/etc/subuid: 65536 ids", "/etc/subgid: 65536 ids"] {
        user.assert(&format!("fine {check}"), &[]);
    }
    user.assert("warning linger", &["run `sudo loginctl enable-linger web`"]);
    user.assert("warning configuration", &["/etc/rprox/certs/", "podman exec rprox /rprox-agent doctor"]);
    // Whether these are well depends on their versions.
    for check in [" podman: ", " netavark: ", " aardvark-dns: "] {
        assert!(user.0.contains(check), "{check} in\n{}", user.0);
    }

    let mut doctor = site.host.user("podman");
    let inside = "exec rprox /rprox-agent doctor -c /etc/rprox/rprox.toml";
    let inside = Findings::of(doctor.args(inside.split(' ')));
    inside.assert("fine upstream grafana:80: 10.89.0.", &[]);
    inside.assert("fine certificate /etc/rprox/certs/grafana.mydomain.test.pem", &["good for "]);
    inside.assert(
        "fault upstream echo:80",
        &["DNS has no address for echo.dns.podman", "start it on a network"],
    );
    assert!(!inside.0.contains("linger"), "{}", inside.0);
}
