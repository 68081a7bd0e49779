//! Why a call failed.

use causeway_base::{ChunkId, RetryClass};
use causeway_transport::quic::{CallError, StreamError};

use crate::local::LocalError;
use crate::wire::{FrameError, ReceiverError, Refusal, RequestError};

/// Why a call of the chunk service failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// The node could not be called.
    #[error("the call failed")]
    Call(#[from] CallError),
    /// The call broke off.
    #[error("the call broke off")]
    Stream(#[from] StreamError),
    /// The node said no.
    #[error("refused: {0}")]
    Refused(#[from] Refusal),
    /// The request cannot be made.
    #[error("the request is not valid")]
    Request(#[from] RequestError),
    /// The node sent something that is no frame.
    #[error("the node's answer is malformed")]
    Frame(#[from] FrameError),
    /// The node's answer does not hold what it should.
    #[error("the node's answer cannot be used")]
    Answer(#[source] ReceiverError),
    /// The node answers out of turn.
    #[error("the node's answer is out of turn: {0}")]
    OutOfTurn(&'static str),
    /// A chunk that was to be read is not there, or is not what its name says.
    #[error("chunk {0} cannot be had")]
    Chunk(ChunkId),
    /// A worker of this process failed.
    #[error(transparent)]
    Local(#[from] LocalError),
    /// The one that consumes the chunks wants no more.
    #[error("the transfer was stopped here")]
    Stopped,
}

impl From<ReceiverError> for ClientError {
    fn from(error: ReceiverError) -> Self {
        match error {
            ReceiverError::Refused(refusal) => Self::Refused(refusal),
            other => Self::Answer(other),
        }
    }
}

impl ClientError {
    /// What the caller may do. All calls of the chunk service are idempotent.
    #[must_use]
    pub fn retry_class(&self) -> RetryClass {
        match self {
            Self::Call(error) => error.retry_class(),
            Self::Stream(error) => error.retry_class(),
            Self::Refused(refusal) => refusal.class,
            Self::Request(_) => RetryClass::Refused,
            Self::Frame(_) | Self::Answer(_) | Self::OutOfTurn(_) | Self::Chunk(_) | Self::Stopped => {
                RetryClass::Transient
            }
            Self::Local(error) => error.class,
        }
    }
}
