//! A process's own certificate, key and trusted CAs, and their live reload.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use causeway_base::{Clock, SystemClock, Timestamp};
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls::sign::CertifiedKey;

use super::files::{CA_FILE, CERT_FILE, CRL_FILE, KEY_FILE, read_bounded, write_private, write_public};
use super::{PeerId, PeerRefused, SpiffeId, TrustDomain, certificate};
use crate::IssuedIdentity;
use crate::tls::provider;

/// What the reset secret is derived for.
const RESET_CONTEXT: &str = "causeway transport 2026-11 QUIC stateless reset";
/// Largest PEM file that is read.
const PEM_BYTES_MAX: u64 = 4 << 20;

/// Who this process is and whom it believes: certificate chain, private key, CA certificates, revocation lists.
pub struct Identity {
    id: SpiffeId,
    not_after: Timestamp,
    key: Arc<CertifiedKey>,
    roots: Arc<RootCertStore>,
    chain_verifier: Arc<dyn ClientCertVerifier>,
    revocation: bool,
    reset_secret: [u8; 32],
}

/// Why an identity could not be loaded. The one in use stays.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IdentityError {
    /// A file is missing or cannot be read or written.
    #[error("identity file {}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What happened.
        #[source]
        source: io::Error,
    },
    /// A PEM text holds nothing of what it should, or does not parse.
    #[error("{what} is not usable: {reason}")]
    Pem {
        /// Which of the parts.
        what: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// The key is not that of the certificate.
    #[error("the private key does not belong to the certificate")]
    KeyMismatch,
    /// Our own certificate names no usable identity.
    #[error("our own certificate cannot be used")]
    Own(#[source] PeerRefused),
    /// [`IdentityStore::reload`] on a store that was not loaded from a folder.
    #[error("this identity was not loaded from a folder, so it cannot be reloaded")]
    NoFolder,
}

impl Identity {
    /// From PEM texts; `crl_pem` may be empty. An expired certificate loads: its peers will refuse it by name.
    ///
    /// # Errors
    /// [`IdentityError`].
    pub fn from_pem(ca_pem: &[u8], cert_pem: &[u8], key_pem: &[u8], crl_pem: &[u8]) -> Result<Self, IdentityError> {
        let fail = |what, reason: String| IdentityError::Pem { what, reason };
        let chain = certificates("the certificate", cert_pem)?;
        let key = PrivateKeyDer::from_pem_slice(key_pem).map_err(|e| fail("the private key", e.to_string()))?;
        let reset_secret = blake3::derive_key(RESET_CONTEXT, key.secret_der());
        let key = CertifiedKey::from_der(chain, key, &provider()).map_err(|error| match error {
            rustls::Error::InconsistentKeys(_) => IdentityError::KeyMismatch,
            error => fail("the private key", error.to_string()),
        })?;
        let mut roots = RootCertStore::empty();
        for root in certificates("the CA certificate", ca_pem)? {
            roots.add(root).map_err(|error| fail("the CA certificate", error.to_string()))?;
        }
        let roots = Arc::new(roots);
        let crls = CertificateRevocationListDer::pem_slice_iter(crl_pem)
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| fail("the revocation list", error.to_string()))?;
        let revocation = !crls.is_empty();
        let chain_verifier = WebPkiClientVerifier::builder_with_provider(roots.clone(), provider())
            .with_crls(crls)
            .allow_unknown_revocation_status()
            .clear_root_hint_subjects()
            .build()
            .map_err(|error| fail("the revocation list", error.to_string()))?;
        let leaf = key.end_entity_cert().map_err(|error| fail("the certificate", error.to_string()))?;
        let id = certificate::spiffe_id(leaf).map_err(IdentityError::Own)?;
        let not_after = certificate::not_after(leaf).map_err(IdentityError::Own)?;
        Ok(Self { id, not_after, key: Arc::new(key), roots, chain_verifier, revocation, reset_secret })
    }

    /// From what our CA issued.
    ///
    /// # Errors
    /// [`IdentityError`].
    pub fn from_issued(issued: &IssuedIdentity) -> Result<Self, IdentityError> {
        Self::from_pem(issued.ca_pem.as_bytes(), issued.cert_pem.as_bytes(), issued.key_pem.as_bytes(), b"")
    }

    /// From the files [`CA_FILE`], [`CERT_FILE`], [`KEY_FILE`] and, if there is one, [`CRL_FILE`] of a folder.
    ///
    /// # Errors
    /// [`IdentityError`].
    pub fn load(folder: &Path) -> Result<Self, IdentityError> {
        let read = |name: &str| {
            let path = folder.join(name);
            read_bounded(&path, PEM_BYTES_MAX).map_err(|source| IdentityError::File { path, source })
        };
        let crl = match read(CRL_FILE) {
            Err(IdentityError::File { source, .. }) if source.kind() == io::ErrorKind::NotFound => Vec::new(),
            other => other?,
        };
        Self::from_pem(&read(CA_FILE)?, &read(CERT_FILE)?, &read(KEY_FILE)?, &crl)
    }

    /// Our full name.
    #[must_use]
    pub const fn id(&self) -> &SpiffeId {
        &self.id
    }

    /// Our name within the trust domain.
    #[must_use]
    pub const fn peer(&self) -> &PeerId {
        &self.id.peer
    }

    /// Our trust domain; peers of another are refused.
    #[must_use]
    pub const fn trust(&self) -> &TrustDomain {
        &self.id.trust
    }

    /// When our certificate's life ends.
    #[must_use]
    pub const fn not_after(&self) -> Timestamp {
        self.not_after
    }

    pub(crate) const fn key(&self) -> &Arc<CertifiedKey> {
        &self.key
    }

    pub(crate) const fn roots(&self) -> &Arc<RootCertStore> {
        &self.roots
    }

    /// Checks chain, life, client usage and revocation, but not the name.
    pub(crate) const fn chain_verifier(&self) -> &Arc<dyn ClientCertVerifier> {
        &self.chain_verifier
    }

    /// A secret that is the same after a restart with the same key: signs QUIC's stateless resets.
    pub(crate) const fn reset_secret(&self) -> [u8; 32] {
        self.reset_secret
    }

    /// Whether there are revocation lists.
    pub(crate) const fn has_revocation(&self) -> bool {
        self.revocation
    }
}

