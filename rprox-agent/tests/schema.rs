//! The configuration's JSON schema against the configurations and keys that the README shows.

#![cfg(feature = "proxy")]
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use boon::{Compiler, SchemaIndex, Schemas};
use serde_json::Value;

fn schema() -> Value {
    let output = Command::new(env!("CARGO_BIN_EXE_rprox-agent")).arg("schema").output().unwrap();
    assert!(output.status.success());
    serde_json::from_slice(&output.stdout).unwrap()
}

fn readme() -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../README.md")).unwrap()
}

struct Validator(Schemas, SchemaIndex);

impl Validator {
    fn new() -> Self {
        let (mut schemas, mut compiler) = (Schemas::new(), Compiler::new());
        compiler.add_resource("rprox.json", schema()).unwrap();
        let index = compiler.compile("rprox.json", &mut schemas).unwrap();
        Self(schemas, index)
    }

    fn accepts(&self, configuration: &str) -> Result<(), String> {
        let table: toml::Table = toml::from_str(configuration).unwrap();
        let json = serde_json::to_value(table).unwrap();
        self.0.validate(&json, self.1).map_err(|error| format!("{configuration}\n{error:#}"))
    }
}

/// The configurations of the agent among the README's examples.
fn examples(readme: &str) -> Vec<&str> {
    let blocks = readme.split("```toml").skip(1).map(|rest| rest.split("```").next().unwrap());
    let blocks = blocks.map(|block| block.split_once('\n').unwrap().1);
    blocks.filter(|block| block.contains("[[route]]") && !block.contains("owner")).collect()
}

#[test]
fn it_takes_the_readme_s_examples_and_no_mistakes() {
    let validator = Validator::new();
    let readme = readme();
    let examples = examples(&readme);
    assert!(examples.len() >= 2, "{examples:?}");
    for example in examples {
        validator.accepts(example).unwrap();
    }
    for mistake in [
        "nonsense = 1",
        "[[route]]\nhost = 'a'",
        "[[route]]\nhost = 'a'\nupsteam = 'b'",
        "drain_timeout = 'soon'",
        "drain_timeout = 5",
        "[log]\naccess_format = 'xml'",
        "[limits]\nheader_bytes = '64 kilobytes'",
    ] {
        assert!(validator.accepts(mistake).is_err(), "{mistake}");
    }
}

#[test]
fn the_readme_s_table_has_every_key() {
    let schema = schema();
    let mut keys = BTreeSet::new();
    collect(&schema, &schema, "", &mut keys);
    let readme = readme();
    let agent = &readme[readme.find("\n## The agent").unwrap()..];
    let rows = agent.lines().filter(|line| line.starts_with("| `"));
    let told: BTreeSet<String> = rows.flat_map(|row| told_in(row[1..].split('|').next().unwrap())).collect();
    let missing: Vec<_> = keys.iter().filter(|key| !told.contains(*key)).collect();
    assert!(missing.is_empty(), "the README's table lacks {missing:?}");
}

/// The keys between backticks, of which one that begins with a dot is beside the one before it.
fn told_in(cell: &str) -> Vec<String> {
    let mut keys: Vec<String> = Vec::new();
    for key in cell.split('`').skip(1).step_by(2) {
        let beside = keys.last().and_then(|last| last.rsplit_once('.'));
        let whole = beside.filter(|_| key.starts_with('.')).map(|(table, _)| format!("{table}{key}"));
        keys.push(whole.unwrap_or_else(|| key.to_owned()));
    }
    keys
}

/// The names of all keys below `part`, with the tables that they are in.
fn collect(schema: &Value, part: &Value, prefix: &str, keys: &mut BTreeSet<String>) {
    if let Some(reference) = part["$ref"].as_str() {
        let path = reference.strip_prefix('#').unwrap();
        return collect(schema, schema.pointer(path).unwrap(), prefix, keys);
    }
    for one in ["anyOf", "oneOf"].into_iter().filter_map(|key| part[key].as_array()).flatten() {
        collect(schema, one, prefix, keys);
    }
    if part["items"].is_object() {
        collect(schema, &part["items"], prefix, keys);
    }
    for (name, property) in part["properties"].as_object().into_iter().flatten() {
        let key = if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
        let before = keys.len();
        collect(schema, property, &key, keys);
        if keys.len() == before {
            keys.insert(key);
        }
    }
}
