//! The loader cut short at every step, and what others do to its attachments: either the old or the new state holds, never half.

#![allow(clippy::unwrap_used, reason = "a scenario fails where its helpers do")]

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use aya::programs::SchedClassifier;
use aya::programs::links::{FdLink, PinnedLink};
use aya::programs::tc::SchedClassifierLink;
use rprox_tests::command;
use rprox_tests::faults::{self, Fault, Step};
use rprox_tests::load::Load;
use rprox_tests::playground::{Playground, SERVICES};
use rprox_tests::process::Process;
use rprox_tests::topology::{HOST, INTERFACE};
use rprox_tests::wait;
use rustix::mount::{MountFlags, UnmountFlags, unmount};
use rustix::process::{Pid, Signal, kill_process};

/// The ports that tell one state of the redirect from another.
const PORTS: [u16; 5] = [80, 443, 8080, 8081, 8443];
/// An answer comes at once; one that has not come by now was dropped.
const ANSWER: Duration = Duration::from_millis(250);
const NOTHING: [&Path; 0] = [];

/// What a connection from outside gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Gets {
    Through,
    Refused,
    Nothing,
}
use Gets::{Nothing, Refused, Through};

/// What connections to each of [`PORTS`] get.
type Seen = [Gets; PORTS.len()];

/// Without a redirect: the listener's own ports.
const BARE: Seen = [Refused, Refused, Through, Refused, Through];
/// With the rules of the article.
const ATTACHED: Seen = [Through, Through, Nothing, Refused, Nothing];
/// With [`OTHER_RULES`].
const CHANGED: Seen = [Through, Refused, Nothing, Through, Nothing];
const OTHER_RULES: [&str; 4] = ["-r", "80:8080", "-r", "8081:8443"];

/// What connections get, in both families.
fn look(playground: &Playground) -> Vec<(SocketAddr, Gets)> {
    let targets = HOST.both().into_iter().flat_map(|ip| PORTS.map(|port| SocketAddr::new(ip, port)));
    let path = playground.topology.client.path();
    let looks: Vec<_> = targets
        .map(|target| {
            let path = path.clone();
            thread::spawn(move || {
                rprox_tests::netns::enter_on_this_thread(&path).unwrap();
                let gets = match TcpStream::connect_timeout(&target, ANSWER) {
                    Ok(_) => Through,
                    Err(error) if error.kind() == ErrorKind::ConnectionRefused => Refused,
                    Err(_) => Nothing,
                };
                (target, gets)
            })
        })
        .collect();
    looks.into_iter().map(|look| look.join().unwrap()).collect()
}

fn is(seen: &[(SocketAddr, Gets)], state: Seen) -> bool {
    // Direct connections get nothing by `rewrite`, and are refused by `steer`.
    let is = |seen: Gets, expected: Gets| seen == expected || (seen == Refused && expected == Nothing);
    seen.iter().zip(state.iter().chain(&state)).all(|((_, seen), expected)| is(*seen, *expected))
}

/// Which of `states` it is. A machine that is busy elsewhere may miss an answer: what is half stays half at a second look.
#[track_caller]
fn assert_one_of(playground: &Playground, states: &[Seen], context: &str) -> Seen {
    let mut seen = Vec::new();
    for _ in 0..3 {
        seen = look(playground);
        if let Some(state) = states.iter().find(|state| is(&seen, **state)) {
            return *state;
        }
    }
    panic!("{context}: neither the old state nor the new: {seen:?}");
}

/// How to attach: without the port guard in the packets' path alone, or with all programs there are.
const REWRITE: [&str; 4] = ["--mode", "rewrite", "--owner", "any"];
const STEER: [&str; 4] = ["--mode", "steer", "--owner", "64080"];

