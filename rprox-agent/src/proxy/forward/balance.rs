//! Which endpoint of a route's upstreams is next.
//!
//! An upstream's weight is its share of the requests, however many endpoints it has: they share it, by the weights of their
//! SRV records where they have some. What comes of an upstream's weight while none of its endpoints is well goes to the others.

#![forbid(unsafe_code)]

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;

use super::endpoint::Endpoint;
use crate::proxy::dns::Address;
use crate::proxy::health::Verdict;
use crate::proxy::upstream::set::Balancing;

/// What an upstream of weight 1 has to share among its endpoints.
const SHARE: u64 = 1 << 16;

/// How often chance is asked for an endpoint that can be used before all are looked at.
const DRAWS: usize = 3;

/// The endpoints of a route's upstreams, arranged for choosing.
#[derive(Default)]
pub struct Members {
    /// By tier.
    all: Vec<Member>,
}

/// What else there is to know of a route's endpoint.
#[derive(Default)]
pub struct Told {
    /// What a cookie calls it.
    pub mark: u64,
    /// What a health check says of it.
    pub verdict: Option<Arc<Verdict>>,
}

/// An endpoint among others.
pub struct Member {
    /// The endpoint.
    pub endpoint: Rc<Endpoint>,
    /// Its share of the requests, as against the others of its tier. 0: none, it is being drained.
    pub weight: u64,
    /// What a cookie calls it, where the route has cookies.
    pub mark: u64,
    /// What a health check says of it.
    verdict: Option<Arc<Verdict>>,
    /// 0 serves; each further tier only while no endpoint of those before can (RFC 2782, priority).
    tier: usize,
    /// The weights of its tier up to and with this one.
    sum: u64,
    /// Round robin: how much it is due.
    due: Cell<i64>,
}

impl Members {
    /// Arranges the endpoints of upstreams: for each its weight, its addresses, and what makes an endpoint of one.
    pub fn new<'a, E>(
        upstreams: impl IntoIterator<Item = (u32, &'a [Address], E)>,
        told: impl Fn(&Endpoint) -> Told,
    ) -> Self
    where
        E: Fn(&Address) -> Rc<Endpoint>,
    {
        let mut all: Vec<Member> = Vec::new();
        for (weight, addresses, endpoint) in upstreams {
            // They are sorted by priority.
            for (tier, addresses) in addresses.chunk_by(|a, b| a.priority == b.priority).enumerate() {
                let whole: u64 = addresses.iter().map(|address| u64::from(address.weight)).sum();
                for address in addresses {
                    let part = SHARE * u64::from(weight) * u64::from(address.weight) / whole.max(1);
                    let weight = if weight == 0 { 0 } else { part.max(1) };
                    let endpoint = endpoint(address);
                    match all.iter_mut().find(|member| Rc::ptr_eq(&member.endpoint, &endpoint)) {
                        Some(member) if member.tier == tier => member.weight += weight,
                        Some(_) => {}
                        None => {
                            let Told { mark, verdict } = told(&endpoint);
                            let due = Cell::new(0);
                            all.push(Member { endpoint, weight, mark, verdict, tier, sum: 0, due });
                        }
                    }
                }
            }
        }
        all.sort_by_key(|member| member.tier);
        for tier in all.chunk_by_mut(|a, b| a.tier == b.tier) {
            let mut sum = 0;
            for member in tier {
                sum += member.weight;
                member.sum = sum;
            }
        }
        Self { all }
    }

