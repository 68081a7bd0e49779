//! Adds up the records of this node's replicas: what happens to a record at rest is seen by nothing else.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use causeway_base::{NodeId, VolumeId};
use causeway_namespace_raft::Group;
use causeway_namespace_raft::store::AddedUp;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{Found, name};
use crate::digest::{Verdict, VerifyReport};
use crate::node::{Namespace, blocking};
use crate::rpc;

/// Least rate, in bytes a second.
const RATE_MIN: u64 = 1 << 20;
/// Before records that could not be read are read again.
const READ_AGAIN: Duration = Duration::from_secs(1);
/// The first pass begins after this part of the cycle.
const FIRST: u32 = 50;

/// Adds up all replicas, each once a cycle, until the node shuts down.
pub(super) async fn run(namespace: Arc<Namespace>) {
    let options = namespace.config.digests;
    if options.verify_cycle.is_zero() {
        return;
    }
    let mut pause = options.verify_cycle / FIRST;
    loop {
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = namespace.stop.cancelled() => return,
        }
        let started = Instant::now();
        let pass = async {
            for group in namespace.groups.running() {
                if let Err(why) = verify(&namespace, group.id(), options.verify_rate).await {
                    tracing::warn!(group = %group.id(), why, "the records of a replica were not added up");
                }
            }
        };
        tokio::select! {
            () = pass => {}
            () = namespace.stop.cancelled() => return,
        }
        pause = options.verify_cycle.saturating_sub(started.elapsed()).max(Duration::from_secs(1));
    }
}

/// Adds up one replica, at most `rate` bytes a second, and says what it came to. If that is wrong the replica is condemned,
/// and the records are named.
pub(super) async fn verify(namespace: &Arc<Namespace>, id: VolumeId, rate: u64) -> Result<VerifyReport, String> {
    let started = Instant::now();
    let rate = rate.max(RATE_MIN);
    let group = namespace.group(id).ok_or_else(|| format!("group {id} does not run on this node"))?;
    let generation = group.generation();
    let read = || {
        let (reader, stop) = (group.clone(), namespace.stop.clone());
        blocking(move || {
            // That it cannot be had says nothing of it.
            let view = reader.unsound_view().map_err(|error| rpc::chain(&error))?;
            Ok::<_, String>(match view.add_up(|bytes| pace(bytes, rate, &stop)) {
                Ok(sum) => sum.map(|sum| (sum, None)),
                Err(error) => Some((AddedUp { seq: view.seq(), ..AddedUp::default() }, Some(rpc::chain(&error)))),
            })
        })
    };
    let mut sum = read().await?;
    if matches!(sum, Some((_, Some(_)))) {
        // A record that cannot be read is damage too, but not if the disk had a bad moment.
        tokio::time::sleep(READ_AGAIN).await;
        sum = read().await?;
    }
    let (sum, unread) = sum.ok_or("the node shuts down")?;
    if sum.right {
        let now = namespace.clock.now();
        namespace.digests.change(id, |known| {
            known.report.verified = known.report.verified.max(sum.seq);
            known.report.verified_at = now;
            // Found before, by a disk that reads well again, and not marked.
            let damaged = |it: &crate::digest::Divergence| it.verdict == Verdict::Damaged;
            if group.diverged().is_none() && known.report.divergence.as_ref().is_some_and(damaged) {
                known.report.divergence = None;
            }
        });
    } else {
        if let Some(why) = &unread {
            tracing::error!(group = %id, why, "records of a replica cannot be read");
        }
        condemn(namespace, &group, generation, sum).await;
    }
    let AddedUp { seq, records, bytes, right } = sum;
    let divergence = namespace.digests.divergence(id);
    Ok(VerifyReport { seq, records, bytes, right, took: started.elapsed(), divergence })
}

async fn condemn(namespace: &Arc<Namespace>, group: &Arc<Group>, generation: u64, sum: AddedUp) {
    let id = group.id();
    if namespace.digests.divergence(id).is_some_and(|known| known.verdict == Verdict::Damaged) {
        return;
    }
    let others: Vec<NodeId> = group.members().into_iter().filter(|node| *node != namespace.id()).collect();
    let sound: BTreeSet<NodeId> = others.iter().copied().collect();
    let found = Found { verdict: Verdict::Damaged, seq: sum.seq, from: Vec::new(), sound };
    namespace.condemn(group, generation, found).await;
    name::run(namespace, id, &others).await;
}

/// Waits as long as `bytes` take at the rate; `false` if the node shuts down.
fn pace(bytes: u64, rate: u64, stop: &CancellationToken) -> bool {
    if rate != u64::MAX {
        #[allow(clippy::cast_precision_loss)] // a few bytes in a million
        std::thread::sleep(Duration::from_secs_f64((bytes as f64 / rate as f64).min(1.0)));
    }
    !stop.is_cancelled()
}