/// What to attach by; with `--long` by all that there is. Filters of a clsact qdisc take the same steps as TCX, and the older kernels'
/// tests attach by them, too; what `steer` takes besides, a change of the mode takes as well.
fn ways() -> Vec<[&'static str; 6]> {
    let is_long = rprox_tests::long::is_asked_for();
    let hooks: &[&str] = if is_long { &["tcx", "clsact"] } else { &["tcx"] };
    let modes: &[[&str; 4]] = if is_long { &[REWRITE, STEER] } else { &[REWRITE] };
    let with_hook = |[a, b, c, d]: [&'static str; 4], hook| [a, b, c, d, "--hook", hook];
    hooks.iter().flat_map(|hook| modes.iter().map(move |mode| with_hook(*mode, *hook))).collect()
}

/// Something that the loader does, from one state to another.
struct Operation<'a> {
    before: Seen,
    /// Brings about `before`.
    prepare: Box<dyn Fn() + 'a>,
    /// Whether it detaches first, so that requests fail meanwhile.
    afresh: bool,
    after: Seen,
    command: Box<dyn Fn() -> Command + 'a>,
    /// Without `--long`, of how many of the steps that are chosen then one is taken.
    one_in: usize,
}

fn attach_with(playground: &Playground, program: &Path, flags: &[&str]) -> Command {
    let mut command = playground.topology.host.command(program);
    command.args(["attach", "-i", INTERFACE, "--bpffs"]).arg(playground.folder().join("bpf")).args(flags);
    command
}

/// The loader under test, attaching by rewrite with no port guard.
fn attach(playground: &Playground) -> Command {
    attach_with(playground, playground.loader_program(), &REWRITE)
}

fn run(mut command: Command) {
    command::run(&mut command).unwrap();
}

/// All steps with `--long`; otherwise one in so many of those whose effect lasts, and of a row of similar ones the first and the last.
fn chosen(steps: Vec<Step>, one_in: usize) -> Vec<Step> {
    if rprox_tests::long::is_asked_for() {
        return steps;
    }
    let steps: Vec<Step> = steps.into_iter().filter(Step::lasts).collect();
    let kind =
        |place: Option<usize>| place.and_then(|place| steps.get(place)).map(|step| step.kind().to_owned());
    let ends_a_row = |place: usize| {
        let own = kind(Some(place));
        kind(place.checked_sub(1)) != own || kind(place.checked_add(1)) != own
    };
    let keep: Vec<bool> = (0..steps.len()).map(ends_a_row).collect();
    steps.into_iter().zip(keep).filter_map(|(step, keep)| keep.then_some(step)).step_by(one_in).collect()
}

/// Cuts `operation` short at every step, by every fault, and puts it right again.
fn cut_short(playground: &Playground, operation: &Operation<'_>) {
    (operation.prepare)();
    assert_one_of(playground, &[operation.before], "before");
    let steps = chosen(faults::steps(&(operation.command)(), playground.folder()).unwrap(), operation.one_in);
    assert_one_of(playground, &[operation.after], "after");
    let states = [operation.before, operation.after];
    for fault in [Fault::Killed, Fault::Refused] {
        // Requests that are redirected before and after are so throughout.
        let always = states.iter().all(|state| state[0] == Through);
        let mut load: Option<Load> = None;
        for step in &steps {
            let context = format!("{fault:?} at {step}");
            if fault == Fault::Refused && !step.can_be_refused() {
                continue;
            }
            (operation.prepare)();
            if always && load.is_none() {
                load = Some(playground.load(&SERVICES[1]));
            }
            let finished = faults::run(&(operation.command)(), fault, step).unwrap();
            let state = assert_one_of(playground, &states, &context);
            // A loader that goes on has done it, or has put back what there was.
            match (fault, finished.code) {
                (Fault::Refused, Some(0)) => {
                    assert_eq!(state, operation.after, "{context}: {}", finished.stderr);
                }
                (Fault::Refused, Some(_)) if operation.after != BARE => {
                    assert_eq!(state, operation.before, "{context}: {}", finished.stderr);
                }
                _ => {}
            }
            assert_status_is_honest(playground, state, &context);
            // The same again puts it right.
            run((operation.command)());
            assert_one_of(playground, &[operation.after], &format!("{context}, and repaired"));
            if let Some(load) = load.take_if(|_| operation.afresh) {
                println!("{context}: {}", finished.stderr.trim_end());
                load.finish().unwrap().assert_all_served();
            }
        }
        if let Some(load) = load {
            load.finish().unwrap().assert_all_served();
        }
    }
    playground.detach().unwrap();
    assert_eq!(playground.pins(), NOTHING);
    assert_one_of(playground, &[BARE], "detached");
}

