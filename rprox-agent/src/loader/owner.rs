//! The owner: the unprivileged user whose sockets may serve the redirected ports.

#![forbid(unsafe_code)]

use std::fmt;
use std::fs;
use std::str::FromStr;

use serde::Deserialize;

const USERS: &str = "/etc/passwd";

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
            Err(_) => user_id(text).map(Self::User).ok_or_else(|| {
                format!(
                    "there is no user {text:?} in {USERS}; give one's name, or the id of any user, or `any` for no port guard"
                )
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

/// The id of the user `name` in `/etc/passwd` (passwd(5)).
///
/// Not by the C library's `getpwnam`: the loader is linked statically, and what `/etc/nsswitch.conf` may name beside files,
/// the library would load at run time, which such a program can't.
fn user_id(name: &str) -> Option<u32> {
    id_in(&fs::read_to_string(USERS).ok()?, name)
}

fn id_in(users: &str, name: &str) -> Option<u32> {
    users.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next()? == name && !name.is_empty()).then(|| fields.nth(1)?.parse().ok())?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_passwd_is_a_user() {
        let users = "root:x:0:0:root:/root:/bin/sh\n# web:x:1:1\nweb:x:1001:1001::/home/web:/bin/sh\nbroken\nodd:x:y:1\n";
        let ids = ["root", "web", "broken", "odd", "", "we"].map(|name| id_in(users, name));
        assert_eq!(ids, [Some(0), Some(1001), None, None, None, None]);
    }

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
