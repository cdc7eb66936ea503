//! The port guard and mode `grant`: who may hold which port.

#![allow(clippy::unwrap_used, reason = "a scenario fails where its helpers do")]

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpStream};

use rprox_tests::command::{self, Finished};
use rprox_tests::kernel;
use rprox_tests::netns::{Netns, Unprivileged};
use rprox_tests::playground::{AGENT, Playground, SERVICES};
use rprox_tests::sockets::{KINDS, Kind};
use rprox_tests::topology::{HOST, INTERFACE};
use rprox_tests::wait;

const STRANGER: Unprivileged = Unprivileged { id: 64_081 };
const ROOT: Unprivileged = Unprivileged { id: 0 };
const EPERM: i32 = 1;

fn attach(playground: &Playground, flags: &[&str]) -> Finished {
    command::finish(playground.loader("attach").args(["-i", INTERFACE]).args(flags)).unwrap()
}

/// What binding every guarded port by every kind of socket says, as an error number.
fn attempts(netns: &Netns, user: Unprivileged) -> Vec<Option<i32>> {
    let mut said = Vec::new();
    for kind in KINDS {
        for port in [8080, 8443] {
            said.push(kind.listen(netns, user, port).unwrap().err().and_then(|error| error.raw_os_error()));
        }
        said.push(kind.bind_udp(netns, user, 8443).unwrap().err().and_then(|error| error.raw_os_error()));
    }
    said
}

fn assert_refused(playground: &Playground, when: &str) {
    for user in [STRANGER, ROOT] {
        let said = attempts(&playground.topology.host, user);
        assert!(said.iter().all(|error| *error == Some(EPERM)), "{when}: {user:?}: {said:?}");
    }
}

#[test]
fn nobody_else_can_bind_the_ports_whatever_becomes_of_the_agent() {
    for mode in ["steer", "rewrite"] {
        let mut playground = Playground::new().unwrap();
        let attached = attach(&playground, &["--mode", mode]);
        assert_eq!(attached.code, Some(0), "{}", attached.stderr);
        assert_refused(&playground, "before the agent");
        playground.start_agent().unwrap();
        assert!(playground.is_redirected());
        assert_refused(&playground, "beside the agent");
        playground.agent.take().unwrap().stop().unwrap();
        assert_refused(&playground, "while the agent is away");
        playground.start_agent().unwrap();
        assert!(playground.is_redirected());
        assert_refused(&playground, "after the agent's restart");
        // Other namespaces have ports of their own.
        let said = attempts(&playground.topology.client, STRANGER);
        assert!(said.iter().all(Option::is_none), "{said:?}");
        playground.agent.take().unwrap().stop().unwrap();
        playground.detach().unwrap();
        let said = attempts(&playground.topology.host, STRANGER);
        assert!(said.iter().all(Option::is_none), "{said:?}");
    }
}

#[test]
fn a_port_that_somebody_else_holds_already_is_refused_with_who_that_is() {
    let playground = Playground::new().unwrap();
    for kind in KINDS {
        let _held = kind.listen(&playground.topology.host, STRANGER, 8080).unwrap().unwrap();
        let refused = attach(&playground, &[]);
        assert_eq!(refused.code, Some(3), "{}", refused.stderr);
        let own = format!("(pid {})", std::process::id());
        for part in ["8080/tcp", &own, "64081", "64080"] {
            assert!(refused.stderr.contains(part), "{part}: {}", refused.stderr);
        }
        assert!(playground.pins().is_empty());
    }
}

#[test]
fn a_socket_that_somebody_else_bound_before_is_never_steered_to() {
    let playground = Playground::new().unwrap();
    let host = &playground.topology.host;
    for kind in KINDS {
        let bound = kind.bind_tcp(host, STRANGER, 8080).unwrap().unwrap();
        let own = kind.bind_tcp(host, AGENT, 8443).unwrap().unwrap();
        let attached = attach(&playground, &["--mode", "steer"]);
        if kernel::is_at_least(6, 8) {
            // The kernel tells who has bound a port.
            assert_eq!(attached.code, Some(3), "{}", attached.stderr);
            assert!(attached.stderr.contains("64081"), "{}", attached.stderr);
            // The rule for it comes before its owner does.
            let attached = attach(&playground, &["--mode", "steer", "-r", "443:8443"]);
            assert_eq!(attached.code, Some(0), "{}", attached.stderr);
        } else {
            assert_eq!(attached.code, Some(0), "{}", attached.stderr);
            own.listen(1).unwrap();
            bound.listen(1).unwrap();
            assert_eq!(connects(&playground, kind, 80), Some(ErrorKind::ConnectionRefused), "{kind:?}");
        }
        drop(bound);
        if kernel::is_at_least(6, 8) {
            own.listen(1).unwrap();
            assert_eq!(connects(&playground, kind, 443), None, "{kind:?}: the owner's own");
        }
        playground.detach().unwrap();
    }
}