#[track_caller]
fn assert_status_is_honest(playground: &Playground, state: Seen, context: &str) {
    let status = playground.status().unwrap();
    let attached = status["state"] == "attached";
    assert_eq!(attached, state != BARE, "{context}: {status}");
    if attached {
        let rules: Vec<u64> =
            status["rules"].as_array().unwrap().iter().map(|rule| rule["from"].as_u64().unwrap()).collect();
        let changed = rules.contains(&8081);
        assert_eq!(changed, state == CHANGED, "{context}: {status}");
    }
}

fn with_agent() -> Playground {
    let mut playground = Playground::new().unwrap();
    playground.start_agent().unwrap();
    playground
}

/// The loader as an older version was: its kernel programs end otherwise, with the same effect where no other program is on the
/// interface.
fn older_loader(playground: &Playground) -> PathBuf {
    // The verdict TCX_NEXT as it is loaded into a register, and TCX_PASS in its place.
    let load = |register: u8, verdict: u8| {
        [0x18, register, 0, 0, verdict, verdict, verdict, verdict, 0, 0, 0, 0, 0, 0, 0, 0]
    };
    let mut program = std::fs::read(playground.loader_program()).unwrap();
    let mut changed = 0;
    for place in 0..program.len() - 16 {
        let bytes = &mut program[place..place + 16];
        if bytes[1] < 10 && *bytes == load(bytes[1], 0xff) {
            bytes.copy_from_slice(&load(bytes[1], 0));
            changed += 1;
        }
    }
    assert!(changed >= 2, "each of the kernel programs has a verdict to change");
    let path = playground.folder().join("older-loader");
    std::fs::write(&path, program).unwrap();
    std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    path
}

fn attaching<'a>(playground: &'a Playground, way: &'a [&'a str]) -> Operation<'a> {
    Operation {
        before: BARE,
        prepare: Box::new(|| playground.detach().unwrap()),
        afresh: false,
        after: ATTACHED,
        command: Box::new(move || attach_with(playground, playground.loader_program(), way)),
        one_in: 1,
    }
}

fn changing_rules<'a>(playground: &'a Playground, way: &'a [&'a str]) -> Operation<'a> {
    Operation {
        before: ATTACHED,
        prepare: Box::new(move || run(attach_with(playground, playground.loader_program(), way))),
        afresh: false,
        after: CHANGED,
        command: Box::new(move || {
            attach_with(playground, playground.loader_program(), &[way, &OTHER_RULES].concat())
        }),
        one_in: 1,
    }
}

fn changing_mode<'a>(playground: &'a Playground, from: &'a [&'a str], to: &'a [&'a str]) -> Operation<'a> {
    Operation {
        before: ATTACHED,
        prepare: Box::new(move || {
            // What a mode leaves behind for the connections of the one before is there no more.
            playground.detach().unwrap();
            run(attach_with(playground, playground.loader_program(), from));
        }),
        afresh: true,
        after: ATTACHED,
        command: Box::new(move || attach_with(playground, playground.loader_program(), to)),
        one_in: 4,
    }
}

fn upgrading<'a>(playground: &'a Playground, way: &'a [&'a str]) -> Operation<'a> {
    let older = older_loader(playground);
    Operation {
        before: CHANGED,
        prepare: Box::new(move || run(attach_with(playground, &older, &[way, &OTHER_RULES].concat()))),
        afresh: false,
        after: ATTACHED,
        command: Box::new(move || attach_with(playground, playground.loader_program(), way)),
        one_in: 1,
    }
}

