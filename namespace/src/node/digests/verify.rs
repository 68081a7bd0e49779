//! Adds up the records of this node's replicas: what happens to a record at rest is seen by nothing else.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use causeway_base::{NodeId, VolumeId};
use causeway_namespace_raft::Group;
use causeway_namespace_raft::store::AddedUp;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::name;
use crate::digest::{Verdict, VerifyReport};
use crate::node::{Namespace, blocking};
use crate::rpc;

/// Least rate, in bytes a second.
const RATE_MIN: u64 = 1 << 20;
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
                if let Err(why) = verify(&namespace, group.id(), options.verify_rate.max(RATE_MIN)).await {
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
    let group = namespace.group(id).ok_or_else(|| format!("group {id} does not run on this node"))?;
    let (reader, stop) = (group.clone(), namespace.stop.clone());
    let read = move || {
        let view = reader.unsound_view().map_err(|error| (reader.applied(), rpc::chain(&error)))?;
        view.add_up(|bytes| pace(bytes, rate, &stop)).map_err(|error| (view.seq(), rpc::chain(&error)))
    };
    let (sum, unread) = match blocking(read).await {
        Ok(Some(sum)) => (sum, None),
        Ok(None) => return Err("the node shuts down".to_owned()),
        // A record that cannot be read is damage too.
        Err((seq, why)) => (AddedUp { seq, ..AddedUp::default() }, Some(why)),
    };
    if sum.right {
        let now = namespace.clock.now();
        namespace.digests.change(id, |known| {
            known.report.verified = known.report.verified.max(sum.seq);
            known.report.verified_at = now;
        });
    } else {
        if let Some(why) = &unread {
            tracing::error!(group = %id, why, "records of a replica cannot be read");
        }
        condemn(namespace, &group, sum).await;
    }
    let AddedUp { seq, records, bytes, right } = sum;
    let divergence = namespace.digests.divergence(id);
    Ok(VerifyReport { seq, records, bytes, right, took: started.elapsed(), divergence })
}

async fn condemn(namespace: &Arc<Namespace>, group: &Arc<Group>, sum: AddedUp) {
    let id = group.id();
    if namespace.digests.divergence(id).is_some_and(|known| known.verdict == Verdict::Damaged) {
        return;
    }
    let others: Vec<NodeId> = group.members().into_iter().filter(|node| *node != namespace.id()).collect();
    let sound: BTreeSet<NodeId> = others.iter().copied().collect();
    namespace.condemn(group, Verdict::Damaged, sum.seq, Vec::new(), sound).await;
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
