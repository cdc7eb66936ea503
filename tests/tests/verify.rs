//! `rprox-loader verify`: what is sound passes, and what somebody has changed by hand is found and named.

#![allow(clippy::unwrap_used, reason = "a scenario fails where its helpers do")]

use std::fs::{self, Permissions};
use std::net::IpAddr;
use std::os::fd::AsFd as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use aya::maps::{Array, HashMap, Map, MapData};
use aya::programs::links::{FdLink, LinkOrder, PinnedLink};
use aya::programs::tc::{SchedClassifierLink, TcAttachOptions};
use aya::programs::{CgroupSockAddr, SchedClassifier, TcAttachType};
use aya::{Ebpf, EbpfLoader};
use rprox_common::{
    Address, AddressSlot, PortEntries, PortEntry, PortKind, Protocol, State, global, map, port_index, program,
};
use rprox_tests::command::{self, Finished};
use rprox_tests::playground::Playground;
use rprox_tests::topology::INTERFACE;
use serde_json::Value;

const HOOKS: [&str; 2] = ["tcx", "clsact"];

/// A playground with an attachment of two rules.
struct Attached {
    playground: Playground,
}

impl Attached {
    fn new() -> Self {
        let attached = Self { playground: Playground::new().unwrap() };
        attached.attach(&[]);
        attached
    }

    fn attach(&self, flags: &[&str]) {
        let mode: &[&str] = if flags.contains(&"--mode") { &[] } else { &["--mode", "rewrite"] };
        let rules = ["-r", "80:8080", "-r", "443:8443"];
        let mut attach = self.playground.loader("attach");
        command::run(attach.args(["-i", INTERFACE]).args(rules).args(mode).args(flags)).unwrap();
    }

    fn afresh(&self, flags: &[&str]) {
        self.playground.detach().unwrap();
        self.attach(flags);
    }

    fn verify(&self, flags: &[&str]) -> Finished {
        command::finish(self.playground.loader("verify").args(flags)).unwrap()
    }

    fn assert_sound(&self, when: &str) {
        let verified = self.verify(&[]);
        assert_eq!(verified.code, Some(0), "{when}: {}{}", verified.stdout, verified.stderr);
        assert!(verified.stdout.contains(&format!("{INTERFACE}: as it should be")), "{when}");
    }

    /// The differences as `what: expected -> found`; each has something to do.
    fn differences(&self, flags: &[&str]) -> Vec<String> {
        let verified = self.verify(&[&["--json"], flags].concat());
        let report: Value = serde_json::from_str(&verified.stdout).unwrap();
        let differences: Vec<String> = report["attachments"]
            .as_array()
            .unwrap()
            .iter()
            .flat_map(|attachment| attachment["differences"].as_array().unwrap())
            .map(|difference| {
                let text = |key: &str| difference[key].as_str().unwrap().to_owned();
                assert!(!text("remedy").is_empty(), "{difference}");
                format!("{}: {} -> {}", text("what"), text("expected"), text("found"))
            })
            .collect();
        assert_eq!(verified.code, Some(i32::from(!differences.is_empty())), "{}", verified.stderr);
        assert_eq!(report["ok"], differences.is_empty());
        differences
    }

    /// Asserts that there is one difference and that it says all of `parts`.
    fn assert_found(&self, flags: &[&str], parts: &[&str]) {
        let differences = self.differences(flags);
        assert_eq!(differences.len(), 1, "{differences:#?}");
        for part in parts {
            assert!(differences[0].contains(part), "{part}: {differences:#?}");
        }
        let said = self.verify(flags);
        assert!(said.stdout.contains("to do:"), "{}", said.stdout);
    }

    fn pin(&self, name: &str) -> PathBuf {
        self.playground.pins().into_iter().find(|path| path.ends_with(name)).unwrap()
    }

    fn map<M: TryFrom<Map, Error = aya::maps::MapError>>(&self, name: &str) -> M {
        Map::from_map_data(MapData::from_pin(self.pin(name)).unwrap()).unwrap().try_into().unwrap()
    }
}

/// The kernel programs, loaded with maps of their own.
fn other_programs() -> Ebpf {
    let path = std::env::var("RPROX_EBPF_OBJECT").unwrap();
    EbpfLoader::new().load(&fs::read(path).unwrap()).unwrap()
}

