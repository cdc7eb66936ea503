//! nginx with a certificate of its own, seen by curl, and told whose connection it is.

use std::fs;
use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;

use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustls::StreamOwned;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use super::{client, route};
use crate::agent::{Agent, free_address};
use crate::client::{connect, read_reply};
use crate::nginx::Nginx;

/// nginx, which says whose connection it has.
struct Mirror {
    plain: SocketAddr,
    told: SocketAddr,
    certificate: PathBuf,
    _nginx: Nginx,
}

impl Mirror {
    fn start(name: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let CertifiedKey { cert, signing_key } = generate_simple_self_signed([name.to_owned()]).unwrap();
        let (certificate, key) = (folder.path().join("cert.pem"), folder.path().join("key.pem"));
        fs::write(&certificate, cert.pem()).unwrap();
        fs::write(&key, signing_key.serialize_pem()).unwrap();
        let (plain, told) = (free_address(), free_address());
        let servers = format!(
            "ssl_certificate {}; ssl_certificate_key {};\n\
             server {{ listen {plain} ssl http2; listen {told} ssl proxy_protocol;\n\
             location / {{ return 200 \"$server_protocol $ssl_server_name $proxy_protocol_addr\"; }} }}",
            certificate.display(),
            key.display()
        );
        Self { plain, told, certificate, _nginx: Nginx::start(folder, &servers, told) }
    }
}

/// What curl gets from `name`, if it believes nobody but nginx.
fn curl(agent: &Agent, nginx: &Mirror, name: &str, arguments: &[&str]) -> String {
    let output = Command::new("curl")
        .args(["--silent", "--show-error", "--max-time", "20", "--cacert"])
        .arg(&nginx.certificate)
        .args(["--connect-to", &format!("{name}:443:{}", agent.https)])
        .args(arguments)
        .arg(format!("https://{name}/"))
        .output()
        .expect("curl runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn curl_sees_the_upstream_s_certificate_and_speaks_what_that_speaks() {
    let nginx = Mirror::start("a.example");
    let agent = Agent::start(&[], &route("a.example", nginx.plain));
    assert_eq!(curl(&agent, &nginx, "a.example", &["--http2"]), "HTTP/2.0 a.example ");
    assert_eq!(curl(&agent, &nginx, "a.example", &["--http1.1"]), "HTTP/1.1 a.example ");
    assert_eq!(curl(&agent, &nginx, "a.example", &["--tls-max", "1.2", "--http1.1"]), "HTTP/1.1 a.example ");
}

#[test]
fn nginx_is_told_whose_connection_it_is() {
    let nginx = Mirror::start("a.example");
    for version in ["v1", "v2"] {
        let more = format!(
            "listen.proxy_protocol = [\"127.0.0.1\"]\n{}proxy_protocol = \"{version}\"\n",
            route("a.example", nginx.told)
        );
        let agent = Agent::start(&[], &more);
        let mut tcp = connect(agent.https);
        tcp.write_all(b"PROXY TCP4 192.0.2.7 192.0.2.1 4711 443\r\n").unwrap();
        let certificate = CertificateDer::from_pem_file(&nginx.certificate).unwrap();
        let mut stream = StreamOwned::new(client("a.example", &certificate, &[]), tcp);
        stream.write_all(b"GET / HTTP/1.1\r\nHost: a.example\r\n\r\n").unwrap();
        assert_eq!(read_reply(&mut stream).text(), "HTTP/1.1 a.example 192.0.2.7", "{version}");
    }
}
