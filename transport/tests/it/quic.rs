use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use causeway_base::ClusterId;
use causeway_transport::quic::{CallError, Endpoint, NoService, QuicConfig, StreamError, close};
use causeway_transport::{ExpectPeer, Identity};

use crate::common::*;

#[tokio::test]
async fn a_call_goes_there_and_back() {
    let ca = ca();
    let server = endpoint(identity(&ca, &node("zurich", 1)));
    let caller = endpoint(identity(&ca, &node("eastus", 2)));
    let to = to(&server, ExpectPeer::Exactly(node("zurich", 1)));
    let (mut send, mut recv) = caller.call(&to, 7, Bytes::from_static(b"hello"), PATIENCE).await.unwrap();
    assert_eq!(recv.read_frame(100).await.unwrap().unwrap(), "site/eastus/node/2 7 hello");
    let large = Bytes::from(vec![7; 1 << 20]);
    for frame in [Bytes::new(), Bytes::from_static(b"x"), large] {
        send.write_frame(frame.clone()).await.unwrap();
        assert_eq!(recv.read_frame(1 << 20).await.unwrap().unwrap(), frame);
    }
    send.finish().unwrap();
    assert_eq!(recv.read_frame(100).await.unwrap(), None);
}

#[tokio::test]
async fn traffic_is_counted_for_both_ends_and_outlives_the_connection() {
    let ca = ca();
    let server = endpoint(identity(&ca, &node("zurich", 1)));
    let caller = endpoint(identity(&ca, &node("eastus", 2)));
    let to = to(&server, ExpectPeer::AnyNode);
    let (mut send, mut recv) = caller.call(&to, 1, Bytes::new(), PATIENCE).await.unwrap();
    recv.read_frame(100).await.unwrap().unwrap();
    for _ in 0..4 {
        send.write_frame(vec![1; 250_000].into()).await.unwrap();
        recv.read_frame(1 << 20).await.unwrap().unwrap();
    }
    drop((send, recv));
    let open = caller.traffic()[&node("zurich", 1)];
    assert_eq!(open.connections, 1);
    assert!(open.rtt.is_some());
    for bytes in [open.total.sent_bytes, open.total.received_bytes] {
        assert!((1_000_000..1_300_000).contains(&bytes), "{open:?}");
    }
    caller.shutdown(PATIENCE).await;
    let ended = async {
        while server.traffic()[&node("eastus", 2)].connections > 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, ended).await.unwrap();
    let theirs = server.traffic()[&node("eastus", 2)].total;
    assert!(
        theirs.received_bytes >= 1_000_000 && theirs.received_bytes <= open.total.sent_bytes + 10_000,
        "{theirs:?}"
    );
    assert_eq!(caller.call(&to, 1, Bytes::new(), PATIENCE).await.unwrap_err(), CallError::Stopped);
}

#[tokio::test]
async fn another_cluster_is_named_to_the_caller() {
    let ca = ca();
    let server = endpoint(identity(&ca, &node("zurich", 1)));
    let stray = identity(&ca, &node("eastus", 2));
    let stray = Endpoint::bind(localhost(), stray, QuicConfig::new(ClusterId(0xbad)), Arc::new(NoService)).unwrap();
    let address = to(&server, ExpectPeer::AnyNode);
    let error = stray.call(&address, 1, Bytes::new(), PATIENCE).await.unwrap_err();
    let expected =
        CallError::WrongCluster { address: address.addr, ours: ClusterId(0xbad), theirs: CLUSTER.to_string() };
    assert_eq!(error, expected);
    assert!(error.to_string().starts_with("wrong cluster"), "{error}");
}

#[tokio::test]
async fn many_callers_share_one_connection_and_many_streams() {
    let ca = ca();
    let server = endpoint(identity(&ca, &node("zurich", 1)));
    let caller = endpoint(identity(&ca, &node("eastus", 2)));
    let to = to(&server, ExpectPeer::AnyNode);
    // Four times what one connection has streams: the rest wait for a place.
    let calls = (0..1000_u32).map(|n| {
        let (caller, to) = (caller.clone(), to.clone());
        tokio::spawn(async move {
            let (mut send, mut recv) = caller.call(&to, 1, n.to_string().into(), PATIENCE * 3).await.unwrap();
            assert_eq!(recv.read_frame(100).await.unwrap().unwrap(), format!("site/eastus/node/2 1 {n}"));
            send.write_frame(vec![n as u8; 5000].into()).await.unwrap();
            send.finish().unwrap();
            assert_eq!(recv.read_frame(5000).await.unwrap().unwrap(), vec![n as u8; 5000]);
            assert_eq!(recv.read_frame(5000).await.unwrap(), None);
        })
    });
    for call in calls.collect::<Vec<_>>() {
        call.await.unwrap();
    }
    assert_eq!(caller.traffic()[&node("zurich", 1)].connections, 1);
}

