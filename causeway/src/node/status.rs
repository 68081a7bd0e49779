//! What the data side of a node adds to its status.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use causeway_base::{Seq, VolumeId};
use causeway_dedup::store::{ChunkStore, StoreState};
use causeway_namespace::{ArchiveStatus, Deltas, StatusSource, StoreStatus, Transfer, Watermark, WireBytes};
use causeway_replicator::wire::Cause;
use causeway_replicator::{Place, Replicator, VolumeStatus};
use causeway_transport::quic::Endpoint;
use tokio::time::timeout;

#[derive(Debug)]
pub(super) struct DataStatus {
    pub(super) chunks: Arc<ChunkStore>,
    pub(super) replicator: Arc<Replicator>,
    pub(super) endpoint: Endpoint,
    pub(super) repository: Option<String>,
    /// Why nothing is archived, although there is a repository.
    pub(super) not_archiving: Option<String>,
}

fn watermark(volume: VolumeId, status: &VolumeStatus) -> Option<Watermark> {
    let follower = &status.follower;
    follower.follows.then(|| Watermark {
        volume,
        seq: follower.watermark.map_or(Seq::ZERO, |watermark| watermark.seq),
        target: follower.applied,
        missing_chunks: follower.lag.chunks,
        missing_bytes: follower.lag.bytes,
        stalled: follower.error.clone(),
    })
}

#[async_trait]
impl StatusSource for DataStatus {
    fn stores(&self) -> Vec<StoreStatus> {
        let stats = self.chunks.stats();
        let state = match stats.state {
            StoreState::Ok if stats.corrupt_chunks > 0 => {
                format!("ok; {} corrupt chunks are owed", stats.corrupt_chunks)
            }
            StoreState::Ok => "ok".to_owned(),
            StoreState::Full => "full".to_owned(),
            StoreState::ReadOnly(reason) => format!("read-only: {reason}"),
        };
        vec![StoreStatus {
            name: "chunks".into(),
            chunks: stats.chunks,
            packs: stats.packs,
            stored_bytes: stats.stored_bytes,
            raw_bytes: stats.raw_bytes,
            state,
        }]
    }

    fn watermarks(&self) -> Vec<Watermark> {
        self.replicator.statuses().iter().filter_map(|(volume, status)| watermark(*volume, status)).collect()
    }

    fn archives(&self) -> Vec<ArchiveStatus> {
        let publishing = |(volume, status): (VolumeId, VolumeStatus)| {
            let archive = status.archive;
            if let Some(why) = &self.not_archiving {
                let (repository, stalled) = (self.repository.clone().unwrap_or_default(), Some(why.clone()));
                return Some(ArchiveStatus { volume, repository, stalled, ..ArchiveStatus::default() });
            }
            archive.publishes.then(|| ArchiveStatus {
                volume,
                repository: self.repository.clone().unwrap_or_default(),
                seq: archive.published.unwrap_or(Seq::ZERO),
                generation: archive.images,
                rpo: (archive.owed_seqs > 0).then_some(archive.rpo),
                stalled: archive.fenced.or(archive.error),
            })
        };
        self.replicator.statuses().into_iter().filter_map(publishing).collect()
    }

    fn transfers(&self) -> Vec<Transfer> {
        let mut sums = BTreeMap::<(Place, Cause), causeway_replicator::WireBytes>::new();
        for (account, bytes) in self.replicator.counters().snapshot() {
            let sum = sums.entry((account.place, account.cause)).or_default();
            *sum = bytes.plus(sum);
        }
        let transfer = |((place, cause), bytes): ((Place, Cause), causeway_replicator::WireBytes)| Transfer {
            place: place.to_string(),
            cause: cause.to_string(),
            sent: bytes.control_sent + bytes.chunk_sent,
            received: bytes.control_received + bytes.chunk_received,
            plain_received: bytes.plain_received,
            chunks_received: bytes.chunks_received,
            sent_deltas: Deltas {
                count: bytes.deltas_sent,
                bytes: bytes.delta_sent,
                plain_bytes: bytes.delta_plain_sent,
            },
            received_deltas: Deltas {
                count: bytes.deltas_received,
                bytes: bytes.delta_received,
                plain_bytes: bytes.delta_plain_received,
            },
        };
        sums.into_iter().map(transfer).collect()
    }

    fn wire(&self) -> Vec<WireBytes> {
        let peers = self.endpoint.traffic().into_iter();
        let bytes = peers.map(|(peer, traffic)| WireBytes {
            peer: peer.to_string(),
            protocol: "quic".into(),
            sent: traffic.total.sent_bytes,
            received: traffic.total.received_bytes,
        });
        bytes.collect()
    }

    async fn wait_watermark(&self, volume: VolumeId, seq: Seq, deadline: Duration) -> Option<Seq> {
        let mut follower = self.replicator.watch_follower(volume)?;
        if !follower.borrow().follows {
            return None;
        }
        let reached =
            |status: &causeway_replicator::FollowerStatus| status.watermark.is_some_and(|mark| mark.seq >= seq);
        let _ = timeout(deadline, follower.wait_for(reached)).await;
        let watermark = follower.borrow().watermark;
        Some(watermark.map_or(Seq::ZERO, |watermark| watermark.seq))
    }

    async fn wait_archived(&self, volume: VolumeId, seq: Seq, deadline: Duration) -> Option<Seq> {
        let mut archive = self.replicator.watch_archive(volume)?;
        if !archive.borrow().publishes {
            return None;
        }
        let reached = |status: &causeway_replicator::ArchiveStatus| {
            !status.publishes || status.published.is_some_and(|published| published >= seq)
        };
        let _ = timeout(deadline, archive.wait_for(reached)).await;
        let status = archive.borrow().clone();
        status.publishes.then(|| status.published.unwrap_or(Seq::ZERO))
    }
}
