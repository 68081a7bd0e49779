//! Everything that must not connect, over both transports: the error names the reason on the side that refuses, and the
//! other side learns that it was refused.

use std::sync::Arc;
use std::time::Duration;

use causeway_base::{Clock, SystemClock, Timestamp};
use causeway_transport::grpc::{self, IncomingLimits};
use causeway_transport::quic::{CallError, Endpoint};
use causeway_transport::tls::TlsFailure;
use causeway_transport::{
    CertificateAuthority, ExpectPeer, Identity, IdentityStore, IssuedIdentity, PeerId, PeerRefused,
};
use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, Issuer, KeyPair, PKCS_ED25519, SanType};
use rustls::AlertDescription;

use crate::common::*;
use crate::echo_service;

#[derive(Debug)]
struct At(i64);

impl Clock for At {
    fn now(&self) -> Timestamp {
        Timestamp(SystemClock.now().0 + self.0 * 1_000_000_000)
    }
}

/// A CA that signs what ours never would.
struct Careless {
    ca: CertificateAuthority,
    key_pem: String,
}

impl Careless {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let ca = ca();
        ca.save(folder.path()).unwrap();
        let key_pem = std::fs::read_to_string(folder.path().join("ca.key.pem")).unwrap();
        Self { ca, key_pem }
    }

    fn good(&self, peer: &PeerId) -> Arc<IdentityStore> {
        identity(&self.ca, peer)
    }

    fn at(&self, seconds: i64, peer: &PeerId) -> Arc<IdentityStore> {
        let ca = CertificateAuthority::from_pem(self.ca.cert_pem(), &self.key_pem, Arc::new(At(seconds))).unwrap();
        identity(&ca, peer)
    }

    fn signed(&self, uris: &[&str]) -> IssuedIdentity {
        let issuer = Issuer::from_ca_cert_pem(self.ca.cert_pem(), KeyPair::from_pem(&self.key_pem).unwrap()).unwrap();
        let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        params.subject_alt_names.extend(uris.iter().map(|uri| SanType::URI((*uri).try_into().unwrap())));
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate_for(&PKCS_ED25519).unwrap();
        IssuedIdentity {
            ca_pem: self.ca.cert_pem().to_owned(),
            cert_pem: params.signed_by(&key, &issuer).unwrap().pem(),
            key_pem: key.serialize_pem(),
        }
    }

    /// Our own loader refuses bad names, so they are presented by hand.
    fn forged(&self, uris: &[&str]) -> IssuedIdentity {
        self.signed(uris)
    }
}

/// What the caller got to see, over both transports, which must agree.
async fn attempt(
    server: &Arc<IdentityStore>,
    accept: ExpectPeer,
    client: &Arc<IdentityStore>,
    expect: ExpectPeer,
) -> Result<(), TlsFailure> {
    let by_quic = by_quic(server, accept.clone(), client, expect.clone()).await;
    let by_grpc = by_grpc(server, accept, client, expect).await;
    assert_eq!(by_quic, by_grpc, "QUIC and gRPC disagree");
    by_quic
}

async fn by_quic(
    server: &Arc<IdentityStore>,
    accept: ExpectPeer,
    client: &Arc<IdentityStore>,
    expect: ExpectPeer,
) -> Result<(), TlsFailure> {
    let mut settings = config();
    settings.accept = accept;
    let server = Endpoint::bind(localhost(), server.clone(), settings, Arc::new(Echo)).unwrap();
    let caller = endpoint(client.clone());
    match caller.connect(&to(&server, expect), PATIENCE).await {
        Ok(_) => Ok(()),
        Err(CallError::Tls { source, .. }) => Err(source),
        Err(other) => panic!("not a TLS failure: {other}"),
    }
}

async fn by_grpc(
    server: &Arc<IdentityStore>,
    accept: ExpectPeer,
    client: &Arc<IdentityStore>,
    expect: ExpectPeer,
) -> Result<(), TlsFailure> {
    let served = echo_service::serve(server, accept, IncomingLimits::default()).await;
    let channel = grpc::channel(&served.address.to_string(), client, expect).unwrap();
    match echo_service::call(channel, "x").await {
        Ok(_) => Ok(()),
        Err(status) => Err(TlsFailure::find(&status).unwrap_or_else(|| panic!("not a TLS failure: {status:?}"))),
    }
}

fn refused(reason: PeerRefused) -> Result<(), TlsFailure> {
    Err(TlsFailure::PeerRefused(reason))
}

