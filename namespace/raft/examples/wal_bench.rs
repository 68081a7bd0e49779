//! Appends per second to the shared log by 1, 16 and 256 writers, each waiting for its own.
//!
//! `cargo run --release -p causeway-namespace-raft --example wal_bench [DIR]`

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use causeway_base::VolumeId;
use causeway_namespace_raft::wal::{Wal, WalError, WalOptions};
use causeway_storage::disk::RealDisk;

const RUN: Duration = Duration::from_secs(2);
const PAYLOAD: usize = 256;

async fn writer(wal: &Wal, group: u64, end: Instant) -> Result<u64, WalError> {
    let log = wal.group(VolumeId(group));
    let payload = Bytes::from(vec![7; PAYLOAD]);
    let mut index = 0;
    while Instant::now() < end {
        let (sender, receiver) = tokio::sync::oneshot::channel();
        log.append(vec![(index, payload.clone())], Box::new(move |result| drop(sender.send(result)))).await?;
        receiver.await.map_err(|_| WalError::Closed)??;
        if index % 1000 == 999 {
            log.purge(index - 1, Bytes::new())?;
        }
        index += 1;
    }
    Ok(index)
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let base = std::env::args_os().nth(1).map_or_else(std::env::temp_dir, Into::into);
    for writers in [1, 16, 256] {
        let dir = tempfile::tempdir_in(&base)?;
        let (wal, _) = Wal::open(Arc::new(RealDisk), dir.path(), WalOptions::default())?;
        let wal = Arc::new(wal);
        let start = Instant::now();
        let tasks: Vec<_> = (0..writers)
            .map(|group| {
                let wal = Arc::clone(&wal);
                tokio::spawn(async move { writer(&wal, group, start + RUN).await })
            })
            .collect();
        let mut total = 0;
        for task in tasks {
            total += task.await??;
        }
        let stats = wal.stats();
        println!(
            "{writers:>4} writers: {:>7.0} appends/s, {:>6.0} syncs/s, {:.1} MB written, {} segments",
            total as f64 / start.elapsed().as_secs_f64(),
            stats.syncs as f64 / start.elapsed().as_secs_f64(),
            stats.written_bytes as f64 / 1e6,
            stats.segments,
        );
    }
    Ok(())
}
