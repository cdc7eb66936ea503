//! Routes with several upstreams, and upstreams with several endpoints.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rprox_tests::wait;

use crate::agent::{Agent, PATIENCE, free_address};
use crate::client::{connect, get, read_reply};
use crate::names;
use crate::upstream::Upstream;

/// One that answers with its name.
fn named(name: &'static str) -> Upstream {
    Upstream::start(move |_, stream| {
        // In one piece: TCP would hold back the second of several for the first to be acknowledged.
        let response = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{name}", name.len());
        stream.write_all(response.as_bytes()).unwrap();
        true
    })
}

fn route(upstreams: &str, more: &str) -> String {
    format!("[[route]]\nhost = \"a.example\"\nupstream = [{upstreams}]\n{more}")
}

/// Who answers each of `count` requests, one after the other on one connection, and so by one worker.
fn answers(agent: &Agent, count: usize) -> HashMap<String, usize> {
    let mut stream = connect(agent.http);
    let mut seen = HashMap::new();
    for _ in 0..count {
        stream.write_all(b"GET / HTTP/1.1\r\nHost: a.example\r\n\r\n").unwrap();
        let reply = read_reply(&mut stream);
        assert_eq!(reply.status(), 200, "{}", reply.text());
        *seen.entry(reply.text().to_owned()).or_default() += 1;
    }
    seen
}

#[test]
fn requests_are_spread_by_weight() {
    let (one, four, none) = (named("one"), named("four"), named("none"));
    let upstreams = format!(
        "\"{}\", {{ to = \"{}\", weight = 4 }}, {{ to = \"{}\", weight = 0 }}",
        one.address, four.address, none.address
    );
    let agent = Agent::start(&[], &route(&upstreams, "balance = \"round-robin\""));
    assert_eq!(answers(&agent, 100), HashMap::from([("one".to_owned(), 20), ("four".to_owned(), 80)]));
    let agent = Agent::start(&[], &route(&upstreams, ""));
    let seen = answers(&agent, 1000);
    assert_eq!(seen.len(), 2, "{seen:?}");
    assert!((100..300).contains(&seen["one"]), "{seen:?}");
}

#[test]
fn a_busy_upstream_is_spared() {
    let waiting = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&waiting);
    let busy = Upstream::start(move |_, _| {
        count.fetch_add(1, Ordering::Relaxed);
        thread::sleep(PATIENCE * 2);
        false
    });
    let idle = named("idle");
    let agent = Agent::start(&[], &route(&format!("\"{}\", \"{}\"", busy.address, idle.address), ""));
    // Kept open, for a request ends when its client leaves.
    let mut streams = Vec::new();
    let mut answered = 0;
    for _ in 0..40 {
        let mut stream = connect(agent.http);
        stream.set_read_timeout(Some(Duration::from_millis(5))).unwrap();
        let before = waiting.load(Ordering::Relaxed);
        stream.write_all(b"GET / HTTP/1.1\r\nHost: a.example\r\n\r\n").unwrap();
        let deadline = Instant::now() + PATIENCE;
        while waiting.load(Ordering::Relaxed) == before {
            if matches!(stream.read(&mut [0]), Ok(1)) {
                answered += 1;
                break;
            }
            assert!(Instant::now() < deadline, "neither of them got it");
        }
        streams.push(stream);
    }
    // Each of the two workers gives it one request, and then knows it to be busy; another may come by chance in the moment
    // when the last of the idle one's requests is not quite over. Half of them would be 20.
    assert!(waiting.load(Ordering::Relaxed) <= 8, "{waiting:?}");
    assert!(answered >= 32, "{answered}");
}

#[test]
fn one_that_breaks_requests_is_left_out_and_tried_again() {
    let broken = Arc::new(AtomicBool::new(true));
    let breaks = Arc::clone(&broken);
    let requests = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&requests);
    let bad = Upstream::start(move |_, stream| {
        count.fetch_add(1, Ordering::Relaxed);
        if breaks.load(Ordering::Relaxed) {
            return false;
        }
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nbad").unwrap();
        true
    });
    let good = named("good");
    let upstreams = format!("\"{}\", \"{}\"", bad.address, good.address);
    let more = format!(
        "[passive_health]\nback_off = \"3s\"\nlongest_back_off = \"3s\"\n{}",
        route(&upstreams, "balance = \"round-robin\"")
    );
    let agent = Agent::start(&[], &more);
    let seen = answers(&agent, 60);
    assert_eq!(seen, HashMap::from([("good".to_owned(), 60)]), "each was sent again to the other");
    let tried = requests.load(Ordering::Relaxed);
    assert!((3..15).contains(&tried), "{tried} requests came to it before it was left out");
    broken.store(false, Ordering::Relaxed);
    wait::until(PATIENCE, "it to be tried again", || {
        (get(&agent, "a.example", "/").text() == "bad").then_some(())
    })
    .unwrap();
}

