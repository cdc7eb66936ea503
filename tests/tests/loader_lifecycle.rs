//! The loader: attached once and whole, gone without a trace, and alive in the kernel when its process is not.

#![allow(clippy::unwrap_used, reason = "a scenario fails where its helpers do")]

use std::path::Path;
use std::process::Command;

use rprox_tests::command::{self, Finished};
use rprox_tests::kernel;
use rprox_tests::playground::{AGENT, Playground, SERVICES};
use rprox_tests::pod::Server;
use rprox_tests::process::Process;
use rprox_tests::topology::INTERFACE;
use rprox_tests::wait;
use rustix::process::{Pid, Signal, kill_process};

/// The hooks that this kernel has: TCX came with Linux 6.6.
fn hooks() -> &'static [&'static str] {
    if kernel::is_at_least(6, 6) { &["tcx", "clsact"] } else { &["clsact"] }
}

const NOTHING: [&Path; 0] = [];

fn with_agent() -> Playground {
    let mut playground = Playground::new().unwrap();
    playground.start_agent().unwrap();
    playground
}

fn attach(playground: &Playground, flags: &[&str]) -> Finished {
    command::finish(playground.loader("attach").args(["-i", INTERFACE]).args(flags)).unwrap()
}

/// What `tc` knows of the chosen interface: its qdiscs and filters.
fn traffic_control(playground: &Playground) -> String {
    let tc =
        |arguments: &[&str]| command::run(playground.topology.host.command("tc").args(arguments)).unwrap();
    let filters = ["ingress", "egress"].map(|side| tc(&["filter", "show", "dev", INTERFACE, side]));
    tc(&["qdisc", "show", "dev", INTERFACE]) + &filters.concat()
}

#[test]
fn beside_a_version_with_other_maps_it_does_not_attach() {
    let playground = Playground::new().unwrap();
    // The first time it mounts the bpffs.
    assert_eq!(attach(&playground, &[]).code, Some(0));
    playground.detach().unwrap();
    let other = playground.folder().join("bpf/rprox/v0").join(INTERFACE);
    std::fs::create_dir_all(&other).unwrap();
    let refused = attach(&playground, &[]);
    assert_ne!(refused.code, Some(0));
    assert!(refused.stderr.contains("another version of rprox-loader is attached"), "{}", refused.stderr);
    std::fs::remove_dir(&other).unwrap();
    std::fs::remove_dir(other.parent().unwrap()).unwrap();
    let attached = attach(&playground, &[]);
    assert_eq!(attached.code, Some(0), "{}", attached.stderr);
}

#[test]
fn attaching_twice_changes_nothing() {
    let playground = with_agent();
    for hook in hooks() {
        let first = attach(&playground, &["--hook", hook]);
        assert_eq!(first.code, Some(0), "{hook}: {}", first.stderr);
        assert!(playground.is_redirected(), "{hook}");
        let before = (
            playground.pins(),
            traffic_control(&playground),
            playground.status().unwrap()["programs"].clone(),
        );
        let second = attach(&playground, &["--hook", hook]);
        assert_eq!(second.code, Some(0), "{hook}: {}", second.stderr);
        let after = (
            playground.pins(),
            traffic_control(&playground),
            playground.status().unwrap()["programs"].clone(),
        );
        assert_eq!(before, after, "{hook}");
        assert!(playground.is_redirected(), "{hook}");
        playground.detach().unwrap();
    }
}

#[test]
fn tcx_is_used_where_the_kernel_has_it_and_missed_where_it_is_asked_for() {
    let playground = with_agent();
    let auto = attach(&playground, &[]);
    assert_eq!(auto.code, Some(0), "{}", auto.stderr);
    assert_eq!(playground.status().unwrap()["hook"], hooks()[0]);
    playground.detach().unwrap();
    if hooks() == ["clsact"] {
        let refused = attach(&playground, &["--hook", "tcx"]);
        assert_eq!(refused.code, Some(3));
        assert!(refused.stderr.contains("this kernel has no TCX"), "{}", refused.stderr);
        assert_eq!(playground.pins(), NOTHING);
    }
}

