//! What DNS answers for the upstreams of the configuration.

#![forbid(unsafe_code)]

use std::collections::HashSet;
use std::sync::Arc;

use super::{IN_THE_CONTAINER, Place};
use crate::findings::Finding;
use crate::proxy::dns::{Address, DnsError};
use crate::proxy::route::Route;
use crate::proxy::upstream::Upstream;

/// Each upstream of `routes` whose name has to be looked up, once.
pub(super) fn upstreams(routes: &[Arc<Route>]) -> Vec<Arc<Upstream>> {
    let mut seen = HashSet::new();
    let all = routes.iter().flat_map(|route| route.upstream.all());
    all.filter(|upstream| upstream.address().is_none() && seen.insert((&upstream.name, upstream.port)))
        .cloned()
        .collect()
}

/// `answer`: what came of looking `upstream` up, from `place`.
pub(super) fn check(upstream: &str, answer: Result<&[Address], &DnsError>, place: Place) -> Finding {
    let check = format!("upstream {upstream}");
    match answer {
        Ok(addresses) => {
            let addresses: Vec<String> = addresses.iter().map(|address| address.socket.to_string()).collect();
            Finding::fine(check, addresses.join(", "))
        }
        Err(error) if place == Place::PodmanHost => Finding::warning(
            check,
            format!("{error} From the host a rootless network's DNS can't be asked."),
            IN_THE_CONTAINER,
        ),
        Err(error @ DnsError::Absent { .. }) => Finding::fault(
            check,
            error.to_string(),
            "start it on a network that the agent is on too (`podman inspect` lists them), or correct the name or dns.search",
        ),
        Err(error) => Finding::fault(
            check,
            error.to_string(),
            "see that dns.servers, or /etc/resolv.conf, names the network's gateway, and that aardvark-dns runs",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::findings::Severity::{Fault, Fine, Warning};

    #[test]
    fn an_unknown_name_is_a_fault_where_the_agent_runs() {
        let absent = DnsError::Absent { name: "web.dns.podman.".to_owned() };
        let of = |place| check("web:80", Err(&absent), place);
        assert_eq!(of(Place::Agents).severity, Fault);
        assert_eq!(of(Place::PodmanHost).severity, Warning);
        assert!(of(Place::PodmanHost).remedy.unwrap().contains("podman exec"));
        let address = Address::from("10.89.0.7:80".parse::<std::net::SocketAddr>().unwrap());
        let known = check("web:80", Ok(&[address]), Place::Agents);
        assert_eq!((known.severity, known.found.as_str()), (Fine, "10.89.0.7:80"));
    }
}
