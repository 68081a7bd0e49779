//! SIGKILL at random moments under a checking workload.
//!
//! Writers put files through different sites, each file under its own name and replaced a few times. One node at a time is
//! killed at a random moment, left dead for a random while and started again. Then all nodes run; and:
//!
//! 1. every acknowledged write is there: each file holds its last acknowledged content, or that of a later write whose
//!    outcome is unknown, and never anything else;
//! 2. the replicas hold equal digests at an equal seq;
//! 3. the replica sites reach "verified in sync".

mod cluster;
mod oracle;
mod writer;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use causeway_base::NodeId;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use cluster::Cluster;
use oracle::Oracle;

/// What a run is made of.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// Drives every random choice (the moments at which the machine runs what stay its own).
    pub seed: u64,
    /// How many nodes are killed, one after the other.
    pub kills: usize,
    /// Concurrent writers.
    pub writers: usize,
}

/// What a run saw.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Seen {
    /// Writes that were acknowledged.
    pub acknowledged: u64,
    /// Writes whose outcome is unknown.
    pub unknown: u64,
    /// Files compared at the end.
    pub compared: u64,
}

/// Runs a plan on a cluster of its own.
///
/// # Errors
/// An invariant does not hold, or the cluster does not come back; the message names the seed.
pub async fn run(plan: Plan) -> anyhow::Result<Seen> {
    let mut cluster = Cluster::start().await?;
    let ended = faults(&mut cluster, plan).await.with_context(|| format!("seed {}", plan.seed));
    cluster.stop().await;
    ended
}

async fn faults(cluster: &mut Cluster, plan: Plan) -> anyhow::Result<Seen> {
    let mut rng = StdRng::seed_from_u64(plan.seed);
    let oracle = Arc::new(Oracle::default());
    let stop = Arc::new(AtomicBool::new(false));
    let mut writers = tokio::task::JoinSet::new();
    for number in 0..plan.writers {
        let vfs = cluster.connect(number).await?;
        let seed = rng.random();
        writers.spawn(writer::run(vfs, number, seed, oracle.clone(), stop.clone(), cluster.scratch()));
    }
    for _ in 0..plan.kills {
        let before = oracle.acknowledged();
        // Each kill meets work: some writes are acknowledged between two of them.
        oracle.wait_for(before + plan.writers as u64, Duration::from_secs(60)).await?;
        tokio::time::sleep(Duration::from_millis(rng.random_range(0..400))).await;
        let node = NodeId(rng.random_range(1..=3));
        cluster.kill(node).await?;
        tokio::time::sleep(Duration::from_millis(rng.random_range(0..1500))).await;
        cluster.restart(node).await?;
    }
    stop.store(true, Ordering::Relaxed);
    while let Some(writer) = writers.join_next().await {
        writer??;
    }
    cluster.settle().await?;
    for site in 0..3 {
        let vfs = cluster.connect(site).await?;
        oracle.check(&vfs).await.with_context(|| format!("read through site {site}"))?;
    }
    let seen = oracle.seen();
    ensure!(seen.acknowledged > 0 && seen.compared > 0, "the run wrote nothing: {seen:?}");
    Ok(seen)
}
