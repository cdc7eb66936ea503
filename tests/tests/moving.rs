//! Moving from an iptables rule: `rprox-loader check` finds it and says what to run, and running that has no gap for new connections.

#![allow(clippy::unwrap_used, reason = "a scenario fails where its helpers do")]

use rprox_tests::command::{self, Finished};
use rprox_tests::playground::{Playground, SERVICES};
use rprox_tests::pod::Server;
use rprox_tests::topology::INTERFACE;

fn check(playground: &Playground) -> Finished {
    command::finish(playground.loader("check").args(["-i", INTERFACE])).unwrap()
}

/// The arguments of the first line of `text` that runs `program`, up to the end of the line.
fn arguments<'a>(text: &'a str, program: &str) -> Vec<&'a str> {
    let place = text.find(program).unwrap_or_else(|| panic!("{program} in {text}"));
    text[place + program.len()..].lines().next().unwrap().split_whitespace().collect()
}

#[test]
fn the_articles_rule_is_found_and_replaced_with_no_gap() {
    let mut playground = Playground::new().unwrap();
    playground.start_agent().unwrap();
    let host = &playground.topology.host;
    let nothing = check(&playground);
    assert_eq!((nothing.code, nothing.stdout.as_str()), (Some(0), "nothing is in the way on eth0\n"));

    for (program, port) in
        [("iptables", "80"), ("iptables", "443"), ("ip6tables", "80"), ("ip6tables", "443")]
    {
        let to = if port == "80" { "8080" } else { "8443" };
        let rule =
            format!("-t nat -A PREROUTING -i {INTERFACE} -p tcp --dport {port} -j REDIRECT --to-port {to}");
        command::run(host.command(program).args(rule.split(' '))).unwrap();
    }
    assert!(playground.is_redirected());
    let load = playground.load(&SERVICES[1]);
    load.wait_for_more(100).unwrap();

    // As the README says: what `check` says, in its order, until it says nothing.
    let found = check(&playground);
    assert_eq!(found.code, Some(1), "{}", found.stdout);
    assert!(
        found
            .stdout
            .contains("first run\n  rprox-loader attach --mode rewrite -i eth0 -r 80:8080 -r 443:8443\n"),
        "{}",
        found.stdout
    );
    let attach = arguments(&found.stdout, "rprox-loader attach ");
    command::run(playground.loader("attach").args(attach)).unwrap();
    load.wait_for_more(100).unwrap();
    let mut left = 4;
    loop {
        let found = check(&playground);
        assert_eq!(found.stdout.matches("Remove it with:").count(), left, "{}", found.stdout);
        if left == 0 {
            break;
        }
        let removal = arguments(&found.stdout, "Remove it with: ");
        command::run(host.command(removal[0]).args(&removal[1..])).unwrap();
        left -= 1;
        load.wait_for_more(100).unwrap();
    }
    // The two connections that were open under the rule when rprox came before it may end with it: connection tracking takes
    // their packets for another connection's. No later one fails.
    let tally = load.finish().unwrap();
    assert!(tally.failures.len() <= 2, "{:#?}", tally.failures);
    assert!(playground.is_redirected());
    assert_eq!(check(&playground).code, Some(0));
}

/// Has the loader attach by itself, and says by which mode it did and why.
fn attach(playground: &Playground) -> (String, String) {
    command::run(playground.loader("attach").args(["-i", INTERFACE, "-r", "80:8080"])).unwrap();
    let status = playground.status().unwrap();
    let text = |key: &str| status[key].as_str().unwrap().to_owned();
    (text("mode"), text("reason"))
}

#[test]
fn where_a_rule_redirects_the_port_rprox_comes_before_it_by_rewrite() {
    let mut playground = Playground::new().unwrap();
    playground.start_agent().unwrap();
    let change = |how: &str, interface: &str| {
        let rule =
            format!("-t nat {how} PREROUTING -i {interface} -p tcp --dport 80 -j REDIRECT --to-ports 8080");
        command::run(playground.topology.host.command("iptables").args(rule.split(' '))).unwrap();
    };
    let is_served = || playground.get("http://grafana.mydomain.com/").send().unwrap().status() == Some(200);
    change("-A", "lan0");
    assert_eq!(attach(&playground).0, "steer", "the rule is for another interface");
    for interface in [INTERFACE, "eth+"] {
        change("-A", interface);
        let (mode, reason) = attach(&playground);
        assert_eq!(mode, "rewrite", "{reason}");
        assert!(reason.contains(&format!("iptables -A PREROUTING -i {interface} ")), "{reason}");
        assert!(is_served());
        change("-D", interface);
        assert_eq!(attach(&playground).0, "steer", "the rule is gone");
        assert!(is_served());
    }
}

#[test]
fn a_listener_on_the_port_is_found() {
    let playground = Playground::new().unwrap();
    let folder = playground.folder().join("host-server");
    let _server = Server::start("host-server", &playground.topology.host, &[80], &folder).unwrap();
    let found = check(&playground);
    assert_eq!(found.code, Some(1), "{}", found.stdout);
    assert!(found.stdout.contains("nginx (pid ") && found.stdout.contains("port 80/tcp"), "{}", found.stdout);
}