impl std::fmt::Debug for Identity {
    /// Never the key.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Identity").field("id", &self.id).field("not_after", &self.not_after).finish_non_exhaustive()
    }
}

fn certificates(what: &'static str, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, IdentityError> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let found = found.map_err(|error| IdentityError::Pem { what, reason: error.to_string() })?;
    if found.is_empty() {
        return Err(IdentityError::Pem { what, reason: "no certificate in it".to_owned() });
    }
    Ok(found)
}

/// The identity in use. TLS configurations hold the store, so that a reload is seen by the next handshake of every
/// listener and every client; open connections stay.
#[derive(Debug)]
pub struct IdentityStore {
    current: RwLock<Arc<Identity>>,
    folder: Option<PathBuf>,
    clock: Arc<dyn Clock>,
}

impl IdentityStore {
    /// A store of one identity; certificates are judged by `clock`.
    #[must_use]
    pub fn new(identity: Identity, clock: Arc<dyn Clock>) -> Arc<Self> {
        Arc::new(Self { current: RwLock::new(Arc::new(identity)), folder: None, clock })
    }

    /// A store over a folder of files, by the machine's clock.
    ///
    /// # Errors
    /// [`IdentityError`].
    pub fn load(folder: impl Into<PathBuf>) -> Result<Arc<Self>, IdentityError> {
        Self::load_with_clock(folder, Arc::new(SystemClock))
    }

    /// A store over a folder of files.
    ///
    /// # Errors
    /// [`IdentityError`].
    pub fn load_with_clock(folder: impl Into<PathBuf>, clock: Arc<dyn Clock>) -> Result<Arc<Self>, IdentityError> {
        let folder = folder.into();
        let identity = Identity::load(&folder)?;
        Ok(Arc::new(Self { current: RwLock::new(Arc::new(identity)), folder: Some(folder), clock }))
    }

    /// The identity in use now.
    #[must_use]
    pub fn current(&self) -> Arc<Identity> {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Reads the folder again. On an error (also for a certificate and key of which only one was replaced yet) the
    /// identity in use stays; try again.
    ///
    /// # Errors
    /// [`IdentityError`].
    pub fn reload(&self) -> Result<Arc<Identity>, IdentityError> {
        let folder = self.folder.as_deref().ok_or(IdentityError::NoFolder)?;
        let identity = Identity::load(folder)?;
        self.replace(identity);
        Ok(self.current())
    }

    /// Puts another identity in use.
    pub fn replace(&self, identity: Identity) {
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(identity);
    }

    /// The clock that certificates are judged by.
    #[must_use]
    pub fn clock(&self) -> &Arc<dyn Clock> {
        &self.clock
    }
}

impl IssuedIdentity {
    /// Writes the files that [`Identity::load`] reads; the key gets mode 0600. The folder must exist.
    ///
    /// # Errors
    /// [`IdentityError::File`].
    pub fn save(&self, folder: &Path) -> Result<(), IdentityError> {
        let named = |name: &str| folder.join(name);
        let told = |path: PathBuf| move |source| IdentityError::File { path, source };
        write_private(&named(KEY_FILE), self.key_pem.as_bytes()).map_err(told(named(KEY_FILE)))?;
        write_public(&named(CERT_FILE), self.cert_pem.as_bytes()).map_err(told(named(CERT_FILE)))?;
        write_public(&named(CA_FILE), self.ca_pem.as_bytes()).map_err(told(named(CA_FILE)))
    }
}
