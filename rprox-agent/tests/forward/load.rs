//! Clients that ask without a pause, and notice everything that isn't a good answer.

use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::agent::PATIENCE;
use crate::client::{connect, read_reply};

/// Half of the clients keep their connection for as long as the agent lets them, half make one for each request.
const CLIENTS: usize = 8;

pub(crate) struct Load {
    ends: Arc<AtomicBool>,
    done: Arc<AtomicUsize>,
    clients: Vec<JoinHandle<()>>,
}

impl Load {
    /// Clients of `address` that ask for `host` until [`end`](Self::end), and fail at any answer but 200.
    pub(crate) fn start(address: SocketAddr, host: &'static str) -> Self {
        let (ends, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let clients = (0..CLIENTS)
            .map(|number| {
                let (ends, done) = (Arc::clone(&ends), Arc::clone(&done));
                thread::spawn(move || ask(address, host, number % 2 == 0, &ends, &done))
            })
            .collect();
        Self { ends, done, clients }
    }

    /// Waits until `more` requests have been answered from now on.
    pub(crate) fn proceed(&self, more: usize) {
        let goal = self.done.load(Ordering::Relaxed) + more;
        let deadline = Instant::now() + PATIENCE;
        while self.done.load(Ordering::Relaxed) < goal {
            assert!(Instant::now() < deadline, "the load has come to a halt");
            assert!(!self.clients.iter().any(JoinHandle::is_finished), "a request failed");
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// Ends, and fails if any request has. Returns how many there were.
    pub(crate) fn end(self) -> usize {
        self.ends.store(true, Ordering::Relaxed);
        for client in self.clients {
            client.join().expect("a request failed");
        }
        self.done.load(Ordering::Relaxed)
    }
}

fn ask(address: SocketAddr, host: &str, keep: bool, ends: &AtomicBool, done: &AtomicUsize) {
    let request = format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n");
    let mut kept: Option<TcpStream> = None;
    while !ends.load(Ordering::Relaxed) {
        let mut stream = kept.take().unwrap_or_else(|| connect(address));
        stream.write_all(request.as_bytes()).unwrap();
        let reply = read_reply(&mut stream);
        assert_eq!(reply.status(), 200, "{}", reply.head);
        done.fetch_add(1, Ordering::Relaxed);
        if keep && reply.field("connection") != Some("close") {
            kept = Some(stream);
        }
    }
}