/// How the client's connection to `port` ends, at the host's address that a socket of this kind is bound to.
fn connects(playground: &Playground, kind: Kind, port: u16) -> Option<ErrorKind> {
    let ip = HOST.both()[usize::from(kind.v6_only)];
    let connect = || TcpStream::connect_timeout(&SocketAddr::new(ip, port), wait::READY);
    playground.topology.client.enter(connect).unwrap().err().map(|error| error.kind())
}

#[test]
fn somebody_must_be_the_owner() {
    let playground = Playground::new().unwrap();
    for sudo in [None, Some("0")] {
        let mut command = playground.loader("attach");
        command.env_remove("SUDO_UID").envs(sudo.map(|id| ("SUDO_UID", id))).args(["-i", INTERFACE]);
        let refused = command::finish(&mut command).unwrap();
        assert_eq!(refused.code, Some(2), "{}", refused.stderr);
        assert!(refused.stderr.contains("--owner"), "{}", refused.stderr);
    }
    let refused = attach(&playground, &["--owner", "nobody-of-that-name"]);
    assert_eq!(refused.code, Some(2), "{}", refused.stderr);
    let refused = attach(&playground, &["--owner", "any", "--mode", "grant"]);
    assert_eq!(refused.code, Some(2), "{}", refused.stderr);
}

#[test]
fn an_owner_of_any_turns_the_guard_off_and_says_so() {
    let playground = Playground::new().unwrap();
    let attached = attach(&playground, &["--owner", "any"]);
    assert_eq!(attached.code, Some(0), "{}", attached.stderr);
    assert!(attached.stderr.contains("port guard is off"), "{}", attached.stderr);
    let said = attempts(&playground.topology.host, STRANGER);
    assert!(said.iter().all(Option::is_none), "{said:?}");
    assert!(playground.status().unwrap()["owner"].is_null());
}

#[test]
fn no_request_fails_while_the_owner_changes() {
    let mut playground = Playground::new().unwrap();
    playground.start_agent().unwrap();
    for mode in ["steer", "rewrite"] {
        assert_eq!(attach(&playground, &["--mode", mode]).code, Some(0));
        let load = playground.load(&SERVICES[1]);
        for owner in ["any", "64080", "any", "64080"] {
            load.wait_for_more(50).unwrap();
            let attached = attach(&playground, &["--mode", mode, "--owner", owner]);
            assert_eq!(attached.code, Some(0), "{}", attached.stderr);
            let said = attempts(&playground.topology.host, STRANGER);
            assert_eq!(said.contains(&Some(EPERM)), owner != "any", "{owner}: {said:?}");
        }
        // The agent holds the ports, so nobody else can become their owner.
        assert_eq!(attach(&playground, &["--mode", mode, "--owner", "64081"]).code, Some(3));
        assert_refused(&playground, "after a refused change");
        load.wait_for_more(50).unwrap();
        load.finish().unwrap().assert_all_served();
    }
}

#[test]
fn a_granted_owner_binds_the_ports_itself_and_no_other() {
    let playground = Playground::new().unwrap();
    let host = &playground.topology.host;
    let attached = attach(&playground, &["--mode", "grant"]);
    assert_eq!(attached.code, Some(0), "{}", attached.stderr);
    let status = playground.status().unwrap();
    assert_eq!((&status["mode"], &status["state"]), (&"grant".into(), &"attached".into()), "{status}");
    for kind in KINDS {
        for port in [80, 443] {
            let bound = kind.listen(host, AGENT, port).unwrap();
            assert!(bound.is_ok(), "{kind:?} {port}: {bound:?}");
            drop(bound);
            let refused = kind.listen(host, STRANGER, port).unwrap().unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::PermissionDenied, "{kind:?} {port}");
            assert!(kind.listen(host, ROOT, port).unwrap().is_ok(), "{kind:?} {port}");
        }
        assert!(kind.bind_udp(host, AGENT, 443).unwrap().is_ok(), "{kind:?}");
        assert!(kind.bind_udp(host, AGENT, 80).unwrap().is_err(), "{kind:?}");
        assert!(kind.listen(host, AGENT, 81).unwrap().is_err(), "{kind:?}");
    }
    assert_refused(&playground, "granted");
    // Nothing is redirected.
    let _listener = KINDS[2].listen(host, AGENT, 8080).unwrap().unwrap();
    assert!(!playground.is_redirected());
    playground.detach().unwrap();
    assert!(playground.pins().is_empty());
    assert!(KINDS[0].listen(host, AGENT, 80).unwrap().is_err());
}

