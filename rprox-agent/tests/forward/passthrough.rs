//! Connections whose TLS is the upstream's: what each end sees of the other, and what the agent does about it.

mod bytes;
mod ends;
mod hello;
mod nginx;
mod operation;
mod plain_http;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;

use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection, StreamOwned};

use crate::agent::{Agent, PATIENCE};
use crate::client::{TlsStream, connect};

/// A route that passes `host` through to `upstream`, which may be a list.
fn route(host: &str, upstream: impl std::fmt::Display) -> String {
    let upstream = upstream.to_string();
    let upstream = if upstream.starts_with('[') { upstream } else { format!("\"{upstream}\"") };
    format!("[[route]]\nhost = \"{host}\"\ntls = \"passthrough\"\nupstream = {upstream}\n")
}

/// An upstream with a certificate of its own. It sends back what it gets, and at the end of that ends.
struct Secure {
    address: SocketAddr,
    certificate: CertificateDer<'static>,
}

impl Secure {
    fn start(name: &str) -> Self {
        let CertifiedKey { cert, signing_key } = generate_simple_self_signed([name.to_owned()]).unwrap();
        let key = PrivateKeyDer::try_from(signing_key.serialize_der()).unwrap();
        let certificate = cert.der().clone();
        let config = ServerConfig::builder().with_no_client_auth();
        let mut config = config.with_single_cert(vec![certificate.clone()], key).unwrap();
        config.alpn_protocols = vec![b"echo".to_vec(), b"acme-tls/1".to_vec()];
        let config = Arc::new(config);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        thread::spawn(move || {
            for tcp in listener.incoming() {
                let config = Arc::clone(&config);
                thread::spawn(move || {
                    echo(StreamOwned::new(ServerConnection::new(config).unwrap(), tcp.unwrap()));
                });
            }
        });
        Self { address, certificate }
    }
}

fn echo(mut stream: StreamOwned<ServerConnection, TcpStream>) {
    let mut piece = [0; 4096];
    while let Ok(read @ 1..) = stream.read(&mut piece) {
        if stream.write_all(&piece[..read]).and_then(|()| stream.flush()).is_err() {
            return;
        }
    }
    stream.conn.send_close_notify();
    let _ = stream.flush();
}

/// A client that asks for `name`, and for these protocols, and believes `certificate` alone.
fn client(name: &str, certificate: &[u8], protocols: &[&str]) -> ClientConnection {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from(certificate.to_vec())).unwrap();
    let mut config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
    let name = ServerName::try_from(name.to_owned()).unwrap();
    ClientConnection::new(Arc::new(config), name).unwrap()
}

/// A `ClientHello` that asks for `name`, as the bytes that go over the wire.
fn hello(name: &str) -> Vec<u8> {
    let CertifiedKey { cert, .. } = generate_simple_self_signed([name.to_owned()]).unwrap();
    let mut bytes = Vec::new();
    client(name, cert.der(), &[]).write_tls(&mut bytes).unwrap();
    bytes
}

/// TLS with whoever the agent has answer for `name`, who must show `certificate`.
fn over_tls(agent: &Agent, name: &str, certificate: &[u8]) -> TlsStream {
    StreamOwned::new(client(name, certificate, &[]), connect(agent.https))
}

/// Whether what is said comes back.
fn echoes(stream: &mut TlsStream, said: &str) -> bool {
    let mut heard = vec![0; said.len()];
    stream.write_all(said.as_bytes()).unwrap();
    stream.read_exact(&mut heard).unwrap();
    heard == said.as_bytes()
}

/// A listener that sees the bytes as they come, and a connection through the agent to it that has said hello.
fn raw(more: &str) -> (Agent, TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let agent =
        Agent::start(&[], &format!("{more}\n{}", route("raw.example", listener.local_addr().unwrap())));
    let (client, upstream) = raw_connection(&agent, &listener);
    (agent, client, upstream)
}

fn raw_connection(agent: &Agent, listener: &TcpListener) -> (TcpStream, TcpStream) {
    let mut client = connect(agent.https);
    let hello = hello("raw.example");
    client.write_all(&hello).unwrap();
    let (mut upstream, _) = listener.accept().unwrap();
    upstream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut seen = vec![0; hello.len()];
    upstream.read_exact(&mut seen).unwrap();
    assert_eq!(seen, hello, "the hello arrives byte for byte");
    (client, upstream)
}
