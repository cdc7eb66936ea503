//! The users in `/etc/passwd` (passwd(5)), by name and by id.
//!
//! Not by the C library's `getpwnam`: both programs are linked statically, and what `/etc/nsswitch.conf` may name beside
//! files, the library would load at run time, which such a program can't.

#![forbid(unsafe_code)]

use std::fs;
use std::str::FromStr;

/// Where they are.
pub const FILE: &str = "/etc/passwd";

/// The text of [`FILE`], which the other functions look through; empty where it can't be read.
#[must_use]
pub fn read() -> String {
    fs::read_to_string(FILE).unwrap_or_default()
}

/// The id of the user `name`.
#[must_use]
pub fn id_of(name: &str, users: &str) -> Option<u32> {
    entries(users).find_map(|(entry, id)| (entry == name).then_some(id))
}

/// The name of the user with this `id`.
#[must_use]
pub fn name_of(id: u32, users: &str) -> Option<&str> {
    entries(users).find_map(|(name, entry)| (entry == id).then_some(name))
}

fn entries(users: &str) -> impl Iterator<Item = (&str, u32)> {
    users.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next().filter(|name| !name.is_empty())?;
        Some((name, u32::from_str(fields.nth(1)?).ok()?))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const USERS: &str = "root:x:0:0:root:/root:/bin/sh\n\n# web:x:1:1\nweb:x:1001:1001::/home/web:/bin/sh\nbroken\nodd:x:y:1\n:x:7:7\n";

    #[test]
    fn a_line_is_a_user() {
        let ids = ["root", "web", "broken", "odd", "", "we"].map(|name| id_of(name, USERS));
        assert_eq!(ids, [Some(0), Some(1001), None, None, None, None]);
        let names = [0, 1001, 7, 1002].map(|id| name_of(id, USERS));
        assert_eq!(names, [Some("root"), Some("web"), None, None]);
    }
}