fn refused_by_peer(alert: AlertDescription) -> Result<(), TlsFailure> {
    Err(TlsFailure::RefusedByPeer(alert))
}

#[tokio::test]
async fn the_right_certificates_connect() {
    let ca = Careless::new();
    let (a, b) = (node("zurich", 1), node("eastus", 2));
    let (server, client) = (ca.good(&a), ca.good(&b));
    for expect in [
        ExpectPeer::Exactly(a.clone()),
        ExpectPeer::AnyNode,
        ExpectPeer::AnyNodeOfSite("zurich".parse().unwrap()),
        ExpectPeer::Any,
    ] {
        assert_eq!(attempt(&server, ExpectPeer::AnyNode, &client, expect).await, Ok(()));
    }
    let person = ca.good(&PeerId::client("ops").unwrap());
    assert_eq!(attempt(&server, ExpectPeer::Any, &person, ExpectPeer::AnyNode).await, Ok(()));
}

#[tokio::test]
async fn an_unknown_ca_is_refused_by_either_side() {
    let (ours, theirs) = (Careless::new(), Careless::new());
    let (a, b) = (node("zurich", 1), node("eastus", 2));
    assert_eq!(
        attempt(&theirs.good(&a), ExpectPeer::Any, &ours.good(&b), ExpectPeer::AnyNode).await,
        refused(PeerRefused::UnknownCa)
    );
    // The client trusts both, the server does not know the client's.
    let issued = theirs.ca.issue(&b, Duration::from_secs(600)).unwrap();
    let both = format!("{}{}", ours.ca.cert_pem(), theirs.ca.cert_pem());
    let client =
        Identity::from_pem(both.as_bytes(), issued.cert_pem.as_bytes(), issued.key_pem.as_bytes(), b"").unwrap();
    let client = IdentityStore::new(client, Arc::new(SystemClock));
    let seen = attempt(&ours.good(&a), ExpectPeer::Any, &client, ExpectPeer::AnyNode).await;
    assert!(
        seen == refused_by_peer(AlertDescription::UnknownCA) || seen == refused_by_peer(AlertDescription::DecryptError),
        "{seen:?}"
    );
}

#[tokio::test]
async fn another_trust_domain_of_the_same_ca_is_refused_by_either_side() {
    let ca = Careless::new();
    let good = ca.good(&node("zurich", 1));
    let foreign = ca.signed(&["spiffe://other.example/site/zurich/node/1"]);
    let foreign = IdentityStore::new(Identity::from_issued(&foreign).unwrap(), Arc::new(SystemClock));
    // Whoever speaks first refuses; the foreign one refuses us as well, so each direction is tried by the caller.
    let seen = attempt(&foreign, ExpectPeer::Any, &good, ExpectPeer::Any).await;
    assert!(matches!(seen, Err(TlsFailure::PeerRefused(PeerRefused::WrongTrustDomain { .. }))), "{seen:?}");
    let seen = attempt(&good, ExpectPeer::Any, &foreign, ExpectPeer::Any).await;
    assert!(matches!(seen, Err(TlsFailure::PeerRefused(PeerRefused::WrongTrustDomain { .. }))), "{seen:?}");
}

#[tokio::test]
async fn a_good_certificate_of_somebody_else_is_refused() {
    let ca = Careless::new();
    let (a, b) = (node("zurich", 1), node("eastus", 2));
    let (server, client) = (ca.good(&a), ca.good(&b));
    for expect in [
        ExpectPeer::Exactly(node("zurich", 2)),
        ExpectPeer::Exactly(node("eastus", 1)),
        ExpectPeer::AnyNodeOfSite("eastus".parse().unwrap()),
    ] {
        let reason = PeerRefused::WrongPeer { expected: expect.clone(), found: a.clone() };
        assert_eq!(attempt(&server, ExpectPeer::Any, &client, expect).await, refused(reason));
    }
    // And by a listener that expects another.
    let only = ExpectPeer::Exactly(node("eastus", 3));
    let seen = attempt(&server, only, &client, ExpectPeer::AnyNode).await;
    assert_eq!(seen, refused_by_peer(AlertDescription::CertificateUnknown));
}