#[test]
fn detaching_leaves_nothing_behind() {
    let playground = with_agent();
    let before = traffic_control(&playground);
    for hook in hooks() {
        let attached = attach(&playground, &["--hook", hook]);
        assert_eq!(attached.code, Some(0), "{hook}: {}", attached.stderr);
        assert!(!playground.pins().is_empty(), "{hook}");
        playground.detach().unwrap();
        assert_eq!(playground.pins(), NOTHING, "{hook}");
        assert_eq!(traffic_control(&playground), before, "{hook}");
        assert!(!playground.is_redirected(), "{hook}");
        // Nothing to detach is what was asked for.
        playground.detach().unwrap();
    }
}

#[test]
fn detaching_spares_a_qdisc_that_somebody_else_made() {
    let playground = with_agent();
    command::run(playground.topology.host.command("tc").args(["qdisc", "add", "dev", INTERFACE, "clsact"]))
        .unwrap();
    let before = traffic_control(&playground);
    assert_eq!(attach(&playground, &["--hook", "clsact"]).code, Some(0));
    playground.detach().unwrap();
    assert_eq!(traffic_control(&playground), before);
}

#[test]
fn the_foreground_service_detaches_when_told_to_end() {
    let mut playground = with_agent();
    playground.start_loader(&[]).unwrap();
    let status = playground.loader.take().unwrap().stop().unwrap();
    assert!(status.success(), "{status}");
    assert_eq!(playground.pins(), NOTHING);
    assert!(!playground.is_redirected());
}

#[test]
fn the_redirect_survives_a_killed_loader() {
    let mut playground = with_agent();
    playground.start_loader(&[]).unwrap();
    playground.loader.take().unwrap().kill().unwrap();
    assert!(playground.is_redirected());
    playground.detach().unwrap();
    assert!(!playground.is_redirected());
}

#[test]
fn no_request_fails_while_the_loader_is_killed_and_started_again() {
    let mut playground = with_agent();
    playground.start_loader(&[]).unwrap();
    let load = playground.load(&SERVICES[1]);
    for _ in 0..3 {
        load.wait_for_more(100).unwrap();
        playground.loader.take().unwrap().kill().unwrap();
        load.wait_for_more(100).unwrap();
        playground.start_loader(&[]).unwrap();
    }
    load.wait_for_more(100).unwrap();
    load.finish().unwrap().assert_all_served();
}

#[test]
fn no_request_fails_while_rules_change() {
    let playground = with_agent();
    assert_eq!(attach(&playground, &[]).code, Some(0));
    let load = playground.load(&SERVICES[1]);
    for rules in [&["-r", "80:8080", "-r", "8081:8443"][..], &["-r", "80:8080"], &["--direct", "allow"], &[]]
    {
        load.wait_for_more(100).unwrap();
        let attached = attach(&playground, rules);
        assert_eq!(attached.code, Some(0), "{}", attached.stderr);
    }
    load.wait_for_more(100).unwrap();
    load.finish().unwrap().assert_all_served();
}

#[test]
fn wrong_use_is_refused_with_the_way_out() {
    let playground = Playground::new().unwrap();
    let cases: [(&[&str], i32, &str); 6] = [
        (&["-r", "80-8080"], 2, "80:8080"),
        (&["-r", "80:80800"], 2, "65535"),
        (&["-r", "0:8080"], 2, "65535"),
        (&["-r", "80:8080/sctp"], 2, "udp"),
        (&["-r", "80:8080", "-r", "80:9090"], 2, "80"),
        (&["-r", "80:8080", "--direct", "perhaps"], 2, "deny"),
    ];
    for (flags, code, hint) in cases {
        let refused = attach(&playground, flags);
        assert_eq!(refused.code, Some(code), "{flags:?}: {}", refused.stderr);
        assert!(refused.stderr.contains(hint), "{flags:?}: {}", refused.stderr);
        assert_eq!(playground.pins(), NOTHING, "{flags:?}");
    }
}

