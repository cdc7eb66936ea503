//! The two command lines: help, completions, man page, and refusals with their exit statuses.

#![allow(clippy::unwrap_used, reason = "a scenario fails where its helpers do")]

use std::fs;
use std::path::Path;
use std::process::Command;

use rprox_tests::command::{self, Finished};
use rprox_tests::playground::{AGENT, Playground};
use rprox_tests::programs::Programs;

fn run(program: &Path, arguments: &[&str]) -> Finished {
    command::finish(Command::new(program).args(arguments)).unwrap()
}

fn both() -> [(std::path::PathBuf, &'static [&'static str]); 2] {
    let programs = Programs::find().unwrap();
    [
        (
            programs.loader,
            &["run", "attach", "detach", "status", "verify", "check", "doctor", "completions", "man"],
        ),
        (programs.agent, &["run", "check", "doctor", "completions", "man"]),
    ]
}

#[test]
fn help_names_every_subcommand_and_each_has_examples() {
    for (program, subcommands) in both() {
        let help = run(&program, &["--help"]);
        assert_eq!(help.code, Some(0), "{}", help.stderr);
        for subcommand in subcommands {
            assert!(help.stdout.contains(subcommand), "{subcommand}: {}", help.stdout);
            let help = run(&program, &[subcommand, "--help"]);
            assert_eq!(help.code, Some(0), "{}", help.stderr);
            assert!(help.stdout.contains("Example"), "{subcommand}: {}", help.stdout);
        }
    }
}

#[test]
fn completions_are_scripts_that_their_shells_can_read() {
    for (program, _) in both() {
        let name = program.file_name().unwrap().to_str().unwrap();
        for shell in ["bash", "zsh", "fish"] {
            let script = run(&program, &["completions", shell]);
            assert_eq!(script.code, Some(0), "{}", script.stderr);
            assert!(script.stdout.contains(name));
        }
        let script = run(&program, &["completions", "bash"]).stdout;
        command::run(Command::new("bash").args(["-n", "-c", &script])).unwrap();
    }
}

#[test]
fn the_man_page_has_its_heading_and_every_subcommand() {
    for (program, subcommands) in both() {
        let page = run(&program, &["man"]);
        assert_eq!(page.code, Some(0), "{}", page.stderr);
        assert!(page.stdout.contains(".TH "), "{}", page.stdout);
        for subcommand in subcommands {
            assert!(page.stdout.contains(subcommand), "{subcommand}: {}", page.stdout);
        }
    }
}

#[test]
fn an_unknown_flag_is_wrong_usage() {
    for (program, _) in both() {
        assert_eq!(run(&program, &["run", "--no-such-flag"]).code, Some(2));
        assert_eq!(run(&program, &[]).code, Some(2));
    }
}

#[test]
fn check_accepts_a_good_configuration_and_places_the_fault_in_a_bad_one() {
    let playground = Playground::new().unwrap();
    let check = |text: &str| {
        let file = playground.folder().join("check.toml");
        fs::write(&file, text).unwrap();
        let mut agent = playground.topology.host.command(playground.agent_program());
        command::finish(agent.args(["check", "--config"]).arg(file)).unwrap()
    };
    let good = playground.configuration();
    let checked = check(&good);
    assert_eq!(checked.code, Some(0), "{}", checked.stderr);

    let line = good.lines().position(|line| line.starts_with("search")).unwrap() + 1;
    let checked = check(&good.replace("search =", "serach ="));
    assert!(matches!(checked.code, Some(1 | 2)), "{:?}", checked.code);
    for part in ["check.toml", "serach", &line.to_string()] {
        assert!(checked.stderr.contains(part), "{part}: {}", checked.stderr);
    }

    let checked = check(&good.replace("registry.mydomain.com.key", "nosuch.key"));
    assert!(matches!(checked.code, Some(1 | 2)), "{:?}", checked.code);
    assert!(checked.stderr.contains("nosuch.key"), "{}", checked.stderr);
}

#[test]
fn the_agent_refuses_to_run_as_root() {
    let programs = Programs::find().unwrap();
    let refused = run(&programs.agent, &["run", "--route", "a.example=b:80"]);
    assert!(matches!(refused.code, Some(2 | 3)), "{:?}: {}", refused.code, refused.stderr);
    assert!(refused.stderr.contains("root"), "{}", refused.stderr);
}

#[test]
fn a_port_that_is_taken_is_named() {
    let mut playground = Playground::new().unwrap();
    playground.start_agent().unwrap();
    let mut second = playground.topology.host.command_as(
        // Another user: the agent's own may share its ports with a second agent.
        rprox_tests::netns::Unprivileged { id: AGENT.id + 100 },
        playground.agent_program(),
    );
    second.args(["run", "--http", "[::]:8080", "--route", "a.example=b:80"]);
    let refused = command::finish(&mut second).unwrap();
    assert_ne!(refused.code, Some(0));
    assert!(refused.stderr.contains("8080"), "{}", refused.stderr);
}
