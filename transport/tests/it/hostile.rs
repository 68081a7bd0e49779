//! Peers that do not play by the rules, made of the libraries below ours.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use causeway_base::ClusterId;
use causeway_transport::quic::{CallError, Endpoint, Hello, PROTOCOL, StreamError, close};
use causeway_transport::tls::{SERVER_NAME, provider};
use causeway_transport::{ExpectPeer, IdentityStore, IssuedIdentity, PeerRefused};
use quinn::VarInt;
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, Error, SignatureScheme};
use tokio::net::UdpSocket;

use crate::common::*;

/// Believes everybody.
#[derive(Debug)]
struct Gullible;

impl ServerCertVerifier for Gullible {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }
}

fn chain(issued: &IssuedIdentity) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
    let chain = CertificateDer::pem_slice_iter(issued.cert_pem.as_bytes()).collect::<Result<_, _>>().unwrap();
    (chain, PrivateKeyDer::from_pem_slice(issued.key_pem.as_bytes()).unwrap())
}

/// A raw QUIC connection to `server` with any certificate, or none.
async fn raw_client(server: SocketAddr, issued: Option<&IssuedIdentity>) -> (quinn::Endpoint, quinn::Connection) {
    let tls = rustls::ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Gullible));
    let mut tls = match issued {
        Some(issued) => {
            let (chain, key) = chain(issued);
            tls.with_client_auth_cert(chain, key).unwrap()
        }
        None => tls.with_no_client_auth(),
    };
    tls.alpn_protocols = vec![PROTOCOL.to_vec()];
    let config = quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).unwrap()));
    let endpoint = quinn::Endpoint::client(localhost()).unwrap();
    let connection = endpoint.connect_with(config, server, SERVER_NAME).unwrap().await.unwrap();
    (endpoint, connection)
}

fn raw_server(issued: &IssuedIdentity) -> quinn::Endpoint {
    let (chain, key) = chain(issued);
    let mut tls = rustls::ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    tls.alpn_protocols = vec![PROTOCOL.to_vec()];
    let config = quinn::ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(tls).unwrap()));
    quinn::Endpoint::server(config, localhost()).unwrap()
}

/// Why our caller refuses a server with that certificate.
pub(crate) async fn quic_server_with(issued: &IssuedIdentity, client: &Arc<IdentityStore>) -> PeerRefused {
    let server = raw_server(issued);
    let accepting = {
        let server = server.clone();
        tokio::spawn(async move { server.accept().await.unwrap().await.map(drop) })
    };
    let to = causeway_transport::quic::PeerAddr {
        addr: server.local_addr().unwrap().to_string(),
        expect: ExpectPeer::AnyNode,
    };
    let error = endpoint(client.clone()).connect(&to, PATIENCE).await.unwrap_err();
    assert!(accepting.await.unwrap().is_err(), "the server must hear of it");
    match error {
        CallError::Tls { source: causeway_transport::tls::TlsFailure::PeerRefused(refused), .. } => refused,
        other => panic!("{other:?}"),
    }
}

/// What a caller with that certificate hears from our listener.
pub(crate) async fn quic_client_with(issued: &IssuedIdentity, server: &Arc<IdentityStore>) -> String {
    let server = endpoint(server.clone());
    let (_endpoint, connection) = raw_client(server.local_addr().unwrap(), Some(issued)).await;
    connection.closed().await.to_string()
}

#[tokio::test]
async fn a_caller_without_a_certificate_is_refused() {
    let server = endpoint(identity(&ca(), &node("zurich", 1)));
    let (_endpoint, connection) = raw_client(server.local_addr().unwrap(), None).await;
    let error = connection.closed().await.to_string();
    assert!(error.contains("the cryptographic handshake failed"), "{error}");
}

