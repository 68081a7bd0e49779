//! What the endpoint tells: name, kind, labels, help. `docs/metrics.md` is the same list; a test compares them.

/// A metric.
#[derive(Clone, Copy, Debug)]
pub(super) struct Metric {
    /// Without the `_total` of counters, which the text format adds.
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    pub(super) labels: &'static [&'static str],
    pub(super) help: &'static str,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Counts since the node started, unless its help says otherwise.
    Counter,
    Gauge,
}

macro_rules! metrics {
    ($($constant:ident $kind:ident $name:literal [$($label:literal),*] $help:literal;)*) => {
        $(pub(super) const $constant: Metric =
            Metric { name: $name, kind: Kind::$kind, labels: &[$($label),*], help: $help };)*
        /// All of them.
        pub(super) const ALL: &[Metric] = &[$($constant),*];
    };
}

metrics! {
    NODE_INFO Gauge "causeway_node_info" ["node", "site", "version"] "1, with who the node is";
    UPTIME Gauge "causeway_uptime_seconds" [] "Since the node started";

    STORE_CHUNKS Gauge "causeway_store_chunks" [] "Chunks in packs";
    STORE_STORED Gauge "causeway_store_stored_bytes" [] "Bytes of their records in packs";
    STORE_RAW Gauge "causeway_store_raw_bytes" [] "Plain bytes of the chunks";
    STORE_INDEX Gauge "causeway_store_index_bytes" [] "Bytes of the chunk index on disk";
    STORE_UNSYNCED Gauge "causeway_store_unsynced_bytes" [] "Bytes written that the next fsync makes durable";
    STORE_PACKS Gauge "causeway_store_packs" [] "Pack files";
    STORE_DAMAGED Gauge "causeway_store_damaged_packs" [] "Packs with bad bytes before good ones";
    STORE_CORRUPT Gauge "causeway_store_corrupt_chunks" [] "Chunks found corrupt and not put again yet";
    STORE_FULL Gauge "causeway_store_full" [] "1 while writes are refused since the disk is full";
    STORE_READ_ONLY Gauge "causeway_store_read_only" [] "1 once the store takes no writes after a failed write or fsync";

    GC_RUNNING Gauge "causeway_gc_running" [] "1 while a collection is under way";
    GC_EPOCH Gauge "causeway_gc_epoch" [] "Epoch of the last collection since the start";
    GC_CONDEMNED Gauge "causeway_gc_condemned_chunks" [] "Chunks that a later collection may remove";
    GC_RUNS Counter "causeway_gc_runs" ["outcome"] "Collections that ended: done or failed";
    GC_CONDEMNATIONS Counter "causeway_gc_condemnations" [] "Chunks condemned";
    GC_REMOVED Counter "causeway_gc_removed_chunks" [] "Chunks removed";
    GC_REMOVED_BYTES Counter "causeway_gc_removed_bytes" [] "Their bytes in packs, at most";
    GC_FREED Counter "causeway_gc_freed_bytes" [] "Bytes of pack files removed";
    GC_MOVED Counter "causeway_gc_moved_bytes" [] "Bytes written to free them";
    EVICTIONS Counter "causeway_evictions" [] "Times that copies were let go to keep to the capacity";
    OVER_CAPACITY Gauge "causeway_store_over_capacity_bytes" [] "Bytes above the capacity that the last one could not give back";
    GC_LAST_SECONDS Gauge "causeway_gc_last_duration_seconds" [] "How long the last collection took";
    GC_LAST_MARK Gauge "causeway_gc_last_mark_seconds" [] "Of it, the look at what is in use";
    GC_LAST_AT Gauge "causeway_gc_last_success_timestamp_seconds" [] "When the last one ended, since 1970";
    GC_FAILED Gauge "causeway_gc_last_failed" [] "1 if the last one stopped; `causeway status` says why";

    SCRUB_READ Counter "causeway_scrub_read_bytes" [] "Bytes of packs read";
    SCRUB_VERIFIED Counter "causeway_scrub_verified_chunks" [] "Chunks compared with their names";
    SCRUB_PASSES Counter "causeway_scrub_passes" [] "Passes completed since the store was made";
    SCRUB_BAD Counter "causeway_scrub_bad_chunks" [] "Bad chunks found since the store was made, at each attempt to heal";
    SCRUB_HEALED Counter "causeway_scrub_healed_chunks" [] "Of them, those healed";
    SCRUB_UNHEALED Gauge "causeway_scrub_unhealed_chunks" [] "Chunks that the last attempt could not heal";
    SCRUB_POSITION Gauge "causeway_scrub_position_ratio" [] "How much of the pass under way is done, 0 to 1";
    SCRUB_COMPLETED Gauge "causeway_scrub_completed_timestamp_seconds" [] "When the last pass ended, since 1970";
    SCRUB_FAILED Gauge "causeway_scrub_last_failed" [] "1 if the last scrub was held up; `causeway status` says why";

    TRANSFER_SENT Counter "causeway_transfer_sent_bytes" ["place", "cause"] "Chunks and what is asked about them, sent, as stream bytes";
    TRANSFER_RECEIVED Counter "causeway_transfer_received_bytes" ["place", "cause"] "The same, received";
    TRANSFER_CHUNKS Counter "causeway_transfer_received_chunks" ["place", "cause"] "Chunks received and verified";
    TRANSFER_PLAIN Counter "causeway_transfer_received_plain_bytes" ["place", "cause"] "Their plain bytes";
    DELTA_CHUNKS Counter "causeway_delta_chunks" ["place", "cause", "direction"] "Chunks that went (sent) or came (received) as differences";
    DELTA_BYTES Counter "causeway_delta_bytes" ["place", "cause", "direction"] "Bytes of the differences";
    DELTA_SAVED Counter "causeway_delta_saved_bytes" ["place", "cause", "direction"] "Plain bytes of those chunks less the bytes of the differences";
    WIRE_SENT Counter "causeway_wire_sent_bytes" ["peer", "protocol"] "Bytes sent to a peer, as the transport counts them";
    WIRE_RECEIVED Counter "causeway_wire_received_bytes" ["peer", "protocol"] "Bytes received from it";

    LAG_SEQS Gauge "causeway_replication_lag_seqs" ["volume"] "Commits applied here whose chunks are not all here";
    LAG_SECONDS Gauge "causeway_replication_lag_seconds" ["volume"] "Age of the oldest of them; 0 if there is none";
    LAG_CHUNKS Gauge "causeway_replication_missing_chunks" ["volume"] "Chunks known to be lacking";
    LAG_BYTES Gauge "causeway_replication_missing_bytes" ["volume"] "Their plain bytes";
    LAG_STALLED Gauge "causeway_replication_stalled" ["volume"] "1 if the last run failed; `causeway status` says why";

    ARCHIVE_RPO Gauge "causeway_archive_rpo_seconds" ["volume"] "Age of the oldest commit that no image in the repository shows; 0 if all are there";
    ARCHIVE_OWED Gauge "causeway_archive_owed_seqs" ["volume"] "Commits that no image shows";
    ARCHIVE_IMAGES Counter "causeway_archive_images" ["volume"] "Images published";
    ARCHIVE_STALLED Gauge "causeway_archive_stalled" ["volume"] "1 if the last run failed or another leader published; `causeway status` says why";

    RAFT_TERM Gauge "causeway_raft_term" ["volume"] "Raft term";
    RAFT_LEADER Gauge "causeway_raft_leader" ["volume"] "1 if this node leads the group";
    RAFT_APPLIED Gauge "causeway_raft_applied_seq" ["volume"] "Last commit applied here";
    RAFT_COMMITTED Gauge "causeway_raft_committed_seq" ["volume"] "Last commit known here";
    RAFT_LAST_LOG Gauge "causeway_raft_last_log_seq" ["volume"] "Last entry of the log here";
    RAFT_RUNNING Gauge "causeway_raft_running" ["volume"] "0 if the group has stopped on this node";
    RAFT_DIFFERS Gauge "causeway_raft_replica_differs" ["volume"] "1 while this replica is known to differ from others; `causeway status` says how";
    RAFT_AT_REST Gauge "causeway_raft_at_rest" ["volume"] "1 while the group rests here, since nothing is asked of it";

    VOLUME_FILES Gauge "causeway_volume_files" ["volume"] "Files, as applied here";
    VOLUME_DIRECTORIES Gauge "causeway_volume_directories" ["volume"] "Directories";
    VOLUME_BYTES Gauge "causeway_volume_logical_bytes" ["volume"] "Sum of the lengths of all files";
    QUOTA_BYTES Gauge "causeway_volume_quota_bytes" ["volume"] "Quota of the whole volume; absent if there is none";
    QUOTA_FILES Gauge "causeway_volume_quota_files" ["volume"] "Quota of files, directories and symlinks; absent if there is none";
}