#[test]
fn when_all_are_left_out_the_best_is_used() {
    let gone = [free_address(), free_address()];
    let upstreams = format!("\"{}\", \"{}\"", gone[0], gone[1]);
    let more =
        format!("[passive_health]\nback_off = \"1h\"\nlongest_back_off = \"1h\"\n{}", route(&upstreams, ""));
    let agent = Agent::start(&[], &more);
    for _ in 0..8 {
        assert_eq!(get(&agent, "a.example", "/").status(), 502);
    }
    let back = Upstream::start_on(gone[1], |_, stream| {
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").unwrap();
        true
    });
    // The other is still gone, and within its hour; what is asked for once more may be either.
    for _ in 0..20 {
        assert_eq!(get(&agent, "a.example", "/").status(), 200);
    }
    assert!(back.connections() > 0);
}

/// How often it was in vain to connect to `endpoint`.
fn tries(agent: &Agent, endpoint: SocketAddr) -> u32 {
    let metrics = agent.admin("/metrics").1;
    let line = format!("rprox_upstream_connect_failures_total{{endpoint=\"{endpoint}\"}} ");
    metrics.lines().find_map(|text| text.strip_prefix(&line)?.parse().ok()).unwrap()
}

#[test]
fn a_dead_address_is_502_at_once() {
    let gone = free_address();
    let agent = Agent::start(&[("a.example", &gone.to_string())], "");
    for _ in 0..5 {
        assert_eq!(get(&agent, "a.example", "/").status(), 502);
    }
    assert_eq!(tries(&agent, gone), 5, "a request that waits tries again");
}

#[test]
fn a_name_whose_pod_is_gone_is_waited_for_as_long_as_wanted() {
    let gone = free_address();
    let dns = names::serve(vec![Ipv4Addr::LOCALHOST]);
    let serve = |moving: &str| {
        let more = format!("[dns]\nservers = [\"{dns}\"]\n[retries]\nmoving = \"{moving}\"");
        let agent = Agent::start(&[("a.example", &format!("pod.test.:{}", gone.port()))], &more);
        let start = Instant::now();
        assert_eq!(get(&agent, "a.example", "/").status(), 502);
        (tries(&agent, gone), start.elapsed())
    };
    assert_eq!(serve("0s").0, 1, "nobody waits for it");
    let (tries, took) = serve("400ms");
    assert!(tries > 1 && took > Duration::from_millis(100), "{tries} tries in {took:?}");
}

#[test]
fn retries_stop_at_the_budget() {
    let requests = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&requests);
    let broken = Upstream::start(move |_, _| {
        count.fetch_add(1, Ordering::Relaxed);
        false
    });
    let more = "[retries]\nattempts = 5\nbudget = 0\nminimum = 3";
    let agent = Agent::start(&[("a.example", &broken.address.to_string())], more);
    let mut stream = connect(agent.http);
    for _ in 0..20 {
        stream.write_all(b"GET / HTTP/1.1\r\nHost: a.example\r\n\r\n").unwrap();
        assert_eq!(read_reply(&mut stream).status(), 502);
    }
    assert_eq!(requests.load(Ordering::Relaxed), 23, "of one worker's requests three are sent again");
}

#[test]
fn a_route_can_have_time_outs_of_its_own() {
    let silent = Upstream::start(|_, _| {
        thread::sleep(PATIENCE * 2);
        false
    });
    let mut agent = Agent::start(
        &[],
        &format!("{}timeouts = {{ response = \"100ms\" }}", route(&format!("\"{}\"", silent.address), "")),
    );
    let start = Instant::now();
    assert_eq!(get(&agent, "a.example", "/").status(), 504);
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
    agent.logged("no response within timeouts.response");
}
