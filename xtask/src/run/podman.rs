//! The article's site on a host with rootless Podman, and what to try there by hand.

use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use anyhow::{Result, bail};
use rprox_tests::client::Version;
use rprox_tests::command;
use rprox_tests::rootless::USER;
use rprox_tests::rootless::site::{NETWORK, Site};

use crate::interrupt;
use crate::steps::Step;

/// What is asked for, and the pods that may answer.
const ASKED: [(&str, &[&str]); 3] = [
    ("http://wiki.mydomain.test/", &["wiki-1", "wiki-2"]),
    ("https://wiki.mydomain.test/", &["wiki-1", "wiki-2"]),
    ("https://grafana.mydomain.test/", &["grafana"]),
];

/// Makes the site, shows that it answers, and stays until Ctrl-C unless it is to be shown `once`.
pub(super) fn run(once: bool) -> Result<ExitCode> {
    interrupt::catch()?;
    let step =
        Step::begin("Boot a host with rootless Podman, make the pods, start the proxy, attach the loader");
    let mut site = Site::start()?;
    step.finish("three pods, the proxy, a client");
    println!("{}", site.host.podman("ps --format {{.Names}}\\t{{.Image}}\\t{{.Status}}")?);

    let mut wrong = 0;
    for (url, pods) in ASKED {
        for version in Version::ALL {
            let answer = site.get(url).version(version).send()?;
            let pod = answer.field("pod").unwrap_or("none");
            let client = answer.field("client").unwrap_or("none");
            wrong += usize::from(!pods.contains(&pod));
            println!(
                "{url}  {version}  {}  from {pod}, which sees {client}",
                answer.status().unwrap_or_default()
            );
        }
    }
    if !once && !interrupt::came() {
        explain(&site);
        stay(&mut site)?;
    }
    let step = Step::begin("Take the host down");
    site.loader.stop()?;
    drop(site);
    step.finish("nothing is left");
    Ok(if wrong == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn explain(site: &Site) {
    let mut curl = site.host.at_client("curl");
    curl.arg("--cacert").arg(site.authority()).arg("https://grafana.mydomain.test/");
    println!(
        "
The host stays up until Ctrl-C. From another terminal, as root:

  The user {USER}'s shell, in which podman and systemctl --user work:
    {user}

  There, a pod goes, and comes again as another:
    podman pod rm --force wiki-1
    podman pod create --name wiki-3 --network {NETWORK} --network-alias wiki
    podman run --detach --pod wiki-3 --volume ~/wiki-1:/srv localhost/nginx -p /srv -c nginx.conf -e stderr

  The proxy restarts, and nobody is refused meanwhile:
    systemctl --user restart rprox

  Ask as the client does:
    {client}

  What the loader has attached:
    {loader}
",
        user = command::line(&site.host.user("bash")),
        client = command::line(&curl),
        loader = command::line(site.host.root("rprox-loader").arg("status")),
    );
}

/// Returns on Ctrl-C.
fn stay(site: &mut Site) -> Result<()> {
    while !interrupt::came() {
        if let Some(status) = site.loader.ended() {
            bail!("the loader ended by itself ({status}):\n{}", site.loader.said().join("\n"));
        }
        thread::sleep(Duration::from_millis(100));
    }
    Ok(())
}
