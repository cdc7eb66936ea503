//! Datagrams that come back: to port 443, answered from 8443.

use std::io::ErrorKind;
use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rprox_tests::playground::{AGENT, Playground};
use rprox_tests::topology::HOST;

use super::super::Extent;
use super::super::series::{Better, Measurement, in_turn};
use super::way::Way;

/// Datagrams on their way at a time.
const WINDOW: u32 = 64;
const TO: u16 = 8443;
const PATIENCE: Duration = Duration::from_millis(100);

/// Round trips per second, by each way that has UDP.
pub(super) fn measure(playground: &Playground, extent: Extent) -> Result<Measurement> {
    let mut measurement = Measurement::new("UDP round trips", "1/s", Better::Higher);
    let topology = &playground.topology;
    let server = topology.host.enter_as(AGENT, || UdpSocket::bind(("::", TO)))??;
    server.set_read_timeout(Some(PATIENCE))?;
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| echo(&server, &stop));
        let measured = in_turn(extent.rounds, &Way::ALL, |way, counts| {
            let _applied = way.apply(playground)?;
            let port = if way == Way::Direct { TO } else { 443 };
            let target = SocketAddr::new(HOST.v4.into(), port);
            let client = topology.client.enter(|| UdpSocket::bind("0.0.0.0:0"))??;
            client.connect(target)?;
            client.set_read_timeout(Some(PATIENCE))?;
            let rate = round_trips(&client, Duration::from_secs(extent.seconds))
                .with_context(|| format!("{} by {}", target, way.name()))?;
            if counts {
                measurement.add(way.name(), rate);
            }
            Ok(())
        });
        stop.store(true, Ordering::Relaxed);
        measured
    })?;
    Ok(measurement)
}

fn echo(server: &UdpSocket, stop: &AtomicBool) {
    let mut buffer = [0; 2048];
    while !stop.load(Ordering::Relaxed) {
        if let Ok((length, from)) = server.recv_from(&mut buffer) {
            let _ = server.send_to(&buffer[..length], from);
        }
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
