//! QUIC and TLS: identity, the built-in CA, connections, bounded frames. Knows bytes, not chunks.
//!
//! Every connection of a cluster, gRPC for control and QUIC for data, is TLS 1.3 with certificates on both sides. Who
//! the other end is stands in its certificate as a SPIFFE URI, read in one place ([`identity::certificate`]); what a
//! caller expects of it is an [`ExpectPeer`]. Certificates are short-lived and reload live ([`IdentityStore`]).

pub mod ca;
pub mod grpc;
pub mod identity;
pub mod net;
pub mod quic;
pub mod tls;

pub use ca::{CertificateAuthority, IssuedIdentity};
pub use identity::{ExpectPeer, Identity, IdentityStore, PeerId, PeerRefused, SpiffeId, TrustDomain};
