//! An upstream that writes down every byte that it gets.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use rustix::event::{PollFd, PollFlags, poll};

/// Answers whatever it takes for a request with `200` and `ok`, after it has read all that has come by any connection.
pub(crate) struct Recorder {
    pub(crate) address: SocketAddr,
    seen: Arc<Mutex<Vec<u8>>>,
    open: Arc<AtomicUsize>,
}

struct Connection {
    stream: TcpStream,
    unread: Vec<u8>,
}

impl Recorder {
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let record = Arc::clone(&seen);
        let open = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&open);
        thread::spawn(move || {
            let mut connections = Vec::new();
            loop {
                wait(&listener, &connections);
                while let Ok((stream, _)) = listener.accept() {
                    stream.set_nonblocking(true).unwrap();
                    connections.push(Connection { stream, unread: Vec::new() });
                }
                count.store(connections.len(), Ordering::Release);
                connections.retain_mut(|connection| connection.read(&mut record.lock().unwrap()));
                count.store(connections.len(), Ordering::Release);
                connections.iter_mut().for_each(Connection::answer);
            }
        });
        Self { address, seen, open }
    }

    /// How many connections are open; what came by the others has been written down.
    pub(crate) fn open(&self) -> usize {
        self.open.load(Ordering::Acquire)
    }

    /// What came since it was last asked, without the lines that the agent adds to every request.
    pub(crate) fn take(&self) -> String {
        let seen = std::mem::take(&mut *self.seen.lock().unwrap());
        let text: String = seen.iter().map(|byte| char::from(*byte)).collect();
        let added = ["via: ", "x-forwarded-", "forwarded: "];
        text.split_inclusive("\r\n").filter(|line| !added.iter().any(|name| line.starts_with(name))).collect()
    }
}

fn wait(listener: &TcpListener, connections: &[Connection]) {
    let mut wanted = vec![PollFd::new(listener, PollFlags::IN)];
    wanted.extend(connections.iter().map(|connection| PollFd::new(&connection.stream, PollFlags::IN)));
    poll(&mut wanted, None).unwrap();
}

impl Connection {
    /// Reads what there is; whether more may come.
    fn read(&mut self, record: &mut Vec<u8>) -> bool {
        let before = self.unread.len();
        let ended = self.stream.read_to_end(&mut self.unread);
        record.extend(&self.unread[before..]);
        ended.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock)
    }

    fn answer(&mut self) {
        while let Some((end, head)) = whole(&self.unread) {
            self.unread.drain(..end);
            let body = if head { "" } else { "ok" };
            let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{body}");
            let _ = self.stream.write_all(answer.as_bytes());
        }
    }
}

/// Where the first request ends, if it is whole, and whether it is a HEAD.
fn whole(bytes: &[u8]) -> Option<(usize, bool)> {
    let head = find(bytes, b"\r\n\r\n")? + 4;
    let text = String::from_utf8_lossy(&bytes[..head]).to_ascii_lowercase();
    let is_head = text.starts_with("head ");
    if text.contains("\r\ntransfer-encoding: chunked") {
        let body = &bytes[head..];
        let last = if body.starts_with(b"0\r\n") { 0 } else { find(body, b"\r\n0\r\n")? + 2 };
        let end = find(&body[last..], b"\r\n\r\n")? + 4;
        return Some((head + last + end, is_head));
    }
    let length = text
        .split("\r\ncontent-length: ")
        .nth(1)
        .map_or(0, |rest| rest.split("\r\n").next().unwrap().parse::<usize>().unwrap());
    (bytes.len() >= head + length).then_some((head + length, is_head))
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}
