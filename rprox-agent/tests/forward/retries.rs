//! Requests that find their endpoint gone.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::agent::Agent;
use crate::client::{ask, get};
use crate::names;
use crate::upstream::Upstream;

#[test]
fn an_endpoint_that_refuses_is_passed_over() {
    let serving = Ipv4Addr::new(127, 0, 0, 2);
    let upstream = Upstream::start_on(SocketAddr::from((serving, 0)), |head, stream| {
        if head.starts_with("POST") {
            // What is left unread when a socket is closed has the kernel reset it, and the response may be lost.
            stream.read_exact(&mut [0]).unwrap();
        }
        // Said, for a POST that is sent just then is lost, and not sent again.
        stream.write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok").unwrap();
        false
    });
    let dns = names::serve(vec![Ipv4Addr::new(127, 0, 0, 3), serving]);
    let service = format!("service.test.:{}", upstream.address.port());
    let agent = Agent::start(&[("a.example", &service)], &format!("[dns]\nservers = [\"{dns}\"]"));
    for _ in 0..8 {
        assert_eq!(get(&agent, "a.example", "/").status(), 200);
        let post = "POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 1\r\n\r\nx";
        assert_eq!(ask(&agent, post).status(), 200);
    }
}

#[test]
fn a_connection_that_ended_while_idle_costs_no_request() {
    let upstream = Upstream::start(|_, stream| {
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").unwrap();
        false
    });
    let agent = Agent::start(&[("a.example", &upstream.address.to_string())], "");
    for _ in 0..20 {
        assert_eq!(get(&agent, "a.example", "/").status(), 200);
    }
}

#[test]
fn a_get_whose_connection_dies_is_sent_again_and_a_post_is_not() {
    let requests = Arc::new(AtomicUsize::new(0));
    let upstream = Upstream::start({
        let requests = Arc::clone(&requests);
        move |head, stream| {
            let first = requests.fetch_add(1, Ordering::Relaxed) == 0;
            if first || head.starts_with("POST") {
                return false;
            }
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").unwrap();
            true
        }
    });
    let agent = Agent::start(&[("a.example", &upstream.address.to_string())], "");
    assert_eq!(get(&agent, "a.example", "/").status(), 200);
    assert_eq!(requests.load(Ordering::Relaxed), 2);
    let post = "POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 1\r\n\r\nx";
    assert_eq!(ask(&agent, post).status(), 502);
    assert_eq!(requests.load(Ordering::Relaxed), 3);
}
