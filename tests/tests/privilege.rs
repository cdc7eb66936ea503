//! Least privilege: the loader does all of its work with three capabilities, keeps no other, and fits its systemd sandbox.

#![allow(clippy::unwrap_used, reason = "a scenario fails where its helpers do")]

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use rprox_tests::command::{self, Finished};
use rprox_tests::netns::{Netns, Unprivileged};
use rprox_tests::playground::{AGENT, Playground};
use rprox_tests::process::Process;
use rprox_tests::sockets::KINDS;
use rprox_tests::topology::INTERFACE;
use rprox_tests::{programs, wait};
use rustix::io::Errno;

/// Capabilities as setpriv and as the kernel's headers name them, with their numbers in linux/capability.h.
const CAPABILITIES: [(&str, &str, u32); 3] =
    [("bpf", "CAP_BPF", 39), ("net_admin", "CAP_NET_ADMIN", 12), ("perfmon", "CAP_PERFMON", 38)];
/// Whom the loader runs as: nobody that the system knows.
const USER: u32 = 64_081;
/// Who is not the owner.
const STRANGER: Unprivileged = Unprivileged { id: 64_082 };

/// A playground with an agent, and a bpffs that belongs to `owner`.
fn playground(owner: u32) -> (Playground, PathBuf) {
    let mut playground = Playground::new().unwrap();
    playground.start_agent().unwrap();
    let bpffs = mount_bpffs(&playground, owner);
    (playground, bpffs)
}

/// Mounts the playground's bpffs, which then belongs to `owner`.
fn mount_bpffs(playground: &Playground, owner: u32) -> PathBuf {
    let bpffs = playground.folder().join("bpf");
    fs::create_dir_all(&bpffs).unwrap();
    command::run(Command::new("mount").args(["-t", "bpf", "bpf"]).arg(&bpffs)).unwrap();
    fs::set_permissions(&bpffs, fs::Permissions::from_mode(0o700)).unwrap();
    chown(&bpffs, Some(owner), Some(owner)).unwrap();
    bpffs
}

/// A command that runs `program` on the host as `user` with `capabilities` alone, and no way to get more.
fn limited(playground: &Playground, user: u32, capabilities: &[&str], program: &Path) -> Command {
    let set = capabilities.iter().fold("-all".to_owned(), |set, name| format!("{set},+{name}"));
    let mut command = playground.topology.host.command("setpriv");
    command
        .args([format!("--reuid={user}"), format!("--regid={user}")])
        .args(["--clear-groups", "--no-new-privs"])
        .args([format!("--inh-caps={set}"), format!("--ambient-caps={set}"), format!("--bounding-set={set}")])
        .arg("--")
        .arg(program);
    command
}

fn names() -> Vec<&'static str> {
    CAPABILITIES.iter().map(|(name, ..)| *name).collect()
}

/// The loader's subcommand with just its capabilities.
fn loader(playground: &Playground, user: u32, bpffs: &Path, subcommand: &str) -> Command {
    let mut command = limited(playground, user, &names(), playground.loader_program());
    command.args([subcommand, "-i", INTERFACE, "--bpffs"]).arg(bpffs);
    if matches!(subcommand, "attach" | "run") {
        command.args(["--mode", "rewrite", "--owner", "any"]);
    }
    command
}

fn finish(command: &mut Command) -> Finished {
    command::finish(command).unwrap()
}

/// The capabilities of a process, as a bit mask.
fn capabilities(process: &Process, set: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", process.pid().as_raw_nonzero())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(set)).unwrap();
    u64::from_str_radix(line.trim_start_matches(':').trim(), 16).unwrap()
}

fn expected() -> u64 {
    CAPABILITIES.iter().map(|(.., number)| 1 << number).sum()
}

#[test]
fn three_capabilities_are_enough_and_root_is_not_needed() {
    let (playground, bpffs) = playground(USER);
    for subcommand in ["attach", "verify"] {
        let done = finish(&mut loader(&playground, USER, &bpffs, subcommand));
        assert_eq!(done.code, Some(0), "{subcommand}: {}{}", done.stdout, done.stderr);
        let says = done.stdout.contains("globals were not compared");
        assert_eq!(says, subcommand == "verify", "{}", done.stdout);
    }
    assert!(playground.is_redirected());
    let detached = finish(&mut loader(&playground, USER, &bpffs, "detach"));
    assert_eq!(detached.code, Some(0), "{}", detached.stderr);
    assert!(!playground.is_redirected());

    let mut service = Process::start("rprox-loader", loader(&playground, USER, &bpffs, "run")).unwrap();
    service.wait_until("the redirect", |_| playground.is_redirected()).unwrap();
    for set in ["CapEff", "CapPrm"] {
        assert_eq!(capabilities(&service, set), expected(), "{set}");
    }
    assert!(service.stop().unwrap().success());
    assert!(!playground.is_redirected());
}

