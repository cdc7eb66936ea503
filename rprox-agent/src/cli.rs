//! What both command lines share: exit statuses, logging, and the documents generated from their clap definitions.

#![forbid(unsafe_code)]

use std::io::{self, IsTerminal, Write};

use clap::{Command, ValueEnum};
use clap_complete::Shell;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt::MakeWriter;

/// Exit statuses, the same for both programs; sysexits has nothing that fits all four.
pub mod exit {
    /// Done.
    pub const OK: u8 = 0;
    /// A check failed, or the program failed while it ran.
    pub const FAILED: u8 = 1;
    /// The command line or the configuration is wrong.
    pub const USAGE: u8 = 2;
    /// The kernel, or a missing privilege, refused.
    pub const REFUSED: u8 = 3;
}

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// Lines for people.
    #[default]
    Text,
    /// A JSON object for each line.
    Json,
}

/// Checks a level, or a list of levels and `TARGET=LEVEL`. A word that is no level would be taken for a target, of which there is
/// nothing to say, and all else would be silent.
///
/// # Errors
///
/// The text of what is wrong with it.
pub fn parse_log_level(text: &str) -> Result<String, String> {
    let mut parts = text.split(',').map(str::trim).filter(|part| !part.is_empty()).peekable();
    let is_filter = parts.peek().is_some()
        && parts.all(|part| part.contains('=') || part.parse::<LevelFilter>().is_ok())
        && EnvFilter::try_new(text).is_ok();
    is_filter
        .then(|| text.trim().to_owned())
        .ok_or_else(|| format!("{text:?} is not a log level; write error, warn, info, debug or trace"))
}

/// Sends log lines to standard error. `level` is a level (`info`) or an `EnvFilter` directive list.
///
/// # Errors
///
/// The text of what is wrong with `level`.
pub fn init_logging(level: &str, format: LogFormat) -> Result<(), String> {
    init_logging_to(io::stderr, level, format)
}

/// The same to `writer`, which leads there.
///
/// # Errors
///
/// The text of what is wrong with `level`.
pub fn init_logging_to<W>(writer: W, level: &str, format: LogFormat) -> Result<(), String>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let filter = EnvFilter::try_new(level).map_err(|error| format!("log level {level:?}: {error}"))?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        // It would say so on standard error, and end the program where nobody reads that any more.
        .log_internal_errors(false)
        .with_writer(writer)
        .with_ansi(io::stderr().is_terminal());
    match format {
        LogFormat::Text => builder.with_target(false).init(),
        LogFormat::Json => builder.json().flatten_event(true).init(),
    }
    Ok(())
}

/// Writes the completions of `command` for `shell`.
pub fn write_completions(mut command: Command, shell: Shell, out: &mut impl Write) {
    let name = command.get_name().to_owned();
    clap_complete::generate(shell, &mut command, name, out);
}

/// Writes the man page of `command` with a section for each subcommand's options.
///
/// # Errors
///
/// What writing to `out` gave.
pub fn write_man_page(mut command: Command, out: &mut impl Write) -> io::Result<()> {
    command.build();
    let name = command.get_name().to_owned();
    clap_mangen::Man::new(command.clone()).render(out)?;
    for subcommand in command.get_subcommands().filter(|subcommand| subcommand.get_name() != "help") {
        let man = clap_mangen::Man::new(subcommand.clone());
        let mut page = Vec::new();
        man.render_synopsis_section(&mut page)?;
        man.render_description_section(&mut page)?;
        man.render_options_section(&mut page)?;
        man.render_extra_section(&mut page)?;
        // What are sections in a page of its own are parts of a section here.
        let parts = String::from_utf8_lossy(&page).replace(".SH ", ".SS ");
        write!(out, ".SH \"{} {}\"\n{parts}", name.to_uppercase(), subcommand.get_name().to_uppercase())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_that_is_no_level_is_refused() {
        for level in
            ["info", " WARN ", "off", "info,rprox_agent=debug", "rprox_agent=debug", "warn,access=off"]
        {
            assert_eq!(parse_log_level(level).as_deref(), Ok(level.trim()), "{level}");
        }
        for wrong in ["", ",", "warning", "verbose", "inf", "info,rprox_agent", "a=loud", "a=b=c"] {
            assert!(
                parse_log_level(wrong).is_err_and(|error| error.contains("error, warn, info")),
                "{wrong}"
            );
        }
    }
}
