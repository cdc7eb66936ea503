//! The licences of all dependencies are among those that `deny.toml` allows.

use std::collections::BTreeSet;
use std::fs;

use anyhow::{Context, Result, bail};
use rprox_tests::{command, programs};
use serde_json::Value;

use crate::build::host_cargo;

/// Checks both workspaces. `cargo deny` knows more (advisories, sources) but is seldom installed: it is asked where it is.
pub(super) fn check() -> Result<()> {
    eprintln!("==> Licences of the dependencies");
    let allowed = allowed()?;
    for manifest in ["Cargo.toml", "rprox-ebpf/Cargo.toml"] {
        let mut metadata = host_cargo("metadata");
        metadata.args(["--format-version", "1", "--locked", "--filter-platform", "x86_64-unknown-linux-gnu"]);
        let metadata =
            command::run(metadata.arg("--manifest-path").arg(programs::workspace().join(manifest)))?;
        let refused = refused(&serde_json::from_str(&metadata)?, &allowed);
        if !refused.is_empty() {
            bail!("licences that deny.toml does not allow:\n  {}", refused.join("\n  "));
        }
    }
    if programs::find("cargo-deny").is_some() {
        return super::show("cargo deny", host_cargo("deny").args(["check", "bans", "licenses", "sources"]));
    }
    eprintln!(
        "    all are among those of deny.toml; cargo-deny is not installed, so nothing more is asked of it"
    );
    Ok(())
}

fn allowed() -> Result<BTreeSet<String>> {
    let text = fs::read_to_string(programs::workspace().join("deny.toml")).context("read deny.toml")?;
    let deny: toml::Table = text.parse().context("deny.toml")?;
    let list =
        deny.get("licenses").and_then(|licenses| licenses.get("allow")).and_then(toml::Value::as_array);
    let list = list.context("deny.toml has no licenses.allow")?;
    Ok(list.iter().filter_map(toml::Value::as_str).map(str::to_owned).collect())
}

fn refused(metadata: &Value, allowed: &BTreeSet<String>) -> Vec<String> {
    let packages = metadata["packages"].as_array().map(Vec::as_slice).unwrap_or_default();
    let refused = packages.iter().filter_map(|package| {
        let licence = package["license"].as_str().unwrap_or("none");
        (!is_allowed(licence, allowed))
            .then(|| format!("{} {}: {licence}", package["name"], package["version"]))
    });
    refused.collect()
}

/// Whether the SPDX expression `licence` can be met with the licences that are `allowed`.
fn is_allowed(licence: &str, allowed: &BTreeSet<String>) -> bool {
    // The slash is how crates wrote OR before SPDX expressions.
    let spaced = licence.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
    let mut words = spaced.split_whitespace().peekable();
    any(&mut words, allowed)
}

type Words<'a> = std::iter::Peekable<std::str::SplitWhitespace<'a>>;

fn any(words: &mut Words<'_>, allowed: &BTreeSet<String>) -> bool {
    let mut met = all(words, allowed);
    while words.next_if_eq(&"OR").is_some() {
        met |= all(words, allowed);
    }
    met
}

fn all(words: &mut Words<'_>, allowed: &BTreeSet<String>) -> bool {
    let mut met = one(words, allowed);
    while words.next_if_eq(&"AND").is_some() {
        met &= one(words, allowed);
    }
    met
}

fn one(words: &mut Words<'_>, allowed: &BTreeSet<String>) -> bool {
    match words.next() {
        Some("(") => {
            let met = any(words, allowed);
            words.next_if_eq(&")").is_some() && met
        }
        Some(name) => {
            let exception = words.next_if_eq(&"WITH").and_then(|_| words.next());
            let name =
                exception.map_or_else(|| name.to_owned(), |exception| format!("{name} WITH {exception}"));
            allowed.contains(&name)
        }
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expressions_are_met_as_spdx_means_them() {
        let allowed = ["MIT", "Apache-2.0", "Apache-2.0 WITH LLVM-exception"].map(String::from).into();
        for met in ["MIT", "MIT/GPL-3.0", "GPL-3.0 OR (MIT AND Apache-2.0)", "Apache-2.0 WITH LLVM-exception"]
        {
            assert!(is_allowed(met, &allowed), "{met}");
        }
        for unmet in ["GPL-3.0", "MIT AND GPL-3.0", "(MIT OR GPL-3.0) AND ISC", "MIT WITH x", "none", ""] {
            assert!(!is_allowed(unmet, &allowed), "{unmet}");
        }
    }
}
