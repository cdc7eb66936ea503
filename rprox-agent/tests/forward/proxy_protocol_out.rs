//! Upstreams that want to be told by the PROXY protocol whose connection it is, as nginx reads it.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};

use crate::agent::{Agent, PATIENCE, free_address};
use crate::client::{connect, read_head, read_reply};
use crate::nginx::Nginx;

/// nginx, which says whom it takes for the client, and how many requests the connection has had.
struct Mirror {
    plain: SocketAddr,
    http2: SocketAddr,
    _nginx: Nginx,
}

impl Mirror {
    fn start() -> Self {
        let (plain, http2) = (free_address(), free_address());
        let servers = format!(
            "server {{ listen {plain} proxy_protocol; listen {http2} proxy_protocol http2;\n\
             location / {{ return 200 \"$proxy_protocol_addr $proxy_protocol_port $proxy_protocol_server_port \
             $connection_requests\"; }} }}"
        );
        Self { plain, http2, _nginx: Nginx::start(tempfile::tempdir().unwrap(), &servers, http2) }
    }
}

#[test]
fn nginx_is_told_whose_connection_it_is_and_no_two_clients_share_one() {
    let nginx = Mirror::start();
    let routes = [
        ("one.example", nginx.plain.to_string(), "v1"),
        ("two.example", nginx.plain.to_string(), "v2"),
        ("h2.example", format!("h2c://{}", nginx.http2), "v2"),
    ];
    let routes = routes.map(|(host, upstream, version)| {
        format!("[[route]]\nhost = \"{host}\"\nupstream = \"{upstream}\"\nproxy_protocol = \"{version}\"\n")
    });
    let more = format!("listen.proxy_protocol = [\"127.0.0.1\"]\n{}", routes.concat());
    let agent = Agent::start(&[], &more);
    for host in ["one.example", "two.example", "h2.example"] {
        for client in ["192.0.2.7", "2001:db8::7"] {
            let family = if client.contains(':') { "TCP6" } else { "TCP4" };
            let server = if client.contains(':') { "2001:db8::1" } else { "192.0.2.1" };
            let mut stream = connect(agent.http);
            write!(stream, "PROXY {family} {client} {server} 4711 443\r\n").unwrap();
            for _ in 0..2 {
                write!(stream, "GET / HTTP/1.1\r\nHost: {host}\r\n\r\n").unwrap();
                let reply = read_reply(&mut stream);
                assert_eq!(reply.text(), format!("{client} 4711 443 1"), "{host}: {reply:?}");
            }
        }
    }
}

#[test]
fn a_health_check_is_nobody_s_connection_and_says_so() {
    let local = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0";
    for (version, header) in [("v1", &b"PROXY UNKNOWN\r\n"[..]), ("v2", local)] {
        let upstream = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut agent = Agent::start(
            &[],
            &format!(
                "[[route]]\nhost = \"a.example\"\nupstream = \"{}\"\nproxy_protocol = \"{version}\"\n\
                 health = {{ path = \"/healthz\", timeout = \"20s\" }}",
                upstream.local_addr().unwrap()
            ),
        );
        let (mut stream, _) = upstream.accept().unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut begin = vec![0; header.len()];
        stream.read_exact(&mut begin).unwrap();
        assert_eq!(begin, header, "{version}");
        assert!(read_head(&mut stream).starts_with("GET /healthz HTTP/1.1\r\n"));
        stream.write_all(b"HTTP/1.1 500 Sick\r\nContent-Length: 0\r\n\r\n").unwrap();
        agent.logged("unhealthy: left out");
    }
}
