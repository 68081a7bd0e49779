//! The node's figures for Prometheus, read at each scrape from the parts that keep them.

mod definitions;
mod encode;
mod server;

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use causeway_base::{Clock, Seq, Timestamp, VolumeId};
use causeway_dedup::ChunkStore;
use causeway_dedup::store::StoreState;
use causeway_namespace::{Deltas, Namespace, NodeStatus};
use causeway_namespace_core::query;
use causeway_namespace_core::records::Records;
use causeway_replicator::{Keeper, Replicator, VolumeStatus};

use definitions::*;
use encode::Samples;

pub(super) use server::serve;

/// Where the figures come from.
#[derive(Debug)]
pub(super) struct NodeMetrics {
    pub(super) namespace: Arc<Namespace>,
    pub(super) chunks: Arc<ChunkStore>,
    pub(super) replicator: Arc<Replicator>,
    pub(super) keeper: Arc<Keeper>,
    pub(super) clock: Arc<dyn Clock>,
}

impl NodeMetrics {
    /// The text of a scrape. Reads a few records of each volume, and nothing of other nodes. `place` is held until that is
    /// done, also if the asker has gone: the work bounds how many may ask.
    pub(super) async fn text(self: &Arc<Self>, place: impl Send + 'static) -> anyhow::Result<String> {
        let metrics = self.clone();
        let collected = tokio::task::spawn_blocking(move || {
            let _place = place;
            metrics.collect().encode()
        });
        collected.await.context("a worker stopped")?.context("the samples cannot be written as text")
    }

    fn collect(&self) -> Samples {
        let mut out = Samples::default();
        let status = self.namespace.node_status();
        let (node, site) = (status.node.id.get().to_string(), status.node.site.to_string());
        out.count(&NODE_INFO, &[&node, &site, &status.version], 1);
        out.add(&UPTIME, &[], status.uptime.as_secs_f64());
        self.store(&mut out);
        self.gc(&mut out);
        self.scrub(&mut out);
        traffic(&mut out, &status);
        self.groups(&mut out, &status);
        for (volume, status) in self.replicator.statuses() {
            self.volume(&mut out, volume, &status);
        }
        out
    }

    fn store(&self, out: &mut Samples) {
        let stats = self.chunks.stats();
        for (metric, value) in [
            (&STORE_CHUNKS, stats.chunks),
            (&STORE_STORED, stats.stored_bytes),
            (&STORE_RAW, stats.raw_bytes),
            (&STORE_INDEX, stats.index_bytes),
            (&STORE_UNSYNCED, stats.unsynced_bytes),
            (&STORE_PACKS, stats.packs),
            (&STORE_DAMAGED, stats.damaged_packs),
            (&STORE_CORRUPT, stats.corrupt_chunks),
        ] {
            out.count(metric, &[], value);
        }
        out.flag(&STORE_FULL, &[], stats.state == StoreState::Full);
        out.flag(&STORE_READ_ONLY, &[], matches!(stats.state, StoreState::ReadOnly(_)));
    }

    fn gc(&self, out: &mut Samples) {
        let status = self.keeper.status();
        out.flag(&GC_RUNNING, &[], status.gc_running);
        out.flag(&GC_FAILED, &[], status.gc_error.is_some());
        out.count(&GC_CONDEMNED, &[], status.condemned);
        let totals = status.totals;
        out.count(&GC_RUNS, &["done"], totals.collections);
        out.count(&GC_RUNS, &["failed"], totals.collections_failed);
        for (metric, value) in [
            (&GC_CONDEMNATIONS, totals.condemned),
            (&GC_REMOVED, totals.removed),
            (&GC_REMOVED_BYTES, totals.removed_bytes),
            (&GC_FREED, totals.freed_bytes),
            (&GC_MOVED, totals.moved_bytes),
            (&EVICTIONS, totals.evictions),
            (&OVER_CAPACITY, status.over_capacity),
        ] {
            out.count(metric, &[], value);
        }
        let (at, last) = status.gc_last.unwrap_or_default();
        out.count(&GC_EPOCH, &[], last.epoch);
        out.add(&GC_LAST_SECONDS, &[], last.took.as_secs_f64());
        out.add(&GC_LAST_MARK, &[], last.marked_in.as_secs_f64());
        out.add(&GC_LAST_AT, &[], since_1970(at));
    }

