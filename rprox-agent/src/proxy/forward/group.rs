//! A route's upstreams as a worker knows them: their endpoints of this moment, and what retries are left.

#![forbid(unsafe_code)]

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use foldhash::HashMap;
use futures_util::future::join_all;

use super::balance::{Members, Told};
use super::endpoint::Endpoint;
use super::pool::Pool;
use super::retry::Budget;
use super::sticky;
use crate::proxy::dns::{Address, DnsError, Names};
use crate::proxy::timer::timeout;
use crate::proxy::upstream::set::UpstreamSet;

/// How long the upstreams that are known wait for those that are not yet.
const COMPANY: Duration = Duration::from_millis(100);

/// The groups of the rules in force.
#[derive(Default)]
pub struct Groups {
    /// By the set's place in memory, where it stays as long as the rules do; [`Group::set`] sees to that.
    groups: RefCell<HashMap<*const UpstreamSet, Rc<Group>>>,
}

/// The upstreams of a route.
pub struct Group {
    /// As configured.
    pub set: Arc<UpstreamSet>,
    /// What may be sent again.
    pub budget: Budget,
    known: RefCell<Known>,
}

#[derive(Default)]
struct Known {
    /// What DNS said of each upstream, empty where it has nothing.
    answers: Vec<Option<Rc<[Address]>>>,
    /// The same, arranged.
    members: Rc<Members>,
}

impl Groups {
    /// The group of `set`.
    pub fn of(&self, set: &Arc<UpstreamSet>) -> Rc<Group> {
        if let Some(group) = self.groups.borrow().get(&Arc::as_ptr(set)) {
            return Rc::clone(group);
        }
        let known = Known { answers: vec![None; set.upstreams.len()], members: Rc::default() };
        let group =
            Rc::new(Group { set: Arc::clone(set), budget: Budget::default(), known: RefCell::new(known) });
        self.groups.borrow_mut().insert(Arc::as_ptr(set), Rc::clone(&group));
        group
    }
}

impl Group {
    /// The endpoints: at once when they are known, else by a look-up.
    ///
    /// # Errors
    ///
    /// When no upstream has any; says why the first has none.
    pub async fn members(&self, names: &Names, pool: &Pool) -> Result<Rc<Members>, DnsError> {
        let (mut members, mut all_known) = self.look(names, pool);
        while !all_known && members.as_ref().is_none_or(Result::is_err) {
            // Each is looked up while all are waited for, and none that is silent holds up the others for long.
            let look_ups = self.set.upstreams.iter().map(|weighted| names.endpoints(&weighted.upstream));
            let _ = Box::pin(timeout(COMPANY, join_all(look_ups))).await;
            (members, all_known) = self.look(names, pool);
        }
        members.unwrap_or_else(|| Ok(Rc::default()))
    }

    /// What is known, and whether that is all. `None`: nothing at all.
    fn look(&self, names: &Names, pool: &Pool) -> (Option<Result<Rc<Members>, DnsError>>, bool) {
        let mut known = self.known.borrow_mut();
        let Known { answers, members } = &mut *known;
        let (mut changed, mut all_known, mut error) = (false, true, None);
        for (before, weighted) in answers.iter_mut().zip(&self.set.upstreams) {
            let now = match names.known(&weighted.upstream) {
                Some(Ok(now)) => Some(now),
                Some(Err(absent)) => {
                    error = error.or(Some(absent));
                    None
                }
                None => {
                    all_known = false;
                    None
                }
            };
            let same = match (&before, &now) {
                (Some(before), Some(now)) => Rc::ptr_eq(before, now),
                (before, now) => before.is_none() && now.is_none(),
            };
            if !same {
                *before = now;
                changed = true;
            }
        }
        if changed {
            let upstreams = answers.iter().zip(&self.set.upstreams).map(|(answer, weighted)| {
                let endpoint = |address: &Address| pool.endpoint(address.socket, &weighted.upstream);
                (weighted.weight, answer.as_deref().unwrap_or_default(), endpoint)
            });
            let told = |endpoint: &Endpoint| Told {
                mark: self.set.sticky.as_ref().map_or(0, |sticky| sticky::mark(sticky, endpoint.way.address)),
                verdict: self.set.health.as_ref().map(|check| pool.verdict(&endpoint.way, check)),
            };
            *members = Rc::new(Members::new(upstreams, told));
        }
        let found = if members.is_empty() { error.map(Err) } else { Some(Ok(Rc::clone(members))) };
        (found, all_known)
    }

    /// Looks all names up anew, after a failed connection. Returns whether there is any name.
    pub async fn refresh(&self, names: &Names) {
        join_all(self.set.upstreams.iter().map(|weighted| names.refresh(&weighted.upstream))).await;
    }

    /// Whether any upstream is a name, so that its endpoints can move.
    #[must_use]
    pub fn has_names(&self) -> bool {
        self.set.upstreams.iter().any(|weighted| weighted.upstream.address().is_none())
    }
}
