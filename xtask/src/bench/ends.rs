//! Ends of connections that no load generator and no web server is: connections that are held, handshakes, full or resumed,
//! and a server that reads an upload to its end before it answers.
//!
//! They are processes of their own (`cargo xtask bench-end`, which no help text shows): to keep to a processor, to be in a
//! network namespace, and since one process may have only so many descriptors.

use std::io::{self, BufRead as _, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use rprox_tests::command;
use rprox_tests::netns::{Netns, Unprivileged};
use rprox_tests::process::Process;
use rustls::client::Resumption;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, HandshakeKind, RootCertStore, StreamOwned};

use super::load::LOAD_PROCESSOR;

/// The host that everything is asked for.
pub(super) const HOST: &str = "bench.test";

/// Connections of one process.
const EACH: usize = 10_000;
const PATIENCE: Duration = Duration::from_secs(10);
const READY: &str = "ready";

/// What an end does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Deed {
    /// Opens connections, asks once on each, and holds them.
    Hold,
    /// The same over TLS.
    HoldTls,
    /// A full TLS handshake and a request, again and again.
    Handshakes,
    /// A resumed one.
    Resumptions,
    /// Listens, and takes whatever is uploaded; the count means nothing.
    Take,
}

/// The flags of `cargo xtask bench-end`.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    deed: Deed,
    target: SocketAddr,
    count: usize,
    /// The certificate to trust.
    authority: Option<PathBuf>,
}

/// Opens `count` connections from `netns` and holds them until the guards go.
///
/// # Errors
///
/// One was refused.
pub(super) fn hold(
    netns: &Netns,
    deed: Deed,
    target: SocketAddr,
    count: usize,
    trust: &Path,
) -> Result<Vec<Process>> {
    let mut processes = Vec::new();
    for first in (0..count).step_by(EACH) {
        let mut command = netns.command(std::env::current_exe()?);
        let part = EACH.min(count - first);
        command.arg("bench-end").arg(deed.word()).args([target.to_string(), part.to_string()]).arg(trust);
        processes.push(Process::start("bench-end", command)?);
    }
    for process in &mut processes {
        process.wait_until("connections to be held", |process| {
            process.said().iter().any(|line| line == READY)
        })?;
    }
    Ok(processes)
}

/// Does `count` handshakes.
///
/// # Errors
///
/// One failed, or was not of the kind that was wanted.
pub(super) fn handshakes(
    netns: &Netns,
    deed: Deed,
    target: SocketAddr,
    count: usize,
    trust: &Path,
) -> Result<()> {
    let mut command = netns.command("taskset");
    command.args(["--cpu-list", LOAD_PROCESSOR]).arg(std::env::current_exe()?);
    command.arg("bench-end").arg(deed.word()).args([target.to_string(), count.to_string()]).arg(trust);
    command::run(&mut command).map(drop)
}

/// Starts the server that takes uploads at `address`.
///
/// # Errors
///
/// It can't listen there.
pub(super) fn take(netns: &Netns, user: Unprivileged, address: SocketAddr) -> Result<Process> {
    let mut command = netns.command_as(user, "taskset");
    command.args(["--cpu-list", LOAD_PROCESSOR]).arg(std::env::current_exe()?);
    command.arg("bench-end").arg(Deed::Take.word()).args([&address.to_string(), "1"]);
    let mut process = Process::start("bench-end", command)?;
    process.wait_until("uploads to be taken", |process| process.said().iter().any(|line| line == READY))?;
    Ok(process)
}

impl Deed {
    fn word(self) -> String {
        self.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
    }
}

/// What the process does.
///
/// # Errors
///
/// A request failed.
pub(crate) fn act(arguments: &Arguments) -> Result<()> {
    let Arguments { deed, target, count, authority } = arguments;
    match deed {
        Deed::Hold => wait(&(0..*count).map(|_| ask(connect(*target)?)).collect::<Result<Vec<_>>>()?),
        Deed::HoldTls => {
            let config = config(authority.as_deref(), false)?;
            wait(&(0..*count).map(|_| ask(secure(*target, &config)?)).collect::<Result<Vec<_>>>()?);
        }
        Deed::Take => {
            let listener = TcpListener::bind(target)?;
            println!("{READY}");
            for stream in listener.incoming() {
                let stream = stream?;
                // One that ends badly is seen at the other end.
                thread::spawn(move || serve(&stream));
            }
        }
        Deed::Handshakes | Deed::Resumptions => {
            let resumes = *deed == Deed::Resumptions;
            let config = config(authority.as_deref(), resumes)?;
            let wanted = if resumes { HandshakeKind::Resumed } else { HandshakeKind::Full };
            for number in 0..=*count {
                let stream = ask(secure(*target, &config)?)?;
                // The first brings the ticket.
                if number > 0 && stream.conn.handshake_kind() != Some(wanted) {
                    bail!("handshake {number} was {:?} instead of {wanted:?}", stream.conn.handshake_kind());
                }
            }
        }
    }
    Ok(())
}

fn wait<T>(held: &[T]) {
    println!("{READY}");
    while !held.is_empty() {
        thread::park();
    }
}

fn connect(target: SocketAddr) -> Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&target, PATIENCE).with_context(|| target.to_string())?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

fn secure(
    target: SocketAddr,
    config: &Arc<ClientConfig>,
) -> Result<StreamOwned<ClientConnection, TcpStream>> {
    let connection = ClientConnection::new(Arc::clone(config), ServerName::try_from(HOST)?)?;
    Ok(StreamOwned::new(connection, connect(target)?))
}

fn config(authority: Option<&Path>, resumes: bool) -> Result<Arc<ClientConfig>> {
    let authority = authority.context("TLS needs a certificate to trust")?;
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(authority).with_context(|| authority.display().to_string())?)?;
    let mut config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    config.resumption = if resumes { Resumption::in_memory_sessions(8) } else { Resumption::disabled() };
    Ok(Arc::new(config))
}

/// Reads requests to the end of their bodies, and answers each.
fn serve(stream: &TcpStream) -> Result<()> {
    let mut reader = BufReader::with_capacity(256 << 10, stream);
    stream.set_nodelay(true)?;
    loop {
        let (mut length, mut line) = (0, String::new());
        while line != "\r\n" {
            line.clear();
            if reader.read_line(&mut line)? == 0 {
                return Ok(());
            }
            if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse()?;
            }
        }
        let read = io::copy(&mut reader.by_ref().take(length), &mut io::sink())?;
        if read < length {
            bail!("a body of {length} bytes ended after {read}");
        }
        (&*stream).write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")?;
    }
}

/// Asks for `/1k` and reads the answer to its end.
fn ask<S: Read + Write>(mut stream: S) -> Result<S> {
    write!(stream, "GET /1k HTTP/1.1\r\nHost: {HOST}\r\n\r\n")?;
    let (mut answer, mut buffer) = (Vec::new(), [0; 4096]);
    loop {
        let read = stream.read(&mut buffer)?;
        answer.extend_from_slice(&buffer[..read]);
        let head = answer.windows(4).position(|window| window == b"\r\n\r\n");
        if head.is_some_and(|head| answer.len() >= head + 4 + 1024) {
            break;
        }
        if read == 0 {
            bail!("the answer ended early: {}", String::from_utf8_lossy(&answer));
        }
    }
    if !answer.starts_with(b"HTTP/1.1 200 ") {
        bail!("the answer is {}", String::from_utf8_lossy(&answer[..answer.len().min(200)]));
    }
    Ok(stream)
}