    fn scrub(&self, out: &mut Samples) {
        let status = self.keeper.status();
        let position = status.scrub;
        for (metric, value) in [
            (&SCRUB_READ, status.totals.scrub_bytes),
            (&SCRUB_VERIFIED, status.totals.scrub_verified),
            (&SCRUB_PASSES, position.passes),
            (&SCRUB_BAD, position.found),
            (&SCRUB_HEALED, position.healed),
            (&SCRUB_UNHEALED, status.unhealed),
        ] {
            out.count(metric, &[], value);
        }
        let packs = self.chunks.packs();
        let done = packs.iter().filter(|pack| **pack < position.next_pack).count();
        out.add(&SCRUB_POSITION, &[], done as f64 / packs.len().max(1) as f64);
        out.add(&SCRUB_COMPLETED, &[], since_1970(position.completed));
        out.flag(&SCRUB_FAILED, &[], status.scrub_error.is_some());
    }

    fn groups(&self, out: &mut Samples, status: &NodeStatus) {
        for group in &status.groups {
            let name = self.name(group.volume);
            let labels = [name.as_str()];
            out.count(&RAFT_TERM, &labels, group.term);
            out.flag(&RAFT_LEADER, &labels, group.leader == Some(status.node.id));
            out.count(&RAFT_APPLIED, &labels, group.applied.get());
            out.count(&RAFT_COMMITTED, &labels, group.committed.get());
            out.count(&RAFT_LAST_LOG, &labels, group.last_log.get());
            out.flag(&RAFT_RUNNING, &labels, group.stopped.is_none());
            out.flag(&RAFT_DIFFERS, &labels, group.digests.divergence.is_some());
            let running = self.namespace.group(group.volume);
            out.flag(&RAFT_AT_REST, &labels, running.as_ref().is_some_and(|group| group.is_at_rest()));
            if group.volume != VolumeId::ROOT
                && let Some(view) = running.and_then(|group| group.view().ok())
            {
                totals(out, &labels, &view);
            }
        }
    }

    fn volume(&self, out: &mut Samples, volume: VolumeId, status: &VolumeStatus) {
        let name = self.name(volume);
        let labels = [name.as_str()];
        let follower = &status.follower;
        if follower.follows {
            out.count(&LAG_SEQS, &labels, follower.lag.seqs);
            out.count(&LAG_CHUNKS, &labels, follower.lag.chunks);
            out.count(&LAG_BYTES, &labels, follower.lag.bytes);
            out.flag(&LAG_STALLED, &labels, follower.error.is_some());
            let watermark = follower.watermark.map_or(Seq::ZERO, |watermark| watermark.seq);
            if let Some(age) = self.age_after(volume, watermark, follower.applied) {
                out.add(&LAG_SECONDS, &labels, age.as_secs_f64());
            }
        }
        let archive = &status.archive;
        if archive.publishes {
            let owes = archive.owed_seqs > 0;
            out.add(&ARCHIVE_RPO, &labels, if owes { archive.rpo.as_secs_f64() } else { 0.0 });
            out.count(&ARCHIVE_OWED, &labels, archive.owed_seqs);
            out.count(&ARCHIVE_IMAGES, &labels, archive.images);
            out.flag(&ARCHIVE_STALLED, &labels, archive.fenced.is_some() || archive.error.is_some());
        }
    }

    /// The age of the first commit after a seq; zero if there is none, `None` if it is not known any more.
    fn age_after(&self, volume: VolumeId, after: Seq, until: Seq) -> Option<Duration> {
        if after >= until {
            return Some(Duration::ZERO);
        }
        let view = self.namespace.group(volume)?.view().ok()?;
        let first = view.changes(after, until, 1).ok()?;
        Some(first.first().map_or(Duration::ZERO, |first| self.clock.now().since(first.time)))
    }

    fn name(&self, volume: VolumeId) -> String {
        if volume == VolumeId::ROOT {
            return "(root)".to_owned();
        }
        let catalog = self.namespace.catalog();
        catalog.volumes.get(&volume).map_or_else(|| volume.to_string(), |volume| volume.spec.name.clone())
    }
}

