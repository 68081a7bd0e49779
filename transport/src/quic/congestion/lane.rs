//! One link's share of the wire: its rate, and the bucket that keeps it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::LinkControl;

/// How much may be sent at once after a pause, as time at the rate: covers a timer of a millisecond that fires late on a
/// busy machine, and is well below the 25 ms and more that the queue of a router holds.
const BURST: Duration = Duration::from_millis(8);
/// Slower links may send this much at once, as routers hold it whatever the rate, if it is not too long a time.
const BURST_BYTES: f64 = 128_000.0;
const BURST_LONGEST: Duration = Duration::from_millis(25);
/// A burst is never smaller than one segmented send.
const BURST_BYTES_MIN: f64 = 16_000.0;
/// Of a provisioned rate, what we use: the rest keeps the circuit's own queue empty when clocks differ.
const SHARE_OF_RATE: f64 = 0.998;
/// Losses above this share of a round trip's bytes mean that a stated rate is not there now.
const LOSS_HEAVY: f64 = 0.10;
/// The least of a stated rate that heavy losses bring us down to.
const DERATED_MIN: u64 = 20;

/// The way to a site, shared by all connections to it.
#[derive(Debug)]
pub(crate) struct Lane {
    /// Stated rate in bytes a second; 0 if the link is adaptive.
    stated: AtomicU64,
    /// Ceiling of an adaptive link in bytes a second; `u64::MAX` if there is none.
    ceiling: AtomicU64,
    /// Sum of what the adaptive controllers of busy connections want, in bytes a second.
    wanted: AtomicU64,
    /// Thousandths of the stated rate that are used: less than 1,000 while losses are heavy.
    derated: AtomicU64,
    bucket: Mutex<Bucket>,
}

#[derive(Debug, Default)]
struct Bucket {
    /// Bytes that may go now; negative after a send that was larger.
    tokens: f64,
    filled: Option<Instant>,
}

impl Default for Lane {
    fn default() -> Self {
        Self {
            stated: AtomicU64::new(0),
            ceiling: AtomicU64::new(u64::MAX),
            wanted: AtomicU64::new(0),
            derated: AtomicU64::new(1000),
            bucket: Mutex::default(),
        }
    }
}

impl Lane {
    pub(super) fn set(&self, control: LinkControl) {
        let (stated, ceiling) = match control {
            LinkControl::Paced { rate } => ((rate / 8).max(125), u64::MAX),
            LinkControl::Adaptive { ceiling } => (0, ceiling.map_or(u64::MAX, |rate| (rate / 8).max(125))),
        };
        self.stated.store(stated, Ordering::Relaxed);
        self.ceiling.store(ceiling, Ordering::Relaxed);
        self.derated.store(1000, Ordering::Relaxed);
    }

    pub(super) fn control(&self) -> LinkControl {
        match (self.stated.load(Ordering::Relaxed), self.ceiling.load(Ordering::Relaxed)) {
            (0, u64::MAX) => LinkControl::Adaptive { ceiling: None },
            (0, ceiling) => LinkControl::Adaptive { ceiling: Some(ceiling * 8) },
            (stated, _) => LinkControl::Paced { rate: stated * 8 },
        }
    }

    /// The rate of a link with a stated one, in bytes a second, as it is used now.
    pub(super) fn paced(&self) -> Option<f64> {
        let stated = self.stated.load(Ordering::Relaxed);
        let derated = self.derated.load(Ordering::Relaxed);
        (stated > 0).then_some(stated as f64 * SHARE_OF_RATE * derated as f64 / 1000.0)
    }

    /// Replaces one connection's wish of `before` by `now`, both in bytes a second.
    pub(super) fn want(&self, before: u64, now: u64) {
        // Wraps around zero when the wish falls; the sum never does, since each adds what it later takes.
        self.wanted.fetch_add(now.wrapping_sub(before), Ordering::Relaxed);
    }

