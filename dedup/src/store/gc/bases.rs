//! What deltas stand on. As long as a delta is in the index, what it stands on stays there, whether anything else reaches that or
//! not: the delta may be revived at any time.

use std::collections::BTreeSet;
use std::sync::PoisonError;

use causeway_base::ChunkId;

use super::Pace;
use super::reached::Reached;
use crate::delta::DEPTH_MAX;
use crate::store::index::{Entry, Location};
use crate::store::{ChunkStore, StoreError};

/// Pairs read at once.
const PAGE: usize = 4096;
/// What a pair costs when work is paced.
const PAIR_BYTES: u64 = 128;
/// A base with more deltas on it, on those and so on, is worth keeping without a count.
const FAMILY_MAX: usize = 64;
/// Deltas are written whole if that takes at most this many percent of what they take with all that they stand on. Each costs
/// a write, so a small gain is none.
const WHOLE_PERCENT_MAX: u64 = 75;

/// The bases of all deltas that are in the index, or on their way into it: a Bloom filter.
#[derive(Debug, Default)]
pub(super) struct Bases(Option<Reached>);

impl Bases {
    /// Takes the bases of all deltas. One that is appended while this runs is seen as well: its bases are pinned before the index
    /// names them, and the pins are looked at first. One that is put later revives its bases, which are not condemned then.
    ///
    /// A pace that says to stop is not heeded: what is seen must be all.
    pub(super) fn of(store: &ChunkStore, pace: Pace<'_>) -> Result<Self, StoreError> {
        let pinned = store.pins.all();
        let deltas = store.stats().delta_chunks;
        if pinned.is_empty() && deltas == 0 {
            return Ok(Self(None));
        }
        let mut found = Reached::new(deltas + pinned.len() as u64, store.gc.epoch());
        pinned.iter().for_each(|id| {
            found.add(id);
        });
        let (mut after, mut last_found) = (None, None);
        loop {
            let gate = store.gate.read().unwrap_or_else(PoisonError::into_inner);
            let page = store.index.dependents(None, after, PAGE)?;
            let Some(last) = page.last() else { return Ok(Self(Some(found))) };
            after = Some(*last);
            for (base, dependent) in &page {
                if last_found == Some(*base) {
                    continue;
                }
                if store.entry(dependent, false)?.is_some_and(|entry| entry.bases.contains(base)) {
                    found.add(base);
                    last_found = Some(*base);
                }
            }
            drop(gate);
            pace(page.len() as u64 * PAIR_BYTES);
        }
    }

    pub(super) fn contains(&self, id: &ChunkId) -> bool {
        self.0.as_ref().is_some_and(|found| found.contains(id))
    }
}

/// The reached deltas that stand on a chunk which nothing reaches, directly or by others, if writing them whole would take clearly
/// less than they take with all that only they need. A chunk that is a delta itself is passed over: what it stands on is looked at.
///
/// What a delta takes whole is taken to be what its base takes, byte for byte.
pub(super) fn worth_whole(
    store: &ChunkStore,
    base: &ChunkId,
    location: Location,
    reached: impl Fn(&ChunkId) -> bool,
) -> Result<Vec<ChunkId>, StoreError> {
    if location.depth > 0 {
        return Ok(Vec::new());
    }
    let mut family: Vec<Entry> = Vec::new();
    let mut known = BTreeSet::new();
    let mut below = vec![*base];
    for _ in 0..DEPTH_MAX {
        let mut next = Vec::new();
        for id in &below {
            store.each_dependent(id, |entry| {
                if known.insert(entry.id) {
                    next.push(entry.id);
                    family.push(entry);
                }
                family.len() <= FAMILY_MAX
            })?;
        }
        below = next;
    }
    if family.len() > FAMILY_MAX {
        return Ok(Vec::new());
    }
    let share = location.share();
    let with_base = share + family.iter().map(|entry| entry.location.share()).sum::<u64>();
    let wanted = family.iter().filter(|entry| reached(&entry.id));
    let raw_bytes: u64 = wanted.clone().map(|entry| u64::from(entry.location.raw_len)).sum();
    let whole = u128::from(share) * u128::from(raw_bytes) / u128::from(location.raw_len.max(1));
    let pays = whole * 100 <= u128::from(with_base) * u128::from(WHOLE_PERCENT_MAX);
    Ok(if pays { wanted.map(|entry| entry.id).collect() } else { Vec::new() })
}
