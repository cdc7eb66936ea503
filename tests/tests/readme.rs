//! The commands that README.md gives are run as they stand: those fenced as `sh test`.

use std::fs;
use std::process::Command;
use std::time::Duration;

use rprox_tests::{command, programs, readme};

#[test]
fn the_commands_of_the_readme_work() {
    let workspace = programs::workspace();
    let text = fs::read_to_string(workspace.join("README.md")).expect("README.md");
    for block in readme::blocks(&text) {
        let mut shell = Command::new("bash");
        shell.args(["-euo", "pipefail", "-c", &block.script]).current_dir(&workspace);
        if let Err(error) = command::run_within(Duration::from_mins(15), &mut shell) {
            panic!("README.md line {}: {error:#}", block.line);
        }
    }
}
