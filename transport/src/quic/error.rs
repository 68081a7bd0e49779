//! What can go wrong with a connection, a call and a stream.

use std::time::Duration;

use causeway_base::{ClusterId, RetryClass};
use quinn::{ConnectionError, ReadError, WriteError};
use rustls::AlertDescription;

use super::hello::Hello;
use crate::PeerRefused;
use crate::tls::TlsFailure;

/// Application codes of closed connections and reset streams.
pub mod close {
    /// Nothing is wrong: the endpoint goes down, or the connection is not needed any more.
    pub const SHUTDOWN: u32 = 0;
    /// The hello was none, or the head of a call was none.
    pub const PROTOCOL: u32 = 1;
    /// The hello named another protocol version.
    pub const WRONG_VERSION: u32 = 2;
    /// The hello named another cluster.
    pub const WRONG_CLUSTER: u32 = 3;
    /// The peer has too many connections.
    pub const TOO_MANY: u32 = 4;
    /// A stream: its writer went away without finishing it, or its reader lost interest.
    pub const ABANDONED: u32 = 5;
    /// A stream: no progress in time.
    pub const STALLED: u32 = 6;
    /// A stream: no such service here.
    pub const NO_SERVICE: u32 = 7;
    /// A stream: a frame or a request was larger than allowed.
    pub const TOO_LARGE: u32 = 8;
    /// The hello did not come in time.
    pub const TIMEOUT: u32 = 9;
}

/// Why a call could not be made. Shared by all callers that waited for one connection.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CallError {
    /// The address does not resolve, or cannot be called from this socket.
    #[error("address {address}: {reason}")]
    Address {
        /// As given.
        address: String,
        /// What is wrong with it.
        reason: String,
    },
    /// No trust: one of the two refused the other.
    #[error("TLS handshake with {address}")]
    Tls {
        /// Who was called.
        address: String,
        /// Who refused whom.
        #[source]
        source: TlsFailure,
    },
    /// Another protocol version at the other end.
    #[error("wrong version: {address} speaks {theirs}, we speak {ours}")]
    WrongVersion {
        /// Who was called.
        address: String,
        /// Ours.
        ours: u16,
        /// What the peer says of its own.
        theirs: String,
    },
    /// Another cluster at the other end.
    #[error("wrong cluster: {address} belongs to {theirs}, we belong to {ours}")]
    WrongCluster {
        /// Who was called.
        address: String,
        /// Ours.
        ours: ClusterId,
        /// What the peer says of its own.
        theirs: String,
    },
    /// The peer closed the connection for another reason of its own, such as too many connections.
    #[error("{address} refused: {reason} (code {code})")]
    Refused {
        /// Who was called.
        address: String,
        /// See [`close`].
        code: u64,
        /// In the peer's words, cut to 200 characters.
        reason: String,
    },
    /// The connection could not be made or was lost before the request was sent.
    #[error("no connection to {address}: {reason}")]
    Lost {
        /// Who was called.
        address: String,
        /// What happened.
        reason: String,
    },
    /// Time was up.
    #[error("{address}: not {stage} within {limit:?}")]
    Deadline {
        /// Who was called.
        address: String,
        /// What was waited for.
        stage: &'static str,
        /// The caller's limit.
        limit: Duration,
    },
    /// The request is larger than the head of a call may be.
    #[error("request of {len} bytes, at most {max} are allowed")]
    TooLarge {
        /// Its length.
        len: usize,
        /// The bound.
        max: u32,
    },
    /// The endpoint was shut down.
    #[error("this endpoint has been shut down")]
    Stopped,
}

impl CallError {
    /// What the caller may do next. A failed call was never handed to a service as a whole request, or may have been
    /// only in the last moment of a deadline.
    #[must_use]
    pub const fn retry_class(&self) -> RetryClass {
        match self {
            Self::Tls { .. }
            | Self::WrongVersion { .. }
            | Self::WrongCluster { .. }
            | Self::TooLarge { .. }
            | Self::Stopped => RetryClass::Refused,
            Self::Address { .. } | Self::Refused { .. } => RetryClass::Transient,
            Self::Lost { .. } | Self::Deadline { .. } => RetryClass::Unknown,
        }
    }

