//! Routes by the labels of containers, with the real Podman: its API, its networks, its containers.

#![cfg(feature = "podman")]
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod host;

use std::collections::BTreeSet;
use std::fs;

use serde_json::Value;

use self::host::{Host, Service, until};

struct Agent<'a> {
    host: &'a Host,
    /// Ends with the host.
    _process: Service,
}

impl<'a> Agent<'a> {
    /// Starts one that follows the host's Podman, with `more` in its configuration.
    fn start(host: &'a Host, more: &str) -> Self {
        Self::write(host, more);
        let mut command = host.command(env!("CARGO_BIN_EXE_rprox-agent"));
        command.args(["run", "--allow-root", "-c"]).arg(host.path("rprox.toml"));
        let agent = Self { host, _process: Service::start(&mut command) };
        until("the agent to serve", || (agent.status()?["phase"] == "serving").then_some(()));
        agent
    }

    fn write(host: &Host, more: &str) {
        let folder = host.path("").display().to_string();
        let configuration = format!(
            "listen.http = '127.0.0.1:8080'\nlisten.https = '127.0.0.1:8443'\nadmin.listen = 'unix:{folder}admin.sock'\nworkers = 2\n\
             [podman]\nsocket = 'unix:{folder}podman.sock'\nnetworks = ['pods']\nresync = '1h'\nstale = '2s'\n{more}"
        );
        fs::write(host.path("rprox.new"), configuration).unwrap();
        fs::rename(host.path("rprox.new"), host.path("rprox.toml")).unwrap();
    }

    fn status(&self) -> Option<Value> {
        serde_json::from_str(&self.admin("status.json")).ok()
    }

    fn admin(&self, path: &str) -> String {
        let mut command = self.host.command("curl");
        command.args(["--silent", "--unix-socket"]).arg(self.host.path("admin.sock"));
        String::from_utf8(command.arg(format!("http://admin/{path}")).output().unwrap().stdout).unwrap()
    }

    /// How many containers serve `route`, all by their labels.
    fn upstreams(&self, route: &str) -> usize {
        let status = self.status().unwrap();
        let mut routes = status["routes"].as_array().unwrap().iter();
        let route = routes.find(|one| one["route"] == route && one["by_label"] == true);
        route.map_or(0, |route| route["upstreams"].as_array().unwrap().len())
    }

    /// Gives it this order, as its operator does.
    fn order(&self, order: &str) {
        let mut command = self.host.command(env!("CARGO_BIN_EXE_rprox-agent"));
        command.args([order, "-c"]).arg(self.host.path("rprox.toml"));
        assert!(command.status().unwrap().success(), "{order}");
    }

    /// Waits until it says that it ignores something for this reason.
    fn refuses(&self, reason: &str) {
        until(reason, || self.status()?["labels"]["refused"].to_string().contains(reason).then_some(()));
    }
}

#[test]
fn routes_come_and_go_with_containers_and_outlive_podman_for_a_time() {
    let host = Host::boot();
    let api = host.serve_api();
    host.podman("network create pods");
    host.podman("network create others");
    let web = "--label rprox.port=80 --label rprox.host";
    host.web("first", &format!("--network pods {web}=web.example"));
    let agent = Agent::start(&host, "[[route]]\nhost = '*.ours.example'\nupstream = '127.0.0.1:9'\n");
    assert_eq!(
        host.get("web.example", "/"),
        ("200".to_owned(), "first".to_owned()),
        "known from the start on"
    );
    assert_eq!(host.get("other.example", "/").0, "404");

    // One in a pod has its addresses from the pod.
    host.pod("pod", "pods");
    host.web("second", &format!("--pod pod {web}=web.example,more.example"));
    until("the second to be there", || (agent.upstreams("web.example/") == 2).then_some(()));
    let mut seen = BTreeSet::new();
    until("both to answer", || {
        seen.insert(host.get("web.example", "/").1);
        (seen.len() == 2).then_some(())
    });
    assert_eq!(seen.into_iter().collect::<Vec<_>>(), ["first", "second"]);
    assert_eq!(host.get("more.example", "/").1, "second");

    host.podman("stop --time 0 first");
    until("the first to be gone", || (agent.upstreams("web.example/") == 1).then_some(()));
    assert_eq!(host.get("web.example", "/").1, "second");
    host.podman("start first");
    until("the first to be back", || (agent.upstreams("web.example/") == 2).then_some(()));

    let metrics = agent.admin("metrics");
    for line in [
        "rprox_labelled_containers 2\n",
        "rprox_labels_refused 0\n",
        "rprox_label_resyncs_total{result=\"failed\"} 0\n",
    ] {
        assert!(metrics.contains(line), "no {line} in {metrics}");
    }

    // A restarted API is found again, and what changed meanwhile with it.
    api.end();
    host.podman("rm --force --time 0 first");
    until("Podman to be missed", || agent.status()?["labels"]["error"].as_str().map(drop));
    let api = host.serve_api();
    until("Podman to be found again", || agent.status()?["labels"]["error"].is_null().then_some(()));
    until("the first to be gone", || (agent.upstreams("web.example/") == 1).then_some(()));

    // Without it, what is known serves on, and after podman.stale the configuration alone.
    api.end();
    assert_eq!(host.get("web.example", "/").1, "second");
    until("old knowledge to be let go", || (agent.upstreams("web.example/") == 0).then_some(()));
    assert_eq!(host.get("web.example", "/").0, "404");
    assert_eq!(host.get("x.ours.example", "/").0, "502");
    let _api = host.serve_api();
    until("the second to be back", || (host.get("web.example", "/").1 == "second").then_some(()));
}

