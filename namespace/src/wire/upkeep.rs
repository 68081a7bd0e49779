//! Upkeep of chunk stores.

use std::time::Duration;

use causeway_base::{BadChunk, GcReport, NodeId, ScrubReport, Timestamp};
use causeway_proto::v1;

use super::{Wire, WireError, all, all_into, millis, runs, text_or_none};
use crate::upkeep::{Run, UpkeepStatus};

impl Wire for GcReport {
    type Message = v1::GcReport;

    #[rustfmt::skip]
    fn into_wire(self) -> v1::GcReport {
        let Self {
            dry_run, epoch, chunks, bytes, reached, condemned, condemned_bytes, waiting, leased, removed, removed_bytes, revived, packs, freed_bytes, moved_bytes, packs_full, packs_damaged,
            marked_in, took,
        } = self;
        v1::GcReport {
            dry_run, epoch, chunks, bytes, reached, condemned, condemned_bytes, waiting, leased, removed, removed_bytes, revived, packs, freed_bytes, moved_bytes, packs_full, packs_damaged,
            marked_in_millis: millis(marked_in), took_millis: millis(took),
        }
    }

    #[rustfmt::skip]
    fn from_wire(message: v1::GcReport) -> Result<Self, WireError> {
        let v1::GcReport {
            dry_run, epoch, chunks, bytes, reached, condemned, condemned_bytes, waiting, leased, removed, removed_bytes, revived, packs, freed_bytes, moved_bytes, packs_full, packs_damaged,
            marked_in_millis, took_millis,
        } = message;
        Ok(Self {
            dry_run, epoch, chunks, bytes, reached, condemned, condemned_bytes, waiting, leased, removed, removed_bytes, revived, packs, freed_bytes, moved_bytes, packs_full, packs_damaged,
            marked_in: Duration::from_millis(marked_in_millis), took: Duration::from_millis(took_millis),
        })
    }
}

impl Wire for BadChunk {
    type Message = v1::BadChunk;

    fn into_wire(self) -> v1::BadChunk {
        let Self { id, corrupt, files, unhealed } = self;
        v1::BadChunk { id: id.to_string(), corrupt, files, unhealed: unhealed.unwrap_or_default() }
    }

    fn from_wire(message: v1::BadChunk) -> Result<Self, WireError> {
        let v1::BadChunk { id, corrupt, files, unhealed } = message;
        let id = id.parse().map_err(|error| WireError::bad("bad_chunk.id", error))?;
        Ok(Self { id, corrupt, files, unhealed: text_or_none(unhealed) })
    }
}

impl Wire for ScrubReport {
    type Message = v1::ScrubReport;

    fn into_wire(self) -> v1::ScrubReport {
        let Self { packs, bytes, chunks, verified, bad_packs, rewritten, bad, healed, unused, named, unchecked, took } =
            self;
        let (named, took_millis) = (all_into(named), millis(took));
        v1::ScrubReport {
            packs,
            bytes,
            chunks,
            bad_packs,
            rewritten,
            bad,
            healed,
            unused,
            named,
            unchecked,
            took_millis,
            verified,
        }
    }

    fn from_wire(message: v1::ScrubReport) -> Result<Self, WireError> {
        let v1::ScrubReport {
            packs,
            bytes,
            chunks,
            bad_packs,
            rewritten,
            bad,
            healed,
            unused,
            named,
            unchecked,
            took_millis,
            verified,
        } = message;
        let (named, took) = (all(named)?, Duration::from_millis(took_millis));
        Ok(Self { packs, bytes, chunks, verified, bad_packs, rewritten, bad, healed, unused, named, unchecked, took })
    }
}

impl Wire for UpkeepStatus {
    type Message = v1::UpkeepStatus;

    fn into_wire(self) -> v1::UpkeepStatus {
        v1::UpkeepStatus {
            gc_running: self.gc_running,
            gc_last: self.gc_last.map(Wire::into_wire),
            gc_last_at: self.gc_last_at.0,
            gc_error: self.gc_error.unwrap_or_default(),
            freed_bytes: self.freed_bytes,
            condemned: self.condemned,
            scrub_passes: self.scrub_passes,
            scrub_completed_at: self.scrub_completed_at.0,
            scrub_found: self.scrub_found,
            scrub_healed: self.scrub_healed,
            unhealed: self.unhealed,
            scrub_error: self.scrub_error.unwrap_or_default(),
        }
    }

    fn from_wire(message: v1::UpkeepStatus) -> Result<Self, WireError> {
        Ok(Self {
            gc_running: message.gc_running,
            gc_last: message.gc_last.map(GcReport::from_wire).transpose()?,
            gc_last_at: Timestamp(message.gc_last_at),
            gc_error: text_or_none(message.gc_error),
            freed_bytes: message.freed_bytes,
            condemned: message.condemned,
            scrub_passes: message.scrub_passes,
            scrub_completed_at: Timestamp(message.scrub_completed_at),
            scrub_found: message.scrub_found,
            scrub_healed: message.scrub_healed,
            unhealed: message.unhealed,
            scrub_error: text_or_none(message.scrub_error),
        })
    }
}

runs! {
    GcReport in StoreGcResponse, store_gc_response;
    ScrubReport in StoreScrubResponse, store_scrub_response;
}

#[cfg(test)]
mod tests {
    use causeway_base::ChunkId;

    use super::*;

    fn survives<T: Wire + Clone + PartialEq + std::fmt::Debug>(value: &T) {
        assert_eq!(T::from_wire(value.clone().into_wire()).as_ref(), Ok(value));
    }

    #[test]
    fn reports_survive() {
        let gc = GcReport {
            dry_run: true,
            chunks: 3,
            packs_damaged: 9,
            took: Duration::from_millis(7),
            ..GcReport::default()
        };
        let bad = BadChunk {
            id: ChunkId([7; 32]),
            corrupt: true,
            files: vec!["data:a/b".into()],
            unhealed: Some("gone".into()),
        };
        let scrub = ScrubReport {
            bad: 2,
            verified: 8,
            named: vec![bad.clone(), BadChunk { unhealed: None, ..bad }],
            unchecked: vec!["x".into()],
            ..ScrubReport::default()
        };
        for outcome in [None, Some(Ok(gc.clone())), Some(Err("why".to_owned()))] {
            survives(&Run { node: NodeId(3), ticket: 4, outcome });
        }
        for outcome in [None, Some(Ok(scrub)), Some(Err("why".to_owned()))] {
            survives(&Run { node: NodeId(3), ticket: 4, outcome });
        }
        survives(&UpkeepStatus {
            gc_last: Some(gc),
            gc_last_at: Timestamp(5),
            scrub_error: Some("e".into()),
            ..UpkeepStatus::default()
        });
        assert!(Run::<GcReport>::from_wire(v1::StoreGcResponse::default()).is_err());
        assert!(Run::<ScrubReport>::from_wire(v1::StoreScrubResponse::default()).is_err());
    }
}