async fn hello_of(bytes: &[u8]) -> quinn::ApplicationClose {
    let ca = ca();
    let mut settings = config();
    settings.handshake_timeout = Duration::from_millis(500);
    let server = Endpoint::bind(localhost(), identity(&ca, &node("zurich", 1)), settings, Arc::new(Echo)).unwrap();
    let issued = ca.issue(&node("eastus", 2), PATIENCE * 60).unwrap();
    let (_endpoint, connection) = raw_client(server.local_addr().unwrap(), Some(&issued)).await;
    let (mut send, _recv) = connection.open_bi().await.unwrap();
    send.write_all(bytes).await.unwrap();
    match connection.closed().await {
        quinn::ConnectionError::ApplicationClosed(closed) => closed,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_wrong_hello_is_told_so_to_the_caller() {
    let other_version = Hello { version: 77, cluster: CLUSTER };
    let closed = hello_of(&other_version.encode()).await;
    assert_eq!(closed.error_code, VarInt::from_u32(close::WRONG_VERSION));
    let closed = hello_of(&Hello::new(ClusterId(9)).encode()).await;
    assert_eq!(closed.error_code, VarInt::from_u32(close::WRONG_CLUSTER));
    assert_eq!(hello_of(&[0; 24]).await.error_code, VarInt::from_u32(close::PROTOCOL));
    // Half of one, and then nothing.
    assert_eq!(hello_of(&Hello::new(CLUSTER).encode()[..12]).await.error_code, VarInt::from_u32(close::TIMEOUT));
}

#[tokio::test]
async fn garbage_datagrams_hurt_nobody() {
    let ca = ca();
    let server = endpoint(identity(&ca, &node("zurich", 1)));
    let caller = endpoint(identity(&ca, &node("eastus", 2)));
    let to = to(&server, ExpectPeer::AnyNode);
    let (mut send, mut recv) = caller.call(&to, 1, Bytes::new(), PATIENCE).await.unwrap();
    recv.read_frame(100).await.unwrap().unwrap();
    let stranger = UdpSocket::bind(localhost()).await.unwrap();
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    for round in 0..2000_usize {
        let garbage: Vec<u8> = (0..(round * 7) % 1400)
            .map(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                (state >> 56) as u8
            })
            .collect();
        // Some of it with the bits of an initial packet of version 1.
        let garbage = match (round % 3, garbage.len() > 20) {
            (0, true) => [&[0xc3, 0, 0, 0, 1, 8][..], &garbage[6..]].concat(),
            _ => garbage,
        };
        stranger.send_to(&garbage, server.local_addr().unwrap()).await.unwrap();
        if round % 100 == 0 {
            send.write_frame(Bytes::from_static(b"still")).await.unwrap();
            assert_eq!(recv.read_frame(100).await.unwrap().unwrap(), "still");
        }
    }
    let fresh = endpoint(identity(&ca, &node("eastus", 3)));
    fresh.connect(&to, PATIENCE).await.unwrap();
}

#[tokio::test]
async fn a_request_and_a_frame_over_their_bounds_are_refused_before_they_are_read() {
    let ca = ca();
    let server = endpoint(identity(&ca, &node("zurich", 1)));
    let issued = ca.issue(&node("eastus", 2), PATIENCE * 60).unwrap();
    let (_endpoint, connection) = raw_client(server.local_addr().unwrap(), Some(&issued)).await;
    let (mut send, mut recv) = connection.open_bi().await.unwrap();
    send.write_all(&Hello::new(CLUSTER).encode()).await.unwrap();
    recv.read_exact(&mut [0; 24]).await.unwrap();
    // A head that announces 4 GiB.
    let (mut send, mut recv) = connection.open_bi().await.unwrap();
    send.write_all(&[1, 0, 0, 0, 0xff, 0xff, 0xff, 0xff]).await.unwrap();
    assert_eq!(
        recv.read_to_end(100).await.unwrap_err(),
        quinn::ReadToEndError::Read(quinn::ReadError::Reset(VarInt::from_u32(close::TOO_LARGE)))
    );
    // A frame over what the echo takes: it stops reading, and its unfinished answer is reset.
    let (mut send, mut recv) = connection.open_bi().await.unwrap();
    send.write_all(&[1, 0, 0, 0, 0, 0, 0, 0]).await.unwrap();
    send.write_all(&[0, 0, 0, 0x7f]).await.unwrap();
    let _ = recv.read_to_end(1 << 20).await;
    assert_eq!(send.stopped().await.unwrap(), Some(VarInt::from_u32(close::TOO_LARGE)));
    // Ours are refused before they are sent.
    let caller = endpoint(identity(&ca, &node("eastus", 3)));
    let request = Bytes::from(vec![0; (4 << 20) + 1]);
    let error = caller.call(&to(&server, ExpectPeer::AnyNode), 1, request, PATIENCE).await.unwrap_err();
    assert!(matches!(error, CallError::TooLarge { .. }), "{error}");
}

#[tokio::test]
async fn a_flood_of_handshakes_must_prove_its_address_and_others_get_through() {
    let ca = ca();
    let mut settings = config();
    settings.handshakes_before_retry = 0;
    let server = Endpoint::bind(localhost(), identity(&ca, &node("zurich", 1)), settings, Arc::new(Echo)).unwrap();
    let caller = endpoint(identity(&ca, &node("eastus", 2)));
    // With the threshold at zero everybody is asked for a retry, and an honest caller answers it.
    caller.connect(&to(&server, ExpectPeer::AnyNode), PATIENCE).await.unwrap();
}

#[tokio::test]
async fn too_many_connections_of_one_peer_are_refused_by_name() {
    let ca = ca();
    let mut settings = config();
    settings.connections_per_peer_max = 2;
    let server = Endpoint::bind(localhost(), identity(&ca, &node("zurich", 1)), settings, Arc::new(Echo)).unwrap();
    let to = to(&server, ExpectPeer::AnyNode);
    let greedy = identity(&ca, &node("eastus", 2));
    let endpoints: Vec<_> = (0..3).map(|_| endpoint(greedy.clone())).collect();
    for endpoint in &endpoints[..2] {
        let (_send, mut recv) = endpoint.call(&to, 1, Bytes::new(), PATIENCE).await.unwrap();
        recv.read_frame(100).await.unwrap().unwrap();
    }
    // The refusal comes right after the hello: with the call, or with its first read.
    let (_send, mut recv) = match endpoints[2].call(&to, 1, Bytes::new(), PATIENCE).await {
        Ok(streams) => streams,
        Err(error) => return assert!(error.to_string().contains("too many connections"), "{error}"),
    };
    let error = recv.read_frame(100).await.unwrap_err();
    assert!(matches!(&error, StreamError::Lost(reason) if reason.contains("too many connections")), "{error}");
    // Another peer is not touched by it.
    let other = endpoint(identity(&ca, &node("eastus", 3)));
    let (_send, mut recv) = other.call(&to, 1, Bytes::new(), PATIENCE).await.unwrap();
    recv.read_frame(100).await.unwrap().unwrap();
}
