//! Mode `steer`: connections reach the socket that listens on TO, whichever it is and whenever it came.

#![allow(clippy::unwrap_used, reason = "a scenario fails where its helpers do")]

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use rprox_tests::command::{self, Finished};
use rprox_tests::netns::{Netns, Unprivileged};
use rprox_tests::playground::{AGENT, Playground, SERVICES};
use rprox_tests::process::Process;
use rprox_tests::sockets::{KINDS, Kind};
use rprox_tests::topology::{CLIENT, HOST, INTERFACE};
use rprox_tests::wait;
use socket2::{Domain, Protocol, Socket, Type};

const ROOT: Unprivileged = Unprivileged { id: 0 };
const LIMIT: Duration = Duration::from_secs(3);

fn attach(playground: &Playground, flags: &[&str]) -> Finished {
    command::finish(playground.loader("attach").args(["-i", INTERFACE]).args(flags)).unwrap()
}

fn attached(flags: &[&str]) -> Playground {
    let playground = Playground::new().unwrap();
    let attached = attach(&playground, flags);
    assert_eq!(attached.code, Some(0), "{}", attached.stderr);
    playground
}

fn connect(from: &Netns, ip: IpAddr, port: u16) -> std::io::Result<TcpStream> {
    from.enter(|| TcpStream::connect_timeout(&SocketAddr::new(ip, port), LIMIT)).unwrap()
}

/// How the client's connection to port 80 at `ip` ends.
fn refusal(playground: &Playground, ip: IpAddr) -> Option<ErrorKind> {
    connect(&playground.topology.client, ip, 80).err().map(|error| error.kind())
}

#[test]
fn listeners_of_every_kind_are_reached_whether_they_came_before_or_after() {
    for early in [true, false] {
        for (kind, families) in KINDS.into_iter().zip([[true, false], [false, true], [true, true]]) {
            let playground = Playground::new().unwrap();
            let host = &playground.topology.host;
            let listen = || kind.listen(host, AGENT, 8080).unwrap().unwrap();
            let before = early.then(listen);
            assert_eq!(attach(&playground, &["--mode", "steer"]).code, Some(0));
            let listener = before.unwrap_or_else(listen);
            for (ip, reached) in HOST.both().into_iter().zip(families) {
                let expected = (!reached).then_some(ErrorKind::ConnectionRefused);
                assert_eq!(refusal(&playground, ip), expected, "{kind:?} {ip} early: {early}");
                if reached {
                    let accepted: TcpStream = listener.accept().unwrap().0.into();
                    assert_eq!(accepted.local_addr().unwrap().port(), 80);
                }
            }
            drop(listener);
            // A process that another test is just starting holds a copy until it runs its own program.
            for ip in HOST.both() {
                wait::until(wait::READY, &format!("{kind:?} {ip} to be refused"), || {
                    (refusal(&playground, ip) == Some(ErrorKind::ConnectionRefused)).then_some(())
                })
                .unwrap();
            }
        }
    }
}

#[test]
fn every_member_of_a_group_gets_connections() {
    let playground = attached(&["--mode", "steer"]);
    let host = &playground.topology.host;
    let group: Vec<Socket> = (0..3).map(|_| KINDS[2].listen(host, AGENT, 8080).unwrap().unwrap()).collect();
    for member in &group {
        member.set_nonblocking(true).unwrap();
    }
    let mut got = [0; 3];
    let mut connections = Vec::new();
    wait::until(wait::READY, "each member to get a connection", || {
        connections.push(connect(&playground.topology.client, HOST.v4.into(), 80).unwrap());
        for (member, got) in group.iter().zip(&mut got) {
            *got += u32::from(member.accept().is_ok());
        }
        got.iter().all(|got| *got > 0).then_some(())
    })
    .unwrap();
}

#[test]
fn a_large_group_is_reached_when_those_of_it_that_came_first_are_closed() {
    let playground = attached(&["--mode", "steer"]);
    let host = &playground.topology.host;
    // More than are noted of an address and port.
    let group =
        || -> Vec<Socket> { (0..40).map(|_| KINDS[2].listen(host, AGENT, 8080).unwrap().unwrap()).collect() };
    let old = group();
    let mut new = group();
    drop(old);
    // A process that another test is just starting holds copies of the old ones until it runs its own program.
    let accepts = |members: &[Socket]| members.iter().any(|member| member.accept().is_ok());
    for member in &new {
        member.set_nonblocking(true).unwrap();
    }
    for ip in HOST.both() {
        wait::until(wait::READY, &format!("the new ones to be reached at {ip}"), || {
            let _connection = connect(&playground.topology.client, ip, 80).ok()?;
            accepts(&new).then_some(())
        })
        .unwrap();
    }
    // Nor does it hang on the last of them.
    drop(new.pop());
    wait::until(wait::READY, "the others to be reached", || {
        let _connection = connect(&playground.topology.client, HOST.v4.into(), 80).ok()?;
        accepts(&new).then_some(())
    })
    .unwrap();
}