#[test]
fn a_missing_capability_is_named() {
    let (playground, bpffs) = playground(USER);
    for (missing, name, _) in CAPABILITIES {
        let held: Vec<&str> = names().into_iter().filter(|held| *held != missing).collect();
        let mut attach = limited(&playground, USER, &held, playground.loader_program());
        let refused = finish(
            attach
                .args(["attach", "-i", INTERFACE, "--mode", "rewrite", "--owner", "any", "--bpffs"])
                .arg(&bpffs),
        );
        assert_eq!(refused.code, Some(3), "{missing}: {}", refused.stderr);
        assert!(refused.stderr.contains(&format!("needs {name},")), "{missing}: {}", refused.stderr);
    }
    assert!(playground.pins().is_empty());
}

#[test]
fn without_the_privilege_to_take_over_a_listener_steer_says_which_to_start_again() {
    let (mut playground, bpffs) = playground(USER);
    let owner = AGENT.id.to_string();
    let attach = |playground: &Playground, mode: &str| {
        let mut attach = limited(playground, USER, &names(), playground.loader_program());
        attach.args(["attach", "-i", INTERFACE, "--mode", mode, "--owner", &owner, "--bpffs"]).arg(&bpffs);
        let attached = finish(&mut attach);
        assert_eq!(attached.code, Some(0), "{mode}: {}", attached.stderr);
        attached.stderr
    };
    attach(&playground, "auto");
    let status = playground.status().unwrap();
    assert_eq!(status["mode"], "rewrite", "{status}");
    assert!(status["reason"].as_str().unwrap().contains("user 64080 on port 8080"), "{status}");
    assert!(playground.is_redirected());

    let said = attach(&playground, "steer");
    for part in ["user 64080 on port 8080", "on port 8443", "CAP_SYS_PTRACE", "start the listener again"] {
        assert!(said.contains(part), "{part}: {said}");
    }
    assert!(!playground.is_redirected());
    playground.agent.take().unwrap().stop().unwrap();
    playground.start_agent().unwrap();
    assert!(playground.is_redirected());
}

#[test]
fn in_a_user_namespace_it_is_said_that_no_privilege_there_will_do() {
    let playground = Playground::new().unwrap();
    for subcommand in ["attach", "doctor"] {
        let mut command = Command::new("unshare");
        command.args(["--user", "--map-root-user", "--net"]).arg(playground.loader_program());
        let said = finish(command.args([subcommand, "-i", "lo", "--owner", "any"]));
        let (code, text) = match subcommand {
            "doctor" => (1, said.stdout),
            _ => (3, said.stderr),
        };
        assert_eq!(said.code, Some(code), "{text}");
        assert!(text.contains("root of the host: this process is in a user namespace"), "{text}");
    }
}

#[test]
fn a_listener_for_each_of_many_processors_is_told_once() {
    let playground = Playground::new().unwrap();
    let bpffs = mount_bpffs(&playground, USER);
    let host = &playground.topology.host;
    // Each told by itself, they would be more than a note on the bpffs has room for.
    let _listeners: Vec<_> = (0..150).map(|_| KINDS[2].listen(host, AGENT, 8080).unwrap().unwrap()).collect();
    let mut attach = limited(&playground, USER, &names(), playground.loader_program());
    attach.args(["attach", "-i", INTERFACE, "--owner", &AGENT.id.to_string(), "--bpffs"]).arg(&bpffs);
    let attached = finish(&mut attach);
    assert_eq!(attached.code, Some(0), "{}", attached.stderr);
    let mut status = limited(&playground, USER, &names(), playground.loader_program());
    let status = finish(status.args(["status", "--bpffs"]).arg(&bpffs));
    assert!(status.stdout.contains("mode rewrite: steer was refused"), "{}", status.stdout);
    assert_eq!(status.stdout.matches("on port 8080").count(), 1, "{}", status.stdout);
}

