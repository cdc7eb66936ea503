//! Datagrams that come back: to port 443, answered from 8443.

use std::io::ErrorKind;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rprox_tests::playground::AGENT;
use rprox_tests::topology::HOST;

use super::super::Extent;
use super::host::Host;
use super::way::Way;

/// The row.
pub(super) const NAME: &str = "UDP round trips";

/// Datagrams on their way at a time.
const WINDOW: u32 = 64;
const TO: u16 = 8443;
const PATIENCE: Duration = Duration::from_millis(100);
/// Of a quick round.
const QUICK: Duration = Duration::from_millis(300);

/// Sends every datagram back, until the guard goes.
pub(super) struct Echo {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Echo {
    pub(super) fn start(host: &Host) -> Result<Self> {
        let server = host.playground.topology.host.enter_as(AGENT, || UdpSocket::bind(("::", TO)))??;
        server.set_read_timeout(Some(PATIENCE))?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            let mut buffer = [0; 2048];
            while !stopped.load(Ordering::Relaxed) {
                if let Ok((length, from)) = server.recv_from(&mut buffer) {
                    let _ = server.send_to(&buffer[..length], from);
                }
            }
        });
        Ok(Self { stop, thread: Some(thread) })
    }

    /// Round trips per second.
    #[expect(clippy::unused_self, reason = "there are none without it")]
    pub(super) fn round_trips(&self, host: &Host, way: Way, extent: Extent) -> Result<f64> {
        let port = if way.is_direct() { TO } else { 443 };
        let target = SocketAddr::new(HOST.v4.into(), port);
        let client = host.playground.topology.client.enter(|| UdpSocket::bind("0.0.0.0:0"))??;
        client.connect(target)?;
        client.set_read_timeout(Some(PATIENCE))?;
        let time = if extent.quick { QUICK } else { Duration::from_secs(1) };
        round_trips(&client, time).with_context(|| format!("{target} by {}", way.name()))
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

fn round_trips(client: &UdpSocket, time: Duration) -> Result<f64> {
    let mut buffer = [0; 2048];
    let datagram = [b'x'; 100];
    for _ in 0..WINDOW {
        client.send(&datagram)?;
    }
    let begun = Instant::now();
    let mut answered = 0_u32;
    while begun.elapsed() < time {
        match client.recv(&mut buffer) {
            Ok(length) if length == datagram.len() => {
                answered += 1;
                client.send(&datagram)?;
            }
            Ok(length) => bail!("{length} bytes came back of {}", datagram.len()),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                bail!("a datagram was lost after {answered} round trips")
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(f64::from(answered) / begun.elapsed().as_secs_f64())
}
