//! Whole conversations: connections opened, used, broken off and closed, and datagrams to and fro.

use std::io::{Read as _, Write as _};
use std::net::SocketAddr;

use crate::generator::Generator;
use crate::host::{Host, Outcome, PATIENCE, Pair};
use crate::wire::{ACK, FIN, PSH, Packet, RST, SYN, Segment};

const FEW: usize = 100;
const MANY: usize = 5_000;

/// A connection as its client keeps it.
struct Connection<'a> {
    pair: &'a mut Pair,
    client: SocketAddr,
    host: SocketAddr,
    /// The next byte of ours.
    sequence: u32,
    /// How many bytes of the host's we have had, its SYN and FIN among them.
    had: u32,
    initial: [Option<u32>; 2],
    /// What has happened, for the one who reads of a failure.
    story: Vec<String>,
}

impl Connection<'_> {
    /// Has `act` done on both hosts, and asserts that both make the same of it.
    #[track_caller]
    fn step(&mut self, what: String, least: usize, act: impl FnMut(&mut Host, Option<u32>)) -> Outcome {
        self.story.push(what);
        let [one, other] = self.pair.compare(self.client, PATIENCE, least, &mut self.initial, act);
        assert_eq!(one, other, "{} to {}: {}", self.client, self.host, self.story.join("; "));
        assert!(
            other.answers.iter().all(|answer| answer.sound),
            "{}: a wrong checksum",
            self.story.join("; ")
        );
        other
    }

    fn segment(&self, sequence: u32, flags: u8, payload: &[u8], initial: Option<u32>) -> Vec<u8> {
        let acknowledged = if flags & ACK == 0 { 0 } else { initial.unwrap_or(0).wrapping_add(self.had) };
        let mut packet = Packet::tcp(self.client, self.host, sequence, acknowledged, flags);
        packet.payload = payload.to_vec();
        packet.frames().remove(0)
    }

    /// Sends a segment that begins `from` bytes from where we are.
    #[track_caller]
    fn send(&mut self, what: &str, from: i32, flags: u8, payload: &[u8]) -> Outcome {
        let sequence = self.sequence.wrapping_add_signed(from);
        let frames = self.initial.map(|initial| self.segment(sequence, flags, payload, initial));
        let mut frames = frames.iter();
        self.step(format!("{what} ({} bytes)", payload.len()), 0, move |host, _| {
            host.send(frames.next().expect("one for each host"));
        })
    }

    #[track_caller]
    fn send_new(&mut self, what: &str, flags: u8, payload: &[u8]) {
        self.send(what, 0, flags, payload);
        self.moved(payload.len());
    }

    fn moved(&mut self, bytes: usize) {
        self.sequence = self.sequence.wrapping_add(u32::try_from(bytes).expect("short"));
    }

    /// Has the service read all that has come, and write `payload`.
    #[track_caller]
    fn served(&mut self, payload: &[u8]) {
        let client = self.client;
        self.step(format!("served with {} bytes", payload.len()), 0, |host, _| {
            if let Some(stream) = stream_of(host, client) {
                let _ = stream.read(&mut vec![0; 65_536]);
                stream.write_all(payload).expect("the connection stands");
            }
        });
        self.had += u32::try_from(payload.len()).expect("short");
        self.send("acknowledges", 0, ACK, &[]);
    }

    /// Has the service close, and waits for what that says: a FIN, or RST where it has not read everything. A process that another test
    /// is just starting may have the socket a moment longer.
    #[track_caller]
    fn closed(&mut self) -> Outcome {
        self.let_go(1)
    }

    #[track_caller]
    fn let_go(&mut self, least: usize) -> Outcome {
        let client = self.client;
        self.step("closed by the service".to_owned(), least, |host, _| {
            host.connections()
                .retain(|(of, _)| of.ip().to_canonical() != client.ip() || of.port() != client.port());
        })
    }

    /// An ICMP error about the host's segment that we had last, from a router of the client's network.
    #[track_caller]
    fn error(&mut self, what: &str, kind: [u8; 2], rest: [u8; 4]) {
        let (client, host, acknowledged) = (self.client, self.host, self.sequence);
        self.step(what.to_owned(), 0, move |to, initial| {
            let sent = Packet::tcp(host, client, initial.unwrap_or(0), acknowledged, SYN | ACK);
            let about = sent.frames().remove(0).split_off(14);
            let [kind, code] = kind;
            let mut error = Packet::new(client, host, Segment::Icmp { kind, code, rest });
            error.payload = about;
            to.send(&error.frames()[0]);
        });
    }
}

fn stream_of(host: &mut Host, client: SocketAddr) -> Option<&mut std::net::TcpStream> {
    let of = |(of, _): &&mut (SocketAddr, std::net::TcpStream)| {
        of.ip().to_canonical() == client.ip() && of.port() == client.port()
    };
    host.connections().iter_mut().find(of).map(|(_, stream)| stream)
}

