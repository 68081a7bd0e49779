//! What a caller of the client is told: what was asked, of whom, why not, and what to do.

use std::time::Duration;

use causeway_base::{RetryClass, Seq};
use causeway_namespace_core::command::Refusal;
use causeway_proto::metadata;
use tonic::Status;

use crate::rpc;

/// Why a call has no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// The batch was decided on and refused: nothing of it was applied.
    #[error("{what}: operation {} on {:?}: {}", refusal.op, String::from_utf8_lossy(&refusal.path), refusal.code)]
    Refused {
        /// What was asked.
        what: String,
        /// Which operation and why.
        refusal: Refusal,
    },
    /// The node will not do this: not allowed, another cluster, a broken bound, an unknown volume.
    #[error("{what}: {node} refused: {message}")]
    Rejected {
        /// What was asked.
        what: String,
        /// The node asked.
        node: String,
        /// A stable word, such as `wrong-cluster`; empty if there is none.
        reason: String,
        /// Why, and what to do.
        message: String,
    },
    /// The node does not hold all chunks that the batch refers to: upload them, then send it again. Nothing was applied.
    #[error("{what}: {node} lacks {missing} of the chunks that it refers to; upload them first")]
    ContentMissing {
        /// What was asked.
        what: String,
        /// The node asked.
        node: String,
        /// How many are missing.
        missing: u64,
    },
    /// The state or the place in the feed is not kept any more, at any node that was asked: whoever follows the feed must
    /// start anew from a whole state at `oldest` or later.
    #[error("{what}: {message}")]
    FellOff {
        /// What was asked.
        what: String,
        /// The oldest seq that can be had at the node asked last.
        oldest: Seq,
        /// What it said.
        message: String,
    },
    /// No node could do it in time; it surely did not happen.
    #[error("{what}: nothing was done within {:.1} s; last, {node}: {message}", waited.as_secs_f64())]
    Unavailable {
        /// What was asked.
        what: String,
        /// The node asked last.
        node: String,
        /// What it said, or why it was not reached.
        message: String,
        /// For how long it was tried.
        waited: Duration,
    },
    /// No answer came in time: it may have happened, or happen yet. A read may be tried again; whoever sent a batch must
    /// look before sending it anew.
    #[error("{what}: outcome unknown after {:.1} s; last, {node}: {message}", waited.as_secs_f64())]
    Unknown {
        /// What was asked.
        what: String,
        /// The node asked last.
        node: String,
        /// What it said, or how the connection ended.
        message: String,
        /// For how long it was tried.
        waited: Duration,
    },
    /// `EXDEV`: the two paths lie in different volumes, between which nothing is renamed, as between mounts.
    #[error("rename {from} to {to}: they lie in different volumes ({from_volume:?}, {to_volume:?}); copy, then remove")]
    CrossVolume {
        /// The path renamed.
        from: String,
        /// The path it should have.
        to: String,
        /// The volume of the one.
        from_volume: String,
        /// The volume of the other.
        to_volume: String,
    },
    /// An absolute path that lies in no volume.
    #[error("{what}: {path} is in no volume; list / to see what is mounted where")]
    NoVolume {
        /// What was asked.
        what: String,
        /// The path.
        path: String,
    },
    /// Stored state on the node is damaged; a person must look.
    #[error("{what}: {node} is damaged: {message}")]
    Damaged {
        /// What was asked.
        what: String,
        /// The node asked.
        node: String,
        /// What it said.
        message: String,
    },
    /// The node's answer does not decode: it runs another version of the program.
    #[error("{what}: the answer of {node} does not decode ({message}); compare the versions")]
    BadAnswer {
        /// What was asked.
        what: String,
        /// The node asked.
        node: String,
        /// What is wrong with it.
        message: String,
    },
    /// The client cannot be made as configured.
    #[error("client configuration: {0}")]
    Config(String),
}

impl ClientError {
    /// What the caller may do next.
    #[must_use]
    pub const fn retry_class(&self) -> RetryClass {
        match self {
            Self::Refused { .. }
            | Self::FellOff { .. }
            | Self::Rejected { .. }
            | Self::CrossVolume { .. }
            | Self::NoVolume { .. }
            | Self::BadAnswer { .. }
            | Self::Config(_) => RetryClass::Refused,
            Self::ContentMissing { .. } | Self::Unavailable { .. } => RetryClass::Transient,
            Self::Unknown { .. } => RetryClass::Unknown,
            Self::Damaged { .. } => RetryClass::Damaged,
        }
    }

    /// The refusal of the namespace, if that is what it is.
    #[must_use]
    pub const fn refusal(&self) -> Option<&Refusal> {
        match self {
            Self::Refused { refusal, .. } => Some(refusal),
            _ => None,
        }
    }
}

/// One failed attempt, as its status tells it.
#[derive(Clone, Debug)]
pub(super) struct Failure {
    pub(super) class: RetryClass,
    pub(super) node: String,
    pub(super) reason: String,
    pub(super) message: String,
    pub(super) missing: Option<u64>,
    pub(super) oldest: Option<u64>,
}

impl Failure {
    pub(super) fn of(status: &Status, node: &str) -> Self {
        let map = status.metadata();
        Self {
            class: rpc::class_of(status),
            node: node.to_owned(),
            reason: rpc::text(map, metadata::REASON),
            message: rpc::message_of(status),
            missing: rpc::text(map, metadata::MISSING).parse().ok(),
            oldest: rpc::text(map, metadata::OLDEST).parse().ok(),
        }
    }

    /// One that surely had no effect.
    pub(super) fn transient(node: &str, message: &str) -> Self {
        let (node, message) = (node.to_owned(), message.to_owned());
        Self { class: RetryClass::Transient, node, reason: String::new(), message, missing: None, oldest: None }
    }

    /// The error that ends the call: `waited` is how long it was tried, `unknown` whether an earlier attempt may have
    /// had its effect.
    pub(super) fn end(self, what: &str, waited: Duration, unknown: bool) -> ClientError {
        let Self { class, node, reason, message, missing, oldest } = self;
        let what = what.to_owned();
        match (class, missing) {
            (RetryClass::Damaged, _) => ClientError::Damaged { what, node, message },
            (_, _) if unknown || class == RetryClass::Unknown => ClientError::Unknown { what, node, message, waited },
            (RetryClass::Refused, None) if oldest.is_some() => {
                ClientError::FellOff { what, oldest: Seq(oldest.unwrap_or(0)), message }
            }
            (_, Some(missing)) => ClientError::ContentMissing { what, node, missing },
            (RetryClass::Refused, None) => ClientError::Rejected { what, node, reason, message },
            (_, None) => ClientError::Unavailable { what, node, message, waited },
        }
    }
}