fn loaded<'a>(ebpf: &'a mut Ebpf, name: &str) -> &'a mut SchedClassifier {
    let program: &mut SchedClassifier = ebpf.program_mut(name).unwrap().try_into().unwrap();
    if program.fd().is_err() {
        program.load().unwrap();
    }
    program
}

#[test]
fn what_the_loader_makes_is_sound() {
    let attached = Attached::new();
    for hook in HOOKS {
        attached.afresh(&["--hook", hook]);
        attached.assert_sound("attached");
        attached.attach(&["-r", "25:2525", "--direct", "allow"]);
        attached.assert_sound("rules changed");
        attached.attach(&[]);
        attached.assert_sound("rules changed back");
    }
    attached.playground.detach().unwrap();
    let verified = attached.verify(&[]);
    assert_eq!((verified.code, verified.stdout.as_str()), (Some(0), "nothing attached\n"));
    attached.assert_found(&["-i", INTERFACE], &["the attachment of eth0", "nothing is pinned"]);
}

#[test]
fn the_service_is_sound_after_swapping_programs_and_follows_addresses() {
    let mut attached = Attached::new();
    let tell = |attached: &Attached| attached.playground.status().unwrap()["programs"].clone();
    let before = tell(&attached);
    attached.playground.start_agent().unwrap();
    // It swaps the programs in the links for ones that log, as an upgrade swaps them for newer ones.
    attached.playground.start_loader(&["--mode", "rewrite", "--log-level", "debug"]).unwrap();
    let loader = attached.playground.loader.as_mut().unwrap();
    loader.wait_for_line("updated: rules, programs").unwrap();
    assert_eq!(tell(&attached), before);
    attached.assert_sound("running");
    let host = &attached.playground.topology.host;
    host.ip(&format!("address add 198.51.100.77/24 dev {INTERFACE}")).unwrap();
    rprox_tests::wait::until(rprox_tests::wait::READY, "the new address to be known", || {
        attached.differences(&[]).is_empty().then_some(())
    })
    .unwrap();
}

#[test]
fn rules_that_the_operator_names_are_what_is_compared() {
    let attached = Attached::new();
    let differences = attached.differences(&["-r", "80:8080", "-r", "443:9443"]);
    assert_eq!(differences.len(), 3, "{differences:#?}");
    assert!(differences[0].starts_with("port 443/tcp in PORTS: redirected to port 9443"), "{differences:#?}");
    attached.assert_found(&["--direct", "allow"], &["the direct policy", "allow -> deny"]);
    let file = attached.playground.folder().join("loader.toml");
    fs::write(&file, format!("interface = [\"{INTERFACE}\"]\nredirect = [\"443:8443\", \"80:8080\"]\n"))
        .unwrap();
    assert_eq!(attached.differences(&["-c", file.to_str().unwrap()]), [""; 0]);
}

#[test]
fn a_map_entry_changed_by_hand_is_found() {
    let attached = Attached::new();
    let mut ports: Array<_, PortEntries> = attached.map(map::PORTS);
    let mut state: Array<_, State> = attached.map(map::STATE);
    let in_force = state.get(&0, 0).unwrap().generation();
    let spare = 1 - in_force;
    let mut set = |generation, port, entry| {
        let index = port_index(Protocol::Tcp, port);
        let mut entries = ports.get(&index, 0).unwrap();
        entries.0[usize::from(generation != 0)] = entry;
        ports.set(index, entries, 0).unwrap();
    };
    set(in_force, 80, PortEntry::new(PortKind::From, 0, 9090));
    attached.assert_found(
        &["-r", "80:8080", "-r", "443:8443"],
        &["port 80/tcp in PORTS", "port 8080", "port 9090"],
    );
    attached.assert_found(&[], &["port 80/tcp in PORTS", "port 8080", "port 9090"]);
    set(in_force, 80, PortEntry::new(PortKind::From, 0, 8080));
    attached.assert_sound("put back");

    set(in_force, 22, PortEntry::new(PortKind::From, 2, 2222));
    attached.assert_found(&[], &["port 22/tcp in PORTS: no rule -> redirected to port 2222"]);
    set(in_force, 22, PortEntry::default());
    set(spare, 22, PortEntry::new(PortKind::From, 2, 2222));
    attached.assert_found(&[], &["the generation of PORTS that is not in force"]);
    set(spare, 22, PortEntry::default());

    state.set(0, State::new(in_force, true), 0).unwrap();
    attached.assert_found(&[], &["the direct policy in STATE: deny -> allow"]);
    state.set(0, State::new(spare, false), 0).unwrap();
    let differences = attached.differences(&[]);
    // The empty generation is in force: four entries are missing.
    assert_eq!(differences.len(), 4, "{differences:#?}");

    // Who refuses direct connections.
    attached.afresh(&["--mode", "steer"]);
    attached.assert_sound("steer");
    let mut state: Array<_, State> = attached.map(map::STATE);
    let steered = state.get(&0, 0).unwrap();
    state.set(0, State::new(steered.generation(), false), 0).unwrap();
    attached.assert_found(&[], &["STATE"]);
}