fn detaching<'a>(playground: &'a Playground, way: &'a [&'a str]) -> Operation<'a> {
    Operation {
        before: ATTACHED,
        prepare: Box::new(move || run(attach_with(playground, playground.loader_program(), way))),
        afresh: false,
        after: BARE,
        command: Box::new(|| {
            let mut command = playground.loader("detach");
            command.args(["-i", INTERFACE]);
            command
        }),
        one_in: 1,
    }
}

#[test]
fn attaching_cut_short_leaves_all_or_nothing() {
    let playground = with_agent();
    for way in ways() {
        cut_short(&playground, &attaching(&playground, &way));
    }
}

#[test]
fn changing_rules_cut_short_leaves_the_old_or_the_new() {
    let playground = with_agent();
    cut_short(&playground, &changing_rules(&playground, &REWRITE));
}

#[test]
fn changing_the_mode_cut_short_interrupts_nothing() {
    let playground = with_agent();
    cut_short(&playground, &changing_mode(&playground, &REWRITE, &STEER));
    // Without a UDP rule nothing is in the packets' path before.
    let tcp = ["-r", "80:8080", "-r", "443:8443"];
    let (steer, rewrite) = ([&STEER[..], &tcp].concat(), [&REWRITE[..], &tcp].concat());
    cut_short(&playground, &changing_mode(&playground, &steer, &rewrite));
}

#[test]
fn upgrading_cut_short_loses_nothing() {
    let playground = with_agent();
    for way in ways().iter().filter(|way| way.starts_with(&REWRITE)) {
        cut_short(&playground, &upgrading(&playground, way));
    }
}

#[test]
fn detaching_cut_short_leaves_all_or_nothing() {
    let playground = with_agent();
    for way in ways() {
        cut_short(&playground, &detaching(&playground, &way));
    }
}

#[test]
fn an_older_build_is_replaced_by_another() {
    let playground = with_agent();
    let upgrade = upgrading(&playground, &REWRITE);
    (upgrade.prepare)();
    let before = playground.status().unwrap()["programs"].clone();
    run((upgrade.command)());
    let after = playground.status().unwrap()["programs"].clone();
    for direction in ["ingress", "egress"] {
        assert_ne!(before[direction], after[direction], "{direction}");
    }
}

#[test]
fn a_second_loader_waits_and_says_for_whom() {
    let playground = with_agent();
    let attach = || attach(&playground);
    let steps = faults::steps(&attach(), playground.folder()).unwrap();
    let half_way = steps.iter().find(|step| step.holds("BPF_LINK_CREATE") && !step.holds("EBADF")).unwrap();
    playground.detach().unwrap();
    let suspended = faults::faulty(&attach(), Fault::Suspended, half_way).unwrap();
    let mut first = Process::start("the first rprox-loader", suspended).unwrap();
    let held = || playground.pins().iter().any(|pin| pin.ends_with("rprox_ingress"));
    first.wait_until("it to be half-way", |_| held()).unwrap();
    let mut second = Process::start("the second rprox-loader", attach()).unwrap();
    second.wait_for_line("waiting for another rprox-loader (process ").unwrap();
    assert_one_of(&playground, &[BARE], "while the first is suspended");

    let said = second.said().concat();
    let holder = said.split_once("(process ").and_then(|(_, rest)| rest.split_once(')')).unwrap().0;
    let name = std::fs::read_to_string(format!("/proc/{holder}/comm")).unwrap();
    assert_eq!(name.trim(), "rprox-loader");
    assert!(second.ended().is_none());
    let holder = Pid::from_raw(holder.parse().unwrap()).unwrap();
    // Told again and again, for it may be told before it has stopped.
    let ended = wait::until(wait::READY, "the first to go on to its end", || {
        let _ = kill_process(holder, Signal::CONT);
        first.ended()
    });
    assert!(ended.unwrap().success());
    assert!(second.wait(wait::READY).unwrap().success());
    assert_one_of(&playground, &[ATTACHED], "after both");
}

