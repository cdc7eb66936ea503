//! Whether the owner is a user.

#![forbid(unsafe_code)]

use std::collections::BTreeSet;

use crate::findings::Finding;
use crate::loader::owner::Owner;
use crate::users;

/// `users` is the text of `/etc/passwd`.
pub(super) fn check(owners: impl Iterator<Item = Owner>, users: &str) -> Vec<Finding> {
    let owners: BTreeSet<Option<u32>> = owners.map(Owner::user).collect();
    owners.into_iter().map(|owner| one(owner, users)).collect()
}

fn one(owner: Option<u32>, users: &str) -> Finding {
    let check = "owner";
    match owner {
        None => Finding::warning(
            check,
            "there is no port guard (--owner any): whoever binds a TO port first gets its connections",
            "name the user that the agent runs as: `--owner USER`",
        ),
        Some(0) => Finding::warning(
            check,
            "it is root, and the agent should not run as root",
            "run the agent as an ordinary user, and name it: `--owner USER`",
        ),
        Some(id) => match users::name_of(id, users) {
            Some(name) => Finding::fine(check, format!("{name} ({id})")),
            None => Finding::warning(
                check,
                format!("no user in /etc/passwd has the id {id}"),
                "see that the agent runs as it: of a rootless container that is the user who runs Podman",
            ),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::findings::Severity::{Fine, Warning};

    #[test]
    fn users_are_found_by_id() {
        let users = "root:x:0:0:root:/root:/bin/sh\n\nproxy:x:1000:1000::/home/proxy:/bin/sh\n";
        let of = |owner| check(std::iter::once(owner), users).remove(0);
        assert_eq!(
            (of(Owner::User(1000)).severity, of(Owner::User(1000)).found.as_str()),
            (Fine, "proxy (1000)")
        );
        for owner in [Owner::User(1001), Owner::User(0), Owner::Any] {
            assert_eq!(of(owner).severity, Warning, "{owner}");
        }
    }
}
