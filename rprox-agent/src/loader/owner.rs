//! The owner: the unprivileged user whose sockets may serve the redirected ports.

#![forbid(unsafe_code)]

use std::fmt;
use std::str::FromStr;

use serde::Deserialize;

use crate::users;

/// Whose sockets may hold TO.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub enum Owner {
    /// Everybody's: there is no port guard.
    Any,
    /// Those of the user with this id.
    User(u32),
}

impl Owner {
    /// The user who called sudo; `None` for root and without sudo.
    #[must_use]
    pub fn from_sudo() -> Option<Self> {
        let id = std::env::var("SUDO_UID").ok()?.parse().ok()?;
        (id != 0).then_some(Self::User(id))
    }

    /// The user's id.
    #[must_use]
    pub fn user(self) -> Option<u32> {
        match self {
            Self::Any => None,
            Self::User(id) => Some(id),
        }
    }
}

impl FromStr for Owner {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "any" {
            return Ok(Self::Any);
        }
        match text.parse() {
            // The id that stands for none.
            Ok(u32::MAX) => Err(format!("{text} is no user's id")),
            Ok(id) => Ok(Self::User(id)),
            Err(_) => users::id_of(text, &users::read()).map(Self::User).ok_or_else(|| {
                format!("there is no user {text:?} in {}; give one's name, or the id of any user, or `any` for no port guard", users::FILE)
            }),
        }
    }
}

impl TryFrom<String> for Owner {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("any"),
            Self::User(id) => write!(f, "{id}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_ids_and_any() {
        assert_eq!("root".parse(), Ok(Owner::User(0)));
        assert_eq!("1000".parse(), Ok(Owner::User(1000)));
        assert_eq!("any".parse(), Ok(Owner::Any));
        for text in ["nobody-of-that-name", "", "-1", "4294967295", "a\0b"] {
            assert!(text.parse::<Owner>().is_err(), "{text:?}");
        }
    }
}