/// A whole connection.
fn connection(pair: &mut Pair, generator: &mut Generator) {
    let port = generator.choice(&[80, 80, 443]);
    let (client, host) = generator.ends(port);
    let sequence = u32::from_be_bytes(generator.bytes(4).try_into().expect("four bytes"));
    let mut connection =
        Connection { pair, client, host, sequence, had: 0, initial: [None; 2], story: Vec::new() };
    let opened = connection.send("SYN", 0, SYN, &[]);
    assert_eq!(opened.answers.len(), 1, "{client} to {host}: a connection is taken");
    if generator.one_in(8) {
        connection.send("SYN again", 0, SYN, &[]);
    }
    connection.moved(1);
    connection.had = 1;
    if generator.one_in(10) {
        half_open(&mut connection, generator);
    } else {
        let made = connection.send("ACK", 0, ACK, &[]);
        assert_eq!(made.accepted.len(), 1, "{client} to {host}: the service gets it");
        for _ in 0..generator.choice(&[0, 1, 2, 4, 8]) {
            talk(&mut connection, generator);
        }
        end(&mut connection, generator);
    }
    // Whatever is left of it goes.
    connection.let_go(0);
    connection.send("RST at last", 0, RST, &[]);
}

/// Given up before it is open.
fn half_open(connection: &mut Connection<'_>, generator: &mut Generator) {
    let v4 = connection.host.is_ipv4();
    match generator.choice(&[0, 1, 2]) {
        0 => drop(connection.send("RST while half open", 0, RST, &[])),
        1 => {
            // Translated, it reaches the half-open connection, and the ACK after it comes too late.
            let kind = if v4 { [3, 3] } else { [1, 4] };
            connection.error("port unreachable while half open", kind, [0; 4]);
            connection.send("ACK after all", 0, ACK, &[]);
        }
        _ => drop(connection.send("wrong ACK while half open", 0, ACK | PSH, &[7; 3])),
    }
}

/// One thing that happens on an open connection.
fn talk(connection: &mut Connection<'_>, generator: &mut Generator) {
    let mut payload = generator.payload();
    payload.push(7);
    match generator.choice(&[0, 0, 1, 2, 3, 4, 5]) {
        0 => connection.send_new("data", ACK | PSH, &payload),
        1 => {
            connection.send_new("data", ACK, &payload);
            let back = -i32::try_from(payload.len()).expect("short");
            connection.send("the same again", back, ACK, &payload);
        }
        2 => {
            let (first, second) = payload.split_at(payload.len() / 2);
            connection.send("the later half", i32::try_from(first.len()).expect("short"), ACK, second);
            connection.send("the earlier half", 0, ACK, first);
            connection.moved(payload.len());
        }
        3 => connection.served(&payload),
        4 => drop(connection.send("an ACK again", 0, ACK, &[])),
        _ => {
            let v4 = connection.host.is_ipv4();
            let (kind, rest) = if v4 { ([3, 4], [0, 0, 5, 0x14]) } else { ([2, 0], [0, 0, 5, 0x14]) };
            connection.error("too big", kind, rest);
        }
    }
}

/// The end of an open connection.
fn end(connection: &mut Connection<'_>, generator: &mut Generator) {
    match generator.choice(&[0, 1, 2, 3]) {
        0 => drop(connection.send("RST", 0, RST, &[])),
        1 => {
            connection.send_new("FIN", FIN | ACK, &[]);
            connection.moved(1);
            connection.served(&[]);
            connection.closed();
            connection.had += 1;
            connection.send("the last ACK", 0, ACK, &[]);
            connection.send("an ACK too many", 0, ACK, &[]);
        }
        2 => {
            connection.served(&[]);
            connection.closed();
            connection.had += 1;
            connection.send_new("FIN in answer", FIN | ACK, &[]);
            connection.moved(1);
            connection.send("FIN again", -1, FIN | ACK, &[]);
        }
        _ => {
            connection.send_new("data that nobody reads", ACK, &[7; 10]);
            connection.closed();
            connection.send("an ACK for a reset", 0, ACK, &[]);
        }
    }
}

/// Some datagrams there, and each back.
fn datagrams(pair: &mut Pair, generator: &mut Generator) {
    let (client, host) = generator.ends(443);
    for number in 0..generator.choice(&[1, 2, 5]) {
        let mut packet = Packet::new(client, host, Segment::Udp);
        let len = generator.choice(&[0, 1, 27, 512, 1_232, 3_000, 9_001]);
        packet.payload = generator.bytes(len);
        packet.identification = number;
        packet.cuts = (1_232..8 + len).step_by(1_232).collect();
        let frames = packet.frames();
        let outcomes = pair.compare(client, PATIENCE, 0, &mut [None; 2], |host, _| host.send_all(&frames));
        let [one, other] = &outcomes;
        assert_eq!(one.datagrams, other.datagrams, "datagram {number} of {len} bytes from {client}");
        assert_eq!(other.datagrams.len(), 1, "datagram {number} of {len} bytes from {client} is delivered");
        assert_eq!(
            one.answers, other.answers,
            "the answer to datagram {number} of {len} bytes from {client}"
        );
        assert!(!other.answers.is_empty(), "datagram {number} of {len} bytes from {client} is answered");
    }
}

fn go_the_same_way(mode: &'static str) {
    let mut generator = Generator::new("conversations");
    let mut pair = Pair::new(mode);
    let count = if rprox_tests::long::is_asked_for() { MANY } else { FEW };
    for _ in 0..count {
        connection(&mut pair, &mut generator);
        datagrams(&mut pair, &mut generator);
    }
    println!("{mode}: {count} connections, and as many conversations in datagrams");
}

#[test]
fn the_same_conversations_go_the_same_way() {
    go_the_same_way("rewrite");
}

#[test]
fn steered_conversations_go_the_same_way() {
    go_the_same_way("steer");
}
