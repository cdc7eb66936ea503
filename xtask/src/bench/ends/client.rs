//! Connections that ask for one thing.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use rustls::client::Resumption;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, HandshakeKind, RootCertStore, StreamOwned};

use super::HOST;

/// Connections that are being opened at the same time: both sides have something to do then.
const OPENERS: usize = 4;
const PATIENCE: Duration = Duration::from_secs(10);

type Tls = StreamOwned<ClientConnection, TcpStream>;

/// Opens `count` connections, on each of which one request was answered.
pub(super) fn open(target: SocketAddr, count: usize) -> Result<Vec<TcpStream>> {
    many(count, || ask(connect(target)?))
}

/// The same over TLS, by a full handshake each.
pub(super) fn open_tls(target: SocketAddr, count: usize, trust: &Path) -> Result<Vec<Tls>> {
    let config = config(trust, false)?;
    many(count, || ask(secure(target, &config)?))
}

/// Does `count` TLS handshakes, with a request each.
pub(super) fn handshakes(target: SocketAddr, count: usize, trust: &Path, resumed: bool) -> Result<()> {
    let config = config(trust, resumed)?;
    let wanted = if resumed { HandshakeKind::Resumed } else { HandshakeKind::Full };
    for number in 0..=count {
        let stream = ask(secure(target, &config)?)?;
        // The first brings the ticket.
        if number > 0 && stream.conn.handshake_kind() != Some(wanted) {
            bail!("handshake {number} was {:?} instead of {wanted:?}", stream.conn.handshake_kind());
        }
    }
    Ok(())
}

fn many<S: Send>(count: usize, open: impl Fn() -> Result<S> + Sync) -> Result<Vec<S>> {
    thread::scope(|scope| {
        let part = |opener| (count + opener) / OPENERS;
        let openers: Vec<_> = (0..OPENERS)
            .map(|opener| {
                scope.spawn({
                    let open = &open;
                    move || (0..part(opener)).map(|_| open()).collect::<Result<Vec<_>>>()
                })
            })
            .collect();
        let mut all = Vec::with_capacity(count);
        for opener in openers {
            all.extend(opener.join().map_err(|_| anyhow!("panicked while it opened connections"))??);
        }
        Ok(all)
    })
}

pub(super) fn connect(target: SocketAddr) -> Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&target, PATIENCE).with_context(|| target.to_string())?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

fn secure(target: SocketAddr, config: &Arc<ClientConfig>) -> Result<Tls> {
    let connection = ClientConnection::new(Arc::clone(config), ServerName::try_from(HOST)?)?;
    Ok(StreamOwned::new(connection, connect(target)?))
}

fn config(trust: &Path, resumes: bool) -> Result<Arc<ClientConfig>> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(trust).with_context(|| trust.display().to_string())?)?;
    let mut config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    config.resumption = if resumes { Resumption::in_memory_sessions(8) } else { Resumption::disabled() };
    Ok(Arc::new(config))
}

/// Asks for `/1k` and reads the answer to its end.
fn ask<S: Read + Write>(mut stream: S) -> Result<S> {
    const LENGTH: usize = 1024;
    write!(stream, "GET /1k HTTP/1.1\r\nHost: {HOST}\r\n\r\n")?;
    let (mut answer, mut buffer) = (Vec::new(), [0; 4096]);
    let body = loop {
        let read = stream.read(&mut buffer).with_context(|| format!("after {} bytes", answer.len()))?;
        answer.extend_from_slice(&buffer[..read]);
        let head = answer.windows(4).position(|window| window == b"\r\n\r\n");
        match head.map(|head| &answer[head + 4..]) {
            Some(body) if body.len() >= LENGTH => break body,
            _ if read == 0 => bail!("the answer ended early: {}", String::from_utf8_lossy(&answer)),
            _ => {}
        }
    };
    if !answer.starts_with(b"HTTP/1.1 200 ") || body != [b'x'; LENGTH] {
        bail!("the answer is {}", String::from_utf8_lossy(&answer[..answer.len().min(200)]));
    }
    Ok(stream)
}
