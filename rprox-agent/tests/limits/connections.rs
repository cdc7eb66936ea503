//! Connections of one client, and requests in all.

use std::io::Write;
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use rprox_tests::wait;

use crate::agent::{Agent, PATIENCE};
use crate::client::{connect, get, read_reply, read_to_close};
use crate::hits;
use crate::upstream::Upstream;

const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: a.example\r\n\r\n";

#[test]
fn one_client_does_not_take_all_places() {
    let upstream = Upstream::mirror();
    let agent =
        Agent::start(&[("a.example", &upstream.address.to_string())], "[limits]\nclient_connections = 2");
    let mut places = [connect(agent.http), connect(agent.http)];
    for place in &mut places {
        place.write_all(GET).unwrap();
        assert_eq!(read_reply(place).status(), 200);
    }
    let mut third = connect(agent.http);
    let reply = read_reply(&mut third);
    assert_eq!((reply.status(), reply.field("retry-after")), (503, Some("1")));
    assert_eq!(reply.text(), "503 Service Unavailable: too many connections from this address\n");
    assert!(read_to_close(&mut third).is_empty());
    hits::wait_for(&agent, "client_connections", 1);
    // Another address of the loopback network is another client.
    let other = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    other.bind(&"127.0.0.2:0".parse::<std::net::SocketAddr>().unwrap().into()).unwrap();
    other.connect(&agent.http.into()).unwrap();
    let mut other = TcpStream::from(other);
    other.set_read_timeout(Some(PATIENCE)).unwrap();
    other.write_all(GET).unwrap();
    assert_eq!(read_reply(&mut other).status(), 200);
    drop(places);
    let deadline = Instant::now() + PATIENCE;
    loop {
        let mut next = connect(agent.http);
        let _ = next.write_all(GET);
        if read_reply(&mut next).status() == 200 {
            break;
        }
        assert!(Instant::now() < deadline, "its places are not given back");
    }
}

#[test]
fn a_trusted_proxy_has_as_many_as_it_needs() {
    let upstream = Upstream::mirror();
    let agent = Agent::start(
        &[("a.example", &upstream.address.to_string())],
        "trusted_proxies = [\"127.0.0.1\"]\n[limits]\nclient_connections = 1",
    );
    let _first = connect(agent.http);
    assert_eq!(get(&agent, "a.example", "/").status(), 200);
}

#[test]
fn requests_beyond_the_limit_get_a_503_at_once() {
    let (begun, begins) = mpsc::channel();
    let open = Arc::new(AtomicBool::new(false));
    let gate = Arc::clone(&open);
    let upstream = Upstream::start(move |_, stream| {
        begun.send(()).unwrap();
        while !gate.load(Ordering::Relaxed) {
            thread::sleep(Duration::from_millis(5));
        }
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").unwrap();
        true
    });
    let agent = Agent::start_with(
        1,
        &[("a.example", &upstream.address.to_string())],
        "[limits]\nrequests_in_flight = 3",
    );
    let mut running: Vec<_> = (0..3).map(|_| connect(agent.http)).collect();
    for stream in &mut running {
        stream.write_all(GET).unwrap();
        begins.recv_timeout(PATIENCE).unwrap();
    }
    // Far more than the limit, while what runs still runs.
    for _ in 0..50 {
        let start = Instant::now();
        let mut stream = connect(agent.http);
        stream.write_all(GET).unwrap();
        let reply = read_reply(&mut stream);
        assert_eq!((reply.status(), reply.field("retry-after")), (503, Some("1")));
        assert_eq!(reply.field("connection"), Some("close"));
        assert!(start.elapsed() < PATIENCE / 4);
    }
    hits::wait_for(&agent, "requests_in_flight", 50);
    assert_eq!(agent.admin("/healthz").0, 200);
    open.store(true, Ordering::Relaxed);
    for stream in &mut running {
        assert_eq!(read_reply(stream).status(), 200);
    }
    assert_eq!(get(&agent, "a.example", "/").status(), 200);
}

#[test]
fn under_far_too_much_load_who_is_within_the_limits_is_served() {
    let upstream = Upstream::start(|_, stream| {
        thread::sleep(Duration::from_millis(20));
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").unwrap();
        true
    });
    // 127.0.0.1 floods; its share is far below what there is.
    let agent = Agent::start_with(
        1,
        &[("a.example", &upstream.address.to_string())],
        "[limits]\nclient_connections = 4\nrequests_in_flight = 6",
    );
    let ends = Arc::new(AtomicBool::new(false));
    let refused = Arc::new(AtomicUsize::new(0));
    let address = agent.http;
    let flood: Vec<_> = (0..16)
        .map(|_| {
            let (ends, refused) = (Arc::clone(&ends), Arc::clone(&refused));
            thread::spawn(move || {
                while !ends.load(Ordering::Relaxed) {
                    let mut stream = connect(address);
                    let _ = stream.write_all(GET);
                    let mut answer = [0; 12];
                    if std::io::Read::read(&mut stream, &mut answer).is_ok() && &answer[9..] == b"503" {
                        refused.fetch_add(1, Ordering::Relaxed);
                    }
                }
            })
        })
        .collect();
    wait::until(PATIENCE, "some to be refused", || (refused.load(Ordering::Relaxed) >= 100).then_some(()))
        .unwrap();
    for number in 0..20 {
        let start = Instant::now();
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        let from: std::net::SocketAddr = "127.0.0.3:0".parse().unwrap();
        socket.bind(&from.into()).unwrap();
        socket.connect(&address.into()).unwrap();
        let mut stream = TcpStream::from(socket);
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(GET).unwrap();
        assert_eq!(read_reply(&mut stream).status(), 200, "request {number}");
        assert!(start.elapsed() < PATIENCE / 2);
    }
    ends.store(true, Ordering::Relaxed);
    for client in flood {
        client.join().unwrap();
    }
}
