//! What the user who runs Podman needs: subordinate ids, a runtime folder, and to stay when nobody is logged in.

#![forbid(unsafe_code)]

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::{env, fs};

use crate::findings::Finding;
use crate::users;

/// Ids that images use: those up to `nobody` and `nogroup`.
const ENOUGH: u64 = 65_536;

/// What is there of the user.
pub(super) struct User {
    id: u32,
    /// `None` where /etc/passwd has no such user.
    name: Option<String>,
    lingers: bool,
    /// /etc/subuid and /etc/subgid.
    ranges: [String; 2],
    runtime: Runtime,
}

/// `XDG_RUNTIME_DIR`.
enum Runtime {
    Unset,
    Missing(String),
    Others(String, u32),
    Own(String),
}

impl User {
    pub(super) fn read(id: u32) -> Self {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let name = users::name_of(id, &users::read()).map(str::to_owned);
        let lingers =
            name.as_ref().is_some_and(|name| Path::new("/var/lib/systemd/linger").join(name).exists());
        let runtime = match env::var("XDG_RUNTIME_DIR") {
            Err(_) => Runtime::Unset,
            Ok(path) => match fs::metadata(&path) {
                Ok(folder) if folder.is_dir() && folder.uid() == id => Runtime::Own(path),
                Ok(folder) => Runtime::Others(path, folder.uid()),
                Err(_) => Runtime::Missing(path),
            },
        };
        Self { id, name, lingers, ranges: [read("/etc/subuid"), read("/etc/subgid")], runtime }
    }
}

/// Whether the agent would run as root.
pub(super) fn root(me: u32) -> Finding {
    match me {
        0 => Finding::warning(
            "user",
            "this is root, as whom the agent refuses to run, and whose Podman is another one",
            "run this as the user that the agent is to run as, or in its container",
        ),
        id => Finding::fine("user", format!("{id}, without root's power")),
    }
}

pub(super) fn check(user: &User) -> Vec<Finding> {
    let id = user.id;
    let Some(name) = &user.name else {
        let remedy = "run this as the user that runs Podman";
        return vec![Finding::warning("user", format!("no user in /etc/passwd has the id {id}"), remedy)];
    };
    let mut findings = vec![runtime(&user.runtime, id)];
    findings.push(if user.lingers {
        Finding::fine("linger", "on")
    } else {
        Finding::warning(
            "linger",
            format!("{name}'s services end when {name} logs out, and don't start at boot"),
            format!("run `sudo loginctl enable-linger {name}`"),
        )
    });
    for (file, text) in ["/etc/subuid", "/etc/subgid"].iter().zip(&user.ranges) {
        findings.push(range(file, text, name, id));
    }
    findings
}

fn runtime(runtime: &Runtime, id: u32) -> Finding {
    let check = "XDG_RUNTIME_DIR";
    let remedy = format!(
        "log in as the user (`machinectl shell`, ssh; `su` and `sudo` set it not), or `export XDG_RUNTIME_DIR=/run/user/{id}`"
    );
    match runtime {
        Runtime::Own(path) => Finding::fine(check, path),
        Runtime::Unset => {
            Finding::warning(check, "it isn't set, so `systemctl --user` finds no service manager", remedy)
        }
        Runtime::Missing(path) => Finding::fault(check, format!("there is no {path}"), remedy),
        Runtime::Others(path, owner) => {
            Finding::fault(check, format!("{path} is user {owner}'s, or no folder"), remedy)
        }
    }
}

/// The ids that `text` of `file` (subuid(5)) gives to the user.
fn range(file: &str, text: &str, name: &str, id: u32) -> Finding {
    let own = |line: &str| -> Option<u64> {
        let mut fields = line.split(':');
        let who = fields.next()?;
        let count = fields.nth(1)?.trim().parse().ok()?;
        (who == name || who.parse() == Ok(id)).then_some(count)
    };
    let count: u64 = text.lines().filter_map(own).sum();
    let kind = if file.ends_with("subuid") { "uids" } else { "gids" };
    let remedy =
        format!("run `sudo usermod --add-sub{kind} 100000-165535 {name}`, then `podman system migrate`");
    match count {
        0 => Finding::fault(file, format!("{name} has no range in it, which rootless Podman needs"), remedy),
        few if few < ENOUGH => {
            Finding::warning(file, format!("{name} has {few} ids, and images use up to {ENOUGH}"), remedy)
        }
        _ => Finding::fine(file, format!("{count} ids for {name}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::findings::Severity::{Fault, Fine, Warning};

    fn user() -> User {
        let ranges = ["proxy:100000:65536\n".to_owned(), "1000:100000:65536\n".to_owned()];
        let runtime = Runtime::Own("/run/user/1000".to_owned());
        User { id: 1000, name: Some("proxy".to_owned()), lingers: true, ranges, runtime }
    }

    #[test]
    fn a_user_as_useradd_makes_it_is_fine() {
        assert!(check(&user()).iter().all(|finding| finding.severity == Fine));
        assert_eq!(users::name_of(1000, "root:x:0:0::/:\nproxy:x:1000:1000::/:\n"), Some("proxy"));
        assert_eq!((root(0).severity, root(1000).severity), (Warning, Fine));
    }

    #[test]
    fn what_is_missing_is_told_with_its_command() {
        let of = |user: &User, severity| -> Vec<String> {
            check(user).into_iter().filter(|f| f.severity == severity).filter_map(|f| f.remedy).collect()
        };
        let remedies = of(&User { lingers: false, ..user() }, Warning);
        assert_eq!(remedies, ["run `sudo loginctl enable-linger proxy`"]);
        let none = User { ranges: ["other:100000:65536\n".to_owned(), "proxy:1:9\n".to_owned()], ..user() };
        assert!(of(&none, Fault)[0].contains("--add-subuids"), "{:?}", of(&none, Fault));
        assert!(of(&none, Warning)[0].contains("--add-subgids"), "{:?}", of(&none, Warning));
        assert_eq!(of(&User { runtime: Runtime::Unset, ..user() }, Warning).len(), 1);
        assert_eq!(
            of(&User { runtime: Runtime::Others("/run/user/0".to_owned(), 0), ..user() }, Fault).len(),
            1
        );
        assert_eq!(of(&User { name: None, ..user() }, Warning).len(), 1);
    }
}
