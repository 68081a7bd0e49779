//! How fresh a read must be, and what its reply stands for. Defined precisely in `docs/consistency.md`.

use std::time::Duration;

use causeway_base::{NodeId, Seq};

/// The kinds of freshness.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Consistency {
    /// Sees every write that was acknowledged before the read was sent, wherever. Needs a leader and its quorum.
    #[default]
    Linearizable,
    /// Is at most this old: the reply misses no write that was acknowledged longer ago than that.
    Bounded(Duration),
    /// Whatever the node has, with its age. Never waits for another node.
    Local,
}

/// How fresh a read must be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Freshness {
    /// The kind.
    pub consistency: Consistency,
    /// The reply must not be older than this seq, whatever the kind: the seq of one's last write reads one's own writes
    /// at any node. Zero demands nothing.
    pub seq_min: Seq,
    /// Read the state at this seq, whatever the kind: it never changes, so no leader is asked. `None`: the newest.
    pub at: Option<Seq>,
}

impl Freshness {
    /// The state at one seq.
    #[must_use]
    pub fn at(seq: Seq) -> Self {
        Self { consistency: Consistency::Local, seq_min: seq, at: Some(seq) }
    }

    /// The same, but never older than `seq`.
    #[must_use]
    pub fn after(self, seq: Seq) -> Self {
        Self { seq_min: self.seq_min.max(seq), ..self }
    }
}

impl From<Consistency> for Freshness {
    fn from(consistency: Consistency) -> Self {
        Self { consistency, seq_min: Seq::ZERO, at: None }
    }
}

/// What the reply of a read stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadState {
    /// Everything in the reply was read at this seq.
    pub seq: Seq,
    /// Upper bound of the time since the replying node last knew that it missed no acknowledged write; `None` if it never
    /// knew since it started.
    pub age: Option<Duration>,
    /// The node that answered.
    pub node: NodeId,
}

/// A value and what it stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Read<T> {
    /// Seq and age.
    pub state: ReadState,
    /// What was read.
    pub value: T,
}

impl<T> Read<T> {
    /// The same state with another value.
    pub fn map<U>(self, change: impl FnOnce(T) -> U) -> Read<U> {
        Read { state: self.state, value: change(self.value) }
    }
}