#[test]
fn the_agent_may_come_and_go_with_nobodys_help() {
    let mut playground = Playground::new().unwrap();
    playground.start_agent().unwrap();
    assert_eq!(attach(&playground, &["--mode", "steer"]).code, Some(0));
    for _ in 0..2 {
        assert!(playground.is_redirected());
        playground.agent.take().unwrap().stop().unwrap();
        for ip in HOST.both() {
            assert_eq!(refusal(&playground, ip), Some(ErrorKind::ConnectionRefused));
        }
        playground.start_agent().unwrap();
    }
    let answer = playground.get(&format!("http://{}/", SERVICES[1].host)).send().unwrap();
    assert_eq!(answer.field("pod"), Some("grafana"));
}

#[test]
fn a_client_may_use_a_port_again_whose_connection_is_in_time_wait() {
    let playground = attached(&["--mode", "steer"]);
    let listener = KINDS[0].listen(&playground.topology.host, AGENT, 8080).unwrap().unwrap();
    let connect = || {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        socket.set_reuse_address(true)?;
        socket.bind(&SocketAddr::from((Ipv4Addr::UNSPECIFIED, 40_000)).into())?;
        socket.connect_timeout(&SocketAddr::new(HOST.v4.into(), 80).into(), LIMIT)?;
        Ok::<_, std::io::Error>(TcpStream::from(socket))
    };
    for round in 0..3 {
        // The client's own end of the last one is there until the server has acknowledged its close.
        let client = wait::until(wait::READY, "the client's port to be free", || {
            match playground.topology.client.enter(connect).unwrap() {
                Err(error) if error.kind() == ErrorKind::AddrNotAvailable => None,
                connected => Some(connected),
            }
        });
        let mut client = client.unwrap().unwrap_or_else(|error| panic!("round {round}: {error}"));
        // The server closes first, so the state is on its side.
        drop(listener.accept().unwrap());
        client.set_read_timeout(Some(LIMIT)).unwrap();
        assert_eq!(client.read(&mut [0]).unwrap(), 0);
    }
}

#[test]
fn a_listener_on_loopback_gets_nothing_from_outside() {
    let playground = attached(&["--mode", "steer"]);
    let local = Kind { address: "127.0.0.1", v6_only: false };
    let _listener = local.listen(&playground.topology.host, AGENT, 8080).unwrap().unwrap();
    for ip in HOST.both() {
        assert_eq!(refusal(&playground, ip), Some(ErrorKind::ConnectionRefused));
    }
    assert!(connect(&playground.topology.host, Ipv4Addr::LOCALHOST.into(), 8080).is_ok());
}

#[test]
fn another_interfaces_port_stays_whose_it_is() {
    let playground = attached(&["--mode", "steer"]);
    let host = &playground.topology.host;
    let agents = KINDS[2].listen(host, AGENT, 8080).unwrap().unwrap();
    let roots = KINDS[2].listen(host, ROOT, 80).unwrap().unwrap();
    let accept = |socket: &Socket| -> std::io::Result<()> {
        socket.set_nonblocking(true)?;
        socket.accept().map(drop)
    };
    for ip in HOST.both() {
        let _connection = connect(&playground.topology.client, ip, 80).unwrap();
        assert!(accept(&agents).is_ok() && accept(&roots).is_err(), "{ip} by {INTERFACE}");
        let _connection = connect(&playground.topology.elsewhere, ip, 80).unwrap();
        assert!(accept(&roots).is_ok() && accept(&agents).is_err(), "{ip} by another");
    }
}

#[test]
fn local_clients_are_steered_on_loopback() {
    let playground = Playground::new().unwrap();
    let host = &playground.topology.host;
    let attached =
        command::finish(playground.loader("attach").args(["-i", "lo", "--mode", "steer"])).unwrap();
    assert_eq!(attached.code, Some(0), "{}", attached.stderr);
    let _listener = KINDS[2].listen(host, AGENT, 8080).unwrap().unwrap();
    for ip in ["127.0.0.1", "::1"] {
        connect(host, ip.parse().unwrap(), 80).unwrap();
    }
    let free = host.enter(|| TcpListener::bind("127.0.0.1:0")).unwrap().unwrap();
    connect(host, Ipv4Addr::LOCALHOST.into(), free.local_addr().unwrap().port()).unwrap();
}