#[test]
fn a_new_build_takes_over_with_the_routes_by_label_and_loses_no_request() {
    let host = Host::boot();
    let _api = host.serve_api();
    host.podman("network create pods");
    host.web("only", "--network pods --label rprox.port=80 --label rprox.host=web.example");
    let agent = Agent::start(&host, "");
    let process = || agent.status()?["pid"].as_u64();
    let load = host.load("web.example");
    load.wait_for_more(50).unwrap();
    for _ in 0..2 {
        let before = process();
        agent.order("upgrade");
        until("the new process to tell of itself", || process().filter(|now| Some(*now) != before));
        load.wait_for_more(50).unwrap();
    }
    load.finish().unwrap().assert_all_served();

    // It follows Podman itself.
    host.podman("rm --force --time 0 only");
    until("the route to be gone", || (host.get("web.example", "/").0 == "404").then_some(()));
}

#[test]
fn labels_say_how_endpoints_are_watched_kept_to_and_waited_for() {
    let host = Host::boot();
    let _api = host.serve_api();
    host.podman("network create pods");
    let web = "--network pods --label rprox.port=80 --label rprox.host=web.example --label rprox.sticky.cookie=which \
               --label rprox.health.path=/load --label rprox.health.interval=1s --label rprox.health.unhealthy=1";
    for name in ["first", "second"] {
        host.web(name, web);
    }
    host.web("other", &web.replace("path=/load", "path=/other"));
    host.mute("mute", "--network pods --label rprox.port=80 --label rprox.host=mute.example --label rprox.timeouts.response=100ms");
    let agent = Agent::start(&host, "");
    agent.refuses("container other: rprox.health.path is another one than that of first");
    assert_eq!(host.get("mute.example", "/").0, "504");

    let mut command = host.command("curl");
    command.args(["--silent", "--include", "--header", "Host: web.example", "http://127.0.0.1:8080/"]);
    let answer = String::from_utf8(command.output().unwrap().stdout).unwrap();
    assert!(answer.contains("set-cookie: which="), "{answer}");

    // One that is no longer well is left out, and comes back.
    let seen = || BTreeSet::from([(); 8].map(|()| host.get("web.example", "/").1));
    until("both to answer", || (seen().len() == 2).then_some(()));
    host.podman("exec second /bin/busybox mv /load /gone");
    until("the second to be left out", || (seen() == BTreeSet::from(["first".to_owned()])).then_some(()));
    host.podman("exec second /bin/busybox mv /gone /load");
    until("the second to be back", || (seen().len() == 2).then_some(()));
}

#[test]
fn a_container_with_a_certificate_of_its_own_gets_tls_as_it_comes() {
    let host = Host::boot();
    let _api = host.serve_api();
    host.podman("network create pods");
    let web = "--network pods --label rprox.port=80 --label rprox.host=web.example";
    host.web("passed", &format!("{web} --label rprox.tls=passthrough"));
    host.web("other", &format!("{web} --label rprox.path=/x"));
    let agent = Agent::start(&host, "");
    agent.refuses("container other: rprox.tls is another one than that of passed");
    until("the route", || (agent.upstreams("web.example") == 1).then_some(()));
    assert_eq!(host.get("web.example", "/").0, "301");
    // What is behind port 80 speaks no TLS, which is the client's to find out.
    let mut command = host.command("curl");
    command.args(["--silent", "--connect-to", "web.example:443:127.0.0.1:8443", "https://web.example/"]);
    assert!(!command.status().unwrap().success());
    let line = "rprox_passthrough_connections_total{route=\"web.example\"} 1\n";
    until("it to be passed through", || agent.admin("metrics").contains(line).then_some(()));
}

#[test]
fn labels_reach_no_further_than_they_may() {
    let host = Host::boot();
    let api = host.serve_api();
    host.podman("network create pods");
    host.podman("network create others");
    let ours = "[[route]]\nhost = '*.ours.example'\npath = '/a'\nupstream = '127.0.0.1:9'\n";
    let agent = Agent::start(&host, ours);
    let web = "--label rprox.port=80 --label rprox.host";

    host.web("elsewhere", &format!("--network others {web}=elsewhere.example"));
    agent.refuses("container elsewhere are ignored: it has no address on pods");
    host.web("thief", &format!("--network pods {web}=x.ours.example --label rprox.path=/b"));
    agent.refuses("the labels of container thief: the configuration has the route of *.ours.example");
    host.web("spy", &format!("--network pods {web}=spy.example --label rprox.cert=/etc/shadow"));
    agent.refuses("container spy are ignored: there is no label rprox.cert");
    host.web("typo", "--network pods --label rprox.port=80 --label rprox.hots=typo.example");
    agent.refuses("container typo are ignored: there is no label rprox.hots, only rprox.host, .port");
    host.web("portly", "--network others --label rprox.port=80");
    host.web("good", &format!("--network pods {web}=good.example"));
    until("the good one", || (agent.upstreams("good.example/") == 1).then_some(()));
    for strange in ["elsewhere.example", "x.ours.example", "spy.example"] {
        assert_eq!(host.get(strange, "/b").0, "404", "{strange}");
    }

    let refused = agent.status().unwrap()["labels"]["refused"].to_string();
    assert!(!refused.contains("portly"), "who names no host asks for nothing: {refused}");

    // A reload decides anew: the configuration takes a host, and gives another one back.
    Agent::write(&host, "[[route]]\nhost = 'good.example'\nupstream = '127.0.0.1:9'\n");
    agent.refuses("the labels of container good: the configuration has the route of good.example");
    assert_eq!(host.get("good.example", "/").0, "502");
    assert_eq!(agent.upstreams("x.ours.example/b"), 1);
    api.end();
}
