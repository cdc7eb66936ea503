//! The owner: the unprivileged user whose sockets may serve the redirected ports.

#![allow(unsafe_code, reason = "user names are looked up by getpwnam_r(3)")]

use std::ffi::{CString, c_char};
use std::fmt;
use std::str::FromStr;

use serde::Deserialize;

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
                format!("there is no user {text:?}; give a user's name or id, or `any` for no port guard")
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

/// The id of the user `name`, by whatever source of users the host is set up with.
fn user_id(name: &str) -> Option<u32> {
    const BUFFER: usize = 64 << 10;
    let name = CString::new(name).ok()?;
    let mut buffer = vec![0 as c_char; BUFFER];
    let mut entry = std::mem::MaybeUninit::<libc::passwd>::uninit();
    let mut found = std::ptr::null_mut();
    // SAFETY: every pointer is to memory of ours of the length that is given, and outlives the call.
    let result = unsafe {
        libc::getpwnam_r(name.as_ptr(), entry.as_mut_ptr(), buffer.as_mut_ptr(), buffer.len(), &raw mut found)
    };
    if result != 0 || found.is_null() {
        return None;
    }
    // SAFETY: the call has found an entry, and filled ours with it.
    Some(unsafe { entry.assume_init() }.pw_uid)
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