#[test]
fn an_address_added_or_removed_by_hand_is_found() {
    let attached = Attached::new();
    let mut addresses: HashMap<_, Address, u8> = attached.map(map::LOCAL_ADDRESSES);
    let foreign = Address::from("203.0.113.9".parse::<IpAddr>().unwrap());
    addresses.insert(foreign, 1, 0).unwrap();
    attached.assert_found(&[], &["local address 203.0.113.9", "known"]);
    addresses.remove(&foreign).unwrap();
    addresses.remove(&Address::from("127.0.0.1".parse::<IpAddr>().unwrap())).unwrap();
    attached.assert_found(&[], &["local address 127.0.0.1: known -> missing"]);
}

#[test]
fn an_address_out_of_its_place_is_found() {
    let attached = Attached::new();
    let mut slots: Array<_, AddressSlot> = attached.map(map::ADDRESS_SLOTS);
    let place = Address::from("127.0.0.1".parse::<IpAddr>().unwrap()).slot();
    slots.set(place, AddressSlot::default(), 0).unwrap();
    attached.assert_found(&[], &["ADDRESS_SLOTS", "1 places where others are"]);
}

#[test]
fn a_program_swapped_by_hand_is_found() {
    let attached = Attached::new();
    let link = attached.pin(&format!("{}_link", program::INGRESS));
    let mut others = other_programs();
    // Another program altogether, and then this very one, on maps of its own: the kernel gives both the same tag.
    for (name, tells) in [(program::EGRESS, "rprox_egress"), (program::INGRESS, "rprox_ingress")] {
        let other = loaded(&mut others, name);
        let link = FdLink::from(PinnedLink::from_pin(&link).unwrap());
        let id = other.attach_to_link(SchedClassifierLink::try_from(link).unwrap()).unwrap();
        drop(other.take_link(id).unwrap());
        attached.assert_found(&[], &["the program in the link of rprox_ingress", &format!("-> {tells}")]);
    }
    // The pin swapped too.
    let pin = attached.pin(program::INGRESS);
    fs::remove_file(&pin).unwrap();
    let other: &mut SchedClassifier = others.program_mut(program::INGRESS).unwrap().try_into().unwrap();
    other.pin(&pin).unwrap();
    let differences = attached.differences(&[]);
    assert!(differences[0].starts_with("the map PORTS of rprox_ingress: the pinned one"), "{differences:#?}");

    attached.afresh(&[]);
    attached.assert_sound("attached afresh");
    rprox_agent::loader::link::PinnedLink::open(&link).unwrap().detach().unwrap();
    attached.assert_found(&[], &["the interface of the link of rprox_ingress", "none: it was taken off"]);
}

#[test]
fn a_program_that_was_told_something_else_is_found() {
    let attached = Attached::new();
    attached.attach(&["--mode", "steer"]);
    attached.assert_sound("steer");
    // This very program on the same maps, which serves another user: neither its tag nor its maps tell.
    let object = fs::read(std::env::var("RPROX_EBPF_OBJECT").unwrap()).unwrap();
    let mut loader = EbpfLoader::new();
    for name in map::ALL {
        loader.map_pin_path(name, attached.pin(name));
    }
    let mut ebpf = loader.override_global(global::OWNER, &64_081_u32, true).load(&object).unwrap();
    let other: &mut CgroupSockAddr = ebpf.program_mut(program::BIND4).unwrap().try_into().unwrap();
    other.load().unwrap();
    let link = attached.pin(&format!("{}_link", program::BIND4));
    let link = rprox_agent::loader::link::PinnedLink::open(&link).unwrap();
    link.update(other.fd().unwrap().as_fd()).unwrap();
    let pin = attached.pin(program::BIND4);
    fs::remove_file(&pin).unwrap();
    other.pin(&pin).unwrap();
    let differences = attached.differences(&[]);
    assert!(
        differences.contains(&"the global OWNER of rprox_bind4: 64080 -> 64081".to_owned()),
        "{differences:#?}"
    );
    assert!(differences.iter().all(|difference| difference.contains("of rprox_bind4")), "{differences:#?}");
}