#[test]
fn the_ports_stay_the_owners_and_listeners_known_while_the_interface_is_away() {
    for mode in ["steer", "rewrite"] {
        let mut playground = Playground::new().unwrap();
        let bpffs = mount_bpffs(&playground, 0);
        let mut run = limited(&playground, 0, &names(), playground.loader_program());
        let owner = AGENT.id.to_string();
        run.args(["run", "-i", INTERFACE, "--mode", mode, "--owner", &owner, "--bpffs"]).arg(&bpffs);
        let mut service = Process::start("rprox-loader", run).unwrap();
        service.wait_for_line("eth0: attached").unwrap();
        playground.start_agent().unwrap();
        assert!(playground.is_redirected(), "{mode}");

        let (topology, done) = (&playground.topology, AtomicBool::new(false));
        let state = |state: &str| {
            wait::until(wait::READY, state, || (playground.status().unwrap()["state"] == state).then_some(()))
        };
        let (said, result) = thread::scope(|scope| {
            let stranger = scope.spawn(|| bind_until(&done, &topology.host));
            let result = topology
                .delete_client_link()
                .and_then(|()| state("gone"))
                .and_then(|()| topology.make_client_link())
                .and_then(|()| state("attached"));
            done.store(true, Ordering::Relaxed);
            (stranger.join().unwrap(), result)
        });
        result.unwrap();
        assert_eq!(said, BTreeSet::from([Some(Errno::PERM.raw_os_error())]), "{mode}");
        // It may not look into the agent, whose listener it can only know from before.
        wait::until(wait::READY, "the redirect", || playground.is_redirected().then_some(())).unwrap();
        let verified = finish(playground.loader("verify").args(["-i", INTERFACE]));
        assert_eq!(verified.code, Some(0), "{mode}: {}", verified.stdout);
        assert!(service.stop().unwrap().success());
        assert!(playground.pins().is_empty());
    }
}

/// What everybody else is told who binds 8080 over and over until `done`, as error numbers.
fn bind_until(done: &AtomicBool, host: &Netns) -> BTreeSet<Option<i32>> {
    let mut said = BTreeSet::new();
    while !done.load(Ordering::Relaxed) {
        for kind in KINDS {
            let bound = kind.listen(host, STRANGER, 8080).unwrap();
            said.insert(bound.err().and_then(|error| error.raw_os_error()));
        }
    }
    said
}

#[test]
fn root_keeps_only_what_the_service_needs() {
    let mut playground = Playground::new().unwrap();
    playground.start_agent().unwrap();
    playground.start_loader(&["--mode", "rewrite"]).unwrap();
    let mut service = playground.loader.take().unwrap();
    for set in ["CapBnd", "CapEff", "CapPrm"] {
        service.wait_until(set, |service| capabilities(service, set) == expected()).unwrap();
    }
    assert_eq!(capabilities(&service, "CapAmb") | capabilities(&service, "CapInh"), 0);
}

fn unit() -> PathBuf {
    programs::workspace().join("deploy/systemd/rprox-loader.service")
}

/// What is added to the unit where listeners are to be taken over.
fn drop_in() -> PathBuf {
    programs::workspace().join("deploy/systemd/take-over.conf")
}

#[test]
fn the_units_sandbox_is_rated_ok() {
    let rated = finish(
        Command::new("systemd-analyze")
            .args(["security", "--offline=true", "--no-pager", "--threshold=25"])
            .arg(unit()),
    );
    assert_eq!(rated.code, Some(0), "{}{}", rated.stdout, rated.stderr);
    assert!(rated.stdout.contains("Overall exposure level"), "{}", rated.stdout);
}

/// The values that `files` have for `key`, in order.
fn settings(files: &[PathBuf], key: &str) -> Vec<String> {
    let text: String = files.iter().map(|file| fs::read_to_string(file).unwrap()).collect();
    let values = text.lines().filter_map(|line| line.strip_prefix(&format!("{key}=")).map(str::to_owned));
    values.collect()
}

/// The system calls that a setting names, with those of its groups.
fn system_calls(setting: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for name in setting.split(' ') {
        if !name.starts_with('@') {
            found.insert(name.to_owned());
            continue;
        }
        let group = command::run(Command::new("systemd-analyze").args(["syscall-filter", name])).unwrap();
        let members =
            group.lines().map(str::trim).skip(1).filter(|line| !line.is_empty() && !line.starts_with('#'));
        for member in members {
            found.extend(system_calls(member));
        }
    }
    found
}

