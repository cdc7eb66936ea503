//! Progress: a spinner with the last line of output at a terminal, plain lines elsewhere.

use std::collections::VecDeque;
use std::io::{self, BufRead, BufReader, IsTerminal};
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use indicatif::{ProgressBar, ProgressStyle};
use rprox_tests::command;

/// One step that the user sees begin and end.
pub(crate) struct Step {
    title: String,
    begun: Instant,
    bar: Option<ProgressBar>,
    done: bool,
}

impl Step {
    /// Begins a step and says so.
    pub(crate) fn begin(title: &str) -> Self {
        let bar = io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new_spinner();
            if let Ok(style) =
                ProgressStyle::with_template("{spinner} {prefix} {elapsed:.dim} {wide_msg:.dim}")
            {
                bar.set_style(style);
            }
            bar.set_prefix(title.to_owned());
            bar.enable_steady_tick(Duration::from_millis(100));
            bar
        });
        if bar.is_none() {
            eprintln!("==> {title}");
        }
        Self { title: title.to_owned(), begun: Instant::now(), bar, done: false }
    }

    /// Says what is going on within the step.
    pub(crate) fn note(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.set_message(text.to_owned()),
            None => eprintln!("    {text}"),
        }
    }

    /// Runs `command`, whose output is shown as it goes, and again where it fails.
    pub(crate) fn run(&self, command: &mut Command) -> Result<()> {
        let (status, said) = if let Some(bar) = &self.bar {
            run_under(bar, command)?
        } else {
            eprintln!("    $ {}", command::line(command));
            (command.stdin(Stdio::null()).status().with_context(|| command::line(command))?, String::new())
        };
        if !status.success() {
            bail!("{said}{} ended with {status}", command::line(command));
        }
        Ok(())
    }

    /// Ends the step: `outcome` says what it came to.
    pub(crate) fn finish(mut self, outcome: &str) {
        self.done = true;
        let time = self.begun.elapsed();
        let time = if time < Duration::from_secs(1) {
            String::new()
        } else {
            format!(" ({:.0} s)", time.as_secs_f64())
        };
        match &self.bar {
            Some(bar) => {
                bar.finish_and_clear();
                eprintln!("✓ {}: {outcome}{time}", self.title);
            }
            None => eprintln!("    {outcome}{time}"),
        }
    }
}

impl Drop for Step {
    fn drop(&mut self) {
        if let (false, Some(bar)) = (self.done, &self.bar) {
            bar.finish_and_clear();
            eprintln!("✗ {}", self.title);
        }
    }
}

/// Runs `command` with its output's last line in the bar's message. Returns its last lines too.
fn run_under(bar: &ProgressBar, command: &mut Command) -> Result<(ExitStatus, String)> {
    const KEPT: usize = 60;
    let (read, write) = io::pipe()?;
    command.stdin(Stdio::null()).stdout(write.try_clone()?).stderr(write);
    let mut child = command.spawn().with_context(|| command::line(command))?;
    // The command holds the writing ends too, and with them the pipe would never end.
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let mut last = VecDeque::new();
    for line in BufReader::new(read).split(b'\n').map_while(Result::ok) {
        let line = String::from_utf8_lossy(&line).trim_end().to_owned();
        bar.set_message(line.trim_start().to_owned());
        if last.len() == KEPT {
            last.pop_front();
        }
        last.push_back(line + "\n");
    }
    Ok((child.wait()?, last.into_iter().collect()))
}