#[tokio::test]
async fn a_restarted_server_is_found_again() {
    let ca = ca();
    let store = identity(&ca, &node("zurich", 1));
    let server = endpoint(store.clone());
    let caller = endpoint(identity(&ca, &node("eastus", 2)));
    let to = to(&server, ExpectPeer::AnyNode);
    let (_send, mut recv) = caller.call(&to, 1, Bytes::new(), PATIENCE).await.unwrap();
    recv.read_frame(100).await.unwrap().unwrap();
    let address = server.local_addr().unwrap();
    server.shutdown(Duration::ZERO).await;
    assert!(matches!(recv.read_frame(100).await, Err(StreamError::Lost(_) | StreamError::Reset(_))));
    drop(server);
    // The socket is free once the old endpoint's task has ended.
    let restarted = async {
        loop {
            match Endpoint::bind(address, store.clone(), config(), Arc::new(Echo)) {
                Ok(endpoint) => return endpoint,
                Err(_) => tokio::task::yield_now().await,
            }
        }
    };
    let _server = tokio::time::timeout(PATIENCE, restarted).await.unwrap();
    let (_send, mut recv) = caller.call(&to, 1, Bytes::new(), PATIENCE).await.unwrap();
    recv.read_frame(100).await.unwrap().unwrap();
}

#[test]
fn a_killed_and_restarted_server_is_noticed_long_before_the_idle_timeout() {
    let ca = ca();
    let store = identity(&ca, &node("zurich", 1));
    let own_runtime = || tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let victim = own_runtime();
    let server = victim.block_on(async { endpoint(store.clone()) });
    let address = server.local_addr().unwrap();
    let to = to(&server, ExpectPeer::AnyNode);
    own_runtime().block_on(async {
        let caller = endpoint(identity(&ca, &node("eastus", 2)));
        let (mut send, mut recv) = caller.call(&to, 1, Bytes::new(), PATIENCE).await.unwrap();
        recv.read_frame(100).await.unwrap().unwrap();
        // Dies without a word, as by SIGKILL: its tasks just stop.
        tokio::task::spawn_blocking(move || victim.shutdown_timeout(PATIENCE)).await.unwrap();
        drop(server);
        let _server = Endpoint::bind(address, store, config(), Arc::new(Echo)).unwrap();
        let begun = tokio::time::Instant::now();
        let noticed = async {
            loop {
                let sent = send.write_frame(Bytes::from_static(b"anybody there?")).await;
                if sent.is_err() || recv.read_frame(100).await.is_err() {
                    return;
                }
            }
        };
        tokio::time::timeout(PATIENCE, noticed).await.unwrap();
        assert!(begun.elapsed() < config().idle_timeout / 3, "took {:?}", begun.elapsed());
        let (_send, mut recv) = caller.call(&to, 1, Bytes::new(), PATIENCE).await.unwrap();
        recv.read_frame(100).await.unwrap().unwrap();
    });
}

#[tokio::test]
async fn nobody_there_is_an_error_within_the_deadline() {
    let ca = ca();
    let caller = endpoint(identity(&ca, &node("eastus", 2)));
    let silent = tokio::net::UdpSocket::bind(localhost()).await.unwrap();
    let to = causeway_transport::quic::PeerAddr {
        addr: silent.local_addr().unwrap().to_string(),
        expect: ExpectPeer::AnyNode,
    };
    let limit = Duration::from_millis(300);
    let waiters = futures::future::join_all((0..10).map(|_| caller.call(&to, 1, Bytes::new(), limit)));
    for outcome in tokio::time::timeout(limit * 4, waiters).await.unwrap() {
        assert!(matches!(outcome, Err(CallError::Deadline { .. })), "{outcome:?}");
    }
    let to = causeway_transport::quic::PeerAddr { addr: "no-such-host.invalid:1".to_owned(), ..to };
    let error = caller.call(&to, 1, Bytes::new(), PATIENCE).await.unwrap_err();
    assert!(matches!(error, CallError::Address { .. }), "{error}");
}