#[test]
fn the_service_makes_no_system_call_that_its_unit_forbids() {
    let made = system_calls_of_a_service(&names(), &["--mode", "rewrite", "--owner", "any"]);
    assert_allowed(&made, &[unit()]);
}

#[test]
fn with_the_drop_in_listeners_are_taken_over_within_the_sandbox() {
    let names = [names(), vec!["sys_ptrace", "dac_read_search"]].concat();
    // The agent listens already: that the client gets through shows that it was taken over.
    let made = system_calls_of_a_service(&names, &["--mode", "steer", "--owner", "64080"]);
    assert!(made.contains("pidfd_getfd"), "{made:?}");
    assert_allowed(&made, &[unit(), drop_in()]);
    for key in ["CapabilityBoundingSet", "AmbientCapabilities"] {
        assert_eq!(settings(&[drop_in()], key), ["CAP_SYS_PTRACE CAP_DAC_READ_SEARCH"], "{key}");
    }
}

/// The system calls of a service with `capabilities` alone, from its start to its end.
fn system_calls_of_a_service(capabilities: &[&str], flags: &[&str]) -> BTreeSet<String> {
    let (playground, bpffs) = playground(0);
    let trace = playground.folder().join("trace");
    // As in the unit: root by name, without its power.
    let mut traced = limited(&playground, 0, capabilities, Path::new("strace"));
    traced.args(["--follow-forks", "--quiet=all", "--output"]).arg(&trace).arg(playground.loader_program());
    traced.args(["run", "-i", INTERFACE]).args(flags).arg("--bpffs").arg(&bpffs);
    // It ends when the loader does.
    let mut strace = Process::start("strace", traced).unwrap();
    strace.wait_until("the redirect", |_| playground.is_redirected()).unwrap();
    // An address more, to see it at work.
    playground.topology.host.ip(&format!("address add 198.51.100.77/24 dev {INTERFACE}")).unwrap();
    strace.wait_for_line("local addresses: 1 came").unwrap();
    let loader = children(&strace).pop().unwrap();
    rustix::process::kill_process(loader, rustix::process::Signal::TERM).unwrap();
    let status = strace.wait(wait::READY).unwrap();
    assert!(status.success(), "{status}");

    let trace = fs::read_to_string(&trace).unwrap();
    let made: BTreeSet<String> = trace
        .lines()
        .filter_map(|line| line.split_once(' ')?.1.trim_start().split_once('('))
        .map(|(name, _)| name.to_owned())
        .filter(|name| {
            name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
        })
        .collect();
    assert!(made.contains("bpf") && made.contains("capset"), "{made:?}");
    made
}

/// Asserts that the filters in `files`, of which the later have the last word, allow all system calls that were made.
#[track_caller]
fn assert_allowed(made: &BTreeSet<String>, files: &[PathBuf]) {
    let mut allowed = BTreeSet::new();
    for filter in settings(files, "SystemCallFilter") {
        match filter.strip_prefix('~') {
            Some(forbidden) => {
                let forbidden = system_calls(forbidden);
                allowed.retain(|name| !forbidden.contains(name));
            }
            None => allowed.extend(system_calls(&filter)),
        }
    }
    let refused: Vec<&String> = made.iter().filter(|name| !allowed.contains(*name)).collect();
    assert!(refused.is_empty(), "{refused:?}");
}

/// The processes that `process` started.
fn children(process: &Process) -> Vec<rustix::process::Pid> {
    let pid = process.pid().as_raw_nonzero();
    let list = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
    list.split_ascii_whitespace()
        .filter_map(|pid| rustix::process::Pid::from_raw(pid.parse().ok()?))
        .collect()
}

#[test]
fn the_units_capabilities_and_configuration_are_what_the_loader_takes() {
    for key in ["CapabilityBoundingSet", "AmbientCapabilities"] {
        let names: Vec<&str> = CAPABILITIES.iter().map(|(_, name, _)| *name).collect();
        assert_eq!(settings(&[unit()], key), [names.join(" ")], "{key}");
    }
    let playground = Playground::new().unwrap();
    let file = programs::workspace().join("deploy/systemd/loader.toml");
    let attached = finish(playground.loader("attach").args(["-i", INTERFACE, "--config"]).arg(file));
    assert_eq!(attached.code, Some(0), "{}", attached.stderr);
}