/// What a volume holds, and may hold.
fn totals(out: &mut Samples, labels: &[&str], records: &dyn Records) {
    let Ok(totals) = query::totals(records) else { return };
    out.count(&VOLUME_FILES, labels, totals.files);
    out.count(&VOLUME_DIRECTORIES, labels, totals.dirs);
    out.count(&VOLUME_BYTES, labels, totals.logical_bytes);
    if let Ok(Some(quota)) = query::quota(records, causeway_base::Ino::ROOT) {
        if let Some(bytes) = quota.limit.bytes {
            out.count(&QUOTA_BYTES, labels, bytes);
        }
        if let Some(files) = quota.limit.files {
            out.count(&QUOTA_FILES, labels, files);
        }
    }
}

fn traffic(out: &mut Samples, status: &NodeStatus) {
    for transfer in &status.transfers {
        let (place, cause) = (transfer.place.as_str(), transfer.cause.as_str());
        let labels = [place, cause];
        out.count(&TRANSFER_SENT, &labels, transfer.sent);
        out.count(&TRANSFER_RECEIVED, &labels, transfer.received);
        out.count(&TRANSFER_CHUNKS, &labels, transfer.chunks_received);
        out.count(&TRANSFER_PLAIN, &labels, transfer.plain_received);
        let mut deltas = |deltas: Deltas, direction| {
            let labels = [place, cause, direction];
            out.count(&DELTA_CHUNKS, &labels, deltas.count);
            out.count(&DELTA_BYTES, &labels, deltas.bytes);
            out.count(&DELTA_SAVED, &labels, deltas.saved());
        };
        deltas(transfer.sent_deltas, "sent");
        deltas(transfer.received_deltas, "received");
    }
    // Clients together: their names are not bounded.
    let mut wire = std::collections::BTreeMap::<(&str, &str), (u64, u64)>::new();
    for bytes in &status.wire {
        let peer = if bytes.peer.starts_with("client/") { "clients" } else { &bytes.peer };
        let sum = wire.entry((peer, &bytes.protocol)).or_default();
        *sum = (sum.0 + bytes.sent, sum.1 + bytes.received);
    }
    for ((peer, protocol), (sent, received)) in wire {
        out.count(&WIRE_SENT, &[peer, protocol], sent);
        out.count(&WIRE_RECEIVED, &[peer, protocol], received);
    }
}

fn since_1970(at: Timestamp) -> f64 {
    at.0 as f64 / 1e9
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// The page has a row for each metric, with the same words, and no row for anything else.
    #[test]
    fn the_page_lists_what_is_told() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/metrics.md");
        let page = std::fs::read_to_string(path).unwrap();
        let written: BTreeSet<&str> = page.lines().filter(|line| line.starts_with("| `causeway_")).collect();
        let rows: Vec<String> = ALL
            .iter()
            .map(|metric| {
                let (suffix, kind) = if metric.kind == Kind::Counter { ("_total", "counter") } else { ("", "gauge") };
                format!("| `{}{suffix}` | {kind} | {} | {} |", metric.name, metric.labels.join(", "), metric.help)
            })
            .collect();
        let told: BTreeSet<&str> = rows.iter().map(String::as_str).collect();
        let lacking: Vec<_> = told.difference(&written).collect();
        let unknown: Vec<_> = written.difference(&told).collect();
        assert!(
            lacking.is_empty() && unknown.is_empty(),
            "docs/metrics.md lacks {lacking:#?} and should not have {unknown:#?}"
        );
    }

    #[test]
    fn names_are_by_the_conventions() {
        let names: BTreeSet<&str> = ALL.iter().map(|metric| metric.name).collect();
        assert_eq!(names.len(), ALL.len(), "a name stands twice");
        for metric in ALL {
            assert!(metric.name.starts_with("causeway_") && !metric.name.ends_with("_total"), "{}", metric.name);
            assert!(!metric.help.contains(['|', '\n']), "{}", metric.name);
        }
    }

    #[test]
    fn text_has_labels_and_units() {
        let mut samples = Samples::default();
        samples.count(&GC_RUNS, &["done"], 3);
        samples.add(&UPTIME, &[], 1.5);
        samples.count(&LAG_SEQS, &["a\"b"], 7);
        let text = samples.encode().unwrap();
        for line in [
            "# TYPE causeway_gc_runs counter",
            "causeway_gc_runs_total{outcome=\"done\"} 3.0",
            "causeway_uptime_seconds 1.5",
            "causeway_replication_lag_seqs{volume=\"a\\\"b\"} 7.0",
            "# EOF",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        }
    }
}
