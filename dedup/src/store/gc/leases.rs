//! Leases: who relies on chunks that no committed version names yet.
//!
//! A lease is no list of chunks but a place in the order of events: "since then, I may rely on whatever I was told is here".
//! What was condemned *before* a lease began is no concern of its holder, since being told of such a chunk revives it. What was
//! condemned *after* must not be removed while the lease is open. So a lease costs a few bytes, however many chunks it covers.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::{UNKNOWN_LEASE, Uptime};
use crate::store::lock;

/// A holder whose calls follow each other keeps its place this long at most, so that a busy one cannot hold up the collection
/// for ever.
const HELD_MAX: Duration = Duration::from_secs(24 * 3600);

#[derive(Debug, Default)]
pub(super) struct Leases {
    state: Mutex<State>,
    uptime: Uptime,
}

#[derive(Debug, Default)]
struct State {
    /// Counts events: leases that begin, condemnations that end.
    order: u64,
    next: u64,
    held: BTreeMap<u64, Held>,
}

#[derive(Debug)]
struct Held {
    /// The place in the order of events.
    from: u64,
    since: Duration,
    holder: Option<String>,
    /// When it ends by itself; not before its guard is dropped if there is none.
    until: Option<Duration>,
}

impl State {
    fn tick(&mut self) -> u64 {
        self.order += 1;
        self.order
    }

    fn prune(&mut self, now: Duration) {
        self.held.retain(|_, held| held.until.is_none_or(|until| until > now));
    }
}

impl Leases {
    pub(super) fn uptime(&self) -> &Uptime {
        &self.uptime
    }

    /// The next place in the order of events.
    pub(super) fn tick(&self) -> u64 {
        lock(&self.state).tick()
    }

    /// Begins a lease. One of the same holder that is open or lingers is gone on with: its place is kept, since what it was told
    /// is still relied on.
    pub(super) fn begin(self: &Arc<Self>, holder: Option<&str>, linger: Duration) -> Lease {
        let now = self.uptime.now();
        let mut state = lock(&self.state);
        state.prune(now);
        let fresh = (state.tick(), now);
        let same = state.held.values().filter(|held| holder.is_some() && held.holder.as_deref() == holder);
        let kept = same.filter(|held| held.since + HELD_MAX > now).map(|held| (held.from, held.since)).min();
        let (from, since) = kept.unwrap_or(fresh);
        state.next += 1;
        let number = state.next;
        state.held.insert(number, Held { from, since, holder: holder.map(str::to_owned), until: None });
        Lease { leases: Arc::clone(self), number, linger }
    }

    /// What the run before this one may have been asked: it began before everything.
    pub(super) fn begin_unknown(&self) {
        let until = Some(self.uptime.now() + UNKNOWN_LEASE);
        let mut state = lock(&self.state);
        state.next += 1;
        let number = state.next;
        state.held.insert(number, Held { from: 0, since: Duration::ZERO, holder: None, until });
    }

    /// The place of the oldest lease; `None` if there is none.
    pub(super) fn oldest(&self) -> Option<u64> {
        let now = self.uptime.now();
        let mut state = lock(&self.state);
        state.prune(now);
        state.held.values().map(|held| held.from).min()
    }
}

/// Chunks that were put or said to be here since this began are not collected while it lives.
#[derive(Debug)]
#[must_use = "dropped, it ends"]
pub struct Lease {
    leases: Arc<Leases>,
    number: u64,
    /// How long it goes on after this is dropped.
    linger: Duration,
}

impl Lease {
    /// Ends it at once, whatever it was to linger: its outcome is known.
    pub fn settle(mut self) {
        self.linger = Duration::ZERO;
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let now = self.leases.uptime.now();
        let mut state = lock(&self.leases.state);
        if self.linger.is_zero() {
            state.held.remove(&self.number);
        } else if let Some(held) = state.held.get_mut(&self.number) {
            held.until = Some(now + self.linger);
            // Of one holder's many calls, one that lingers is enough: the oldest place, for the longest time.
            let (from, holder) = (held.from, held.holder.clone());
            if holder.is_some() {
                state.held.retain(|number, held| {
                    *number == self.number || held.until.is_none() || held.holder != holder || held.from < from
                });
            }
        }
        state.prune(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn the_oldest_lease_counts_until_it_ends() {
        let leases = Arc::new(Leases::default());
        assert_eq!(leases.oldest(), None);
        let first = leases.begin(None, Duration::ZERO);
        let condemned = leases.tick();
        let second = leases.begin(None, Duration::ZERO);
        assert!(leases.oldest().unwrap() < condemned);
        drop(first);
        assert!(leases.oldest().unwrap() > condemned);
        drop(second);
        assert_eq!(leases.oldest(), None);
    }

    #[test]
    fn one_lingers_and_its_holder_goes_on_with_it() {
        let leases = Arc::new(Leases::default());
        let first = leases.begin(Some("client/a"), HOUR);
        let from = leases.oldest().unwrap();
        drop(first);
        assert_eq!(leases.oldest(), Some(from), "lingers");
        leases.uptime().pass(HOUR / 2);
        let other = leases.begin(Some("client/b"), HOUR);
        let again = leases.begin(Some("client/a"), HOUR);
        leases.uptime().pass(3 * HOUR);
        assert_eq!(leases.oldest(), Some(from), "one place for all calls of a holder");
        drop(other);
        drop(again);
        leases.uptime().pass(HOUR + HOUR / 2);
        assert_eq!(leases.oldest(), None);
        let settled = leases.begin(Some("client/a"), HOUR);
        settled.settle();
        assert_eq!(leases.oldest(), None);
    }

    #[test]
    fn a_busy_holder_is_no_brake_for_ever() {
        let leases = Arc::new(Leases::default());
        drop(leases.begin(Some("client/a"), HOUR));
        let condemned = leases.tick();
        for _ in 0..60 {
            leases.uptime().pass(HOUR / 2);
            drop(leases.begin(Some("client/a"), HOUR));
        }
        assert!(leases.oldest().unwrap() > condemned, "30 hours later");
        assert!(lock(&leases.state).held.len() < 3);
    }

    #[test]
    fn what_the_last_run_was_asked_is_kept_for_a_while() {
        let leases = Arc::new(Leases::default());
        leases.begin_unknown();
        assert_eq!(leases.oldest(), Some(0));
        leases.uptime().pass(UNKNOWN_LEASE);
        assert_eq!(leases.oldest(), None);
    }
}