#[test]
fn a_loader_that_would_change_a_services_attachment_is_told_which_process_keeps_it() {
    let mut playground = with_agent();
    playground.start_loader(&[]).unwrap();
    let refused = command::finish(&mut attach_with(
        &playground,
        playground.loader_program(),
        &[&REWRITE[..], &OTHER_RULES].concat(),
    ))
    .unwrap();
    assert_eq!(refused.code, Some(3), "{}", refused.stderr);
    let pid = playground.loader.as_ref().unwrap().pid().as_raw_nonzero();
    assert!(refused.stderr.contains(&format!("(process {pid})")), "{}", refused.stderr);
    assert_one_of(&playground, &[ATTACHED], "the service's own");
}

#[test]
fn what_a_service_keeps_does_not_keep_other_attachments() {
    let mut playground = with_agent();
    playground.start_loader(&[]).unwrap();
    let host = &playground.topology.host;
    // One that is told before the service's, and one behind it.
    for name in ["a0", "z0"] {
        host.ip(&format!("link add {name} type veth peer name {name}-peer")).unwrap();
        run(attach_to(&playground, name));
    }
    let refused = command::finish(&mut playground.loader("detach")).unwrap();
    assert_eq!(refused.code, Some(3), "{}", refused.stderr);
    assert!(refused.stderr.contains(&format!("{INTERFACE}: a running")), "{}", refused.stderr);
    let left = command::run(&mut playground.loader("status")).unwrap();
    assert!(!left.contains("a0: ") && !left.contains("z0: "), "{left}");
    assert_one_of(&playground, &[ATTACHED], "the service's own");
}

fn attach_to(playground: &Playground, interface: &str) -> Command {
    let mut command = playground.loader("attach");
    command.args(["-i", interface]);
    command
}

#[test]
fn the_redirect_goes_and_comes_back_with_its_interfaces_name() {
    // With programs on the interface, and without.
    for flags in [&[][..], &["-r", "80:8080", "-r", "443:8443"]] {
        let mut playground = with_agent();
        playground.start_loader(flags).unwrap();
        let host = &playground.topology.host;
        for (from, to, state) in [(INTERFACE, "lan0", BARE), ("lan0", INTERFACE, ATTACHED)] {
            host.ip(&format!("link set {from} name {to}")).unwrap();
            wait::until(wait::READY, "the service to follow", || is(&look(&playground), state).then_some(()))
                .unwrap();
        }
    }
}

#[test]
fn a_service_follows_a_name_that_another_device_has_at_once() {
    // With programs on the interface, and without.
    for flags in [&[][..], &["-r", "80:8080", "-r", "443:8443"]] {
        let mut playground = with_agent();
        playground.start_loader(flags).unwrap();
        let host = &playground.topology.host;
        let service = playground.loader.as_mut().unwrap();
        // It finds both done when it goes on, as it does after a script of one `ip -batch`.
        service.signal(Signal::STOP).unwrap();
        host.ip(&format!("link set {INTERFACE} name lan0")).unwrap();
        host.ip(&format!("link add {INTERFACE} type veth peer name spare")).unwrap();
        service.signal(Signal::CONT).unwrap();
        service.wait_for_line("the interface is gone").unwrap();
        service.wait_for_line("updated: ").unwrap();
        assert_one_of(&playground, &[BARE], "the device that was chosen by its old name");
        let verified = command::finish(&mut playground.loader("verify")).unwrap();
        assert_eq!(verified.code, Some(0), "{}", verified.stdout);
        host.ip(&format!("link delete {INTERFACE}")).unwrap();
        host.ip(&format!("link set lan0 name {INTERFACE}")).unwrap();
        wait::until(wait::READY, "the service to come back", || {
            is(&look(&playground), ATTACHED).then_some(())
        })
        .unwrap();
    }
}

