//! Who is refused, and what they are told.

use std::time::Duration;

use causeway_base::{ClientId, ClusterId, NodeId, RetryClass, StoreId};
use causeway_namespace::JoinError;
use causeway_namespace::client::{ClientConfig, ClientError, NamespaceClient};
use causeway_proto::metadata;
use causeway_proto::peer::v1::HelloRequest;
use causeway_proto::peer::v1::peer_client::PeerClient;
use causeway_proto::v1::NodeStatusRequest;
use causeway_proto::v1::admin_client::AdminClient;
use causeway_transport::{CertificateAuthority, ExpectPeer, PeerId, grpc};
use tonic::{Code, Request, Status};

use crate::cluster::{CLUSTER, Cluster, LONG, identity_from, put, system_clock, volume};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_known_node_with_a_blank_disk_is_refused_by_all() {
    let mut cluster = Cluster::start().await;
    let client = cluster.client(&[1]).await;
    let id = volume(&client, "alpha").await.id;
    client.mutate(id, vec![put("f", "1")]).await.unwrap();
    let store = cluster.node(0).store().unwrap();

    cluster.stop(0).await;
    std::fs::remove_dir_all(cluster.folder(0)).unwrap();
    cluster.launch(0).await;
    let error = cluster.node(0).ready().await.unwrap_err();
    let JoinError::OtherStore { node, registered, found } = &error else { panic!("{error}") };
    assert_eq!((*node, *registered), (NodeId(1), store));
    assert_ne!(*found, store);
    assert!(error.to_string().contains("add it as a new node"), "{error}");
    assert!(cluster.node(0).group(id).is_none(), "it takes part in nothing");

    // Even if it did not ask: its peers do not talk to it.
    let refused = hello_like_call(&cluster, &PeerId::node("zurich".parse().unwrap(), NodeId(1)), 1, *found).await;
    assert_eq!(refused.code(), Code::PermissionDenied);
    assert!(refused.message().contains("disk was lost"), "{refused}");
    client.mutate(id, vec![put("g", "2")]).await.unwrap();
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_are_refused_with_the_reason() {
    let cluster = Cluster::start().await;

    let other = cluster.client_as(&[0], "tester", ClusterId(5)).await.unwrap_err();
    assert!(matches!(&other, ClientError::Rejected { reason, .. } if reason == "wrong-cluster"), "{other}");
    assert_eq!(other.retry_class(), RetryClass::Refused);

    let foreign = CertificateAuthority::create("test".parse().unwrap(), system_clock()).unwrap();
    let identity = identity_from(&foreign, &PeerId::client("tester").unwrap());
    let refused = NamespaceClient::connect(cluster.client_config(&[0, 1], CLUSTER), &identity).await.unwrap_err();
    assert_eq!(refused.retry_class(), RetryClass::Refused, "{refused}");
    assert!(refused.to_string().contains("TLS"), "{refused}");

    let client = PeerId::client("tester").unwrap();
    let refused = hello_like_call(&cluster, &client, 1, StoreId(1)).await;
    assert_eq!(refused.code(), Code::PermissionDenied);
    assert!(refused.message().contains("only nodes"), "{refused}");

    let node = PeerId::node("zurich".parse().unwrap(), NodeId(1));
    let impostor = hello_like_call(&cluster, &node, 3, StoreId(3)).await;
    assert!(impostor.message().contains("certificate"), "{impostor}");
    let channel = grpc::channel(&cluster.address(1), &cluster.identity(&client), ExpectPeer::AnyNode).unwrap();
    let mut stub = AdminClient::new(channel);
    let mut old = Request::new(NodeStatusRequest {});
    old.metadata_mut().insert(metadata::PROTOCOL, 99.into());
    let refused = stub.node_status(old).await.unwrap_err();
    assert!(refused.message().contains("wrong version"), "{refused}");
    let mut endless = Request::new(NodeStatusRequest {});
    endless.metadata_mut().insert(metadata::PROTOCOL, causeway_proto::PROTOCOL_VERSION.into());
    endless.metadata_mut().insert(metadata::CLUSTER_ID, CLUSTER.to_string().parse().unwrap());
    let refused = stub.node_status(endless).await.unwrap_err();
    assert!(refused.message().contains("deadline"), "{refused}");

    let moved = PeerId::node("eastus".parse().unwrap(), NodeId(1));
    let moved = hello_like_call(&cluster, &moved, 1, StoreId(1)).await;
    assert!(moved.message().contains("zurich"), "{moved}");

    let nowhere = ClientConfig {
        deadline: Duration::from_millis(300),
        ..ClientConfig::new(CLUSTER, vec!["127.0.0.1:9".to_owned()], ClientId(1))
    };
    let unreachable = NamespaceClient::connect(nowhere, &cluster.identity(&client)).await.unwrap_err();
    assert_eq!(unreachable.retry_class(), RetryClass::Transient, "{unreachable}");
    assert!(unreachable.to_string().contains("127.0.0.1:9"), "{unreachable}");
    cluster.stop_all().await;
}

/// A call between nodes, to node 2, as `peer` who says that it is node `claimed` with `store`.
async fn hello_like_call(cluster: &Cluster, peer: &PeerId, claimed: u64, store: StoreId) -> Status {
    let identity = cluster.identity(peer);
    let channel = grpc::channel(&cluster.address(1), &identity, ExpectPeer::AnyNode).unwrap();
    let mut stub = PeerClient::new(channel);
    let stamp = |request: &mut tonic::metadata::MetadataMap| {
        request.insert(metadata::CLUSTER_ID, CLUSTER.to_string().parse().unwrap());
        request.insert(metadata::PROTOCOL, causeway_proto::PROTOCOL_VERSION.into());
        request.insert(metadata::NODE_ID, claimed.into());
        request.insert(metadata::STORE_ID, store.to_string().parse().unwrap());
    };
    let mut hello = Request::new(HelloRequest {});
    hello.set_timeout(LONG);
    stamp(hello.metadata_mut());
    if let Err(status) = stub.hello(hello).await {
        return status;
    }
    let mut read = Request::new(causeway_proto::peer::v1::ReadIndexRequest { group: 0, lineage: None });
    read.set_timeout(LONG);
    stamp(read.metadata_mut());
    stub.read_index(read).await.unwrap_err()
}
