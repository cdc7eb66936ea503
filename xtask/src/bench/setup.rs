//! The peers and the load generators.

use anyhow::Result;
use rprox_tests::programs;

use crate::setup::apt;
use crate::steps::Step;

const TOOLS: [(&str, &str); 4] =
    [("wrk", "wrk"), ("h2load", "nghttp2-client"), ("hping3", "hping3"), ("taskset", "util-linux")];

/// Programs of peers, each with its package.
const PEERS: [(&str, &str); 2] = [("haproxy", "haproxy"), ("caddy", "caddy")];

/// Installs what is missing; peers are unpacked beside the other tools, since as packages they start services.
pub(super) fn set_up(peers: bool) -> Result<()> {
    let step = Step::begin("Load generators");
    let done = apt::install_missing(&step, &TOOLS)?;
    step.finish(&done);
    if peers {
        let step = Step::begin("Peers of the proxy");
        for (program, package) in PEERS {
            if programs::unpacked(package, program).is_none() {
                apt::unpack(&step, package)?;
            }
        }
        step.finish("nginx, HAProxy and Caddy");
    }
    Ok(())
}