#[test]
fn a_missing_interface_is_named() {
    let playground = Playground::new().unwrap();
    let refused = command::finish(playground.loader("attach").args(["-i", "nosuch0"])).unwrap();
    assert!(matches!(refused.code, Some(2 | 3)), "{:?}", refused.code);
    assert!(refused.stderr.contains("nosuch0"), "{}", refused.stderr);
}

#[test]
fn without_root_the_loader_says_that_it_needs_it() {
    let playground = Playground::new().unwrap();
    let user = rprox_tests::playground::AGENT;
    let mut loader = playground.topology.host.command_as(user, playground.loader_program());
    let refused = command::finish(loader.args(["attach", "-i", INTERFACE, "--owner", "any"])).unwrap();
    assert_eq!(refused.code, Some(3), "{}", refused.stderr);
    assert!(refused.stderr.contains("root"), "{}", refused.stderr);
}

#[test]
fn a_listener_on_the_port_itself_is_warned_of() {
    let playground = Playground::new().unwrap();
    let folder = playground.folder().join("host-server");
    let _server = Server::start("host-server", &playground.topology.host, &[80], &folder).unwrap();
    let attached = attach(&playground, &[]);
    assert_eq!(attached.code, Some(0), "{}", attached.stderr);
    assert!(attached.stderr.contains("nginx") && attached.stderr.contains("80"), "{}", attached.stderr);
}

/// iptables makes a table that is asked for by its name, and its hooks are in the way of every packet from then on.
#[test]
fn looking_for_firewall_rules_makes_no_table_of_them() {
    let playground = Playground::new().unwrap();
    let host = &playground.topology.host;
    let tables = || {
        ["/proc/net/ip_tables_names", "/proc/net/ip6_tables_names"].map(|file| {
            // Without the kernel's module there is no file, and no table.
            command::finish(host.command("cat").arg(file)).unwrap().stdout
        })
    };
    assert_eq!(tables(), ["", ""]);
    let attached = attach(&playground, &[]);
    assert_eq!(attached.code, Some(0), "{}", attached.stderr);
    assert_eq!(tables(), ["", ""]);
    let doctor = command::finish(playground.loader("doctor").args(["-i", INTERFACE])).unwrap();
    assert!(!doctor.stdout.is_empty(), "{}", doctor.stderr);
    assert_eq!(tables(), ["", ""]);
}

#[test]
fn a_firewalls_redirect_is_warned_of_and_left_as_it_is() {
    let playground = Playground::new().unwrap();
    let host = &playground.topology.host;
    let rule = format!("-t nat -A PREROUTING -i {INTERFACE} -p tcp --dport 80 -j REDIRECT --to-port 8080");
    command::run(host.command("iptables").args(rule.split(' '))).unwrap();
    let rules = || command::run(host.command("iptables").args(["-t", "nat", "-S"])).unwrap();
    let before = rules();
    for (mode, effect) in [
        ("rewrite", "rprox comes before it"),
        ("steer", "it comes before mode steer"),
        ("grant", "the owner's listener there gets none"),
    ] {
        let attached = attach(&playground, &["--mode", mode]);
        assert_eq!(attached.code, Some(0), "{}", attached.stderr);
        let warning =
            attached.stderr.lines().find(|line| line.contains("Remove it with: iptables -t nat -D"));
        assert!(warning.is_some_and(|warning| warning.contains(effect)), "{mode}: {}", attached.stderr);
    }
    playground.detach().unwrap();
    assert_eq!(rules(), before);
}

