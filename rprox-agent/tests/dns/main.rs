//! What the agent knows of DNS, against a real aardvark-dns and against servers that do what aardvark-dns can't be made to.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod aardvark;
mod scripted;

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use rprox_agent::proxy::config::DnsConfig;
use rprox_agent::proxy::dns::{DnsError, LastAnswers, Names};
use rprox_agent::proxy::upstream::Upstream;
use tokio::task::LocalSet;
use tokio::time::sleep;

use aardvark::Aardvark;
use scripted::{Reply, Scripted};

fn config(server: SocketAddr) -> DnsConfig {
    DnsConfig {
        servers: vec![server],
        search: Some("dns.podman".to_owned()),
        min_ttl: Duration::from_millis(200),
        max_ttl: Duration::from_millis(400),
        stale: Duration::from_mins(1),
        timeout: Duration::from_secs(2),
        attempts: 2,
    }
}

fn upstream(text: &str) -> Arc<Upstream> {
    Arc::new(Upstream::parse(text, Some("dns.podman")).unwrap())
}

/// A view of DNS, and what it says has left its answers.
struct View {
    names: Names,
    gone: Rc<RefCell<Vec<SocketAddr>>>,
}

impl View {
    fn new(config: &DnsConfig) -> Self {
        Self::beside(&Arc::default(), config)
    }

    /// The view of a worker among others.
    fn beside(last_answers: &Arc<LastAnswers>, config: &DnsConfig) -> Self {
        let gone = Rc::new(RefCell::new(Vec::new()));
        let told = Rc::clone(&gone);
        let names = Names::new(config, Arc::clone(last_answers), move |_, addresses| {
            told.borrow_mut().extend_from_slice(addresses);
        })
        .unwrap();
        Self { names, gone }
    }

    async fn endpoints(&self, upstream: &Arc<Upstream>) -> Result<Vec<String>, DnsError> {
        self.names.endpoints(upstream).await.map(|endpoints| texts(&endpoints))
    }

    /// Waits until `upstream`, which is known, has these endpoints, and checks that no look at them waits meanwhile.
    async fn until(&self, upstream: &Arc<Upstream>, expected: &[&str]) {
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            let endpoints = self.endpoints(upstream).now_or_never().expect("a request waits for DNS");
            if endpoints.as_deref().is_ok_and(|endpoints| endpoints == expected) {
                return;
            }
            assert!(Instant::now() < deadline, "still {endpoints:?}, not {expected:?}");
            sleep(Duration::from_millis(10)).await;
        }
    }
}

fn texts(endpoints: &[impl ToString]) -> Vec<String> {
    endpoints.iter().map(ToString::to_string).collect()
}

/// Runs a test as a worker runs: on one thread.
fn on_worker(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    LocalSet::new().block_on(&runtime, test);
}

#[test]
fn both_families_resolve_in_a_stable_order() {
    let dns = Aardvark::start(
        "127.0.53.1",
        &[
            ("10.1.0.2", "fd00::2", "pair,web"),
            ("10.1.0.1", "", "web"),
            ("10.1.0.1", "", "web"),
            ("", "fd00::9", "six"),
        ],
    );
    on_worker(async {
        let view = View::new(&config(dns.address()));
        let web = view.endpoints(&upstream("WEB:80")).await.unwrap();
        assert_eq!(web, ["10.1.0.1:80", "10.1.0.2:80", "[fd00::2]:80"]);
        assert_eq!(view.endpoints(&upstream("six.dns.podman:80")).await.unwrap(), ["[fd00::9]:80"]);
        let missing = view.endpoints(&upstream("nobody:80")).await.unwrap_err().to_string();
        assert!(missing.contains("no address for nobody.dns.podman;"), "{missing}");
    });
}

#[test]
fn an_address_needs_no_dns() {
    on_worker(async {
        let view = View::new(&config("127.0.0.1:9".parse().unwrap()));
        for _ in 0..2 {
            assert_eq!(view.endpoints(&upstream("10.0.0.1:80")).await.unwrap(), ["10.0.0.1:80"]);
            assert_eq!(texts(&view.names.refresh(&upstream("[::1]:80")).await.unwrap()), ["[::1]:80"]);
        }
    });
}