    /// Hears of a round trip's losses on a link with a stated rate: halfway steps down while they are heavy, slowly back.
    pub(super) fn hear_losses(&self, share: f64) {
        let derated = self.derated.load(Ordering::Relaxed);
        let next = if share > LOSS_HEAVY { derated * 17 / 20 } else { derated * 21 / 20 + 1 };
        self.derated.store(next.clamp(DERATED_MIN, 1000), Ordering::Relaxed);
    }

    /// Takes `bytes` out of the bucket, or says when to try again.
    pub(crate) fn take(&self, bytes: usize, now: Instant) -> Result<(), Instant> {
        let Some(rate) = self.rate() else { return Ok(()) };
        let mut bucket = self.bucket.lock().unwrap_or_else(PoisonError::into_inner);
        let slow = BURST_BYTES.min(rate * BURST_LONGEST.as_secs_f64());
        let burst = (rate * BURST.as_secs_f64()).max(slow).max(BURST_BYTES_MIN);
        let passed = bucket.filled.map_or(BURST, |filled| now.saturating_duration_since(filled));
        bucket.filled = Some(now);
        bucket.tokens = (bucket.tokens + rate * passed.as_secs_f64()).min(burst);
        if bucket.tokens <= 0.0 {
            return Err(now + Duration::from_secs_f64((1.0 - bucket.tokens) / rate));
        }
        // A debt of one send is allowed, so that no size is too large; it is paid before the next.
        bucket.tokens -= bytes as f64;
        Ok(())
    }

    /// Bytes a second, or none if nothing bounds it.
    fn rate(&self) -> Option<f64> {
        let wanted = || match self.wanted.load(Ordering::Relaxed) {
            0 => u64::MAX,
            wanted => wanted,
        };
        let adaptive = || match wanted().min(self.ceiling.load(Ordering::Relaxed)) {
            u64::MAX => None,
            rate => Some(rate as f64),
        };
        self.paced().or_else(adaptive)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sends as fast as the lane lets, for `span`, and returns the bytes.
    fn sent(lane: &Lane, size: usize, span: Duration) -> u64 {
        let begin = Instant::now();
        let (mut now, mut bytes) = (begin, 0);
        while now < begin + span {
            match lane.take(size, now) {
                Ok(()) => bytes += size as u64,
                // A timer that is up to a millisecond late.
                Err(at) => now = at + Duration::from_micros(700),
            }
        }
        bytes
    }

    #[test]
    fn a_stated_rate_is_kept_although_timers_are_late() {
        for (mbit, size) in [(1000, 15_000), (50, 15_000), (50, 1500), (1, 1500)] {
            let lane = Lane::default();
            lane.set(LinkControl::Paced { rate: mbit * 1_000_000 });
            let share = sent(&lane, size, Duration::from_secs(10)) as f64 / (mbit as f64 * 1e6 / 8.0 * 10.0);
            assert!((0.99..1.001).contains(&share), "{mbit} Mbit/s: {share}");
        }
    }

    #[test]
    fn heavy_losses_bring_a_stated_rate_down_and_it_comes_back() {
        let lane = Lane::default();
        lane.set(LinkControl::Paced { rate: 8_000_000 });
        let full = lane.paced().unwrap();
        lane.hear_losses(0.05);
        assert_eq!(lane.paced().unwrap(), full);
        for _ in 0..10 {
            lane.hear_losses(0.5);
        }
        assert!(lane.paced().unwrap() < full * 0.25);
        for _ in 0..60 {
            lane.hear_losses(0.0);
        }
        assert_eq!(lane.paced().unwrap(), full);
    }

    #[test]
    fn wishes_add_up_and_the_ceiling_holds() {
        let lane = Lane::default();
        assert_eq!(lane.rate(), None);
        lane.want(0, 1000);
        lane.want(0, 500);
        lane.want(1000, 200);
        assert_eq!(lane.rate(), Some(700.0));
        lane.set(LinkControl::Adaptive { ceiling: Some(4000) });
        assert_eq!(lane.rate(), Some(500.0));
        assert_eq!(lane.control(), LinkControl::Adaptive { ceiling: Some(4000) });
    }
}