#[test]
fn an_nftables_redirect_is_warned_of_and_left_as_it_is() {
    let playground = Playground::new().unwrap();
    let host = &playground.topology.host;
    let ruleset = "add table ip web\nadd chain ip web pre { type nat hook prerouting priority -100; }\n\
                   add rule ip web pre tcp dport 443 redirect to :8443\n";
    let file = playground.folder().join("rules.nft");
    std::fs::write(&file, ruleset).unwrap();
    command::run(host.command("nft").arg("-f").arg(&file)).unwrap();
    let rules = || command::run(host.command("nft").args(["list", "ruleset"])).unwrap();
    let before = rules();
    let attached = attach(&playground, &[]);
    assert_eq!(attached.code, Some(0), "{}", attached.stderr);
    assert!(attached.stderr.contains("443"), "{}", attached.stderr);
    playground.detach().unwrap();
    assert_eq!(rules(), before);
}

#[test]
fn an_address_that_comes_later_is_redirected_too() {
    let mut playground = with_agent();
    playground.start_loader(&[]).unwrap();
    let (host, client) = (&playground.topology.host, &playground.topology.client);
    host.ip(&format!("address add 198.51.100.77/24 dev {INTERFACE}")).unwrap();
    let address = std::net::SocketAddr::from(([198, 51, 100, 77], 80));
    wait::until(wait::READY, "the new address to be redirected", || {
        client.can_connect(address).then_some(())
    })
    .unwrap();
}

#[test]
fn a_log_that_nobody_reads_ends_nothing() {
    let playground = with_agent();
    let (reader, writer) = std::io::pipe().unwrap();
    let mut run = playground.loader("run");
    let mut service = run.args(["-i", INTERFACE]).stderr(writer).spawn().unwrap();
    drop(run);
    drop(reader);
    wait::until(wait::READY, "port 80 to be redirected", || playground.is_redirected().then_some(()))
        .unwrap();
    // What it logs.
    playground.topology.host.ip(&format!("address add 198.51.100.77/24 dev {INTERFACE}")).unwrap();
    let address = std::net::SocketAddr::from(([198, 51, 100, 77], 80));
    let client = &playground.topology.client;
    wait::until(wait::READY, "the new address to be redirected", || {
        client.can_connect(address).then_some(())
    })
    .unwrap();
    kill_process(Pid::from_child(&service), Signal::TERM).unwrap();
    assert_eq!(service.wait().unwrap().code(), Some(0));
    assert_eq!(playground.pins(), NOTHING);
    // And what it says in the end.
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let refused = playground.loader("attach").args(["-i", "nosuch0"]).stderr(writer).status().unwrap();
    assert_eq!(refused.code(), Some(3));
}

#[test]
fn the_redirect_goes_with_the_terminal_unless_that_is_to_end_nothing() {
    let playground = with_agent();
    let run = |how: &str| {
        let run = playground.loader("run");
        let mut command = Command::new("env");
        command.arg(format!("--{how}-signal=HUP")).arg(run.get_program()).args(run.get_args());
        command.args(["-i", INTERFACE, "--owner", &AGENT.id.to_string()]);
        let mut service = Process::start("rprox-loader", command).unwrap();
        service.wait_until("port 80 to be redirected", |_| playground.is_redirected()).unwrap();
        service.signal(Signal::HUP).unwrap();
        service
    };
    let mut left = run("default");
    assert_eq!(left.wait(wait::READY).unwrap().code(), Some(0));
    assert!(left.said().iter().any(|line| line.contains("SIGHUP: detaching")), "{:?}", left.said());
    assert_eq!(playground.pins(), NOTHING);

    let mut kept = run("ignore");
    // It follows what comes after the signal.
    playground.topology.host.ip(&format!("address add 198.51.100.77/24 dev {INTERFACE}")).unwrap();
    kept.wait_for_line("1 came").unwrap();
    assert!(kept.stop().unwrap().success());
    assert_eq!(playground.pins(), NOTHING);
}

#[test]
fn the_redirect_comes_back_with_its_interface() {
    let mut playground = with_agent();
    playground.start_loader(&[]).unwrap();
    playground.topology.make_client_link_anew().unwrap();
    wait::until(wait::READY, "the redirect to come back", || playground.is_redirected().then_some(()))
        .unwrap();
    let loader: &mut Process = playground.loader.as_mut().unwrap();
    assert!(loader.ended().is_none());
}