#[test]
fn a_pod_that_moves_is_followed_and_its_old_address_told() {
    let dns = Aardvark::start("127.0.53.2", &[("10.1.0.1", "", "web")]);
    on_worker(async {
        let view = View::new(&config(dns.address()));
        let web = upstream("web:80");
        assert_eq!(view.endpoints(&web).await.unwrap(), ["10.1.0.1:80"]);
        dns.reload(&[("10.1.0.2", "", "web")]);
        view.until(&web, &["10.1.0.2:80"]).await;
        assert_eq!(texts(&view.gone.borrow()), ["10.1.0.1:80"]);
    });
}

#[test]
fn a_failed_connection_is_reason_to_look_again_at_once() {
    let has_moved = Arc::new(AtomicBool::new(false));
    let moved = Arc::clone(&has_moved);
    let dns = Scripted::start(move |_, kind| match (kind, moved.load(Relaxed)) {
        ("A", false) => Reply::Records(vec![("A", "10.1.0.1", 60)]),
        ("A", true) => Reply::Records(vec![("A", "10.1.0.2", 60)]),
        _ => Reply::Nothing,
    });
    let slow = DnsConfig {
        min_ttl: Duration::from_mins(1),
        max_ttl: Duration::from_mins(1),
        ..config(dns.address())
    };
    on_worker(async {
        let view = View::new(&slow);
        let web = upstream("web:80");
        assert_eq!(view.endpoints(&web).await.unwrap(), ["10.1.0.1:80"]);
        has_moved.store(true, Relaxed);
        let answers = futures_util::future::join_all((0..50).map(|_| view.names.refresh(&web))).await;
        for answer in answers {
            assert_eq!(texts(&answer.unwrap()), ["10.1.0.2:80"]);
        }
        assert_eq!(texts(&view.gone.borrow()), ["10.1.0.1:80"]);
        assert_eq!(dns.asked("A"), 2, "those who ask at the same time share a look-up");
    });
}

#[test]
fn while_dns_is_dead_the_last_answer_serves_at_once() {
    let mut dns = Aardvark::start("127.0.53.3", &[("10.1.0.1", "fd00::1", "web")]);
    let quick = DnsConfig { timeout: Duration::from_millis(200), ..config(dns.address()) };
    on_worker(async {
        let view = View::new(&quick);
        let web = upstream("web:80");
        assert_eq!(view.endpoints(&web).await.unwrap(), ["10.1.0.1:80", "[fd00::1]:80"]);
        dns.stop();
        let end = Instant::now() + Duration::from_secs(2);
        while Instant::now() < end {
            view.until(&web, &["10.1.0.1:80", "[fd00::1]:80"]).await;
            sleep(Duration::from_millis(20)).await;
        }
        let asked = Instant::now();
        assert_eq!(
            view.names.refresh(&web).await.unwrap().len(),
            2,
            "a refresh makes do with the last answer"
        );
        assert!(asked.elapsed() < Duration::from_secs(10), "{:?}", asked.elapsed());

        let dns = Aardvark::start_on(dns.address(), &[("10.1.0.7", "", "web")]);
        view.until(&web, &["10.1.0.7:80"]).await;
        drop(dns);
    });
}

#[test]
fn a_worker_begins_with_what_another_knows() {
    let mut dns = Aardvark::start("127.0.53.5", &[("10.1.0.1", "", "web")]);
    on_worker(async {
        let (answers, web) = (Arc::default(), upstream("web:80"));
        let first = View::beside(&answers, &config(dns.address()));
        assert_eq!(first.endpoints(&web).await.unwrap(), ["10.1.0.1:80"]);
        dns.stop();
        let second = View::beside(&answers, &config(dns.address()));
        second.until(&web, &["10.1.0.1:80"]).await;
    });
}

#[test]
fn many_endpoints_fit() {
    let addresses = (1..=60).map(|host| format!("10.1.0.{host}")).collect::<Vec<_>>();
    let containers = addresses.iter().map(|address| (address.as_str(), "", "web")).collect::<Vec<_>>();
    let dns = Aardvark::start("127.0.53.4", &containers);
    on_worker(async {
        let view = View::new(&config(dns.address()));
        assert_eq!(view.endpoints(&upstream("web:80")).await.unwrap().len(), 60);
    });
}

