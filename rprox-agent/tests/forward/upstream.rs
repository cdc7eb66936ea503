//! An upstream that does with each request what a test says.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex};
use std::thread;

use socket2::{Domain, Socket, Type};

use crate::agent::PATIENCE;

pub(crate) struct Upstream {
    pub(crate) address: SocketAddr,
    connections: Arc<AtomicUsize>,
}

impl Upstream {
    /// Calls `serve` with each request's head and the connection that it came by, as long as it says that another may come.
    pub(crate) fn start(serve: impl Fn(&str, &mut TcpStream) -> bool + Send + Sync + 'static) -> Self {
        Self::start_on("127.0.0.1:0".parse().unwrap(), serve)
    }

    pub(crate) fn start_on(
        address: SocketAddr,
        serve: impl Fn(&str, &mut TcpStream) -> bool + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind(address).unwrap();
        let address = listener.local_addr().unwrap();
        let (serve, connections) = (Arc::new(serve), Arc::new(AtomicUsize::new(0)));
        let count = Arc::clone(&connections);
        thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                count.fetch_add(1, Ordering::Relaxed);
                let serve = Arc::clone(&serve);
                thread::spawn(move || {
                    while let Some(head) = read_head(&mut stream) {
                        if !serve(&head, &mut stream) {
                            break;
                        }
                    }
                });
            }
        });
        Self { address, connections }
    }

    /// One that answers each request with the head that it saw.
    pub(crate) fn mirror() -> Self {
        Self::start(|head, stream| {
            write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{head}", head.len()).unwrap();
            true
        })
    }

    /// One that holds each request until it is told to answer it, with `body`.
    pub(crate) fn held(body: &str) -> (Self, Held) {
        let (begun, begins) = mpsc::channel();
        let (go, goes) = mpsc::channel::<()>();
        let goes = Mutex::new(goes);
        let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        let upstream = Self::start(move |_, stream| {
            begun.send(()).unwrap();
            goes.lock().unwrap().recv_timeout(PATIENCE).unwrap();
            stream.write_all(answer.as_bytes()).unwrap();
            true
        });
        (upstream, Held { begins, go })
    }

    /// How many connections have come.
    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }
}

/// What holds an upstream's requests.
pub(crate) struct Held {
    begins: Receiver<()>,
    go: Sender<()>,
}

impl Held {
    /// Waits until a request has come that no wait was for.
    pub(crate) fn wait_for_request(&self) {
        self.begins.recv_timeout(PATIENCE).unwrap();
    }

    /// Has one request answered.
    pub(crate) fn answer(&self) {
        self.go.send(()).unwrap();
    }
}

/// An address at which no connection is ever made, nor refused: those that wait there are never accepted, and fill the queue.
pub(crate) struct Deaf {
    pub(crate) address: SocketAddr,
    _sockets: Vec<Socket>,
}

impl Deaf {
    pub(crate) fn at(address: SocketAddr) -> Self {
        let socket = || Socket::new(Domain::for_address(address), Type::STREAM, None).unwrap();
        let listener = socket();
        listener.bind(&address.into()).unwrap();
        listener.listen(0).unwrap();
        let address = listener.local_addr().unwrap();
        let mut sockets = vec![listener];
        for _ in 0..4 {
            let waiting = socket();
            waiting.set_nonblocking(true).unwrap();
            let _ = waiting.connect(&address);
            sockets.push(waiting);
        }
        Self { address: address.as_socket().unwrap(), _sockets: sockets }
    }
}

fn read_head(stream: &mut TcpStream) -> Option<String> {
    stream.set_read_timeout(Some(PATIENCE * 3)).unwrap();
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read(&mut byte) {
            Ok(1) => head.push(byte[0]),
            _ => return None,
        }
    }
    Some(String::from_utf8(head).unwrap())
}
