//! Certificates for etcd, and channels to it.

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use hyper_util::rt::TokioIo;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, SanType};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint};

pub(super) fn init(dir: &Path, addresses: &[&str]) {
    let dir = dir.join("etcd");
    std::fs::create_dir_all(&dir).unwrap();
    let write = |name: &str, text: String| std::fs::write(dir.join(name), text).unwrap();
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    write("ca.pem", params.self_signed(&key).unwrap().pem());
    let issuer = Issuer::new(params, key);
    for name in ["node", "client"] {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        if name == "node" {
            params.subject_alt_names = vec![SanType::DnsName("localhost".try_into().unwrap())];
            let ips = addresses.iter().map(|address| SanType::IpAddress(address.parse::<IpAddr>().unwrap()));
            params.subject_alt_names.extend(ips);
        }
        let key = KeyPair::generate().unwrap();
        write(&format!("{name}.pem"), params.signed_by(&key, &issuer).unwrap().pem());
        write(&format!("{name}.key.pem"), key.serialize_pem());
    }
}

/// A connected channel, with the windows that Causeway's have.
pub(super) async fn channel(dir: &Path, address: &str) -> Channel {
    let dir = dir.join("etcd");
    let certificate = |name: &str| CertificateDer::from_pem_file(dir.join(name)).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(certificate("ca.pem")).unwrap();
    let key = PrivateKeyDer::from_pem_file(dir.join("client.key.pem")).unwrap();
    let mut config = ClientConfig::builder_with_provider(causeway_transport::tls::provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_client_auth_cert(vec![certificate("client.pem")], key)
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let config = Arc::new(config);
    let address = address.to_owned();
    let connector = tower::service_fn(move |_uri| {
        let (address, config) = (address.clone(), config.clone());
        async move {
            let stream = TcpStream::connect(&address).await?;
            stream.set_nodelay(true)?;
            let name = ServerName::try_from("localhost").unwrap();
            Ok::<_, std::io::Error>(TokioIo::new(TlsConnector::from(config).connect(name, stream).await?))
        }
    });
    Endpoint::from_static("http://etcd")
        .initial_stream_window_size(causeway_transport::grpc::STREAM_WINDOW_BYTES)
        .initial_connection_window_size(causeway_transport::grpc::CONNECTION_WINDOW_BYTES)
        .connect_with_connector(connector)
        .await
        .unwrap()
}
