use std::time::Duration;

use causeway_transport::grpc::{self, ConnectFailed, IncomingLimits};
use causeway_transport::{ExpectPeer, Identity, IdentityStore};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

use crate::common::*;
use crate::echo_service::{call, serve, serve_at};

#[tokio::test]
async fn a_handler_sees_who_calls() {
    let ca = ca();
    let served = serve(&identity(&ca, &node("zurich", 1)), ExpectPeer::Any, IncomingLimits::default()).await;
    let caller = identity(&ca, &node("eastus", 2));
    let channel = grpc::channel(&served.address.to_string(), &caller, ExpectPeer::AnyNode).unwrap();
    assert_eq!(call(channel.clone(), "one").await.unwrap(), "site/eastus/node/2 one");
    assert_eq!(call(channel, "two").await.unwrap(), "site/eastus/node/2 two");
}

#[tokio::test]
async fn silent_peers_are_cut_and_others_get_through() {
    let ca = ca();
    let limits = IncomingLimits { handshake_timeout: Duration::from_millis(300), ..IncomingLimits::default() };
    let served = serve(&identity(&ca, &node("zurich", 1)), ExpectPeer::Any, limits).await;
    let mut silent = Vec::new();
    for _ in 0..64 {
        silent.push(TcpStream::connect(served.address).await.unwrap());
    }
    let caller = identity(&ca, &node("eastus", 2));
    let channel = grpc::channel(&served.address.to_string(), &caller, ExpectPeer::AnyNode).unwrap();
    call(channel, "x").await.unwrap();
    for mut stream in silent {
        let closed = tokio::time::timeout(PATIENCE, stream.read(&mut [0; 1])).await.unwrap();
        assert!(matches!(closed, Ok(0) | Err(_)), "{closed:?}");
    }
}

#[tokio::test]
async fn connections_are_bounded_in_all_and_by_peer() {
    let ca = ca();
    let limits = IncomingLimits { connections_per_peer_max: 1, connections_max: 3, ..IncomingLimits::default() };
    let served = serve(&identity(&ca, &node("zurich", 1)), ExpectPeer::Any, limits).await;
    let address = served.address.to_string();
    let caller = |n| grpc::channel(&address, &identity(&ca, &node("eastus", n)), ExpectPeer::AnyNode).unwrap();
    let first = caller(2);
    call(first.clone(), "x").await.unwrap();
    // A second connection of the same peer is closed after its handshake; one of another is not.
    call(caller(2), "x").await.unwrap_err();
    call(caller(3), "x").await.unwrap();
    // When the first has gone, there is room again.
    drop(first);
    let again = async { while call(caller(2), "x").await.is_err() {} };
    tokio::time::timeout(PATIENCE, again).await.unwrap();
}

#[tokio::test]
async fn a_channel_finds_the_server_again_after_its_restart() {
    let ca = ca();
    let server = identity(&ca, &node("zurich", 1));
    let served = serve(&server, ExpectPeer::Any, IncomingLimits::default()).await;
    let address = served.address;
    let caller = identity(&ca, &node("eastus", 2));
    let channel = grpc::channel(&address.to_string(), &caller, ExpectPeer::AnyNode).unwrap();
    call(channel.clone(), "x").await.unwrap();
    drop(served);
    let gone = async { while call(channel.clone(), "x").await.is_ok() {} };
    tokio::time::timeout(PATIENCE, gone).await.unwrap();
    let status = call(channel.clone(), "x").await.unwrap_err();
    let mut chain = std::iter::successors(Some(&status as &dyn std::error::Error), |error| error.source());
    assert!(chain.any(|error| matches!(error.downcast_ref(), Some(ConnectFailed::Unreachable { .. }))), "{status:?}");
    let _served = serve_at(address, &server, ExpectPeer::Any, IncomingLimits::default()).await;
    let back = async { while call(channel.clone(), "x").await.is_err() {} };
    tokio::time::timeout(PATIENCE, back).await.unwrap();
}

#[tokio::test]
async fn a_reloaded_identity_is_used_by_the_next_connection() {
    let ca = ca();
    let folder = tempfile::tempdir().unwrap();
    let issue = |n| ca.issue(&node("eastus", n), Duration::from_secs(600)).unwrap();
    issue(2).save(folder.path()).unwrap();
    let caller = IdentityStore::load(folder.path()).unwrap();
    let served = serve(&identity(&ca, &node("zurich", 1)), ExpectPeer::Any, IncomingLimits::default()).await;
    let address = served.address.to_string();
    let before = grpc::channel(&address, &caller, ExpectPeer::AnyNode).unwrap();
    assert_eq!(call(before.clone(), "x").await.unwrap(), "site/eastus/node/2 x");
    issue(3).save(folder.path()).unwrap();
    caller.reload().unwrap();
    // The open connection stays as it is, a new one has the new name.
    assert_eq!(call(before, "x").await.unwrap(), "site/eastus/node/2 x");
    let after = grpc::channel(&address, &caller, ExpectPeer::AnyNode).unwrap();
    assert_eq!(call(after, "x").await.unwrap(), "site/eastus/node/3 x");
}

#[tokio::test]
async fn a_listener_takes_a_new_ca_without_a_restart() {
    let (old, new) = (ca(), ca());
    let store = identity(&old, &node("zurich", 1));
    let served = serve(&store, ExpectPeer::Any, IncomingLimits::default()).await;
    let address = served.address.to_string();
    let caller = identity(&new, &node("eastus", 2));
    let channel = || grpc::channel(&address, &caller, ExpectPeer::AnyNode).unwrap();
    call(channel(), "x").await.unwrap_err();
    let issued = new.issue(&node("zurich", 1), Duration::from_secs(600)).unwrap();
    store.replace(Identity::from_issued(&issued).unwrap());
    call(channel(), "x").await.unwrap();
}