#[tokio::test]
async fn times_outside_of_a_certificates_life_are_refused_by_either_side() {
    let ca = Careless::new();
    let (a, b) = (node("zurich", 1), node("eastus", 2));
    let day = 24 * 3600;
    let (past, future) = (ca.at(-day, &a), ca.at(day, &a));
    let good = ca.good(&b);
    assert_eq!(attempt(&past, ExpectPeer::Any, &good, ExpectPeer::AnyNode).await, refused(PeerRefused::Expired));
    assert_eq!(attempt(&future, ExpectPeer::Any, &good, ExpectPeer::AnyNode).await, refused(PeerRefused::NotYetValid));
    for client in [past, future] {
        let seen = attempt(&good, ExpectPeer::Any, &client, ExpectPeer::AnyNode).await;
        assert_eq!(seen, refused_by_peer(AlertDescription::CertificateExpired));
    }
}

#[tokio::test]
async fn a_clients_certificate_is_no_nodes() {
    let ca = Careless::new();
    let node = ca.good(&node("zurich", 1));
    let person = ca.good(&PeerId::client("ops").unwrap());
    // By its usage, whatever is expected of its name.
    let seen = attempt(&person, ExpectPeer::Any, &node, ExpectPeer::Any).await;
    assert_eq!(seen, refused(PeerRefused::WrongPurpose));
    // By its name, had a careless CA given it the usage.
    let usable = ca.signed(&["spiffe://test.example/client/ops"]);
    let usable = IdentityStore::new(Identity::from_issued(&usable).unwrap(), Arc::new(SystemClock));
    let found = PeerId::client("ops").unwrap();
    let seen = attempt(&usable, ExpectPeer::Any, &node, ExpectPeer::AnyNode).await;
    assert_eq!(seen, refused(PeerRefused::NotANode { found }));
    // By a listener for nodes only.
    let seen = attempt(&node, ExpectPeer::AnyNode, &person, ExpectPeer::AnyNode).await;
    assert_eq!(seen, refused_by_peer(AlertDescription::CertificateUnknown));
}

#[tokio::test]
async fn not_exactly_one_identity_is_none() {
    let ca = Careless::new();
    let good = "spiffe://test.example/site/zurich/node/1";
    for (uris, reason) in [
        (vec![], "names 0 URIs"),
        (vec![good, good], "names 2 URIs"),
        (vec![good, "https://example.com/"], "names 2 URIs"),
        (vec!["https://example.com/"], "names no identity"),
    ] {
        let issued = ca.forged(&uris);
        // Neither is it loaded as one's own ...
        let error = Identity::from_issued(&issued).unwrap_err();
        let shown = std::error::Error::source(&error).unwrap().to_string();
        assert!(shown.contains(reason), "{shown}");
        // ... nor believed of a peer, on either side.
        let client = ca.good(&node("eastus", 2));
        let seen = crate::hostile::quic_server_with(&issued, &client).await;
        assert!(seen.to_string().contains(reason), "{seen}");
        let alert = crate::hostile::quic_client_with(&issued, &ca.good(&node("zurich", 1))).await;
        assert!(alert.contains("the cryptographic handshake failed"), "{alert}");
    }
}

#[tokio::test]
async fn a_revoked_certificate_is_refused_by_either_side() {
    let ca = Careless::new();
    let (a, b) = (node("zurich", 1), node("eastus", 2));
    let bad = ca.ca.issue(&a, Duration::from_secs(600)).unwrap();
    let list = ca.ca.revoke(&[&bad.cert_pem], 1).unwrap();
    let good = ca.ca.issue(&b, Duration::from_secs(600)).unwrap();
    let informed =
        Identity::from_pem(good.ca_pem.as_bytes(), good.cert_pem.as_bytes(), good.key_pem.as_bytes(), list.as_bytes());
    let informed = IdentityStore::new(informed.unwrap(), Arc::new(SystemClock));
    let bad = IdentityStore::new(Identity::from_issued(&bad).unwrap(), Arc::new(SystemClock));
    assert_eq!(attempt(&bad, ExpectPeer::Any, &informed, ExpectPeer::AnyNode).await, refused(PeerRefused::Revoked));
    let seen = attempt(&informed, ExpectPeer::Any, &bad, ExpectPeer::AnyNode).await;
    assert_eq!(seen, refused_by_peer(AlertDescription::CertificateRevoked));
    // Others of the same CA are still welcome.
    let other = ca.good(&node("zurich", 3));
    assert_eq!(attempt(&other, ExpectPeer::Any, &informed, ExpectPeer::AnyNode).await, Ok(()));
}