#[test]
fn a_family_that_never_answers_delays_nobody() {
    let has_moved = Arc::new(AtomicBool::new(false));
    let moved = Arc::clone(&has_moved);
    let dns = Scripted::start(move |_, kind| match (kind, moved.load(Relaxed)) {
        ("A", false) => Reply::Records(vec![("A", "10.1.0.1", 60)]),
        ("A", true) => Reply::Records(vec![("A", "10.1.0.2", 60)]),
        _ => Reply::Silence,
    });
    let patient = DnsConfig { timeout: Duration::from_mins(1), ..config(dns.address()) };
    on_worker(async {
        let view = View::new(&patient);
        let web = upstream("web:80");
        assert_eq!(view.endpoints(&web).await.unwrap(), ["10.1.0.1:80"]);
        has_moved.store(true, Relaxed);
        assert_eq!(texts(&view.names.refresh(&web).await.unwrap()), ["10.1.0.2:80"]);
    });
}

#[test]
fn a_family_that_fails_does_not_sink_the_other() {
    let dns = Scripted::start(|_, kind| match kind {
        "AAAA" => Reply::Records(vec![("AAAA", "fd00::1", 60)]),
        _ => Reply::ServFail,
    });
    on_worker(async {
        let view = View::new(&config(dns.address()));
        assert_eq!(view.endpoints(&upstream("web:80")).await.unwrap(), ["[fd00::1]:80"]);
    });
}

#[test]
fn a_server_that_fails_is_named_as_the_reason() {
    let dns = Scripted::start(|_, _| Reply::ServFail);
    on_worker(async {
        let view = View::new(&config(dns.address()));
        let error = view.endpoints(&upstream("web:80")).await.unwrap_err();
        assert!(matches!(error, DnsError::Failed { .. }), "{error:?}");
        assert!(error.to_string().contains("web.dns.podman failed"), "{error}");
    });
}

#[test]
fn a_server_that_fails_does_not_sink_what_the_next_one_knows() {
    let broken = Scripted::start(|_, _| Reply::ServFail);
    let refuses = Scripted::start(|_, _| Reply::Refused);
    let good = Scripted::start(|_, kind| match kind {
        "A" => Reply::Records(vec![("A", "10.1.0.1", 60)]),
        _ => Reply::Nothing,
    });
    let servers = vec![broken.address(), refuses.address(), good.address()];
    on_worker(async {
        let view = View::new(&DnsConfig { servers, ..config(good.address()) });
        assert_eq!(view.endpoints(&upstream("web:80")).await.unwrap(), ["10.1.0.1:80"]);
    });
}

#[test]
fn a_server_that_is_silent_delays_by_a_moment() {
    let silent = Scripted::start(|_, _| Reply::Silence);
    let good = Scripted::start(|_, kind| match kind {
        "A" => Reply::Records(vec![("A", "10.1.0.1", 60)]),
        _ => Reply::Nothing,
    });
    let patient = DnsConfig {
        servers: vec![silent.address(), silent.address(), good.address()],
        timeout: Duration::from_mins(1),
        ..config(good.address())
    };
    on_worker(async {
        let view = View::new(&patient);
        let start = Instant::now();
        assert_eq!(view.endpoints(&upstream("web:80")).await.unwrap(), ["10.1.0.1:80"]);
        assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    });
}

#[test]
fn the_first_server_is_believed_and_not_the_nearest() {
    let pods = Scripted::start(|_, kind| match kind {
        "A" => Reply::Records(vec![("A", "10.1.0.1", 0)]),
        _ => Reply::Nothing,
    });
    let public = Scripted::start(|_, _| Reply::NoSuchName);
    let servers = vec![pods.address(), public.address()];
    on_worker(async {
        let view = View::new(&DnsConfig { servers, ..config(pods.address()) });
        let web = upstream("web:80");
        for asked in 1..=3 {
            view.names.refresh(&web).await.unwrap();
            view.until(&web, &["10.1.0.1:80"]).await;
            assert!(pods.asked("A") >= asked);
        }
        assert_eq!(
            public.asked("A") + public.asked("AAAA"),
            0,
            "only what the first can't answer is the next one's"
        );
    });
}

