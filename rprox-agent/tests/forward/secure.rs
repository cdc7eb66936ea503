//! Upstreams that speak TLS.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair, date_time_ymd};
use rustls::pki_types::PrivateKeyDer;
use rustls::{HandshakeKind, ServerConfig, ServerConnection, StreamOwned};
use tempfile::TempDir;

use crate::agent::{Agent, PATIENCE};
use crate::client::get;
use crate::upstream::Upstream;

/// Serves one request a connection, over TLS and HTTP/1.1.
struct SecureUpstream {
    address: SocketAddr,
    folder: TempDir,
    connections: Arc<AtomicUsize>,
    resumed: Arc<AtomicUsize>,
}

impl SecureUpstream {
    fn start(name: &str) -> Self {
        Self::with_own(&CertificateParams::new([name.to_owned()]).unwrap())
    }

    /// With a certificate like this, which signs itself.
    fn with_own(params: &CertificateParams) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let signing_key = KeyPair::generate().unwrap();
        let cert = params.self_signed(&signing_key).unwrap();
        fs::write(folder.path().join("ca.pem"), cert.pem()).unwrap();
        let key = PrivateKeyDer::try_from(signing_key.serialize_der()).unwrap();
        let config = ServerConfig::builder().with_no_client_auth();
        let config = Arc::new(config.with_single_cert(vec![cert.der().clone()], key).unwrap());
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (connections, resumed) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let (all, again) = (Arc::clone(&connections), Arc::clone(&resumed));
        thread::spawn(move || {
            for tcp in listener.incoming() {
                let tcp = tcp.unwrap();
                tcp.set_read_timeout(Some(PATIENCE)).unwrap();
                let mut stream = StreamOwned::new(ServerConnection::new(Arc::clone(&config)).unwrap(), tcp);
                let (all, again) = (Arc::clone(&all), Arc::clone(&again));
                thread::spawn(move || {
                    let mut head = Vec::new();
                    while !head.ends_with(b"\r\n\r\n") {
                        let mut byte = [0];
                        if !matches!(stream.read(&mut byte), Ok(1)) {
                            return;
                        }
                        head.push(byte[0]);
                    }
                    all.fetch_add(1, Ordering::Relaxed);
                    if stream.conn.handshake_kind() == Some(HandshakeKind::Resumed) {
                        again.fetch_add(1, Ordering::Relaxed);
                    }
                    let name = stream.conn.server_name().unwrap_or_default().to_owned();
                    let length = name.len();
                    write!(
                        stream,
                        "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{name}"
                    )
                    .unwrap();
                    stream.conn.send_close_notify();
                    let _ = stream.flush();
                });
            }
        });
        Self { address, folder, connections, resumed }
    }

    fn ca(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }
}

/// A route to `address` over TLS.
fn route(address: SocketAddr, more: &str) -> String {
    format!("[[route]]\nhost = \"a.example\"\nupstream = {{ to = \"https://{address}\"{more} }}")
}

#[test]
fn an_upstream_with_the_right_certificate_is_served_from() {
    let upstream = SecureUpstream::start("inside.example");
    let more = format!(", ca = \"{}\", server_name = \"inside.example\"", upstream.ca().display());
    let agent = Agent::start(&[], &route(upstream.address, &more));
    let reply = get(&agent, "a.example", "/");
    assert_eq!((reply.status(), reply.text()), (200, "inside.example"), "the name is asked for by SNI");
}

#[test]
fn a_certificate_that_signed_itself_is_believed_when_it_is_given() {
    // As `openssl req -x509` makes it, and so most appliances.
    let mut params = CertificateParams::new(["inside.example".to_owned()]).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let upstream = SecureUpstream::with_own(&params);
    let more = |name: &str| format!(", ca = \"{}\", server_name = \"{name}\"", upstream.ca().display());
    let agent = Agent::start(&[], &route(upstream.address, &more("inside.example")));
    assert_eq!(get(&agent, "a.example", "/").status(), 200);

    let mut agent = Agent::start(&[], &route(upstream.address, &more("outside.example")));
    assert_eq!(get(&agent, "a.example", "/").status(), 502);
    let line = agent.logged("502 Bad Gateway");
    assert!(line.contains("outside.example") && line.contains("inside.example"), "{line}");

    params.not_after = date_time_ymd(2020, 1, 1);
    let upstream = SecureUpstream::with_own(&params);
    let more = format!(", ca = \"{}\", server_name = \"inside.example\"", upstream.ca().display());
    let mut agent = Agent::start(&[], &route(upstream.address, &more));
    assert_eq!(get(&agent, "a.example", "/").status(), 502);
    assert!(agent.logged("502 Bad Gateway").contains("expired"));
}

