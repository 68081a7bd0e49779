//! Rates by link, over loopback.

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use causeway_transport::quic::{Endpoint, Handler, LinkControl, Links, PeerAddr, RecvStream, SendStream};
use causeway_transport::{ExpectPeer, PeerId};

use crate::common::*;

const BYTES: usize = 1_500_000;

struct Source;

#[async_trait]
impl Handler for Source {
    async fn handle(&self, _: PeerId, _: u16, _: Bytes, _: RecvStream, mut send: SendStream) {
        if send.write_all(vec![7; BYTES].into()).await.is_ok() {
            let _ = send.finish();
        }
    }
}

async fn fetch(caller: &Endpoint, to: &PeerAddr) {
    let (_send, mut recv) = caller.call(to, 1, Bytes::new(), PATIENCE).await.unwrap();
    assert_eq!(recv.read_to_end(1 << 24).await.unwrap().len(), BYTES);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_connections_to_a_site_share_its_rate_and_changes_are_live() {
    let ca = ca();
    let (links, eastus) = (Links::default(), "eastus".parse().unwrap());
    links.set(&eastus, LinkControl::Paced { rate: 40_000_000 });
    let mut settings = config();
    settings.links = links.clone();
    let server = Endpoint::bind(localhost(), identity(&ca, &node("zurich", 1)), settings, Arc::new(Source)).unwrap();
    let to = to(&server, ExpectPeer::AnyNode);
    let callers = [2, 3].map(|n| endpoint(identity(&ca, &node("eastus", n))));
    let elsewhere = endpoint(identity(&ca, &node("tokyo", 4)));
    for caller in callers.iter().chain([&elsewhere]) {
        caller.connect(&to, PATIENCE).await.unwrap();
    }
    let begun = Instant::now();
    tokio::join!(fetch(&callers[0], &to), fetch(&callers[1], &to));
    let shared = begun.elapsed();
    // 3 MB at 5 MB/s; without the sharing it would be half of that.
    assert!(shared > Duration::from_millis(550), "{shared:?}");
    assert!(shared < Duration::from_millis(1500), "{shared:?}");
    // Another site's link is another link.
    let begun = Instant::now();
    fetch(&elsewhere, &to).await;
    let other = begun.elapsed();
    assert!(other < shared / 2, "{other:?} beside {shared:?}");
    // Open connections follow a change at once.
    assert_eq!(links.get(&eastus), LinkControl::Paced { rate: 40_000_000 });
    links.set(&eastus, LinkControl::default());
    let begun = Instant::now();
    tokio::join!(fetch(&callers[0], &to), fetch(&callers[1], &to));
    let free = begun.elapsed();
    assert!(free < shared / 2, "{free:?} beside {shared:?}");
    links.set(&eastus, LinkControl::Adaptive { ceiling: Some(40_000_000) });
    let begun = Instant::now();
    tokio::join!(fetch(&callers[0], &to), fetch(&callers[1], &to));
    let capped = begun.elapsed();
    assert!(capped > Duration::from_millis(550), "{capped:?}");
}
