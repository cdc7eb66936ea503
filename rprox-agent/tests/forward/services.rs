//! Upstreams that SRV records lead to, from a real DNS server, and endpoints that don't answer.

use std::collections::HashMap;
use std::io::Write;
use std::net::{Ipv6Addr, SocketAddr, UdpSocket};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rprox_tests::wait;

use crate::agent::{Agent, PATIENCE, free_address};
use crate::client::{connect, get, read_reply};
use crate::upstream::{Deaf, Upstream};

/// A dnsmasq that knows `_http._tcp.web.example`.
struct Dns {
    child: Child,
    address: SocketAddr,
}

impl Dns {
    /// Records: port, priority, weight.
    fn start(address: SocketAddr, records: &[(u16, u16, u16)]) -> Self {
        let port = address.port();
        let mut command = Command::new("dnsmasq");
        command.args([
            "--keep-in-foreground",
            "--conf-file=/dev/null",
            "--no-resolv",
            "--no-hosts",
            "--no-daemon",
        ]);
        command.args(["--bind-interfaces", "--listen-address=127.0.0.1", "--pid-file=", "--local-ttl=1"]);
        command.arg(format!("--port={port}")).arg("--host-record=pod.example,127.0.0.1");
        for (port, priority, weight) in records {
            command.arg(format!("--srv-host=_http._tcp.web.example,pod.example,{port},{priority},{weight}"));
        }
        let child = command.stderr(Stdio::null()).spawn();
        let child = child.unwrap_or_else(|error| panic!("dnsmasq: {error}; this test needs dnsmasq-base"));
        let dns = Self { child, address };
        wait::until(PATIENCE, "dnsmasq to answer", || (dns.answers()).then_some(())).unwrap();
        dns
    }

    fn answers(&self) -> bool {
        const QUESTION: &[u8] = b"\0\x01\x01\0\0\x01\0\0\0\0\0\0\x03pod\x07example\0\0\x01\0\x01";
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        socket.connect(self.address).unwrap();
        socket.send(QUESTION).is_ok() && socket.recv(&mut [0; 512]).is_ok()
    }

    /// Other records, at the same address.
    fn restart(mut self, records: &[(u16, u16, u16)]) -> Self {
        let address = self.address;
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        Self::start(address, records)
    }
}

impl Drop for Dns {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn named(name: &'static str) -> Upstream {
    Upstream::start(move |_, stream| {
        // In one piece: TCP would hold back the second of several for the first to be acknowledged.
        let response = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{name}", name.len());
        stream.write_all(response.as_bytes()).unwrap();
        true
    })
}

#[test]
fn srv_records_say_where_how_much_and_what_comes_after() {
    let (heavy, light, reserve) = (named("heavy"), named("light"), named("reserve"));
    let port = |upstream: &Upstream| upstream.address.port();
    // Not one that the kernel gives out: a socket that asks whether dnsmasq is there yet could be given it, and answer itself.
    let at = free_address();
    let dns = Dns::start(at, &[(port(&heavy), 10, 30), (port(&light), 10, 10), (port(&reserve), 20, 1)]);
    let more = format!(
        "[dns]\nservers = [\"{at}\"]\nmin_ttl = \"100ms\"\nmax_ttl = \"200ms\"\n\
         [[route]]\nhost = \"a.example\"\nupstream = \"_http._tcp.web.example\"\nbalance = \"round-robin\""
    );
    let agent = Agent::start(&[], &more);
    let mut stream = connect(agent.http);
    let mut seen = HashMap::new();
    for _ in 0..40 {
        stream.write_all(b"GET / HTTP/1.1\r\nHost: a.example\r\n\r\n").unwrap();
        *seen.entry(read_reply(&mut stream).text().to_owned()).or_insert(0) += 1;
    }
    assert_eq!(seen, HashMap::from([("heavy".to_owned(), 30), ("light".to_owned(), 10)]));

    let dead = free_address().port();
    let dns = dns.restart(&[(dead, 10, 1), (port(&reserve), 20, 1)]);
    let deadline = Instant::now() + PATIENCE;
    // Each worker follows by itself, and either may be asked.
    let mut in_a_row = 0;
    while in_a_row < 20 {
        in_a_row = if get(&agent, "a.example", "/").text() == "reserve" { in_a_row + 1 } else { 0 };
        assert!(Instant::now() < deadline, "the change is not followed");
    }
    drop(dns);
    assert_eq!(get(&agent, "a.example", "/").text(), "reserve", "the last answer serves on");
}

#[test]
fn a_family_that_leads_nowhere_costs_hardly_anything() {
    let works = named("works");
    let port = works.address.port();
    let _deaf = Deaf::at(SocketAddr::from((Ipv6Addr::LOCALHOST, port)));
    let more = format!(
        "[timeouts]\nconnect = \"10s\"\nattempt_delay = \"1s\"\n[passive_health]\nback_off = \"50ms\"\nlongest_back_off = \"50ms\"\n\
         [[route]]\nhost = \"a.example\"\nupstream = [\"[::1]:{port}\", \"127.0.0.1:{port}\"]"
    );
    let agent = Agent::start(&[], &more);
    let start = Instant::now();
    for _ in 0..40 {
        let reply = get(&agent, "a.example", "/");
        assert_eq!((reply.status(), reply.text()), (200, "works"));
    }
    let took = start.elapsed();
    assert!(took < PATIENCE, "{took:?}: the silent family is waited for again and again");
}
