//! What an operator sees of `rprox-agent` before it serves: exit statuses, messages, documents.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::fs;
use std::process::{Command, Output};

fn agent(words: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_rprox-agent")).args(words).env_remove("RPROX_LOG").output().unwrap()
}

fn status(output: &Output) -> i32 {
    output.status.code().unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

#[test]
fn check_shows_what_a_configuration_says() {
    let dir = tempfile::tempdir().unwrap();
    let key = rcgen::KeyPair::generate().unwrap();
    let params = rcgen::CertificateParams::new(vec!["registry.example.com".to_owned()]).unwrap();
    fs::write(dir.path().join("r.crt"), params.self_signed(&key).unwrap().pem()).unwrap();
    fs::write(dir.path().join("r.key"), key.serialize_pem()).unwrap();
    let file = dir.path().join("rprox.toml");
    let toml = "[dns]\nservers = '10.89.0.1'\nsearch = 'dns.podman'\n\n[[route]]\nhost = 'registry.example.com'\n\
                upstream = 'container-registry:80'\ncert = 'r.crt'\nkey = 'r.key'\n";
    fs::write(&file, toml).unwrap();

    let output = agent(&["check", "-c", file.to_str().unwrap()]);
    assert_eq!(status(&output), 0, "{}", stderr(&output));
    for line in [
        "The configuration is valid.",
        "  http   [::]:8080",
        "  https  [::]:8443",
        "  registry.example.com/  -> container-registry:80  (plain HTTP is redirected to HTTPS)",
        "r.crt: registry.example.com",
        "DNS servers: 10.89.0.1:53",
    ] {
        assert!(stdout(&output).contains(line), "no {line:?} in\n{}", stdout(&output));
    }
    assert!(stderr(&output).contains("chmod o="), "the key is open to all: {}", stderr(&output));
}

#[test]
fn check_refuses_a_bad_configuration_with_its_line() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("rprox.toml");
    fs::write(&file, "[[route]]\nhost = 'a'\nupstream = 'a:x'\n").unwrap();
    let output = agent(&["check", "-c", file.to_str().unwrap()]);
    assert_eq!(status(&output), 2);
    let expected = format!("{}:3:12: upstream \"a:x\": the port must be a number", file.display());
    assert!(stderr(&output).contains(&expected), "{}", stderr(&output));
}

#[test]
fn without_a_dns_server_it_does_not_start() {
    let dir = tempfile::tempdir().unwrap();
    let empty = dir.path().join("resolv.conf");
    fs::write(&empty, "").unwrap();
    let script = "mount --bind \"$1\" /etc/resolv.conf && exec \"$0\" run --allow-root --http 127.0.0.1:0 --route a=b:80";
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", script, env!("CARGO_BIN_EXE_rprox-agent")]).arg(&empty);
    let output = command.env("XDG_RUNTIME_DIR", dir.path()).output().unwrap();
    assert_eq!(status(&output), 2, "as `check` has it: {}", stderr(&output));
    assert!(stderr(&output).contains("/etc/resolv.conf names no DNS server"), "{}", stderr(&output));
    assert!(!dir.path().join("rprox").exists(), "nor does it leave a socket");
}

#[test]
fn the_admin_socket_takes_the_place_of_no_file() {
    let dir = tempfile::tempdir().unwrap();
    let (file, notes) = (dir.path().join("rprox.toml"), dir.path().join("notes"));
    let toml = format!(
        "listen.http = '127.0.0.1:0'\nadmin.listen = 'unix:{}'\n[[route]]\nhost = 'a'\nupstream = '127.0.0.1:9'\n",
        notes.display()
    );
    fs::write(&file, toml).unwrap();
    fs::write(&notes, "precious").unwrap();
    let output = agent(&["run", "--allow-root", "-c", file.to_str().unwrap()]);
    assert_eq!(status(&output), 3);
    assert!(stderr(&output).contains("there is something that is no socket"), "{}", stderr(&output));
    assert_eq!(fs::read_to_string(&notes).unwrap(), "precious");
}

#[test]
fn an_order_by_a_wrong_configuration_is_refused_with_its_line() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("rprox.toml");
    fs::write(&file, "[admin]\nlisten = 'tcp:1'\n").unwrap();
    let output = agent(&["reload", "-c", file.to_str().unwrap()]);
    assert_eq!(status(&output), 2);
    let expected = format!("{}:2:10: \"tcp:1\" is no place for the admin listener", file.display());
    assert!(stderr(&output).contains(&expected), "{}", stderr(&output));
}

#[test]
fn a_wrong_command_line_is_a_usage_error() {
    for words in [
        &["run", "--route", "nonsense"][..],
        &["check", "--http", "8080"],
        &["serve"],
        &["check", "--cert", "x"],
    ] {
        assert_eq!(status(&agent(words)), 2, "{words:?}");
    }
}

#[test]
fn root_is_refused_with_the_way_out() {
    assert!(rustix::process::geteuid().is_root(), "this test must run as root, to see root refused");
    let output = agent(&["run", "--route", "a=b:80"]);
    assert_eq!(status(&output), 3);
    assert!(stderr(&output).contains("--allow-root"), "{}", stderr(&output));
}

#[test]
fn documents_are_made_from_the_definitions() {
    let man = stdout(&agent(&["man"]));
    for text in [".TH rprox-agent 1", "RPROX-AGENT RUN", "\\-\\-dns\\-search", "Exit status"] {
        assert!(man.contains(text), "no {text:?} in the man page");
    }
    for shell in ["bash", "fish", "zsh"] {
        assert!(stdout(&agent(&["completions", shell])).contains("dns-search"), "{shell}");
    }
}
