//! `doctor` of both programs, on a host where all is well and on one where not.

#![allow(clippy::unwrap_used, reason = "a scenario fails where its helpers do")]

use std::net::TcpListener;

use rprox_tests::command::{self, Finished};
use rprox_tests::netns::Unprivileged;
use rprox_tests::playground::{AGENT, Playground};
use rprox_tests::topology::INTERFACE;
use serde_json::Value;

/// A user who is not the agent's.
const OTHER: Unprivileged = Unprivileged { id: 64_081 };

fn loader(playground: &Playground, flags: &[&str]) -> Finished {
    command::finish(playground.loader("doctor").args(["-i", INTERFACE]).args(flags)).unwrap()
}

/// The agent's `doctor` of `configuration`, on a host without Podman.
fn agent(playground: &Playground, user: Unprivileged, configuration: &str, flags: &[&str]) -> Finished {
    let file = playground.folder().join("doctor.toml");
    std::fs::write(&file, configuration).unwrap();
    let mut command = playground.topology.host.command_as(user, "env");
    command
        .arg("PATH=/nowhere")
        .arg(playground.agent_program())
        .arg("doctor")
        .args(flags)
        .arg("-c")
        .arg(file);
    command::finish(&mut command).unwrap()
}

/// The findings of one severity, as `check: found -> remedy`.
fn findings(said: &Finished, severity: &str) -> Vec<String> {
    let report: Value =
        serde_json::from_str(&said.stdout).unwrap_or_else(|error| panic!("{error}: {}", said.stderr));
    assert_eq!(report["ok"], said.code == Some(0), "{}", said.stdout);
    let all = report["findings"].as_array().unwrap().iter();
    let text = |finding: &Value, key: &str| finding[key].as_str().unwrap_or_default().to_owned();
    all.filter(|finding| finding["severity"] == severity)
        .map(|finding| {
            format!("{}: {} -> {}", text(finding, "check"), text(finding, "found"), text(finding, "remedy"))
        })
        .collect()
}

/// Asserts that one of `findings` has all of `parts`.
fn assert_one_has(findings: &[String], parts: &[&str]) {
    let has_all = |finding: &&String| parts.iter().all(|part| finding.contains(part));
    assert!(findings.iter().any(|finding| has_all(&finding)), "{parts:?} in {findings:#?}");
}

#[test]
fn a_good_host_has_no_faults() {
    let playground = Playground::running().unwrap();

    let said = loader(&playground, &[]);
    assert_eq!(said.code, Some(0), "{}{}", said.stdout, said.stderr);
    for line in [
        "fine     kernel: Linux ",
        "fine     capabilities: all that attaching takes",
        "fine     bpffs: mounted at ",
        "fine     interface eth0: there, up, and no other program on it",
        "fine     port 8080: somebody listens on it",
        "fine     attachment eth0: as it should be",
        "fine     firewall rules and listeners: none is in the way",
    ] {
        assert!(said.stdout.contains(line), "{line} in {}", said.stdout);
    }
    let missing = loader(&playground, &["-i", "eth7", "--json"]);
    assert_one_has(&findings(&missing, "fault"), &["interface eth7: there is none", "eth0"]);

    let configuration = playground.configuration();
    let said = agent(&playground, AGENT, &configuration, &["--json"]);
    assert_eq!(findings(&said, "fault"), [] as [&str; 0], "{}", said.stderr);
    let fine = findings(&said, "fine");
    assert_one_has(&fine, &["port 8080: [::]:8080 is held by rprox-agent, as it should be"]);
    assert_one_has(&fine, &["upstream container-registry:80: 10.", ":80"]);
    assert_one_has(&fine, &["certificate ", "registry.mydomain.com.pem: good for "]);

    // The port guard is told from a port that is taken.
    let plain = "[listen]\nhttp = '[::]:8080'\n\n[[route]]\nhost = 'a.test'\nupstream = '192.0.2.1:80'\n";
    let said = agent(&playground, OTHER, plain, &["--json"]);
    assert_one_has(&findings(&said, "fault"), &["port 8080", "the port guard", "--owner"]);
}