#[test]
fn sessions_are_resumed() {
    let upstream = SecureUpstream::start("inside.example");
    let more = format!(", ca = \"{}\", server_name = \"inside.example\"", upstream.ca().display());
    let agent = Agent::start(&[], &route(upstream.address, &more));
    for _ in 0..10 {
        assert_eq!(get(&agent, "a.example", "/").status(), 200);
    }
    assert_eq!(upstream.connections.load(Ordering::Relaxed), 10);
    assert!(upstream.resumed.load(Ordering::Relaxed) >= 8, "{:?}", upstream.resumed);
}

#[test]
fn a_certificate_of_an_authority_that_is_not_believed_is_502_and_the_log_says_why() {
    let (upstream, other) =
        (SecureUpstream::start("inside.example"), SecureUpstream::start("inside.example"));
    let more = format!(", ca = \"{}\", server_name = \"inside.example\"", other.ca().display());
    let mut agent = Agent::start(&[], &route(upstream.address, &more));
    let reply = get(&agent, "a.example", "/");
    assert_eq!(reply.status(), 502);
    assert!(!reply.text().contains("127.0.0.1"), "{}", reply.text());
    let line = agent.logged("502 Bad Gateway");
    assert!(line.contains("invalid peer certificate") && line.contains("ca and server_name"), "{line}");
    assert_eq!(upstream.connections.load(Ordering::Relaxed), 0, "not a byte of the request left");
}

#[test]
fn a_certificate_for_another_name_is_502_and_the_log_says_for_which() {
    let upstream = SecureUpstream::start("inside.example");
    let more = format!(", ca = \"{}\", server_name = \"outside.example\"", upstream.ca().display());
    let mut agent = Agent::start(&[], &route(upstream.address, &more));
    assert_eq!(get(&agent, "a.example", "/").status(), 502);
    let line = agent.logged("502 Bad Gateway");
    assert!(line.contains("outside.example") && line.contains("inside.example"), "{line}");
}

#[test]
fn an_endpoint_with_a_certificate_for_another_name_does_not_pass_its_checks() {
    let upstream = SecureUpstream::start("inside.example");
    let more = format!(", ca = \"{}\", server_name = \"outside.example\"", upstream.ca().display());
    let route = route(upstream.address, &more);
    let mut agent = Agent::start(&[], &format!("{route}\nhealth = {{ path = \"/\" }}"));
    let line = agent.logged("unhealthy: left out");
    assert!(line.contains("invalid peer certificate") && line.contains("outside.example"), "{line}");
}

#[test]
fn an_upstream_without_tls_is_502_and_not_spoken_to_in_the_clear() {
    let upstream = Upstream::mirror();
    let authority = SecureUpstream::start("inside.example");
    let more = format!(", ca = \"{}\"", authority.ca().display());
    let agent = Agent::start(&[], &route(upstream.address, &more));
    let reply = get(&agent, "a.example", "/");
    assert!(matches!(reply.status(), 502 | 504), "{}", reply.head);
}

#[test]
fn an_upstream_that_offers_http2_is_spoken_to_in_it() {
    let upstream = Upstream::mirror();
    let behind = Agent::start(&[("secure.example", &upstream.address.to_string())], "");
    let more =
        format!(", ca = \"{}\", server_name = \"secure.example\"", behind.beside("cert.pem").display());
    let address = behind.https;
    let agent = Agent::start(
        &[],
        &format!(
            "[[route]]\nhost = \"secure.example\"\nhttps_redirect = false\nupstream = {{ to = \"https://{address}\"{more} }}"
        ),
    );
    for _ in 0..5 {
        let reply = get(&agent, "secure.example", "/");
        assert_eq!(reply.status(), 200, "{}", reply.head);
        let text = reply.text().to_ascii_lowercase();
        assert!(text.contains("via: 2.0 rprox") && text.contains("host: secure.example"), "{text}");
    }
}