#[test]
fn what_the_host_sends_to_its_own_address_on_the_interface_is_the_interfaces() {
    let playground = attached(&["--mode", "steer", "-r", "80:8080"]);
    let host = &playground.topology.host;
    let _listener = KINDS[2].listen(host, AGENT, 8080).unwrap().unwrap();
    let ends = |ip: IpAddr, port| connect(host, ip, port).err().map(|error| error.kind());
    for ip in HOST.both() {
        assert_eq!(ends(ip, 80), None, "{ip}");
        assert_eq!(ends(ip, 8080), Some(ErrorKind::ConnectionRefused), "{ip}");
    }
    for ip in ["127.0.0.1", "::1"] {
        let ip = ip.parse().unwrap();
        assert_eq!(ends(ip, 80), Some(ErrorKind::ConnectionRefused), "{ip}");
        assert_eq!(ends(ip, 8080), None, "{ip}");
    }
}

#[test]
fn a_connection_that_the_host_opens_from_to_gets_its_answers() {
    let playground = attached(&["--mode", "steer"]);
    let topology = &playground.topology;
    let _agents = KINDS[2].listen(&topology.host, AGENT, 8080).unwrap().unwrap();
    for (kind, ip) in KINDS.into_iter().zip(CLIENT.both()) {
        let server = kind.listen(&topology.client, ROOT, 7000).unwrap().unwrap();
        let target = SocketAddr::new(ip, 7000);
        let opened = topology.host.enter_as(AGENT, || {
            let socket = Socket::new(Domain::for_address(target), Type::STREAM, None)?;
            socket.set_reuse_port(true)?;
            socket.bind(&SocketAddr::new(HOST.both()[usize::from(ip.is_ipv6())], 8080).into())?;
            socket.connect_timeout(&target.into(), LIMIT)?;
            Ok::<TcpStream, std::io::Error>(socket.into())
        });
        let mut opened = opened.unwrap().unwrap();
        let mut accepted: TcpStream = server.accept().unwrap().0.into();
        accepted.write_all(b"?").unwrap();
        opened.set_read_timeout(Some(LIMIT)).unwrap();
        let mut answer = [0];
        opened.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"?");
    }
    assert!(connect(&topology.client, HOST.v4.into(), 80).is_ok(), "clients are steered as before");
}

#[test]
fn direct_connections_are_refused_and_counted() {
    let playground = attached(&["--mode", "steer", "-r", "80:8080"]);
    let _agents = KINDS[2].listen(&playground.topology.host, AGENT, 8080).unwrap().unwrap();
    let direct =
        || HOST.both().map(|ip| connect(&playground.topology.client, ip, 8080).err().map(|e| e.kind()));
    let counted = || playground.status().unwrap()["rules"][0]["refused_direct"].clone();
    let (refused, through) = ([Some(ErrorKind::ConnectionRefused); 2], [None; 2]);
    assert_eq!(direct(), refused);
    assert_eq!(counted(), 2);
    for (flags, gets) in [
        (&["--direct", "allow"][..], through),
        (&["--direct", "deny"], refused),
        // With programs in the packets' path for UDP.
        (&["-r", "443:8443/udp"], refused),
        (&["-r", "443:8443/udp", "--direct", "allow"], through),
    ] {
        let flags = [&["--mode", "steer", "-r", "80:8080"], flags].concat();
        assert_eq!(attach(&playground, &flags).code, Some(0));
        assert_eq!(direct(), gets, "{flags:?}");
        assert_eq!(HOST.both().map(|ip| refusal(&playground, ip)), through, "{flags:?}");
    }
    assert_eq!(counted(), 6);
}

#[test]
fn nothing_is_in_the_packets_path_that_no_rule_needs() {
    let playground = attached(&["--mode", "steer", "-r", "80:8080"]);
    let _agents = KINDS[2].listen(&playground.topology.host, AGENT, 8080).unwrap().unwrap();
    let udp = &["-r", "443:8443/udp"][..];
    // Connections that began under `rewrite` may live on, so its programs stay.
    for (mode, more, hook) in [
        ("steer", &[][..], false),
        ("steer", udp, true),
        ("steer", &[], false),
        ("rewrite", &[], true),
        ("steer", &[], true),
    ] {
        assert_eq!(attach(&playground, &[&["--mode", mode, "-r", "80:8080"], more].concat()).code, Some(0));
        let status = playground.status().unwrap();
        assert_eq!(!status["hook"].is_null(), hook, "{mode} {more:?}: {status}");
        assert_eq!(status["state"], "attached");
        assert_eq!(HOST.both().map(|ip| refusal(&playground, ip)), [None; 2], "{mode} {more:?}");
    }
}

