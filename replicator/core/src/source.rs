//! Where chunks can be had.

use std::time::Duration;

use causeway_topology::{BitRate, Price};

use crate::limits::Limits;
use crate::planner::Time;

/// A source, by its place in the shell's own table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SourceId(pub u32);

/// A site, peer or repository, as the planner sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Source {
    /// Its id.
    pub id: SourceId,
    /// Round-trip time to it.
    pub rtt: Duration,
    /// Rate of the way to it.
    pub rate: BitRate,
    /// What a GiB from it costs.
    pub price_per_gib: Price,
    /// Whether residency allows bytes to come from it.
    pub allowed: bool,
    /// Whether it should hold every chunk (a replica, the home, the archive): then it is asked without a hint.
    pub complete: bool,
}

/// A source and how it behaves.
#[derive(Clone, Debug)]
pub(crate) struct SourceState {
    pub(crate) source: Source,
    pub(crate) batches: usize,
    pub(crate) in_flight_bytes: u64,
    /// Failures since the last arrival.
    failures: u32,
    retry_at: Time,
}

impl SourceState {
    pub(crate) fn new(source: Source) -> Self {
        Self { source, batches: 0, in_flight_bytes: 0, failures: 0, retry_at: Time::ZERO }
    }

    /// Takes new figures; a changed source is asked again, whatever it did before.
    pub(crate) fn change(&mut self, source: Source) {
        self.source = source;
        self.failures = 0;
        self.retry_at = Time::ZERO;
    }

    pub(crate) fn given_up(&self, limits: &Limits) -> bool {
        self.failures >= limits.failures_max
    }

    pub(crate) fn ready(&self, now: Time) -> bool {
        self.retry_at <= now
    }

    pub(crate) fn retry_at(&self) -> Time {
        self.retry_at
    }

    pub(crate) fn delivered(&mut self) {
        self.failures = 0;
        self.retry_at = Time::ZERO;
    }

    pub(crate) fn failed(&mut self, now: Time, limits: &Limits) {
        let wait = limits.retry_min.saturating_mul(1 << self.failures.min(20)).min(limits.retry_max);
        self.failures = self.failures.saturating_add(1);
        self.retry_at = now.saturating_add(wait);
    }

    /// Nanoseconds until `bytes` more would have come from here, money counted as time.
    pub(crate) fn cost(&self, bytes: u64, limits: &Limits) -> u128 {
        let time = self.source.rate.time_of(self.in_flight_bytes.saturating_add(bytes));
        let money = u128::from(self.source.price_per_gib.of(bytes));
        let patience = limits.patience_per_currency.as_nanos() / 1_000_000;
        self.source.rtt.as_nanos() + time.as_nanos() + money * patience
    }
}