#[tokio::test]
async fn a_stalled_reader_stops_neither_others_nor_the_writer_for_ever() {
    let ca = ca();
    let mut settings = config();
    // The smallest windows: 1.25 MiB a stream, twice that a connection.
    settings.rate = 1_000_000;
    settings.progress_timeout = Duration::from_millis(500);
    let bind = |n| {
        let identity = identity(&ca, &node("zurich", n));
        Endpoint::bind(localhost(), identity, settings.clone(), Arc::new(Echo)).unwrap()
    };
    let (server, caller) = (bind(1), bind(2));
    let to = to(&server, ExpectPeer::AnyNode);
    let (mut stalled_send, stalled_recv) = caller.call(&to, 1, Bytes::new(), PATIENCE).await.unwrap();
    // Nobody reads the echo, so the service stops reading, so we stop writing.
    let stalled = tokio::spawn(async move {
        let error = loop {
            if let Err(error) = stalled_send.write_frame(vec![0; 100_000].into()).await {
                break error;
            }
        };
        (error, stalled_recv)
    });
    let (mut send, mut recv) = caller.call(&to, 2, Bytes::new(), PATIENCE).await.unwrap();
    recv.read_frame(100).await.unwrap().unwrap();
    for _ in 0..100 {
        send.write_frame(vec![1; 10_000].into()).await.unwrap();
        assert_eq!(recv.read_frame(1 << 20).await.unwrap().unwrap().len(), 10_000);
        tokio::task::yield_now().await;
    }
    let (error, _recv) = tokio::time::timeout(PATIENCE, stalled).await.unwrap().unwrap();
    // Whoever loses patience first: we with the service, or the service with us.
    let stalled = [
        StreamError::Stalled(settings.progress_timeout),
        StreamError::Reset(close::STALLED.into()),
        StreamError::Reset(close::ABANDONED.into()),
    ];
    assert!(stalled.contains(&error), "{error}");
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_never_taken_for_a_whole_one() {
    let ca = ca();
    let server = identity(&ca, &node("zurich", 1));
    let server = Endpoint::bind(localhost(), server, config(), Arc::new(NoService)).unwrap();
    let caller = endpoint(identity(&ca, &node("eastus", 2)));
    let (_send, mut recv) = caller.call(&to(&server, ExpectPeer::AnyNode), 1, Bytes::new(), PATIENCE).await.unwrap();
    assert_eq!(recv.read_frame(100).await, Err(StreamError::Reset(close::NO_SERVICE.into())));
    // Our own side dropped without an end is reset as well: the echo sees an error, not an end, and drops its own.
    let server = endpoint(identity(&ca, &node("zurich", 3)));
    let (send, mut recv) = caller.call(&to(&server, ExpectPeer::AnyNode), 1, Bytes::new(), PATIENCE).await.unwrap();
    recv.read_frame(100).await.unwrap().unwrap();
    drop(send);
    assert_eq!(recv.read_frame(100).await, Err(StreamError::Reset(close::ABANDONED.into())));
}

#[tokio::test]
async fn a_shutdown_waits_for_calls_but_not_for_ever() {
    let ca = ca();
    let server = endpoint(identity(&ca, &node("zurich", 1)));
    let caller = endpoint(identity(&ca, &node("eastus", 2)));
    let to = to(&server, ExpectPeer::AnyNode);
    let (mut send, mut recv) = caller.call(&to, 1, Bytes::new(), PATIENCE).await.unwrap();
    recv.read_frame(100).await.unwrap().unwrap();
    let stopping = tokio::spawn({
        let server = server.clone();
        async move { server.shutdown(PATIENCE).await }
    });
    // The running call goes on to its end ...
    for _ in 0..10 {
        send.write_frame(Bytes::from_static(b"x")).await.unwrap();
        assert_eq!(recv.read_frame(100).await.unwrap().unwrap(), "x");
    }
    send.finish().unwrap();
    assert_eq!(recv.read_frame(100).await.unwrap(), None);
    stopping.await.unwrap();
    // ... and no new one begins.
    assert!(caller.call(&to, 1, Bytes::new(), Duration::from_millis(300)).await.is_err());
}

#[tokio::test]
async fn a_reloaded_identity_is_presented_by_the_next_connection() {
    let ca = ca();
    let store = identity(&ca, &node("zurich", 1));
    let server = endpoint(store.clone());
    let address = to(&server, ExpectPeer::AnyNode);
    let caller = endpoint(identity(&ca, &node("eastus", 2)));
    assert_eq!(caller.connect(&address, PATIENCE).await.unwrap(), node("zurich", 1));
    let issued = ca.issue(&node("zurich", 9), Duration::from_secs(600)).unwrap();
    store.replace(Identity::from_issued(&issued).unwrap());
    let fresh = endpoint(identity(&ca, &node("eastus", 3)));
    assert_eq!(fresh.connect(&address, PATIENCE).await.unwrap(), node("zurich", 9));
    // The open connection of the first caller still works.
    let (_send, mut recv) = caller.call(&address, 1, Bytes::new(), PATIENCE).await.unwrap();
    recv.read_frame(100).await.unwrap().unwrap();
}
