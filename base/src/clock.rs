//! Wall-clock time, and the seam through which it enters.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Nanoseconds since the Unix epoch. Signed: a file may be older than 1970.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Timestamp(pub i64);

impl Timestamp {
    /// The time that has passed since `earlier`; zero if `earlier` is later.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(u64::try_from(i128::from(self.0) - i128::from(earlier.0)).unwrap_or(0))
    }

    /// From whole seconds and nanoseconds, as `stat` gives them; saturates at the ends of the range (years 1677 to 2262).
    #[must_use]
    pub fn from_parts(seconds: i64, nanos: i64) -> Self {
        Self(seconds.saturating_mul(1_000_000_000).saturating_add(nanos))
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:09}", self.0.div_euclid(1_000_000_000), self.0.rem_euclid(1_000_000_000))
    }
}

/// Where wall-clock time comes from. Intervals and deadlines use tokio's clock instead, which a simulation controls.
pub trait Clock: Send + Sync + fmt::Debug {
    /// The time now. May step backwards: nothing may be ordered by it.
    fn now(&self) -> Timestamp;
}

/// The machine's own clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        match std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH) {
            Ok(after) => Timestamp(i64::try_from(after.as_nanos()).unwrap_or(i64::MAX)),
            Err(before) => Timestamp(i64::try_from(before.duration().as_nanos()).map_or(i64::MIN, |nanos| -nanos)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_before_1970_prints_and_subtracts() {
        let before = Timestamp::from_parts(-1, 250_000_000);
        assert_eq!(before, Timestamp(-750_000_000));
        assert_eq!(before.to_string(), "-1.250000000");
        assert_eq!(Timestamp(0).since(before), Duration::from_millis(750));
        assert_eq!(before.since(Timestamp(0)), Duration::ZERO);
    }
}
