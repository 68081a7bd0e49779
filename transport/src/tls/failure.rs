//! Why a handshake failed, told from both sides.

use std::io;

use rustls::AlertDescription;

use crate::PeerRefused;

/// A failed TLS handshake: who refused whom, and why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TlsFailure {
    /// We refused the other end's certificate.
    #[error("the peer was refused")]
    PeerRefused(#[source] PeerRefused),
    /// The other end refused our certificate; an alert says little, its log says why.
    #[error("the peer refused our certificate: {}", told(*.0))]
    RefusedByPeer(AlertDescription),
    /// Anything else: not TLS, no common version or protocol, a damaged record.
    #[error("TLS failed: {0}")]
    Protocol(String),
}

impl TlsFailure {
    /// Sorts an error of the TLS library.
    #[must_use]
    pub fn from_tls(error: &rustls::Error) -> Self {
        if let Some(refused) = PeerRefused::from_tls(error) {
            return Self::PeerRefused(refused);
        }
        match error {
            rustls::Error::AlertReceived(alert) => Self::from_alert(*alert),
            other => Self::Protocol(other.to_string()),
        }
    }

    /// Sorts an alert that the peer sent.
    #[must_use]
    pub fn from_alert(alert: AlertDescription) -> Self {
        match alert {
            AlertDescription::BadCertificate
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateUnknown
            | AlertDescription::CertificateRequired
            | AlertDescription::UnknownCA
            | AlertDescription::AccessDenied
            | AlertDescription::DecryptError => Self::RefusedByPeer(alert),
            other => Self::Protocol(format!("the peer sent the alert {other:?}")),
        }
    }

    /// Finds a TLS failure in a chain of errors, such as one of the gRPC library or of a TLS stream.
    #[must_use]
    pub fn find(error: &(dyn std::error::Error + 'static)) -> Option<Self> {
        let mut next = Some(error);
        while let Some(error) = next {
            if let Some(failure) = error.downcast_ref::<Self>() {
                return Some(failure.clone());
            }
            if let Some(tls) = error.downcast_ref::<rustls::Error>() {
                return Some(Self::from_tls(tls));
            }
            // An I/O error that wraps another hides it from `source`, which skips to the wrapped one's own source.
            let wrapped = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
            next = match wrapped {
                Some(inner) => Some(inner as &(dyn std::error::Error + 'static)),
                None => error.source(),
            };
        }
        None
    }
}

fn told(alert: AlertDescription) -> &'static str {
    match alert {
        AlertDescription::CertificateExpired => "it has expired, or is not valid yet by the peer's clock",
        AlertDescription::UnknownCA | AlertDescription::DecryptError => "the peer does not know our CA",
        AlertDescription::CertificateRevoked => "it has been revoked",
        AlertDescription::UnsupportedCertificate => "it is not meant for this use",
        AlertDescription::CertificateUnknown | AlertDescription::AccessDenied => {
            "our identity is not one that it accepts; its log says why"
        }
        AlertDescription::CertificateRequired => "it needs one",
        _ => "it cannot use it",
    }
}
