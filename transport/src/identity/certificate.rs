//! The one place that reads an identity out of a certificate.
//!
//! Nothing here says that a certificate is to be believed: that is the verifier's work (`tls::verifier`), which checks
//! the chain first and then comes here for the name.

use causeway_base::Timestamp;
use rustls::pki_types::CertificateDer;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::{PeerRefused, SpiffeId, TrustDomain};

/// The identity in a leaf certificate: its only URI SAN, in SPIFFE form.
///
/// # Errors
/// [`PeerRefused::Malformed`], [`PeerRefused::UriCount`] for none or several, [`PeerRefused::NotSpiffe`].
pub fn spiffe_id(certificate: &CertificateDer<'_>) -> Result<SpiffeId, PeerRefused> {
    let uri = only_uri(&parse(certificate)?)?;
    uri.parse().map_err(PeerRefused::NotSpiffe)
}

/// The trust domain that a CA certificate speaks for: its only URI SAN is `spiffe://<trust>`.
///
/// # Errors
/// As [`spiffe_id`].
pub fn trust_domain(certificate: &CertificateDer<'_>) -> Result<TrustDomain, PeerRefused> {
    let uri = only_uri(&parse(certificate)?)?;
    TrustDomain::from_uri(&uri).map_err(PeerRefused::NotSpiffe)
}

/// The end of a certificate's life.
///
/// # Errors
/// [`PeerRefused::Malformed`].
pub fn not_after(certificate: &CertificateDer<'_>) -> Result<Timestamp, PeerRefused> {
    Ok(Timestamp::from_parts(parse(certificate)?.validity().not_after.timestamp(), 0))
}

/// A certificate's serial number, big-endian, as a revocation list names it.
///
/// # Errors
/// [`PeerRefused::Malformed`].
pub fn serial(certificate: &CertificateDer<'_>) -> Result<Vec<u8>, PeerRefused> {
    Ok(parse(certificate)?.raw_serial().to_vec())
}

fn parse<'a>(certificate: &'a CertificateDer<'_>) -> Result<X509Certificate<'a>, PeerRefused> {
    match X509Certificate::from_der(certificate.as_ref()) {
        Ok(([], parsed)) => Ok(parsed),
        Ok(_) => Err(PeerRefused::Malformed("bytes follow its end".to_owned())),
        Err(error) => Err(PeerRefused::Malformed(error.to_string())),
    }
}

fn only_uri(certificate: &X509Certificate<'_>) -> Result<String, PeerRefused> {
    // An extension that stands twice is an error here, not the first of the two.
    let names = certificate.subject_alternative_name().map_err(|error| PeerRefused::Malformed(error.to_string()))?;
    let names = names.map(|extension| extension.value.general_names.as_slice()).unwrap_or_default();
    let mut uris = names.iter().filter_map(|name| match name {
        GeneralName::URI(uri) => Some(*uri),
        _ => None,
    });
    match (uris.next(), uris.count()) {
        (Some(uri), 0) => Ok(uri.to_owned()),
        (None, _) => Err(PeerRefused::UriCount(0)),
        (Some(_), more) => Err(PeerRefused::UriCount(more + 1)),
    }
}
