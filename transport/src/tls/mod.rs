//! TLS configurations: 1.3 only, certificates on both sides, one crypto provider passed by hand, no 0-RTT, and no
//! session resumption, so that no connection skips the certificate checks.

mod failure;
mod verifier;

use std::sync::{Arc, OnceLock};

use rustls::crypto::CryptoProvider;
use rustls::pki_types::UnixTime;
use rustls::server::NoServerSessionStorage;
use rustls::time_provider::TimeProvider;
use rustls::{ClientConfig, ServerConfig};

pub use failure::TlsFailure;
use verifier::{OwnCertificate, PeerVerifier};
pub use verifier::{peer_of, peer_of_chain};

use crate::{ExpectPeer, IdentityStore, PeerRefused};

/// The server name that clients send. Nobody looks at it: who a server is stands in its certificate's URI.
pub const SERVER_NAME: &str = "causeway";

/// The crypto provider that everything uses: aws-lc-rs. The process's default provider is never consulted.
#[must_use]
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

/// A listener's configuration: presents the store's current certificate, and accepts peers as `accept` says.
///
/// # Errors
/// [`rustls::Error`] if the provider lacks TLS 1.3, which ours does not.
pub fn server_config(
    identity: &Arc<IdentityStore>,
    accept: ExpectPeer,
    protocol: &[u8],
) -> Result<Arc<ServerConfig>, rustls::Error> {
    server_config_noting(identity, accept, protocol, Arc::default())
}

/// As [`server_config`]; why a peer was refused is noted, since QUIC keeps only a text of it.
pub(crate) fn server_config_noting(
    identity: &Arc<IdentityStore>,
    accept: ExpectPeer,
    protocol: &[u8],
    refused: Arc<OnceLock<PeerRefused>>,
) -> Result<Arc<ServerConfig>, rustls::Error> {
    let mut config = ServerConfig::builder_with_details(provider(), wall_clock(identity))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(Arc::new(PeerVerifier::new(identity.clone(), accept, refused)))
        .with_cert_resolver(Arc::new(OwnCertificate(identity.clone())));
    config.alpn_protocols = vec![protocol.to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.max_early_data_size = 0;
    Ok(Arc::new(config))
}

/// A caller's configuration: presents the store's current certificate, and accepts only the server that is expected.
///
/// # Errors
/// As [`server_config`].
pub fn client_config(
    identity: &Arc<IdentityStore>,
    expect: ExpectPeer,
    protocol: &[u8],
) -> Result<Arc<ClientConfig>, rustls::Error> {
    client_config_noting(identity, expect, protocol, Arc::default())
}

/// As [`client_config`]; why a peer was refused is noted.
pub(crate) fn client_config_noting(
    identity: &Arc<IdentityStore>,
    expect: ExpectPeer,
    protocol: &[u8],
    refused: Arc<OnceLock<PeerRefused>>,
) -> Result<Arc<ClientConfig>, rustls::Error> {
    let mut config = ClientConfig::builder_with_details(provider(), wall_clock(identity))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(PeerVerifier::new(identity.clone(), expect, refused)))
        .with_client_cert_resolver(Arc::new(OwnCertificate(identity.clone())));
    config.alpn_protocols = vec![protocol.to_vec()];
    config.resumption = rustls::client::Resumption::disabled();
    config.enable_early_data = false;
    Ok(Arc::new(config))
}

fn wall_clock(identity: &Arc<IdentityStore>) -> Arc<dyn TimeProvider> {
    Arc::new(WallClock(identity.clone()))
}

/// The store's clock, as the TLS library wants it.
#[derive(Debug)]
struct WallClock(Arc<IdentityStore>);

impl TimeProvider for WallClock {
    fn current_time(&self) -> Option<UnixTime> {
        // A clock before 1970 makes every certificate "not valid yet" rather than valid.
        let seconds = u64::try_from(self.0.clock().now().0 / 1_000_000_000).ok()?;
        Some(UnixTime::since_unix_epoch(std::time::Duration::from_secs(seconds)))
    }
}
