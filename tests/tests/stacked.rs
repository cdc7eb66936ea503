//! Interfaces that lie on one another: a port is redirected on one of them, never twice on a packet's way.

#![allow(clippy::unwrap_used, reason = "a scenario fails where its helpers do")]

use std::net::{SocketAddr, TcpListener};
use std::process::Command;

use rprox_tests::command::{self, Finished};
use rprox_tests::kernel;
use rprox_tests::netns::Netns;
use rprox_tests::process::Process;
use rprox_tests::programs::Programs;
use rprox_tests::run_dir::RunDir;
use rustix::mount::{MountFlags, UnmountFlags};

/// A client and a host with a wire between their `port0`.
struct Pair {
    client: Netns,
    host: Netns,
    run_dir: RunDir,
}

impl Pair {
    fn new() -> Self {
        let pair = Self {
            client: Netns::new("client").unwrap(),
            host: Netns::new("host").unwrap(),
            run_dir: RunDir::new().unwrap(),
        };
        let wire = format!("link add port0 type veth peer name port0 netns {}", pair.client.name());
        pair.host.ip(&wire).unwrap();
        for netns in [&pair.client, &pair.host] {
            netns.ip("link set port0 up").unwrap();
        }
        pair
    }

    fn loader(&self, arguments: &str) -> Command {
        let mut words = arguments.split_whitespace();
        let mut command = self.host.command(Programs::find().unwrap().loader);
        command.args(words.next()).arg("--bpffs").arg(self.run_dir.bpffs()).args(words);
        command
    }

    fn attach(&self, arguments: &str) -> Finished {
        let mode = if arguments.contains("--mode") { "" } else { " --mode rewrite" };
        command::finish(&mut self.loader(&format!("attach --owner any {arguments}{mode}"))).unwrap()
    }

    fn attached(&self) -> Vec<String> {
        let said = command::run(&mut self.loader("status --json")).unwrap();
        let attachments: Vec<serde_json::Value> = serde_json::from_str(&said).unwrap();
        attachments.iter().map(|one| one["interface"].as_str().unwrap().to_owned()).collect()
    }

    /// Asserts that `upper` and `lower`, which it lies on, don't both take the same rules, in whatever order they come, and that
    /// they take rules that share no port.
    #[track_caller]
    fn assert_refused_together(&self, upper: &str, lower: &str) {
        for (first, second) in [(upper, lower), (lower, upper)] {
            let attached = self.attach(&format!("-i {first}"));
            assert_eq!(attached.code, Some(0), "{}", attached.stderr);
            let refused = self.attach(&format!("-i {second}"));
            assert_eq!(refused.code, Some(3), "{}", refused.stderr);
            let names = format!("{upper} is on top of {lower}");
            assert!(refused.stderr.contains(&names), "{}", refused.stderr);
            assert_eq!(self.attached(), [first]);

            let apart = self.attach(&format!("-i {second} -r 81:8081"));
            assert_eq!(apart.code, Some(0), "{}", apart.stderr);
            command::run(&mut self.loader("detach")).unwrap();

            // One command is all or nothing.
            let refused = self.attach(&format!("-i {first} -i {second}"));
            assert_eq!(refused.code, Some(3), "{}", refused.stderr);
            assert!(self.attached().is_empty());
        }
    }

    /// Asserts that `lower` alone serves the host's address on `upper`, which lies on it.
    #[track_caller]
    fn assert_serves_what_lies_on_it(&self, lower: &str, upper: &str, at_client: &str) {
        for (netns, device, address) in
            [(&self.host, upper, "198.51.100.1/24"), (&self.client, at_client, "198.51.100.10/24")]
        {
            netns.ip(&format!("link set {device} up")).unwrap();
            netns.ip(&format!("address add {address} dev {device}")).unwrap();
        }
        // Its queue takes the connections, and nobody has to.
        let _listener = self.host.enter(|| TcpListener::bind("0.0.0.0:8080")).unwrap().unwrap();
        let address: SocketAddr = "198.51.100.1:80".parse().unwrap();
        assert!(!self.client.can_connect(address), "not redirected yet");
        let attached = self.attach(&format!("-i {lower}"));
        assert_eq!(attached.code, Some(0), "{}", attached.stderr);
        assert!(self.client.can_connect(address), "{lower} serves {upper}");
        command::run(&mut self.loader("detach")).unwrap();
    }
}

#[test]
fn a_bridge_and_its_port() {
    let pair = Pair::new();
    pair.host.ip("link add br0 type bridge forward_delay 0").unwrap();
    pair.host.ip("link set port0 master br0").unwrap();
    pair.assert_refused_together("br0", "port0");
    pair.assert_serves_what_lies_on_it("port0", "br0", "port0");
}

#[test]
fn a_macvlan_interface_and_the_one_below_it() {
    let pair = Pair::new();
    pair.host.ip("link add mv0 link port0 type macvlan mode bridge").unwrap();
    pair.assert_refused_together("mv0", "port0");
    pair.assert_serves_what_lies_on_it("port0", "mv0", "port0");
}

#[test]
fn the_two_ends_of_a_wire_lie_on_nothing() {
    let pair = Pair::new();
    pair.host.ip("link add near type veth peer name far").unwrap();
    let attached = pair.attach("-i near -i far");
    assert_eq!(attached.code, Some(0), "{}", attached.stderr);
    assert_eq!(pair.attached(), ["far", "near"]);
}