#[test]
fn no_request_fails_while_the_mode_changes() {
    let mut playground = Playground::new().unwrap();
    playground.start_agent().unwrap();
    // Without a UDP rule nothing is in the packets' path at first.
    let rules = ["-r", "80:8080", "-r", "443:8443"];
    assert_eq!(attach(&playground, &rules).code, Some(0));
    let load = playground.load(&SERVICES[1]);
    for mode in ["rewrite", "steer", "rewrite", "auto"] {
        load.wait_for_more(100).unwrap();
        let attached = attach(&playground, &[&rules[..], &["--mode", mode]].concat());
        assert_eq!(attached.code, Some(0), "{mode}: {}", attached.stderr);
        let expected = if mode == "auto" { "steer" } else { mode };
        assert_eq!(playground.status().unwrap()["mode"], expected);
    }
    load.wait_for_more(100).unwrap();
    load.finish().unwrap().assert_all_served();
}

#[test]
fn status_says_which_mode_and_why() {
    let playground = attached(&[]);
    let status = playground.status().unwrap();
    assert_eq!(status["mode"], "steer");
    assert_eq!(status["reason"], "kernel and interface allow it");
    assert_eq!(status["owner"], AGENT.id);
    let said = command::run(&mut playground.loader("status")).unwrap();
    assert!(said.contains("not counted: steered connections don't pass a program"), "{said}");
    let counted: Vec<_> =
        status["rules"].as_array().unwrap().iter().map(|rule| &rule["packets_counted"]).collect();
    assert_eq!(counted, [false, false, true], "TCP, TCP and UDP: {said}");
    assert_eq!(attach(&playground, &["-r", "443:8443/udp"]).code, Some(0));
    let status = playground.status().unwrap();
    assert_eq!(status["mode"], "rewrite");
    assert!(status["reason"].as_str().unwrap().contains("no TCP rule"), "{status}");
}

/// Listens on TO as Go's `net.Listen` does unasked.
fn listen_by_mptcp(host: &Netns) -> Socket {
    let listen = || {
        let socket = Socket::new(Domain::IPV6, Type::STREAM, Some(Protocol::MPTCP))?;
        socket.set_only_v6(false)?;
        socket.set_reuse_address(true)?;
        socket.bind(&"[::]:8080".parse::<SocketAddr>().unwrap().into())?;
        socket.listen(128)?;
        std::io::Result::Ok(socket)
    };
    host.enter_as(AGENT, listen).unwrap().expect("the kernel has MPTCP")
}

#[test]
fn who_listens_by_mptcp_is_reached_by_rewrite() {
    let playground = Playground::new().unwrap();
    let _listener = listen_by_mptcp(&playground.topology.host);
    let rules = ["-r", "80:8080"];
    for _ in 0..2 {
        assert_eq!(attach(&playground, &rules).code, Some(0));
        let status = playground.status().unwrap();
        assert_eq!(status["mode"], "rewrite");
        assert!(status["reason"].as_str().unwrap().contains("port 8080 speaks MPTCP"), "{status}");
        assert_eq!(HOST.both().map(|ip| refusal(&playground, ip)), [None; 2]);
        // Who asks for `steer` is told what that means, and the next time has the choice made anew.
        let asked_for = attach(&playground, &[&rules[..], &["--mode", "steer"]].concat());
        assert_eq!(asked_for.code, Some(0), "{}", asked_for.stderr);
        assert!(
            asked_for.stderr.contains("connections are refused; attach by `--mode auto`"),
            "{}",
            asked_for.stderr
        );
        let doctor =
            command::finish(playground.loader("doctor").args(["-i", INTERFACE]).args(rules)).unwrap();
        assert_eq!(doctor.code, Some(1), "{}", doctor.stdout);
        assert!(doctor.stdout.contains("port 8080 speaks MPTCP"), "{}", doctor.stdout);
    }
}

#[test]
fn a_service_reaches_who_comes_to_listen_by_mptcp() {
    let playground = Playground::new().unwrap();
    let mut run = playground.loader("run");
    run.args(["-i", INTERFACE, "-r", "80:8080"]);
    let mut service = Process::start("rprox-loader", run).unwrap();
    service.wait_for_line("attached (steer)").unwrap();
    let _listener = listen_by_mptcp(&playground.topology.host);
    wait::until(wait::READY, "the listener to be reached", || {
        HOST.both().iter().all(|ip| refusal(&playground, *ip).is_none()).then_some(())
    })
    .unwrap();
    assert!(
        service.said().iter().any(|line| line.contains("port 8080 speaks MPTCP")),
        "{:?}",
        service.said()
    );
    assert!(service.stop().unwrap().success());
}