    /// All of them.
    #[must_use]
    pub fn all(&self) -> &[Member] {
        &self.all
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// The only one, where there is one.
    #[must_use]
    pub fn only(&self) -> Option<&Member> {
        if let [only] = self.all.as_slice() { Some(only) } else { None }
    }

    /// The next of those that are `usable`.
    pub fn choose(&self, balance: Balancing, usable: impl Fn(&Member) -> bool) -> Option<&Member> {
        let mut tiers = self.all.chunk_by(|a, b| a.tier == b.tier);
        tiers.find_map(|tier| match balance {
            Balancing::LeastConnections => less_busy(tier, &usable),
            Balancing::RoundRobin => in_turn(tier, &usable),
        })
    }

    /// The best of those that are `possible`, when none is usable: the first that will be.
    pub fn best(&self, possible: impl Fn(&Member) -> bool) -> Option<&Member> {
        let possible = self.all.iter().filter(|member| member.weight > 0 && possible(member));
        possible.min_by_key(|member| (!member.is_healthy(), member.endpoint.ejection.until()))
    }

    /// The one that cookies call `mark`, also if it is being drained.
    #[must_use]
    pub fn marked(&self, mark: u64) -> Option<&Member> {
        self.all.iter().find(|member| member.mark == mark)
    }
}

impl Member {
    /// Whether its health checks say so, if there are any.
    #[must_use]
    pub fn is_healthy(&self) -> bool {
        self.verdict.as_ref().is_none_or(|verdict| verdict.is_healthy())
    }
}

/// Of two chosen by chance and weight the one with fewer requests for its weight. That spreads requests nearly as well as
/// looking at all, and doesn't send everybody to the one that has just come.
fn less_busy<'a>(tier: &'a [Member], usable: &impl Fn(&Member) -> bool) -> Option<&'a Member> {
    let first = draw(tier, usable)?;
    let second = draw(tier, &|member| !std::ptr::eq(member, first) && usable(member));
    let Some(second) = second else { return Some(first) };
    let load = |one: &Member, other: &Member| u64::from(one.endpoint.running()) * other.weight;
    // Where both are as busy the first it is, so that in quiet times weights alone decide.
    Some(if load(second, first) < load(first, second) { second } else { first })
}

/// One by chance, heavier ones more often.
fn draw<'a>(tier: &'a [Member], usable: &impl Fn(&Member) -> bool) -> Option<&'a Member> {
    let whole = tier.last()?.sum;
    if whole == 0 {
        return None;
    }
    for _ in 0..DRAWS {
        let point = fastrand::u64(..whole);
        let drawn = &tier[tier.partition_point(|member| member.sum <= point)];
        if usable(drawn) {
            return Some(drawn);
        }
    }
    let weights = || tier.iter().filter(|member| member.weight > 0 && usable(member));
    let whole: u64 = weights().map(|member| member.weight).sum();
    let mut point = if whole == 0 { return None } else { fastrand::u64(..whole) };
    for member in weights() {
        if point < member.weight {
            return Some(member);
        }
        point -= member.weight;
    }
    None
}