#[test]
fn an_attachment_under_an_interfaces_old_name_is_named_and_goes() {
    let playground = with_agent();
    run(attach(&playground));
    let host = &playground.topology.host;
    host.ip(&format!("link set {INTERFACE} name lan0")).unwrap();
    // No process, and so nobody who would take it off: it is the device that was chosen.
    assert_one_of(&playground, &[ATTACHED], "renamed");
    let refused = command::finish(&mut attach_to(&playground, "lan0")).unwrap();
    assert_eq!(refused.code, Some(3), "{}", refused.stderr);
    assert!(refused.stderr.contains(&format!("detach -i {INTERFACE}`")), "{}", refused.stderr);
    host.ip(&format!("link add {INTERFACE} type veth peer name spare")).unwrap();
    let refused = command::finish(&mut attach(&playground)).unwrap();
    assert_eq!(refused.code, Some(3), "{}", refused.stderr);
    assert!(refused.stderr.contains("renamed to lan0"), "{}", refused.stderr);
    playground.detach().unwrap();
    assert_one_of(&playground, &[BARE], "detached");
    assert_eq!(playground.pins(), NOTHING);
}

#[test]
fn a_service_gets_over_a_bpffs_that_is_mounted_anew() {
    let mut playground = with_agent();
    playground.start_loader(&[]).unwrap();
    let load = playground.load(&SERVICES[1]);
    let (bpffs, link) = (playground.folder().join("bpf"), link(&playground, "rprox_ingress"));
    load.wait_for_more(100).unwrap();
    unmount(&bpffs, UnmountFlags::DETACH).unwrap();
    // The service holds on to what was pinned, and looks for the bpffs at the next change of the host's. It has given up the
    // privilege to mount one, but not the knowledge of how to.
    playground.topology.host.ip("address add 192.0.2.77/32 dev lo").unwrap();
    playground.loader.as_mut().unwrap().wait_for_line("mount -t bpf bpf").unwrap();
    load.wait_for_more(100).unwrap();
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    rustix::mount::mount("bpf", &bpffs, "bpf", flags, c"mode=0700").unwrap();
    playground.loader.as_mut().unwrap().wait_until("it to pin anew", |_| link.exists()).unwrap();
    load.wait_for_more(100).unwrap();
    load.finish().unwrap().assert_all_served();
    assert_one_of(&playground, &[ATTACHED], "in the end");
    assert_eq!(playground.status().unwrap()["state"], "attached");
}

/// Where the link of a program is pinned.
fn link(playground: &Playground, program: &str) -> PathBuf {
    let pins = playground.pins();
    pins.into_iter().find(|pin| pin.ends_with(format!("{program}_link"))).unwrap()
}

#[test]
fn attaching_puts_right_a_link_that_was_taken_off() {
    let playground = with_agent();
    let attach = || attach(&playground);
    run(attach());
    for program in ["rprox_ingress", "rprox_egress"] {
        let mut bpftool = playground.topology.host.command("bpftool");
        bpftool.args(["link", "detach", "pinned"]).arg(link(&playground, program));
        run(bpftool);
        run(attach());
        assert_one_of(&playground, &[ATTACHED], program);
    }
}

#[test]
fn attaching_puts_right_a_link_with_another_program_in_it() {
    let playground = with_agent();
    let attach = || attach(&playground);
    run(attach());
    let path = link(&playground, "rprox_ingress");
    let mut other = SchedClassifier::from_pin(path.with_file_name("rprox_egress")).unwrap();
    let ingress = FdLink::from(PinnedLink::from_pin(&path).unwrap());
    other.attach_to_link(SchedClassifierLink::try_from(ingress).unwrap()).map(drop).unwrap();
    assert!(!playground.is_redirected());
    run(attach());
    assert_one_of(&playground, &[ATTACHED], "put right");
}