#[test]
fn a_firewall_rule_a_taken_port_and_a_name_that_dns_has_not_are_told_with_what_to_do() {
    let playground = Playground::new().unwrap();
    let host = &playground.topology.host;
    let rule = format!("-t nat -A PREROUTING -i {INTERFACE} -p tcp --dport 80 -j REDIRECT --to-ports 8080");
    command::run(host.command("iptables").args(rule.split(' '))).unwrap();
    let _taken = host.enter_as(OTHER, || TcpListener::bind("[::]:8080").unwrap()).unwrap();

    let said = loader(&playground, &["--json"]);
    assert_eq!(said.code, Some(1), "{}{}", said.stdout, said.stderr);
    assert_one_has(
        &findings(&said, "fault"),
        &["taken port: port 8080/tcp is held by ", "user 64081", "end that"],
    );
    let rule = ["firewall rule", "run `iptables -t nat -D PREROUTING -i eth0 -p tcp -m tcp --dport 80"];
    assert_one_has(&findings(&said, "warning"), &rule);
    let steered = loader(&playground, &["--mode", "steer", "--json"]);
    assert_one_has(&findings(&steered, "fault"), &rule);
    let said = loader(&playground, &[]);
    assert!(said.stdout.contains("\n         to do: run `iptables -t nat -D"), "{}", said.stdout);
    assert!(said.stderr.contains("something will not work; see above"), "{}", said.stderr);

    let configuration = playground.configuration().replace("\"grafana:80\"", "\"nowhere:80\"");
    let said = agent(&playground, AGENT, &configuration, &["--json"]);
    assert_eq!(said.code, Some(1), "{}{}", said.stdout, said.stderr);
    let faults = findings(&said, "fault");
    assert_one_has(&faults, &["port 8080: [::]:8080 is taken by a process of user 64081", "ss -ltnp"]);
    assert_one_has(&faults, &["upstream nowhere:80: DNS has no address", "dns.search"]);
    assert_eq!(faults.len(), 2, "{faults:#?}");
}

#[test]
fn what_the_firewall_refuses_is_told_until_what_is_told_is_done() {
    let mut playground = Playground::new().unwrap();
    playground.start_agent().unwrap();
    let shell = |line: &str| {
        command::run(playground.topology.host.command("sh").args(["-c", line])).unwrap();
    };
    let refused = |mode: &str| {
        let said = loader(&playground, &["--mode", mode, "--json"]);
        let report: Value = serde_json::from_str(&said.stdout).unwrap();
        let findings = report["findings"].as_array().unwrap().clone();
        findings.into_iter().filter(|finding| finding["check"] == "firewall on eth0").collect::<Vec<_>>()
    };
    let firewalls = [
        (format!("iptables -A INPUT -i {INTERFACE} -p tcp -j REJECT"), "iptables -F INPUT"),
        (
            format!(
                "nft add table inet guard; nft 'add chain inet guard input {{ type filter hook input priority 0; }}'; \
                 nft add rule inet guard input iifname {INTERFACE} meta l4proto tcp reject"
            ),
            "nft delete table inet guard",
        ),
    ];
    // Ports are changed before the firewall sees a packet, and sockets chosen after it.
    for (mode, ports) in [("rewrite", ["8080/tcp", "8443/tcp"]), ("steer", ["80/tcp", "443/tcp"])] {
        command::run(playground.loader("attach").args(["-i", INTERFACE, "--mode", mode])).unwrap();
        for (firewall, end) in &firewalls {
            shell(firewall);
            assert!(!playground.is_redirected(), "{mode}: {firewall}");
            let told = refused(mode);
            assert_eq!(told.len(), ports.len(), "{told:#?}");
            for (finding, port) in told.iter().zip(ports) {
                assert!(finding["found"].as_str().unwrap().contains(port), "{finding:#}");
                let remedy = finding["remedy"].as_str().unwrap().split('`').nth(1).unwrap();
                shell(remedy);
            }
            assert_eq!(refused(mode), [] as [Value; 0]);
            assert!(playground.is_redirected(), "{mode}: {firewall}");
            shell(end);
        }
    }
}
