//! Why a configuration is refused, and where.

#![forbid(unsafe_code)]

use std::error::Error;
use std::fmt;
use std::fs;
use std::io;
use std::iter;
use std::ops::Range;
use std::path::{Path, PathBuf};

use thiserror::Error as ThisError;

use super::nearest;

/// Why a configuration is refused.
#[derive(Debug, ThisError)]
pub enum ConfigError {
    /// The file can't be read.
    #[error("{}: {source}; the configuration file must exist and be readable by the agent's user", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What reading it gave.
        source: io::Error,
    },
    /// There are mistakes in it; each on a line of its own.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
    Invalid(Vec<Mistake>),
}

impl ConfigError {
    /// The mistakes, if it is only that files aren't there which the configuration names.
    #[must_use]
    pub fn absent_files(&self) -> Option<&[Mistake]> {
        match self {
            Self::Invalid(mistakes) if mistakes.iter().all(|mistake| mistake.is_absent_file) => {
                Some(mistakes)
            }
            _ => None,
        }
    }

    /// Reads the file at `path`.
    pub(super) fn read(path: &Path) -> Result<String, Self> {
        fs::read_to_string(path).map_err(|source| Self::Read { path: path.to_owned(), source })
    }

    /// Of `mistakes` in `text`, which is that of `file`.
    pub(super) fn located(mistakes: Vec<Mistake>, file: Option<&Path>, text: &str) -> Self {
        Self::Invalid(mistakes.into_iter().map(|mistake| mistake.locate(file, text)).collect())
    }
}

impl From<toml::de::Error> for Mistake {
    fn from(error: toml::de::Error) -> Self {
        Self::new(error.span().map_or(Place::Whole, Place::Bytes), nearest::reword(error.message()))
    }
}

/// A mistake, and where it is: `rprox.toml:12:5: …`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    place: Place,
    message: String,
    /// Whether it is only that a file isn't there.
    is_absent_file: bool,
}

/// Where a mistake is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// At these bytes of the file.
    Bytes(Range<usize>),
    /// In this flag.
    Flag(String),
    /// Nowhere in particular.
    Whole,
    /// On this line and column of the file, both counted from 1.
    Line { file: PathBuf, line: usize, column: usize },
}

impl Mistake {
    pub(super) fn new(place: Place, message: impl fmt::Display) -> Self {
        Self { place, message: message.to_string(), is_absent_file: false }
    }

    /// That a file can't be used.
    pub(super) fn of_file(place: Place, error: &(dyn Error + 'static)) -> Self {
        let mut causes = iter::successors(Some(error), |&error| error.source());
        let is_absent_file = causes.any(|cause| {
            cause.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::NotFound)
        });
        Self { is_absent_file, ..Self::new(place, error) }
    }

    /// Turns bytes into lines of `file`, whose text is `text`.
    pub(super) fn locate(self, file: Option<&Path>, text: &str) -> Self {
        let place = match (self.place, file) {
            (Place::Bytes(bytes), Some(file)) => {
                let before = text.get(..bytes.start).unwrap_or(text);
                let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
                Place::Line {
                    file: file.to_owned(),
                    line: before.matches('\n').count() + 1,
                    column: before[line_start..].chars().count() + 1,
                }
            }
            (place, _) => place,
        };
        Self { place, ..self }
    }
}

impl fmt::Display for Mistake {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Place::Line { file, line, column } => write!(formatter, "{}:{line}:{column}: ", file.display())?,
            Place::Flag(flag) => write!(formatter, "{flag}: ")?,
            Place::Bytes(_) | Place::Whole => {}
        }
        formatter.write_str(&self.message)
    }
}
