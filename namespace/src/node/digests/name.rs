//! In which records this node's replica differs from another's.

use std::sync::Arc;
use std::time::Duration;

use causeway_base::{NodeId, VolumeId};
use causeway_namespace_core::descent::{DescentError, Found, How};
use causeway_namespace_core::query;
use causeway_namespace_raft::digests::CompareError;
use causeway_namespace_raft::{Group, StateView};

use crate::digest::{DifferingRecord, DifferingRecords, RecordDiffers};
use crate::node::{Namespace, blocking};
use crate::rpc;

/// Records that are named.
const NAMED_MAX: usize = 100;
/// Longest time for a comparison record by record.
const DEADLINE: Duration = Duration::from_secs(300);
/// Between two rounds.
const PAUSE: Duration = Duration::from_millis(300);
/// Rounds in which every peer is tried.
const TRIES: u32 = 6;

/// Finds and records in what the replica differs from that of one of `peers`, whichever answers.
pub(super) async fn run(namespace: &Arc<Namespace>, id: VolumeId, peers: &[NodeId]) {
    let records = match compare(namespace, id, peers).await {
        Ok(records) => records,
        Err(why) => DifferingRecords { unknown: Some(why), ..DifferingRecords::default() },
    };
    let named: Vec<_> = records.named.iter().take(8).map(|record| record.name.as_str()).collect();
    tracing::error!(
        group = %id, name = namespace.name_of(id), count = records.count, ?named, unknown = records.unknown,
        "DIVERGENCE: the records in which replicas differ"
    );
    namespace.digests.change_divergence(id, |divergence| divergence.records = Some(records));
}

async fn compare(namespace: &Arc<Namespace>, id: VolumeId, peers: &[NodeId]) -> Result<DifferingRecords, String> {
    let group = namespace.group(id).ok_or("the group does not run here")?;
    let mut last = "there is no other replica to compare with".to_owned();
    for round in 0..TRIES {
        // They may be a little behind, busy, or just starting.
        if round > 0 {
            tokio::time::sleep(PAUSE).await;
        }
        for peer in peers {
            let reader = group.clone();
            let view = blocking(move || reader.unsound_view()).await.map_err(|error| rpc::chain(&error))?;
            match descend(namespace, *peer, &group, view.clone()).await {
                Ok(found) => return blocking(move || name(&view, found)).await,
                Err(error @ DescentError::Other(CompareError::Deadline(_) | CompareError::Stopped)) => {
                    return Err(format!("{peer}: {}", rpc::chain(&error)));
                }
                Err(error) => last = format!("{peer}: {}", rpc::chain(&error)),
            }
        }
    }
    Err(last)
}

async fn descend(
    namespace: &Namespace,
    peer: NodeId,
    group: &Group,
    view: StateView,
) -> Result<Found, DescentError<CompareError>> {
    let stop = namespace.stop.clone();
    namespace.groups.differing_records(peer, group, view, NAMED_MAX, DEADLINE, stop).await
}

fn name(view: &StateView, found: Found) -> Result<DifferingRecords, String> {
    let keys: Vec<_> = found.named.iter().map(|(key, _)| key.clone()).collect();
    let names = query::names_of(view, &keys).map_err(|error| rpc::chain(&error))?;
    let how = |how| match how {
        How::Changed => RecordDiffers::Changed,
        How::OnlyHere => RecordDiffers::Surplus,
        How::OnlyThere => RecordDiffers::Missing,
    };
    let named = names.into_iter().zip(&found.named).map(|(name, (_, it))| DifferingRecord { name, how: how(*it) });
    Ok(DifferingRecords { count: found.count, more: !found.complete, named: named.collect(), unknown: None })
}
