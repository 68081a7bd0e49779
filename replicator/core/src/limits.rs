//! Bounds of a planner.

use std::time::Duration;

/// Bounds of what is asked at once. The memory of a planner is about 200 bytes a wanted chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Most chunks of one batch.
    pub batch_chunks_max: usize,
    /// Most plain bytes of one batch, unless it is a single chunk.
    pub batch_bytes_max: u64,
    /// Most batches in flight at one source.
    pub batches_per_source_max: usize,
    /// Most plain bytes in flight over all sources, unless it is a single chunk.
    pub in_flight_bytes_max: u64,
    /// A batch without an arrival for this long is cancelled and asked for elsewhere.
    pub stall_timeout: Duration,
    /// Wait after a source's first failure; doubled with each further one.
    pub retry_min: Duration,
    /// Longest such wait.
    pub retry_max: Duration,
    /// Failures in a row, with nothing delivered between them, after which a source is given up until it changes.
    pub failures_max: u32,
    /// How much longer a transfer may take to save one unit of currency.
    pub patience_per_currency: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            batch_chunks_max: 4096,
            // A batch is one compressed stream: long enough that its window pays, short enough to spread over sources.
            batch_bytes_max: 64 << 20,
            batches_per_source_max: 2,
            in_flight_bytes_max: 256 << 20,
            // The largest chunk arrives within it at 420 kbit/s.
            stall_timeout: Duration::from_secs(20),
            retry_min: Duration::from_millis(100),
            retry_max: Duration::from_secs(10),
            failures_max: 8,
            // 0.087 a GiB is then worth 52 s a GiB: a free source may be several times slower than a paid one.
            patience_per_currency: Duration::from_secs(600),
        }
    }
}

/// Limits under which nothing could be fetched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0} must be greater than 0")]
pub struct LimitsError(&'static str);

impl Limits {
    /// Checks that work can be done within them.
    ///
    /// # Errors
    /// Names the limit that is 0.
    pub fn check(&self) -> Result<(), LimitsError> {
        let zero = [
            ("batch_chunks_max", self.batch_chunks_max == 0),
            ("batch_bytes_max", self.batch_bytes_max == 0),
            ("batches_per_source_max", self.batches_per_source_max == 0),
            ("in_flight_bytes_max", self.in_flight_bytes_max == 0),
            ("stall_timeout", self.stall_timeout.is_zero()),
            ("failures_max", self.failures_max == 0),
        ];
        zero.iter().find(|(_, zero)| *zero).map_or(Ok(()), |(name, _)| Err(LimitsError(name)))
    }
}
