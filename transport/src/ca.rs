//! The built-in certificate authority of a cluster. An organisation that has its own may use that instead: what is
//! checked of a certificate stands in `docs/identity.md`.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use causeway_base::{Clock, Timestamp};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, PKCS_ED25519, RevokedCertParams,
    SanType, SerialNumber,
};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use time::OffsetDateTime;

use crate::identity::{PeerId, PeerRefused, SpiffeId, TrustDomain, certificate, write_private};

/// Life of a leaf unless told otherwise: short enough that a stolen key is of little use.
pub const LEAF_LIFE: Duration = Duration::from_secs(24 * 3600);
/// Life of the leaves that `init` writes for a first look, so that a laptop's cluster outlives a weekend. Not for production.
pub const STARTER_LEAF_LIFE: Duration = Duration::from_secs(30 * 24 * 3600);
/// Life of the CA certificate.
const CA_LIFE: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
/// A certificate is valid from this long before it was made, so that a clock that is somewhat behind accepts it.
const BACKDATED: Duration = Duration::from_secs(300);
/// Life of a revocation list; it is not enforced, since a list that is late must not stop a cluster.
const CRL_LIFE: Duration = Duration::from_secs(7 * 24 * 3600);

const CA_CERT_FILE: &str = "ca.pem";
const CA_KEY_FILE: &str = "ca.key.pem";

/// Why the authority could not do its work.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CaError {
    /// Making or signing a certificate failed.
    #[error("certificate of {subject}")]
    Certificate {
        /// Whose.
        subject: String,
        /// What the library says.
        #[source]
        source: rcgen::Error,
    },
    /// The CA's own certificate does not parse.
    #[error("the CA certificate is not usable: {0}")]
    Pem(String),
    /// The CA's own certificate does not name a trust domain.
    #[error("the CA certificate names no trust domain")]
    NoTrustDomain(#[source] PeerRefused),
    /// A life outside of what a certificate can say.
    #[error("a life of {0:?} cannot be written into a certificate")]
    Life(Duration),
    /// A file cannot be read or written.
    #[error("CA file {}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What happened.
        #[source]
        source: std::io::Error,
    },
}

/// A certificate authority: its certificate and its private key.
pub struct CertificateAuthority {
    trust: TrustDomain,
    cert_pem: String,
    key_pem: String,
    issuer: Issuer<'static, KeyPair>,
    clock: Arc<dyn Clock>,
}

/// A leaf certificate with its key, and the CA's certificate, all PEM.
#[derive(Clone)]
pub struct IssuedIdentity {
    /// The CA's certificate.
    pub ca_pem: String,
    /// The leaf.
    pub cert_pem: String,
    /// Its private key: keep it secret.
    pub key_pem: String,
}

impl CertificateAuthority {
    /// A new authority with a new Ed25519 key.
    ///
    /// # Errors
    /// [`CaError`].
    pub fn create(trust: TrustDomain, clock: Arc<dyn Clock>) -> Result<Self, CaError> {
        let subject = trust.uri();
        let fail = |source| CaError::Certificate { subject: subject.clone(), source };
        let mut params = params_of(&subject, &format!("Causeway CA of {trust}"), now(clock.as_ref()), CA_LIFE)?;
        // No intermediate may be made by it.
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate_for(&PKCS_ED25519).map_err(fail)?;
        let cert_pem = params.self_signed(&key).map_err(fail)?.pem();
        let key_pem = key.serialize_pem();
        Ok(Self { trust, cert_pem, key_pem, issuer: Issuer::new(params, key), clock })
    }

    /// An authority from its certificate and key.
    ///
    /// # Errors
    /// [`CaError`].
    pub fn from_pem(cert_pem: &str, key_pem: &str, clock: Arc<dyn Clock>) -> Result<Self, CaError> {
        let der = CertificateDer::from_pem_slice(cert_pem.as_bytes()).map_err(|e| CaError::Pem(e.to_string()))?;
        let trust = certificate::trust_domain(&der).map_err(CaError::NoTrustDomain)?;
        let fail = |source| CaError::Certificate { subject: trust.uri(), source };
        let key = KeyPair::from_pem(key_pem).map_err(fail)?;
        let issuer = Issuer::from_ca_cert_der(&der, key).map_err(fail)?;
        Ok(Self { trust: trust.clone(), cert_pem: cert_pem.to_owned(), key_pem: key_pem.to_owned(), issuer, clock })
    }

    /// An authority from the files that [`CertificateAuthority::save`] wrote.
    ///
    /// # Errors
    /// [`CaError`].
    pub fn load(folder: &Path, clock: Arc<dyn Clock>) -> Result<Self, CaError> {
        let read = |name: &str| {
            let path = folder.join(name);
            std::fs::read_to_string(&path).map_err(|source| CaError::File { path, source })
        };
        Self::from_pem(&read(CA_CERT_FILE)?, &read(CA_KEY_FILE)?, clock)
    }

