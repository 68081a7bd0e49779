//! What is expected of the other end, and why it was refused.

use causeway_base::SiteName;
use rustls::{CertificateError, Error as TlsError, OtherError};

use super::{PeerId, SpiffeError, SpiffeId, TrustDomain};

/// Who may be at the other end. The trust domain is always that of our own certificate.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ExpectPeer {
    /// This one.
    Exactly(PeerId),
    /// A node, of whichever site.
    AnyNode,
    /// A node of this site.
    AnyNodeOfSite(SiteName),
    /// Whoever our CA vouches for, clients too. For listeners, whose handlers then look at who it is.
    Any,
}

impl ExpectPeer {
    /// Checks an identity that was read from a verified certificate.
    ///
    /// # Errors
    /// [`PeerRefused::WrongTrustDomain`], [`PeerRefused::WrongPeer`] or [`PeerRefused::NotANode`].
    pub fn check(&self, trust: &TrustDomain, found: SpiffeId) -> Result<PeerId, PeerRefused> {
        if found.trust != *trust {
            return Err(PeerRefused::WrongTrustDomain { expected: trust.clone(), found });
        }
        let found = found.peer;
        match (self, &found) {
            (Self::Any, _) | (Self::AnyNode, PeerId::Node { .. }) => Ok(found),
            (Self::Exactly(expected), _) if *expected == found => Ok(found),
            (Self::AnyNodeOfSite(expected), PeerId::Node { site, .. }) if expected == site => Ok(found),
            (Self::AnyNode | Self::AnyNodeOfSite(_), PeerId::Client { .. }) => Err(PeerRefused::NotANode { found }),
            _ => Err(PeerRefused::WrongPeer { expected: self.clone(), found }),
        }
    }
}

impl std::fmt::Display for ExpectPeer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Exactly(peer) => write!(f, "{peer}"),
            Self::AnyNode => f.write_str("any node"),
            Self::AnyNodeOfSite(site) => write!(f, "any node of site {site}"),
            Self::Any => f.write_str("any peer"),
        }
    }
}

/// Why a peer's certificate was refused here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PeerRefused {
    /// Its life is over.
    #[error("the peer's certificate has expired; its issuer must give it a new one")]
    Expired,
    /// Its life has not begun: one of the two clocks is wrong.
    #[error("the peer's certificate is not valid yet; compare the clocks of both machines")]
    NotYetValid,
    /// Not signed by our CA.
    #[error("the peer's certificate was issued by an unknown CA")]
    UnknownCa,
    /// On our revocation list.
    #[error("the peer's certificate has been revoked")]
    Revoked,
    /// A client's certificate where a server's is needed, by its key usage.
    #[error("the peer's certificate is not meant for this use; a client's certificate cannot be a node's")]
    WrongPurpose,
    /// Our CA, another trust domain.
    #[error("wrong trust domain: the peer is {found}, our trust domain is {expected}")]
    WrongTrustDomain {
        /// Ours.
        expected: TrustDomain,
        /// Theirs.
        found: SpiffeId,
    },
    /// A good certificate of somebody else.
    #[error("wrong peer: {found} answered where {expected} was expected")]
    WrongPeer {
        /// Whom we wanted.
        expected: ExpectPeer,
        /// Who it is.
        found: PeerId,
    },
    /// A client where only nodes may be.
    #[error("{found} is not a node")]
    NotANode {
        /// Who it is.
        found: PeerId,
    },
    /// Not exactly one URI SAN.
    #[error("the peer's certificate names {0} URIs, exactly one is needed")]
    UriCount(usize),
    /// One URI SAN of another form.
    #[error("the peer's certificate names no identity")]
    NotSpiffe(#[source] SpiffeError),
    /// Not a certificate.
    #[error("the peer's certificate does not parse: {0}")]
    Malformed(String),
    /// No certificate at all.
    #[error("the peer presented no certificate")]
    Missing,
}

impl PeerRefused {
    /// The refusal inside an error of the TLS library, if it is one.
    #[must_use]
    pub fn from_tls(error: &TlsError) -> Option<Self> {
        Some(match error {
            TlsError::NoCertificatesPresented => Self::Missing,
            TlsError::InvalidCertificate(error) => match error {
                CertificateError::Expired | CertificateError::ExpiredContext { .. } => Self::Expired,
                CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => Self::NotYetValid,
                // A forged certificate with our CA's name fails by its signature.
                CertificateError::UnknownIssuer | CertificateError::BadSignature => Self::UnknownCa,
                CertificateError::Revoked => Self::Revoked,
                CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => Self::WrongPurpose,
                CertificateError::Other(OtherError(inner)) => inner.downcast_ref::<Self>()?.clone(),
                other => Self::Malformed(other.to_string()),
            },
            _ => return None,
        })
    }

    /// As an error of the TLS library, so that the handshake fails with it. Keeps the library's own variants where
    /// there is one, since they choose the alert that the peer sees.
    #[must_use]
    pub fn into_tls(self) -> TlsError {
        TlsError::InvalidCertificate(match self {
            Self::Expired => CertificateError::Expired,
            Self::NotYetValid => CertificateError::NotValidYet,
            Self::UnknownCa => CertificateError::UnknownIssuer,
            Self::Revoked => CertificateError::Revoked,
            Self::WrongPurpose => CertificateError::InvalidPurpose,
            other => CertificateError::Other(OtherError(std::sync::Arc::new(other))),
        })
    }
}
