//! Groups that somebody has to look after again: leadership came to this node, or should go elsewhere than before.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use openraft::ServerState;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::metrics::RaftServerMetrics;
use openraft::type_config::alias::WatchReceiverOf;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use causeway_base::VolumeId;

use crate::consensus::types::TypeConfig;

/// Groups that have moved since they were last asked for. For one listener: what it takes nobody else is told.
#[derive(Debug, Default)]
pub struct Moved {
    groups: Mutex<BTreeSet<VolumeId>>,
    some: Notify,
}

impl Moved {
    pub(crate) fn note(&self, group: VolumeId) {
        self.groups.lock().unwrap_or_else(PoisonError::into_inner).insert(group); // single inserts
        self.some.notify_one();
    }

    /// Waits until a group has moved; all that have since the last call.
    ///
    /// Cancel safety: dropped before it returns, nothing is lost.
    pub async fn next(&self) -> BTreeSet<VolumeId> {
        loop {
            let groups = std::mem::take(&mut *self.groups.lock().unwrap_or_else(PoisonError::into_inner));
            if !groups.is_empty() {
                return groups;
            }
            self.some.notified().await;
        }
    }
}

/// Notes each time that this node begins to lead a group, or ceases to. Ends with the group.
pub(crate) async fn follow(
    group: VolumeId,
    mut server: WatchReceiverOf<TypeConfig, RaftServerMetrics<TypeConfig>>,
    moved: Arc<Moved>,
    stop: CancellationToken,
) {
    let mut before = None;
    loop {
        let led = {
            let server = server.borrow_watched();
            (server.state == ServerState::Leader).then_some(server.vote.leader_id.term)
        };
        if led != before {
            before = led;
            moved.note(group);
        }
        tokio::select! {
            changed = server.changed() => if changed.is_err() { return },
            () = stop.cancelled() => return,
        }
    }
}
