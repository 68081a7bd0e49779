//! Figures for the notes: `cargo nextest run --release -p causeway-replicator --run-ignored only --no-capture figures`.

use std::sync::Arc;
use std::time::Duration;

use causeway_replicator::wire::Cause;
use tokio::time::Instant;

use crate::cluster::*;
use crate::common::*;

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement"]
async fn figures_of_a_replica_on_loopback() {
    let trust = Trust::new();
    let book = Arc::<Book>::default();
    let volume = Volume::new("zurich", &["westeurope"]);
    *book.volume.lock().unwrap() = Some(volume.clone());
    let homes = [Home::new(), Home::new()];
    let zurich = Node::start(&trust, &book, &homes[0], "zurich", 1, None);
    let westeurope = Node::start(&trust, &book, &homes[1], "westeurope", 2, None);
    westeurope.attach(&volume);
    let mut waits = Vec::new();
    for at in 0..200_u64 {
        let content = zurich.write(&text(1_000_000 + at, 6000));
        let began = Instant::now();
        let seq = volume.mutate(vec![put(&format!("s{at}"), content)]);
        westeurope.in_sync(seq).await;
        waits.push(began.elapsed());
    }
    waits.sort();
    println!("commit to verified, one file of 6 kB: p50 {:?}, p99 {:?}", waits[100], waits[197]);
    for (what, bytes) in [("text", text as fn(u64, usize) -> Vec<u8>), ("noise", noise)] {
        let before = westeurope.replicator.counters().total(|account| account.cause == Cause::Replication);
        let ops = (0..32).map(|at| put(&format!("{what}{at}"), zurich.write(&bytes(at, 4 << 20)))).collect();
        let began = Instant::now();
        let seq = volume.mutate(ops);
        westeurope.in_sync(seq).await;
        let took = began.elapsed().max(Duration::from_millis(1));
        let after = westeurope.replicator.counters().total(|account| account.cause == Cause::Replication);
        let plain = after.plain_received - before.plain_received;
        println!(
            "{what}: {plain} plain bytes in {took:?} ({} MB/s), {} chunk and {} control bytes on the wire",
            plain / 1000 / took.as_millis().max(1) as u64,
            after.chunk_received - before.chunk_received,
            after.wire() - before.wire() - (after.chunk_received - before.chunk_received),
        );
    }
}
