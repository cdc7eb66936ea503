//! The files that a configuration names, also one that is refused.

#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};

use toml::{Table, Value};

/// The keys whose values are files.
const KEYS: [&str; 6] = ["cert", "key", "client_ca", "client_crl", "ca", "eab_key"];

/// The files that `table` names, which are relative to `directory`.
#[must_use]
pub fn named_files(table: &Table, directory: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for (key, value) in table {
        match value {
            Value::String(path) if KEYS.contains(&key.as_str()) => files.push(directory.join(path)),
            value => add(value, directory, &mut files),
        }
    }
    files
}

fn add(value: &Value, directory: &Path, files: &mut Vec<PathBuf>) {
    match value {
        Value::Table(table) => files.extend(named_files(table, directory)),
        Value::Array(values) => values.iter().for_each(|value| add(value, directory, files)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_are_found_wherever_they_stand() {
        let text = "[[certificate]]\ncert = '/etc/tls/a/cert.pem'\nkey = 'keys/a.key'\n[acme]\nca = '../ca.pem'\n\
                    [[route]]\nhost = 'key'\nupstream = [{ to = 'https://a', ca = 'dc2.pem' }]\n";
        let mut files = named_files(&text.parse().unwrap(), Path::new("/home/web"));
        files.sort();
        let expected =
            ["/etc/tls/a/cert.pem", "/home/web/../ca.pem", "/home/web/dc2.pem", "/home/web/keys/a.key"];
        assert_eq!(files, expected.map(PathBuf::from));
    }
}
