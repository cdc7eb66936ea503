//! The commands that README.md gives are run as they stand: those fenced as `sh test`.

use std::fmt::Write as _;
use std::fs;
use std::process::Command;
use std::time::Duration;

use rprox_tests::{command, programs, readme};

#[test]
fn the_commands_of_the_readme_work() {
    let workspace = programs::workspace();
    let text = fs::read_to_string(workspace.join("README.md")).expect("README.md");
    // What they install goes to a file system that ends with the script, not to this machine.
    let mut script = "for place in /usr/local/bin /var/lib/containers /run/containers; do\n\
                      mkdir -p $place; mount -t tmpfs none $place; done; export STORAGE_DRIVER=vfs\n"
        .to_owned();
    for block in readme::blocks(&text) {
        let _ = write!(script, "echo 'README.md line {}:' >&2\n{}\n", block.line, block.script);
    }
    let mut shell = Command::new("unshare");
    shell.args(["--mount", "--", "bash", "-euxo", "pipefail", "-c", &script]).current_dir(&workspace);
    command::run_within(Duration::from_mins(15), &mut shell).unwrap();
}