#[test]
fn only_what_keeps_a_granted_owner_from_its_port_is_warned_of() {
    let playground = Playground::new().unwrap();
    let host = &playground.topology.host;
    let attach = || attach(&playground, &["--mode", "grant", "-r", "80:8080"]);
    assert_eq!(attach().code, Some(0));
    let own = KINDS[2].listen(host, AGENT, 80).unwrap().unwrap();
    let said = attach().stderr;
    assert!(!said.contains("listens on port"), "{said}");
    drop(own);
    let _roots = KINDS[2].listen(host, ROOT, 80).unwrap().unwrap();
    let said = attach().stderr;
    assert!(said.contains("of user 0 listens on port 80/tcp: the owner, user 64080, can't"), "{said}");
}

#[test]
fn a_granted_port_that_is_anybodys_is_warned_of() {
    let playground = Playground::new().unwrap();
    let host = &playground.topology.host;
    let attach = || attach(&playground, &["--mode", "grant", "-r", "80:8080"]).stderr;
    let said = attach();
    assert!(!said.contains("any user may bind"), "{said}");
    host.sysctl("net/ipv4/ip_unprivileged_port_start", "80").unwrap();
    assert!(KINDS[2].listen(host, STRANGER, 80).unwrap().is_ok());
    let said = attach();
    let remedy = "sysctl -w net.ipv4.ip_unprivileged_port_start=1024";
    assert!(said.contains("any user may bind port 80") && said.contains(remedy), "{said}");
    let doctor = command::finish(playground.loader("doctor").args(["-i", INTERFACE])).unwrap();
    assert!(doctor.stdout.contains(remedy), "{}", doctor.stdout);
    host.sysctl("net/ipv4/ip_unprivileged_port_start", "1024").unwrap();
    assert!(KINDS[2].listen(host, STRANGER, 80).unwrap().is_err());
    let said = attach();
    assert!(!said.contains("any user may bind"), "{said}");
}

#[test]
fn a_port_that_outgoing_connections_may_take_is_warned_of() {
    let playground = Playground::new().unwrap();
    let attach = || attach(&playground, &["-r", "80:40080"]).stderr;
    let said = attach();
    assert!(said.contains("sysctl -w net.ipv4.ip_local_reserved_ports=40080"), "{said}");
    playground.topology.host.sysctl("net/ipv4/ip_local_reserved_ports", "40080").unwrap();
    let said = attach();
    assert!(!said.contains("outgoing connection"), "{said}");
}

#[test]
fn a_port_whose_outgoing_connections_would_be_redirected_is_warned_of() {
    let playground = Playground::new().unwrap();
    let attach =
        |mode| attach(&playground, &["-r", "40080:8080", "-r", "40443:8443/udp", "--mode", mode]).stderr;
    // A connection that is there is told from a new one by mode `steer` alone, which is for TCP.
    for (mode, ports) in [("rewrite", "40080,40443"), ("steer", "40443")] {
        let said = attach(mode);
        assert!(said.contains("whose answers would be redirected"), "{mode}: {said}");
        assert!(said.contains(&format!("net.ipv4.ip_local_reserved_ports={ports}`")), "{mode}: {said}");
    }
    let said = attach("grant");
    assert!(!said.contains("outgoing connection"), "{said}");
}

#[test]
fn a_port_is_not_for_two_owners() {
    let playground = Playground::new().unwrap();
    let host = &playground.topology.host;
    host.ip("link add eth7 type veth peer name peer7").unwrap();
    let attach = |flags: &[&str]| {
        command::finish(playground.loader("attach").args(["--mode", "rewrite"]).args(flags)).unwrap()
    };
    assert_eq!(attach(&["-i", INTERFACE]).code, Some(0));
    let stranger = STRANGER.id.to_string();
    let refused = attach(&["-i", "eth7", "--owner", &stranger]);
    assert_eq!(refused.code, Some(3), "{}", refused.stderr);
    assert!(refused.stderr.contains("eth7 for user 64081"), "{}", refused.stderr);
    assert!(KINDS[2].listen(host, AGENT, 8080).unwrap().is_ok());
    let apart = attach(&["-i", "eth7", "--owner", &stranger, "-r", "80:9080"]);
    assert_eq!(apart.code, Some(0), "{}", apart.stderr);
    let both = attach(&["-i", INTERFACE, "-i", "eth7", "--owner", &stranger]);
    assert_eq!(both.code, Some(0), "{}", both.stderr);
    assert!(KINDS[2].listen(host, STRANGER, 8080).unwrap().is_ok());
}

#[test]
fn a_grant_and_a_redirect_take_each_others_place() {
    let mut playground = Playground::new().unwrap();
    playground.start_agent().unwrap();
    for (mode, redirected) in [("grant", false), ("steer", true), ("grant", false), ("rewrite", true)] {
        let attached = attach(&playground, &["--mode", mode]);
        assert_eq!(attached.code, Some(0), "{mode}: {}", attached.stderr);
        assert_eq!(playground.is_redirected(), redirected, "{mode}");
        let bound = KINDS[1].listen(&playground.topology.host, AGENT, 80).unwrap();
        assert_eq!(bound.is_ok(), !redirected, "{mode}");
    }
    playground.detach().unwrap();
    assert!(playground.pins().is_empty());
}
