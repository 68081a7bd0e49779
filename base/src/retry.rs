//! What the caller of a failed operation may do.

/// What a failure says about its operation, and so what the caller may do next.
///
/// An unknown outcome is reported as unknown (promise 9): a time-out is never taken for "it did not happen".
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RetryClass {
    /// It surely did not happen, and the same request will fail again: change the request.
    Refused,
    /// It surely did not happen; the same request may succeed later or elsewhere.
    Transient,
    /// It may or may not have happened: retry only what is idempotent, with the same request id.
    Unknown,
    /// Stored state is damaged or a write to disk failed: stop writing, tell a person.
    Damaged,
}

impl RetryClass {
    /// Whether an idempotent request may be sent again.
    #[must_use]
    pub const fn may_retry_idempotent(self) -> bool {
        matches!(self, Self::Transient | Self::Unknown)
    }
}