    pub(super) fn deadline(address: &str, stage: &'static str, limit: Duration) -> Self {
        Self::Deadline { address: address.to_owned(), stage, limit }
    }

    /// Sorts the end of a connection. `refused` is what our own verifier noted, if it refused.
    pub(super) fn from_connection(
        address: &str,
        ours: Hello,
        refused: Option<PeerRefused>,
        error: &ConnectionError,
    ) -> Self {
        let address = address.to_owned();
        if let Some(refused) = refused {
            return Self::Tls { address, source: TlsFailure::PeerRefused(refused) };
        }
        match error {
            ConnectionError::ApplicationClosed(closed) => {
                let reason = cut(&closed.reason);
                match u32::try_from(closed.error_code.into_inner()) {
                    Ok(close::WRONG_VERSION) => Self::WrongVersion { address, ours: ours.version, theirs: reason },
                    Ok(close::WRONG_CLUSTER) => Self::WrongCluster { address, ours: ours.cluster, theirs: reason },
                    _ => Self::Refused { address, code: closed.error_code.into_inner(), reason },
                }
            }
            ConnectionError::ConnectionClosed(closed) => match alert(u64::from(closed.error_code)) {
                Some(alert) => Self::Tls { address, source: TlsFailure::from_alert(alert) },
                None => Self::Lost { address, reason: format!("{} {}", closed.error_code, cut(&closed.reason)) },
            },
            ConnectionError::TransportError(failed) => match alert(u64::from(failed.code)) {
                Some(_) => Self::Tls { address, source: TlsFailure::Protocol(failed.reason.clone()) },
                None => Self::Lost { address, reason: failed.to_string() },
            },
            ConnectionError::LocallyClosed => Self::Stopped,
            other => Self::Lost { address, reason: other.to_string() },
        }
    }
}

/// Why a stream gave up.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StreamError {
    /// A frame's length is over the reader's bound; nothing was allocated for it.
    #[error("frame of {len} bytes, at most {max} are allowed")]
    FrameTooLarge {
        /// As the frame says.
        len: u64,
        /// The bound.
        max: u32,
    },
    /// The stream ended within a frame, or before the bytes that were asked for.
    #[error("the stream ended too early")]
    Truncated,
    /// No progress in time.
    #[error("no progress within {0:?}")]
    Stalled(Duration),
    /// The peer gave up this stream.
    #[error("the peer gave up the stream (code {0})")]
    Reset(u64),
    /// The connection is gone.
    #[error("connection lost: {0}")]
    Lost(String),
    /// The stream was finished or given up here before.
    #[error("the stream is closed")]
    Closed,
}

impl StreamError {
    /// What the caller may do next: a stream that broke says nothing of what the other side did with what it got.
    #[must_use]
    pub const fn retry_class(&self) -> RetryClass {
        match self {
            Self::FrameTooLarge { .. } => RetryClass::Refused,
            _ => RetryClass::Unknown,
        }
    }
}

impl From<ReadError> for StreamError {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Reset(code) => Self::Reset(code.into_inner()),
            ReadError::ConnectionLost(error) => Self::Lost(error.to_string()),
            _ => Self::Closed,
        }
    }
}

impl From<WriteError> for StreamError {
    fn from(error: WriteError) -> Self {
        match error {
            WriteError::Stopped(code) => Self::Reset(code.into_inner()),
            WriteError::ConnectionLost(error) => Self::Lost(error.to_string()),
            _ => Self::Closed,
        }
    }
}

/// The TLS alert in a transport error code, which QUIC has at 0x100 and up.
fn alert(code: u64) -> Option<AlertDescription> {
    code.checked_sub(0x100).and_then(|alert| u8::try_from(alert).ok()).map(AlertDescription::from)
}

/// A peer's words, for logs: at most 200 characters, no control characters.
fn cut(reason: &[u8]) -> String {
    String::from_utf8_lossy(reason).chars().filter(|c| !c.is_control()).take(200).collect()
}
