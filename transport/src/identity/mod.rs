//! Who a process is: names, certificates, and what is expected of the other end.

pub mod certificate;
mod expect;
mod files;
mod spiffe;
mod store;

pub use expect::{ExpectPeer, PeerRefused};
pub(crate) use files::write_private;
pub use files::{CA_FILE, CERT_FILE, CRL_FILE, KEY_FILE};
pub use spiffe::{PeerId, SpiffeError, SpiffeId, TrustDomain};
pub use store::{Identity, IdentityError, IdentityStore};
