//! `cargo xtask run`: its table is right, and nothing is left of it.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use rprox_tests::command;
use rprox_tests::process::Process;
use rprox_tests::programs;
use rprox_tests::table::ROWS;
use rustix::process::Signal;

/// xtask as it is built already: cargo is running us.
fn xtask() -> PathBuf {
    let xtask = programs::target().join("debug/xtask");
    assert!(xtask.exists(), "{} is not built: run `cargo build --package xtask`", xtask.display());
    xtask
}

/// The namespaces of the run with this process id.
fn namespaces(pid: i32) -> BTreeSet<String> {
    let names = fs::read_dir("/run/netns").into_iter().flatten().flatten();
    let names = names.filter_map(|entry| entry.file_name().into_string().ok());
    names.filter(|name| name.starts_with(&format!("rprox-{pid}-"))).collect()
}

#[test]
fn the_table_of_xtask_run_is_right_in_every_row() {
    let run = command::finish(Command::new(xtask()).args(["run", "--once", "--prebuilt"])).unwrap();
    assert_eq!(run.code, Some(0), "{}{}", run.stdout, run.stderr);
    let right = run.stdout.lines().filter(|line| line.trim_end().ends_with(" ok")).count();
    assert_eq!(right, ROWS, "{}", run.stdout);
    assert_eq!(run.stdout.matches("301 → 200").count(), 4, "{}", run.stdout);
    for pod in ["container-registry", "grafana", "wiki-1", "wiki-2"] {
        assert!(run.stdout.contains(pod), "{pod}: {}", run.stdout);
    }
}

#[test]
fn xtask_run_stays_up_and_takes_everything_down_on_ctrl_c() {
    let mut command = Command::new(xtask());
    command.args(["run", "--prebuilt"]);
    let mut run = Process::start("xtask run", command).unwrap();
    run.wait_for_line("stays up until Ctrl-C").unwrap();
    let pid = run.pid().as_raw_nonzero().get();
    assert_eq!(namespaces(pid).len(), 7);
    run.signal(Signal::INT).unwrap();
    let status = run.wait(rprox_tests::wait::READY).unwrap();
    assert!(status.success(), "{status}");
    assert_eq!(namespaces(pid), BTreeSet::new());
}

#[test]
fn a_killed_run_is_cleared_away_by_the_next() {
    let mut command = Command::new(xtask());
    command.args(["run", "--prebuilt"]);
    let mut run = Process::start("xtask run", command).unwrap();
    run.wait_for_line("stays up until Ctrl-C").unwrap();
    let pid = run.pid().as_raw_nonzero().get();
    run.kill().unwrap();
    assert_eq!(namespaces(pid).len(), 7);

    drop(rprox_tests::playground::Playground::new().unwrap());
    assert_eq!(namespaces(pid), BTreeSet::new());
}