#[test]
fn a_filter_swapped_or_removed_by_hand_is_found() {
    let attached = Attached::new();
    attached.afresh(&["--hook", "clsact"]);
    let host = &attached.playground.topology.host;
    let tc = |arguments: &str| command::run(host.command("tc").args(arguments.split(' '))).unwrap();
    let shown = tc(&format!("filter show dev {INTERFACE} ingress"));
    let priority = shown.split("pref ").nth(1).unwrap().split(' ').next().unwrap();
    let pin = attached.pin(program::EGRESS);
    tc(&format!(
        "filter replace dev {INTERFACE} ingress pref {priority} handle 1 bpf direct-action object-pinned {}",
        pin.display()
    ));
    attached.assert_found(&[], &["the program in the filter of rprox_ingress"]);
    tc(&format!("filter delete dev {INTERFACE} ingress pref {priority}"));
    attached.assert_found(&[], &["the filter of rprox_ingress", "it is gone"]);
}

#[test]
fn a_program_ahead_of_ours_is_found() {
    let attached = Attached::new();
    let host = &attached.playground.topology.host;
    let mut others = other_programs();
    let mut add = |order| {
        let program = loaded(&mut others, program::EGRESS);
        let options = TcAttachOptions::TcxOrder(order);
        let id = host
            .enter(|| program.attach_with_options(INTERFACE, TcAttachType::Ingress, options).unwrap())
            .unwrap();
        program.take_link(id).unwrap()
    };
    let behind = add(LinkOrder::last());
    attached.assert_sound("another is behind");
    drop(behind);
    let ahead = add(LinkOrder::first());
    attached.assert_found(&[], &["what is ahead of rprox_ingress on eth0: nothing -> rprox_egress"]);
    drop(ahead);
    attached.assert_sound("it is gone");

    attached.afresh(&["--hook", "clsact"]);
    let pin = attached.pin(program::EGRESS);
    let filter =
        format!("filter add dev {INTERFACE} egress pref 1 bpf direct-action object-pinned {}", pin.display());
    command::run(host.command("tc").args(filter.split(' '))).unwrap();
    attached.assert_found(
        &[],
        &["what is ahead of rprox_egress on eth0: nothing -> filter", "(bpf, priority 1)"],
    );
}

#[test]
fn pins_are_their_owners_alone() {
    let attached = Attached::new();
    let pin = attached.pin(map::PORTS);
    let folder = pin.parent().unwrap();
    for folder in folder.ancestors().take(3) {
        assert_eq!(fs::metadata(folder).unwrap().permissions().mode() & 0o777, 0o700, "{}", folder.display());
    }
    for path in attached.playground.pins().iter().filter(|path| !path.is_symlink()) {
        let mode = fs::metadata(path).unwrap().permissions().mode();
        assert_eq!(mode & 0o022, 0, "{}: {mode:o}", path.display());
    }
    fs::set_permissions(&pin, Permissions::from_mode(0o666)).unwrap();
    attached.assert_found(&[], &["mode of", map::PORTS, "0666"]);
    fs::set_permissions(&pin, Permissions::from_mode(0o600)).unwrap();
    std::os::unix::fs::chown(&pin, Some(64_080), None).unwrap();
    attached.assert_found(&[], &["owner of", "root -> uid 64080"]);
}

#[test]
fn the_object_is_told_by_its_digest() {
    let attached = Attached::new();
    let version =
        command::run(std::process::Command::new(attached.playground.loader_program()).arg("--version"))
            .unwrap();
    let digest = version.trim().rsplit(' ').next().unwrap().to_owned();
    let object = std::env::var("RPROX_EBPF_OBJECT").unwrap();
    let sum = command::run(std::process::Command::new("sha256sum").arg(object)).unwrap();
    assert_eq!(sum.split(' ').next(), Some(digest.as_str()), "{version}");
    assert_eq!(attached.playground.status().unwrap()["object_sha256"], digest.as_str());
    assert!(attached.verify(&[]).stdout.contains(&digest));
}
