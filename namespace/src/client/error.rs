//! What a caller of the client is told: what was asked, of whom, why not, and what to do.

use std::time::Duration;

use causeway_base::RetryClass;
use causeway_namespace_core::command::Refusal;
use causeway_proto::metadata;
use causeway_transport::grpc::ConnectFailed;
use tonic::{Code, Status};

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
            Self::Refused { .. } | Self::Rejected { .. } | Self::BadAnswer { .. } | Self::Config(_) => {
                RetryClass::Refused
            }
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
}

impl Failure {
    pub(super) fn of(status: &Status, node: &str) -> Self {
        let text = |name: &str| {
            let value = status.metadata().get(name).and_then(|value| value.to_str().ok());
            value.unwrap_or_default().chars().take(256).collect::<String>()
        };
        Self {
            class: class_of(status, &text(metadata::RETRY)),
            node: node.to_owned(),
            reason: text(metadata::REASON),
            message: message_of(status),
            missing: text(metadata::MISSING).parse().ok(),
        }
    }

    /// One that surely had no effect.
    pub(super) fn transient(node: &str, message: &str) -> Self {
        let (node, message) = (node.to_owned(), message.to_owned());
        Self { class: RetryClass::Transient, node, reason: String::new(), message, missing: None }
    }

    /// The error that ends the call: `waited` is how long it was tried, `unknown` whether an earlier attempt may have
    /// had its effect.
    pub(super) fn end(self, what: &str, waited: Duration, unknown: bool) -> ClientError {
        let Self { class, node, reason, message, missing } = self;
        let what = what.to_owned();
        match (class, missing) {
            (RetryClass::Damaged, _) => ClientError::Damaged { what, node, message },
            (_, _) if unknown || class == RetryClass::Unknown => ClientError::Unknown { what, node, message, waited },
            (_, Some(missing)) => ClientError::ContentMissing { what, node, missing },
            (RetryClass::Refused, None) => ClientError::Rejected { what, node, reason, message },
            (_, None) => ClientError::Unavailable { what, node, message, waited },
        }
    }
}

fn class_of(status: &Status, told: &str) -> RetryClass {
    match told {
        "refused" => return RetryClass::Refused,
        "transient" => return RetryClass::Transient,
        "unknown" => return RetryClass::Unknown,
        "damaged" => return RetryClass::Damaged,
        _ => {}
    }
    // Not from a handler: from the connection, or from the gRPC library of either side.
    if let Some(failed) = connect_failed(status) {
        return match failed {
            ConnectFailed::Unreachable { .. } => RetryClass::Transient,
            // Whom we do not trust, or who does not trust us: no retry changes that, another node may.
            _ => RetryClass::Refused,
        };
    }
    match status.code() {
        Code::Unauthenticated
        | Code::PermissionDenied
        | Code::InvalidArgument
        | Code::Unimplemented
        | Code::OutOfRange
        | Code::NotFound
        | Code::AlreadyExists
        | Code::FailedPrecondition => RetryClass::Refused,
        Code::ResourceExhausted => RetryClass::Transient,
        Code::DataLoss => RetryClass::Damaged,
        _ => RetryClass::Unknown,
    }
}

/// The connector's error in the chain of sources, if the request never left.
fn connect_failed(status: &Status) -> Option<&ConnectFailed> {
    sources(status).find_map(|source| source.downcast_ref::<ConnectFailed>())
}

/// The status' own message and those of its sources, which the gRPC library does not repeat in it.
fn message_of(status: &Status) -> String {
    match connect_failed(status) {
        Some(failed) => {
            let mut text = failed.to_string();
            let mut next = std::error::Error::source(failed);
            while let Some(source) = next {
                text = format!("{text}: {source}");
                next = source.source();
            }
            text
        }
        None if status.message().is_empty() => format!("{:?}", status.code()),
        None => status.message().to_owned(),
    }
}

fn sources(status: &Status) -> impl Iterator<Item = &(dyn std::error::Error + 'static)> {
    std::iter::successors(std::error::Error::source(status), |error| error.source())
}