/// The one that is due most. Each gets due by its weight with every turn, and whose turn it was owes the whole: so heavier ones
/// come more often, and never all at once.
fn in_turn<'a>(tier: &'a [Member], usable: &impl Fn(&Member) -> bool) -> Option<&'a Member> {
    let mut whole = 0;
    let mut next: Option<&Member> = None;
    for member in tier.iter().filter(|member| member.weight > 0 && usable(member)) {
        let weight = member.weight.cast_signed();
        member.due.set(member.due.get() + weight);
        whole += weight;
        if next.is_none_or(|next| member.due.get() > next.due.get()) {
            next = Some(member);
        }
    }
    let next = next?;
    next.due.set(next.due.get() - whole);
    Some(next)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use crate::proxy::forward::endpoint::Use;
    use crate::proxy::forward::pool::Pool;
    use crate::proxy::upstream::Upstream;

    /// Upstreams of these weights, each with endpoints of a priority and a weight.
    fn members(upstreams: &[(u32, &[(u16, u32)])]) -> Members {
        let pool = Pool::default();
        let upstream = Upstream::parse("a:80", None).unwrap();
        let lists: Vec<(u32, Vec<Address>)> = (1..)
            .zip(upstreams)
            .map(|(net, (weight, endpoints))| {
                let address = |(host, (priority, weight)): (u8, &(u16, u32))| Address {
                    socket: ([10, 0, net, host], 80).into(),
                    priority: *priority,
                    weight: *weight,
                };
                (*weight, (1..).zip(*endpoints).map(address).collect())
            })
            .collect();
        let endpoint = |address: &Address| pool.endpoint(address.socket, &upstream);
        Members::new(lists.iter().map(|(weight, list)| (*weight, list.as_slice(), endpoint)), |_| {
            Told::default()
        })
    }

    /// How many of 10,000 requests, one at a time, each endpoint gets.
    fn spread(
        members: &Members,
        balance: Balancing,
        usable: impl Fn(&Member) -> bool,
    ) -> HashMap<String, i32> {
        let mut seen = HashMap::new();
        for _ in 0..10_000 {
            let member = members.choose(balance, &usable).unwrap();
            *seen.entry(member.endpoint.way.address.ip().to_string()).or_default() += 1;
        }
        seen
    }

    fn is_about(seen: &HashMap<String, i32>, expected: &[(&str, i32)]) {
        assert_eq!(seen.len(), expected.len(), "{seen:?}");
        for (address, count) in expected {
            assert!((seen[*address] - count).abs() < 400, "{address}: {count} and not {seen:?}");
        }
    }

    const BOTH: [Balancing; 2] = [Balancing::LeastConnections, Balancing::RoundRobin];

    #[test]
    fn an_upstream_s_weight_is_its_share_however_many_endpoints_it_has() {
        let members = members(&[(3, &[(0, 1), (0, 1), (0, 1)]), (1, &[(0, 1)])]);
        for balance in BOTH {
            let seen = spread(&members, balance, |_| true);
            let expected = [("10.0.1.1", 2500), ("10.0.1.2", 2500), ("10.0.1.3", 2500), ("10.0.2.1", 2500)];
            is_about(&seen, &expected);
        }
    }

    #[test]
    fn endpoints_share_by_the_weights_of_their_records() {
        let members = members(&[(1, &[(0, 60), (0, 30), (0, 10)])]);
        for balance in BOTH {
            let seen = spread(&members, balance, |_| true);
            is_about(&seen, &[("10.0.1.1", 6000), ("10.0.1.2", 3000), ("10.0.1.3", 1000)]);
        }
    }

    #[test]
    fn a_weight_of_zero_gets_nothing() {
        let members = members(&[(0, &[(0, 1)]), (1, &[(0, 1)])]);
        for balance in BOTH {
            is_about(&spread(&members, balance, |_| true), &[("10.0.2.1", 10_000)]);
            assert!(members.choose(balance, |member| member.weight == 0).is_none());
        }
        assert!(members.best(|member| member.weight == 0).is_none());
    }

    #[test]
    fn what_is_not_usable_leaves_its_share_to_the_others() {
        let members = members(&[(8, &[(0, 1)]), (2, &[(0, 1)]), (2, &[(0, 1)])]);
        for balance in BOTH {
            let seen = spread(&members, balance, |member| member.weight != 8 * SHARE);
            is_about(&seen, &[("10.0.2.1", 5000), ("10.0.3.1", 5000)]);
        }
    }

    #[test]
    fn a_lower_priority_serves_only_while_the_higher_can_t() {
        let members = members(&[(1, &[(10, 1), (10, 1), (20, 1)])]);
        for balance in BOTH {
            assert_eq!(spread(&members, balance, |_| true).len(), 2);
            let seen = spread(&members, balance, |member| member.tier == 1);
            is_about(&seen, &[("10.0.1.3", 10_000)]);
        }
    }

    #[test]
    fn the_busy_get_less_in_relation_to_their_weight() {
        let members = members(&[(2, &[(0, 1)]), (1, &[(0, 1)])]);
        let choose = || members.choose(Balancing::LeastConnections, |_| true).unwrap();
        let mut running = Vec::new();
        for _ in 0..30 {
            running.push(Use::of(&choose().endpoint));
        }
        assert_eq!(members.all[0].endpoint.running(), 20);
        assert_eq!(members.all[1].endpoint.running(), 10);
    }

    #[test]
    fn round_robin_is_smooth() {
        let members = members(&[(2, &[(0, 1)]), (1, &[(0, 1)])]);
        let turns = (0..6).map(|_| members.choose(Balancing::RoundRobin, |_| true).unwrap().weight / SHARE);
        assert_eq!(turns.collect::<Vec<_>>(), [2, 1, 2, 2, 1, 2]);
    }
}
