//! The certificate verifier of both sides: the chain by webpki, then the name by us.

use std::sync::{Arc, OnceLock};

use rustls::client::ResolvesClientCert;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::{CryptoProvider, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ClientHello, ParsedCertificate, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{DigitallySignedStruct, DistinguishedName, Error, PeerIncompatible, SignatureScheme};

use crate::identity::certificate;
use crate::tls::provider;
use crate::{ExpectPeer, IdentityStore, PeerId, PeerRefused};

/// Checks the other end's certificate against the identity in use at that moment.
#[derive(Debug)]
pub(super) struct PeerVerifier {
    identity: Arc<IdentityStore>,
    expect: ExpectPeer,
    provider: Arc<CryptoProvider>,
    refused: Arc<OnceLock<PeerRefused>>,
}

impl PeerVerifier {
    pub(super) fn new(identity: Arc<IdentityStore>, expect: ExpectPeer, refused: Arc<OnceLock<PeerRefused>>) -> Self {
        Self { identity, expect, provider: provider(), refused }
    }

    /// Notes a refusal for those who see no more than a text of the error.
    fn noted<T>(&self, outcome: Result<T, Error>) -> Result<T, Error> {
        outcome.inspect_err(|error| {
            if let Some(refused) = PeerRefused::from_tls(error) {
                let _ = self.refused.set(refused);
            }
        })
    }

    fn check_server(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let own = self.identity.current();
        let algorithms = self.provider.signature_verification_algorithms.all;
        let parsed = ParsedCertificate::try_from(leaf)?;
        verify_server_cert_signed_by_trust_anchor(&parsed, own.roots(), intermediates, now, algorithms)?;
        if own.has_revocation() {
            // Only the client verifier of the library reads revocation lists without asking for a DNS name; a node's
            // certificate is good for both usages.
            own.chain_verifier().verify_client_cert(leaf, intermediates, now)?;
        }
        self.check_name(leaf)?;
        Ok(ServerCertVerified::assertion())
    }

    fn check_client(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self.identity.current().chain_verifier().verify_client_cert(leaf, intermediates, now)?;
        self.check_name(leaf)?;
        Ok(verified)
    }

    fn check_name(&self, leaf: &CertificateDer<'_>) -> Result<(), Error> {
        let found = certificate::spiffe_id(leaf).map_err(PeerRefused::into_tls)?;
        self.expect.check(self.identity.current().trust(), found).map_err(PeerRefused::into_tls)?;
        Ok(())
    }

    fn check_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, leaf, signed, &self.provider.signature_verification_algorithms)
    }
}

impl ServerCertVerifier for PeerVerifier {
    /// Chain, life and server usage; revocation if there are lists; then the name in the URI. The DNS name is not
    /// looked at: addresses change, identities do not.
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.noted(self.check_server(leaf, intermediates, now))
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _leaf: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::PeerIncompatible(PeerIncompatible::Tls13RequiredForQuic))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.check_signature(message, leaf, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

impl ClientCertVerifier for PeerVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        // A client has one certificate; the roots may be replaced while this borrow lives.
        &[]
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.noted(self.check_client(leaf, intermediates, now))
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _leaf: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::PeerIncompatible(PeerIncompatible::Tls13RequiredForQuic))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.check_signature(message, leaf, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// Presents the certificate in use at that moment, to clients and to servers.
#[derive(Debug)]
pub(super) struct OwnCertificate(pub(super) Arc<IdentityStore>);

impl ResolvesServerCert for OwnCertificate {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.current().key().clone())
    }
}

impl ResolvesClientCert for OwnCertificate {
    fn resolve(&self, _root_hints: &[&[u8]], _schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.0.current().key().clone())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// Who is at the other end of a finished handshake. The certificate was verified by it; this reads the name again.
///
/// # Errors
/// [`PeerRefused`] if the certificate does not name one, which a finished handshake excludes.
pub fn peer_of(connection: &rustls::CommonState) -> Result<PeerId, PeerRefused> {
    peer_of_chain(connection.peer_certificates())
}

/// As [`peer_of`], from the verified chain.
///
/// # Errors
/// As [`peer_of`].
pub fn peer_of_chain(chain: Option<&[CertificateDer<'_>]>) -> Result<PeerId, PeerRefused> {
    let leaf = chain.and_then(<[_]>::first).ok_or(PeerRefused::Missing)?;
    Ok(certificate::spiffe_id(leaf)?.peer)
}
