//! Upstreams as they can be written.

use super::*;
use crate::proxy::upstream::set::Balancing;

#[test]
fn upstreams_can_be_many_and_have_weights() {
    let toml = "[timeouts]\nresponse = '5s'\n[[route]]\nhost = 'a.example.com'\nbalance = 'round-robin'\n\
                timeouts = { connect = '100ms' }\n\
                upstream = ['web:80', { to = 'https://new:443', weight = 5, ca = 'a.crt', server_name = 'N.example' }]\n";
    let config = load(toml, &[]).unwrap();
    let UpstreamTemplate::Plain(set) = &config.routes[0].upstream else { panic!("no template") };
    assert_eq!(set.label, "web:80, new:443");
    assert_eq!(set.upstreams.iter().map(|weighted| weighted.weight).collect::<Vec<_>>(), [1, 5]);
    assert_eq!(set.balance, Balancing::RoundRobin);
    assert_eq!(set.upstreams[0].upstream.tls, None);
    let tls = set.upstreams[1].upstream.tls.as_ref().unwrap();
    assert_eq!(tls.server_name.to_str(), "n.example");
    assert_eq!(set.timeouts.connect, Duration::from_millis(100));
    assert_eq!(set.timeouts.response, Duration::from_secs(5), "as for all");
}

#[test]
fn retries_and_passive_health_are_taken() {
    let toml = r#"
[retries]
attempts = 1
budget = 50
minimum = 0
moving = "0s"

[passive_health]
failures = 5
back_off = "2s"
longest_back_off = "8s"

[[route]]
host = "a.example.com"
upstream = "web:80"
"#;
    let config = load(toml, &[]).unwrap();
    let s = Duration::from_secs;
    assert_eq!(config.retries, Retries { attempts: 1, budget: 50, minimum: 0, moving: s(0) });
    let passive = PassiveHealth { failures: 5, back_off: s(2), longest_back_off: s(8) };
    assert_eq!(config.passive_health, passive);
}

#[test]
fn each_mistake_in_an_upstream_has_its_place_and_reason() {
    for (toml, expected) in [
        (
            "[[route]]\nhost = 'a'\nupstream = { to = 'https://b:1', ca = 'none.crt' }\n",
            "rprox.toml:3:39: none.crt: No such file",
        ),
        (
            "[[route]]\nhost = 'a'\nupstream = { to = 'https://b:1', ca = 'a.key' }\n",
            "rprox.toml:3:39: a.key: no certificate in it",
        ),
        (
            "[[route]]\nhost = 'a'\nupstream = { to = 'https://b:1', ca = 'a.crt', server_name = 'c d' }\n",
            "rprox.toml:3:62: \"c d\" can't be a certificate's name",
        ),
        (
            "[[route]]\nhost = 'a'\nupstream = ['b:1', { to = 'c:1', ca = 'a.crt' }]\n",
            "rprox.toml:3:39: ca and server_name are for an upstream with https://",
        ),
        ("[[route]]\nhost = 'a'\nupstream = ['b:1', 'c:x']\n", "rprox.toml:3:20: upstream \"c:x\": the port"),
        (
            "[[route]]\nhost = 'a'\nupstream = [{ to = 'b:1', weight = 1001 }]\n",
            "rprox.toml:3:36: a weight is from 0 to 1000",
        ),
        (
            "[[route]]\nhost = 'a'\nupstream = [{ to = 'b:1', weight = 0 }]\n",
            "rprox.toml:3:12: no upstream with a weight",
        ),
        ("[[route]]\nhost = 'a'\nupstream = []\n", "rprox.toml:3:12: no upstream with a weight"),
        ("[[route]]\nhost = 'a'\nupstream = { weight = 1 }\n", "rprox.toml:3:12: missing field `to`"),
        (
            "[[route]]\nhost = 'a'\nupstream = 'b'\nbalance = 'random'\n",
            "rprox.toml:4:11: \"random\" is no way to balance",
        ),
    ] {
        let error = load(toml, &[]).expect_err(toml);
        assert!(error.starts_with(expected), "{toml}\nexpected: {expected}\nand got:  {error}");
    }
}
