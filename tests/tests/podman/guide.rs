//! README's "Ten minutes to `https://registry.your.domain`": each command as it stands there, on a host with nothing on it, with a
//! certificate from an ACME server that validates as Let's Encrypt does.

use std::fs;
use std::process::Command;

use rprox_tests::process::Process;
use rprox_tests::rootless::internet::Internet;
use rprox_tests::rootless::{Host, USER, image};
use rprox_tests::{command, programs, readme};

/// systemd itself is not there, so the test starts what the unit says, and has logged the user in. The programs in /usr are the
/// machine's, which a test does not change.
const IN_PLACE_OF_THE_MACHINE: &str = "\
systemctl() { [ \"$*\" = 'enable --now rprox-loader' ]; }
loginctl() { [ \"$*\" = 'enable-linger web' ]; }
apt-get() { command apt-get --simulate \"$@\"; }
";

#[test]
fn the_ten_minutes_of_the_readme_lead_to_a_registry_behind_https() {
    let host = Host::boot().unwrap();
    let internet = Internet::start(&host).unwrap();
    image::of_agent_for_root(&host).unwrap();
    image::of_registry(&host, "docker.io/library/registry:2").unwrap();
    give_source(&host);
    let ca = fs::read(internet.acme.ca()).unwrap();
    host.write(".config/rprox/ca.pem", ca).unwrap();

    host.forget_user().unwrap();

    let text = fs::read_to_string(programs::workspace().join("README.md")).unwrap();
    let mut loader = None;
    let mut said = String::new();
    for (who, block) in readme::steps(&text) {
        println!("README.md line {}, {who}", block.line);
        let (mut shell, script) = match who.as_str() {
            "root" => (
                host.root("bash"),
                format!("cd {}\n{IN_PLACE_OF_THE_MACHINE}{}", programs::workspace().display(), block.script),
            ),
            "user" => {
                // Not Let's Encrypt itself.
                let acme = format!("[acme]\n{}", internet.acme.directory("/etc/rprox/ca.pem"));
                (host.user("bash"), format!("cd rprox\n{}", block.script.replace("[acme]\n", &acme)))
            }
            _ => (
                host.at_client("bash"),
                format!("export CURL_CA_BUNDLE={}\n{}", internet.acme.root().display(), block.script),
            ),
        };
        said = command::run(shell.args(["-euo", "pipefail", "-c", &script])).unwrap_or_else(|error| {
            let log = command::finish(host.user("podman").args(["logs", "rprox"]))
                .map(|log| log.stdout + &log.stderr);
            panic!("README.md line {}: {error:#}\n{}", block.line, log.unwrap_or_default())
        });
        if who == "root" && block.script.contains("enable --now rprox-loader") {
            loader = Some(start_loader(&host));
        }
    }
    assert!(loader.is_some(), "no step starts the loader");
    assert!(said.contains("\"repositories\""), "{said}");
}

/// Copies what a user takes of the sources into its home: the user may not read the test's.
fn give_source(host: &Host) {
    let place = host.home().join("rprox");
    let from = programs::workspace().join("deploy");
    command::run(Command::new("mkdir").arg(&place)).unwrap();
    command::run(Command::new("cp").arg("-r").arg(from).arg(&place)).unwrap();
    command::run(host.root("chown").args(["-R", USER, &format!("/home/{USER}/rprox")])).unwrap();
}

/// Starts the loader as its unit, where root has put it, says.
fn start_loader(host: &Host) -> Process {
    let unit = command::run(host.root("cat").arg("/etc/systemd/system/rprox-loader.service")).unwrap();
    let start = unit.lines().find_map(|line| line.strip_prefix("ExecStart=")).unwrap();
    let mut words = start.split_whitespace();
    let mut loader = host.root(words.next().unwrap());
    loader.args(words);
    let mut loader = Process::start("rprox-loader", loader).unwrap();
    loader.wait_for_line("attached").unwrap();
    loader
}