    /// Writes `ca.pem` and `ca.key.pem`, both with mode 0600. The folder must exist.
    ///
    /// # Errors
    /// [`CaError::File`].
    pub fn save(&self, folder: &Path) -> Result<(), CaError> {
        for (name, text) in [(CA_KEY_FILE, &self.key_pem), (CA_CERT_FILE, &self.cert_pem)] {
            let path = folder.join(name);
            write_private(&path, text.as_bytes()).map_err(|source| CaError::File { path, source })?;
        }
        Ok(())
    }

    /// The names that it speaks for.
    #[must_use]
    pub const fn trust(&self) -> &TrustDomain {
        &self.trust
    }

    /// Its certificate, which peers trust.
    #[must_use]
    pub fn cert_pem(&self) -> &str {
        &self.cert_pem
    }

    /// Issues a certificate with a new Ed25519 key, valid from five minutes ago for `life` from now ([`LEAF_LIFE`] is
    /// the usual). A node's may serve and call; a client's may only call.
    ///
    /// # Errors
    /// [`CaError`].
    pub fn issue(&self, peer: &PeerId, life: Duration) -> Result<IssuedIdentity, CaError> {
        let id = SpiffeId { trust: self.trust.clone(), peer: peer.clone() };
        let mut usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        if matches!(peer, PeerId::Node { .. }) {
            usages.push(ExtendedKeyUsagePurpose::ServerAuth);
        }
        let uri = id.to_string();
        let mut params = params_of(&uri, &peer.to_string(), now(self.clock.as_ref()), life)?;
        params.extended_key_usages = usages;
        let fail = |source| CaError::Certificate { subject: uri.clone(), source };
        let key = KeyPair::generate_for(&PKCS_ED25519).map_err(fail)?;
        let certificate = params.signed_by(&key, &self.issuer).map_err(fail)?;
        Ok(IssuedIdentity { ca_pem: self.cert_pem.clone(), cert_pem: certificate.pem(), key_pem: key.serialize_pem() })
    }

    /// A revocation list naming the leaves `revoked` (PEM), to be put where each node's identity has its `crl.pem`.
    ///
    /// # Errors
    /// [`CaError`].
    pub fn revoke(&self, revoked: &[&str], number: u64) -> Result<String, CaError> {
        let now = now(self.clock.as_ref());
        let mut revoked_certs = Vec::with_capacity(revoked.len());
        for pem in revoked {
            let der = CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|e| CaError::Pem(e.to_string()))?;
            let serial = certificate::serial(&der).map_err(|error| CaError::Pem(error.to_string()))?;
            revoked_certs.push(RevokedCertParams {
                serial_number: SerialNumber::from_slice(&serial),
                revocation_time: now,
                reason_code: None,
                invalidity_date: None,
            });
        }
        let params = CertificateRevocationListParams {
            this_update: now,
            next_update: now + CRL_LIFE,
            crl_number: SerialNumber::from_slice(&number.to_be_bytes()),
            issuing_distribution_point: None,
            revoked_certs,
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let fail = |source| CaError::Certificate { subject: "the revocation list".to_owned(), source };
        params.signed_by(&self.issuer).and_then(|list| list.pem()).map_err(fail)
    }
}

impl std::fmt::Debug for CertificateAuthority {
    /// Never the key.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CertificateAuthority").field("trust", &self.trust).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for IssuedIdentity {
    /// Never the key.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("IssuedIdentity").field("cert_pem", &self.cert_pem).finish_non_exhaustive()
    }
}

/// What all certificates of ours have in common: one URI SAN, a life, a common name for people to read.
fn params_of(uri: &str, name: &str, now: OffsetDateTime, life: Duration) -> Result<CertificateParams, CaError> {
    let fail = |source| CaError::Certificate { subject: uri.to_owned(), source };
    let mut params = CertificateParams::new(Vec::new()).map_err(fail)?;
    params.subject_alt_names = vec![SanType::URI(uri.try_into().map_err(fail)?)];
    params.distinguished_name = DistinguishedName::new();
    // X.509 bounds a common name to 64 characters; nothing here reads it.
    params.distinguished_name.push(DnType::CommonName, name.chars().take(64).collect::<String>());
    params.not_before = now - BACKDATED;
    let life_signed = time::Duration::try_from(life).map_err(|_| CaError::Life(life))?;
    params.not_after = now.checked_add(life_signed).ok_or(CaError::Life(life))?;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

fn now(clock: &dyn Clock) -> OffsetDateTime {
    let Timestamp(nanos) = clock.now();
    // Every i64 of nanoseconds is a date between 1677 and 2262.
    OffsetDateTime::from_unix_timestamp_nanos(i128::from(nanos)).unwrap_or(OffsetDateTime::UNIX_EPOCH)
}