#[test]
fn a_service_refuses_an_interface_that_comes_back_on_top_of_another() {
    let pair = Pair::new();
    pair.host.ip("link add near type veth peer name far").unwrap();
    let run = pair.loader("run --owner any --mode rewrite -i port0 -i near");
    let mut service = Process::start("rprox-loader", run).unwrap();
    service.wait_for_line("near: attached").unwrap();
    pair.host.ip("link delete near").unwrap();
    service.wait_for_line("near: the interface is gone").unwrap();
    pair.host.ip("link add near link port0 type macvlan mode bridge").unwrap();
    service.wait_for_line("near is on top of port0").unwrap();
    assert!(service.stop().unwrap().success());
    assert!(pair.attached().is_empty());
}

#[test]
fn a_service_goes_on_with_an_interface_that_becomes_a_bridges_port() {
    let pair = Pair::new();
    for (netns, address) in [(&pair.host, "198.51.100.1/24"), (&pair.client, "198.51.100.10/24")] {
        netns.ip(&format!("address add {address} dev port0")).unwrap();
    }
    let _listener = pair.host.enter(|| TcpListener::bind("0.0.0.0:8080")).unwrap().unwrap();
    let run = pair.loader("run --owner any -i port0 -r 80:8080");
    let mut service = Process::start("rprox-loader", run).unwrap();
    service.wait_for_line("port0: attached (steer)").unwrap();
    pair.host.ip("link add br0 type bridge forward_delay 0").unwrap();
    pair.host.ip("link set br0 up").unwrap();
    pair.host.ip("address delete 198.51.100.1/24 dev port0").unwrap();
    pair.host.ip("address add 198.51.100.1/24 dev br0").unwrap();
    pair.host.ip("link set port0 master br0").unwrap();
    service
        .wait_until("connections by the bridge to be redirected", |_| {
            pair.client.can_connect("198.51.100.1:80".parse().unwrap())
        })
        .unwrap();
    assert!(service.stop().unwrap().success());
}

#[test]
fn one_interface_is_not_attached_twice_under_two_mounts() {
    // TCX came with Linux 6.6.
    let hooks = if kernel::is_at_least(6, 6) { &["tcx", "clsact"][..] } else { &["clsact"] };
    for hook in hooks {
        let pair = Pair::new();
        let rules = format!("-i port0 -r 80:8080 --hook {hook}");
        let attached = pair.attach(&rules);
        assert_eq!(attached.code, Some(0), "{}", attached.stderr);
        // Who mounts a bpffs over another hides what is pinned there.
        let bpffs = pair.run_dir.bpffs();
        let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
        rustix::mount::mount("bpf", &bpffs, "bpf", flags, c"mode=0700").unwrap();
        if *hook == "tcx" {
            for mode in ["rewrite", "steer"] {
                let refused = pair.attach(&format!("{rules} --mode {mode}"));
                assert_eq!(refused.code, Some(3), "{mode}: {}", refused.stderr);
                let said = refused.stderr;
                assert!(said.contains("port 80/tcp is redirected there already"), "{said}");
            }
            assert!(pair.attached().is_empty());
            let apart = pair.attach("-i port0 -r 81:8081");
            assert_eq!(apart.code, Some(0), "{}", apart.stderr);
        } else {
            // There the later one takes the earlier one's place: it may be of a bpffs that is no more.
            let instead = pair.attach(&rules);
            assert_eq!(instead.code, Some(0), "{}", instead.stderr);
            pair.host.ip("address add 198.51.100.1/24 dev port0").unwrap();
            pair.client.ip("address add 198.51.100.2/24 dev port0").unwrap();
            let again = pair.attach(&rules);
            assert_eq!(again.code, Some(0), "{}", again.stderr);
            let _listener = pair.host.enter(|| TcpListener::bind("0.0.0.0:8080")).unwrap().unwrap();
            assert!(pair.client.can_connect("198.51.100.1:80".parse().unwrap()));
        }
        command::run(&mut pair.loader("detach")).unwrap();
        rustix::mount::unmount(&bpffs, UnmountFlags::empty()).unwrap();
        assert_eq!(pair.attached(), ["port0"]);
    }
}

/// Devices of kernel modules. The virtual machine of `cargo xtask test` has them, and runs these.
mod needs_modules {
    use super::*;

    #[test]
    fn a_vlan_interface_and_the_one_that_carries_it() {
        let pair = Pair::new();
        for netns in [&pair.host, &pair.client] {
            netns.ip("link add link port0 name port0.5 type vlan id 5").expect("the kernel has 8021q");
        }
        pair.assert_refused_together("port0.5", "port0");
        pair.assert_serves_what_lies_on_it("port0", "port0.5", "port0.5");
    }

    #[test]
    fn a_bond_and_its_port() {
        let pair = Pair::new();
        pair.host
            .ip("link add bond0 type bond mode active-backup miimon 10")
            .expect("the kernel has bonding");
        pair.host.ip("link set port0 down").unwrap();
        pair.host.ip("link set port0 master bond0").unwrap();
        pair.assert_refused_together("bond0", "port0");
    }
}