#[test]
fn without_a_port_srv_records_say_where() {
    let dns = Scripted::start(|name, kind| match (name, kind) {
        ("_http._tcp.web.example.", "SRV") => Reply::Records(vec![
            ("SRV", "20 0 9000 backup.example.", 60),
            ("SRV", "10 5 8001 one.example.", 60),
            ("SRV", "10 1 8002 two.example.", 60),
            ("SRV", "10 1 8003 dead.example.", 60),
        ]),
        ("one.example.", "A") => Reply::Records(vec![("A", "10.1.0.1", 60)]),
        ("two.example.", "A") => Reply::Records(vec![("A", "10.1.0.2", 60)]),
        ("two.example.", "AAAA") => Reply::Records(vec![("AAAA", "fd00::2", 60)]),
        ("backup.example.", "A") => Reply::Records(vec![("A", "10.1.0.9", 60)]),
        _ => Reply::NoSuchName,
    });
    on_worker(async {
        let view = View::new(&config(dns.address()));
        let endpoints = view.endpoints(&upstream("_http._tcp.web.example")).await.unwrap();
        assert_eq!(endpoints, ["10.1.0.1:8001", "10.1.0.2:8002", "[fd00::2]:8002", "10.1.0.9:9000"]);
        let known = view.names.endpoints(&upstream("_http._tcp.web.example")).await.unwrap();
        let shares = known.iter().map(|address| (address.priority, address.weight)).collect::<Vec<_>>();
        assert_eq!(
            shares,
            [(10, 5120), (10, 512), (10, 512), (20, 1)],
            "a target's addresses share its weight"
        );
    });
}

#[test]
fn a_target_that_is_not_answered_for_keeps_its_place() {
    let fails = Arc::new(AtomicBool::new(false));
    let failing = Arc::clone(&fails);
    let dns = Scripted::start(move |name, kind| match (name, kind) {
        ("_http._tcp.web.example.", "SRV") => Reply::Records(vec![
            ("SRV", "10 5 8001 one.example.", 0),
            ("SRV", "20 5 8002 backup.example.", 0),
        ]),
        ("one.example.", _) if failing.load(Relaxed) => Reply::ServFail,
        ("one.example.", "A") => Reply::Records(vec![("A", "10.1.0.1", 0)]),
        ("backup.example.", "A") if failing.load(Relaxed) => Reply::Records(vec![("A", "10.1.0.3", 0)]),
        ("backup.example.", "A") => Reply::Records(vec![("A", "10.1.0.2", 0)]),
        _ => Reply::Nothing,
    });
    on_worker(async {
        let view = View::new(&config(dns.address()));
        let web = upstream("_http._tcp.web.example");
        assert_eq!(view.endpoints(&web).await.unwrap(), ["10.1.0.1:8001", "10.1.0.2:8002"]);
        fails.store(true, Relaxed);
        // Which of those of before were the silent target's nobody knows.
        view.until(&web, &["10.1.0.1:8001", "10.1.0.2:8002", "10.1.0.3:8002"]).await;
        assert!(view.gone.borrow().is_empty(), "{:?}", view.gone.borrow());
        fails.store(false, Relaxed);
        view.until(&web, &["10.1.0.1:8001", "10.1.0.2:8002"]).await;
    });
}

#[test]
fn requests_share_look_ups_and_a_missing_name_is_not_asked_for_each() {
    let dns = Scripted::start(|_, _| Reply::NoSuchName);
    let patient = DnsConfig {
        min_ttl: Duration::from_mins(1),
        max_ttl: Duration::from_mins(1),
        ..config(dns.address())
    };
    on_worker(async {
        let view = View::new(&patient);
        let web = upstream("web:80");
        let answers = futures_util::future::join_all((0..50).map(|_| view.endpoints(&web))).await;
        assert!(answers.iter().all(|answer| matches!(answer, Err(DnsError::Absent { .. }))), "{answers:?}");
        for _ in 0..50 {
            view.endpoints(&web).await.unwrap_err();
        }
        assert_eq!(dns.asked("A"), 1);
        assert_eq!(dns.asked("AAAA"), 1);
    });
}

#[test]
fn queries_are_as_plain_as_the_oldest_server_needs() {
    let dns = Scripted::start(|name, kind| match (name, kind) {
        ("web.dns.podman.", "A") => Reply::Records(vec![("A", "10.1.0.1", 0)]),
        _ => Reply::Nothing,
    });
    on_worker(async {
        let view = View::new(&config(dns.address()));
        assert_eq!(view.endpoints(&upstream("Web:80")).await.unwrap(), ["10.1.0.1:80"]);
        assert!(!dns.saw_edns(), "a query had EDNS");
    });
}
