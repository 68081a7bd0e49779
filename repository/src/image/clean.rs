//! Deletes old heads, and segments that no kept head names.

use std::collections::BTreeSet;
use std::time::Duration;

use futures::{StreamExt, TryStreamExt, stream};

use super::writer::{ImageWriter, PUBLISH_TIME_MAX};
use crate::error::Error;
use crate::{head, names};

/// What is kept. A store that forbids deletes (write-once) makes [`ImageWriter::clean`] fail with its error; try later.
#[derive(Clone, Copy, Debug)]
pub struct CleanPolicy {
    /// Newest generations that stay whatever their age; at least 2. Default: 16.
    pub heads_min: usize,
    /// Heads younger than this stay, and can be restored; at least one hour. Default: one hour.
    pub keep_for: Duration,
    /// Segments that no head names stay this long, since an image under way may be about to name them; at least twice the
    /// time that a publish may take. Default: 24 hours.
    pub spare_segments_for: Duration,
}

impl Default for CleanPolicy {
    fn default() -> Self {
        Self { heads_min: 16, keep_for: Duration::from_secs(3600), spare_segments_for: PUBLISH_TIME_MAX * 2 }
    }
}

/// What [`ImageWriter::clean`] deleted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cleaned {
    /// Heads deleted.
    pub heads: u64,
    /// Segments deleted.
    pub segments: u64,
    /// Their length together.
    pub segment_bytes: u64,
}

impl ImageWriter {
    /// Deletes what is old. Safe beside running writers and readers, and to be interrupted at any step: heads go from the
    /// oldest on, segments only when no head that is left names them. A damaged head stops it: what it names is unknown.
    ///
    /// # Errors
    /// [`Error::Corrupt`] for a damaged head; the store's.
    pub async fn clean(&self, policy: CleanPolicy) -> Result<Cleaned, Error> {
        self.clean_with_floors(policy, Duration::from_secs(3600), PUBLISH_TIME_MAX * 2).await
    }

    pub(super) async fn clean_with_floors(
        &self,
        policy: CleanPolicy,
        keep_floor: Duration,
        spare_floor: Duration,
    ) -> Result<Cleaned, Error> {
        let store = &self.repository.store;
        let now = self.repository.clock().now();
        // Segments are listed before heads: one that is put and named in between is in no list, so it is not deleted.
        let segments = store.list(&names::run_folder(&self.directory), usize::MAX).await?;
        let mut heads: Vec<_> = store
            .list(&names::heads(&self.directory), usize::MAX)
            .await?
            .into_iter()
            .filter_map(|object| Some((names::head_generation(&object.name)?, object.modified)))
            .collect();
        heads.sort_unstable_by_key(|(generation, _)| std::cmp::Reverse(*generation));
        let keep_for = policy.keep_for.max(keep_floor);
        let old = |at: usize| at >= policy.heads_min.max(2) && now.since(heads[at].1) >= keep_for;
        // The first old one and all below it, so that no gap appears above a head that stays.
        let kept = (0..heads.len()).find(|at| old(*at)).unwrap_or(heads.len());
        let mut cleaned = Cleaned::default();
        for (generation, _) in heads[kept..].iter().rev() {
            store.delete(&names::head(&self.directory, *generation)).await?;
            cleaned.heads += 1;
        }
        let mut named: BTreeSet<u128> = BTreeSet::new();
        let mut reads = std::pin::pin!(
            stream::iter(&heads[..kept])
                .map(|(generation, _)| head::read(store, &self.directory, *generation))
                .buffer_unordered(self.repository.options.concurrency.max(1))
        );
        while let Some(found) = reads.try_next().await? {
            let head = found.transpose()?;
            let runs = head.iter().flat_map(|head| &head.runs);
            named.extend(runs.flat_map(|run| run.segments.iter().map(|segment| segment.name)));
        }
        let spare_for = policy.spare_segments_for.max(spare_floor);
        for object in segments {
            let Some(name) = names::number(&object.name) else { continue };
            if named.contains(&name) || now.since(object.modified) < spare_for {
                continue;
            }
            store.delete(&names::segment(&self.directory, name)).await?;
            cleaned.segments += 1;
            cleaned.segment_bytes += object.bytes;
        }
        Ok(cleaned)
    }
}
