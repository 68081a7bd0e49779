//! The first 24 bytes of each side: same protocol, same version, same cluster.

use std::time::Duration;

use causeway_base::ClusterId;
use quinn::{Connection, VarInt};

use super::error::close;

/// The ALPN protocol of our QUIC connections.
pub const PROTOCOL: &[u8] = b"causeway";
/// The version of everything above QUIC. Raised when an old peer could not understand a new one.
pub const VERSION: u16 = 1;

const MAGIC: [u8; 4] = *b"CWHE";
const BYTES: usize = 24;

/// What each side says of itself at the beginning of a connection.
///
/// ```text
/// 0      4         6          8                24
/// | CWHE | version | reserved | cluster (u128) |     little-endian
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hello {
    /// Its protocol version.
    pub version: u16,
    /// Its cluster.
    pub cluster: ClusterId,
}

impl Hello {
    /// Ours, with this program's version.
    #[must_use]
    pub const fn new(cluster: ClusterId) -> Self {
        Self { version: VERSION, cluster }
    }

    /// The bytes that are sent.
    #[must_use]
    pub fn encode(&self) -> [u8; BYTES] {
        let mut bytes = [0; BYTES];
        bytes[..4].copy_from_slice(&MAGIC);
        bytes[4..6].copy_from_slice(&self.version.to_le_bytes());
        bytes[8..].copy_from_slice(&self.cluster.0.to_le_bytes());
        bytes
    }

    /// What was received; `None` if it is no hello.
    #[must_use]
    pub fn decode(bytes: &[u8; BYTES]) -> Option<Self> {
        let (magic, rest) = bytes.split_first_chunk::<4>()?;
        let (version, rest) = rest.split_first_chunk::<2>()?;
        let (_reserved, cluster) = rest.split_first_chunk::<2>()?;
        let cluster = ClusterId(u128::from_le_bytes(cluster.try_into().ok()?));
        (*magic == MAGIC).then_some(Self { version: u16::from_le_bytes(*version), cluster })
    }
}

/// Why the two sides do not fit.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum HelloError {
    #[error("the peer sent no hello")]
    NotHello,
    #[error("wrong version: the peer speaks {theirs}, we speak {ours}")]
    WrongVersion { ours: u16, theirs: u16 },
    #[error("wrong cluster: the peer belongs to {theirs}, we belong to {ours}")]
    WrongCluster { ours: ClusterId, theirs: ClusterId },
    #[error("no hello within {0:?}")]
    Timeout(Duration),
    #[error("connection lost: {0}")]
    Lost(#[from] quinn::ConnectionError),
}

impl HelloError {
    /// Closes the connection so that the other side can name the error too.
    pub(super) fn close(&self, connection: &Connection) {
        let (code, reason) = match self {
            Self::NotHello => (close::PROTOCOL, "no hello".to_owned()),
            // The reason is what the other side shows as ours.
            Self::WrongVersion { ours, .. } => (close::WRONG_VERSION, ours.to_string()),
            Self::WrongCluster { ours, .. } => (close::WRONG_CLUSTER, ours.to_string()),
            Self::Timeout(_) => (close::TIMEOUT, "no hello in time".to_owned()),
            Self::Lost(_) => return,
        };
        connection.close(VarInt::from_u32(code), reason.as_bytes());
    }
}

fn check(ours: Hello, theirs: Option<Hello>) -> Result<(), HelloError> {
    let theirs = theirs.ok_or(HelloError::NotHello)?;
    // The version first: the rest may mean something else in another one.
    if theirs.version != ours.version {
        return Err(HelloError::WrongVersion { ours: ours.version, theirs: theirs.version });
    }
    if theirs.cluster != ours.cluster {
        return Err(HelloError::WrongCluster { ours: ours.cluster, theirs: theirs.cluster });
    }
    Ok(())
}

/// The caller's part: sends ours, waits for theirs. On an error the connection is closed with the matching code.
pub(super) async fn say(connection: &Connection, ours: Hello, timeout: Duration) -> Result<(), HelloError> {
    let exchange = async {
        let (mut send, mut recv) = connection.open_bi().await?;
        let sent = send.write_all(&ours.encode()).await;
        let _ = send.finish();
        let mut bytes = [0; BYTES];
        match (sent, recv.read_exact(&mut bytes).await) {
            (Ok(()), Ok(())) => check(ours, Hello::decode(&bytes)),
            // Either the connection is gone, which tells more, or the peer broke the protocol.
            _ => Err(connection.close_reason().map_or(HelloError::NotHello, HelloError::Lost)),
        }
    };
    end(connection, tokio::time::timeout(timeout, exchange).await, timeout)
}

/// The listener's part: waits for theirs, sends ours.
pub(super) async fn answer(connection: &Connection, ours: Hello, timeout: Duration) -> Result<(), HelloError> {
    let exchange = async {
        let (mut send, mut recv) = connection.accept_bi().await?;
        let mut bytes = [0; BYTES];
        if recv.read_exact(&mut bytes).await.is_err() {
            return Err(connection.close_reason().map_or(HelloError::NotHello, HelloError::Lost));
        }
        check(ours, Hello::decode(&bytes))?;
        let _ = recv.stop(VarInt::from_u32(close::SHUTDOWN));
        let sent = send.write_all(&ours.encode()).await;
        let _ = send.finish();
        sent.map_err(|_| connection.close_reason().map_or(HelloError::NotHello, HelloError::Lost))
    };
    end(connection, tokio::time::timeout(timeout, exchange).await, timeout)
}

fn end(
    connection: &Connection,
    outcome: Result<Result<(), HelloError>, tokio::time::error::Elapsed>,
    timeout: Duration,
) -> Result<(), HelloError> {
    let outcome = outcome.unwrap_or(Err(HelloError::Timeout(timeout)));
    if let Err(error) = &outcome {
        error.close(connection);
    }
    outcome
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hello_survives_the_wire_and_anything_else_is_none() {
        let hello = Hello::new(ClusterId(0x1234_5678_9abc));
        let mut bytes = hello.encode();
        assert_eq!(Hello::decode(&bytes), Some(hello));
        // The layout is a wire format: pinned.
        assert_eq!(hex(&bytes), "4357484501000000bc9a7856341200000000000000000000");
        bytes[0] ^= 1;
        assert_eq!(Hello::decode(&bytes), None);
    }

    #[test]
    fn the_version_is_judged_before_the_cluster() {
        let ours = Hello::new(ClusterId(1));
        let theirs = Hello { version: 9, cluster: ClusterId(2) };
        assert_eq!(check(ours, Some(theirs)), Err(HelloError::WrongVersion { ours: VERSION, theirs: 9 }));
        assert!(matches!(check(ours, Some(Hello::new(ClusterId(2)))), Err(HelloError::WrongCluster { .. })));
        assert_eq!(check(ours, Some(ours)), Ok(()));
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|b| format!("{b:02x}")).collect()
    }
}
