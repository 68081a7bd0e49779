//! Merges runs of an image, so that reads stay few and what was replaced goes.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::runtime::Handle;
use tokio::time::Instant;

use causeway_namespace_core::digest::Digest;

use super::writer::{Decision, ImageWriter, Published};
use super::{complete, record};
use crate::error::Error;
use crate::head::{Head, Run};
use crate::names;
use crate::run::{Merged, RunKind, RunRecords, SegmentRef, write_run};

impl ImageWriter {
    /// Merges the newest runs if there are more than [`super::WriterOptions::runs_max`], and publishes the same state made of
    /// fewer runs. `None` if there was nothing to do, or another writer's heads got in the way (no harm).
    ///
    /// A run is merged at most about log₂(all changes / one publish's) times: the newest runs are taken together with each
    /// older one that is at most twice as large, the complete one included when the changes have grown to half of it. May
    /// run while [`ImageWriter::publish`] does. Memory: two segments for each run merged.
    ///
    /// # Errors
    /// [`Error::Corrupt`], [`Error::Missing`] or [`Error::Digest`] if the image is damaged; the store's.
    pub async fn compact(&self) -> Result<Option<Published>, Error> {
        let started = Instant::now();
        // As a rule there is nothing to do, and what the last publish left in memory says so without a request.
        let few = self.newest().await?.is_none_or(|head| pick(&head.runs, self.options.runs_max).is_none());
        if few {
            return Ok(None);
        }
        let Some(newest) = self.refresh().await? else { return Ok(None) };
        let Some(from) = pick(&newest.runs, self.options.runs_max) else { return Ok(None) };
        let merged = newest.runs[from..].to_vec();
        let segments = self.merge(&newest, from).await?;
        let to = newest.seq.min(merged.last().map_or(newest.seq, |run| run.to));
        let run = Run { since: merged[0].since, to, segments };
        let bytes = run.bytes();
        let decide = |newest: Option<&Head>| {
            let spliced = newest.and_then(|newest| splice(newest, &merged, &run));
            Ok(spliced.map_or(Decision::Done(None), Decision::Put))
        };
        let _publishing = self.publishing.lock().await;
        let newest = self.newest().await?;
        let published = self.put_head(newest, started, decide).await?;
        Ok(published.map(|published| Published { bytes: published.bytes + bytes, ..published }))
    }

    async fn merge(&self, newest: &Head, from: usize) -> Result<Vec<SegmentRef>, Error> {
        let store = &self.repository.store;
        let sources = newest.runs[from..].iter().map(|run| {
            let path = |segment: &SegmentRef| (names::segment(&self.directory, segment.name), segment.clone());
            let segments = run.segments.iter().map(path).collect();
            RunRecords::new(Handle::current(), store.clone(), RunKind::Image, segments)
        });
        let merged = Merged::new(sources.collect());
        let path_of = |name| names::segment(&self.directory, name);
        if from > 0 {
            return write_run(&self.repository, RunKind::Image, path_of, merged).await;
        }
        let digest = Arc::new(Mutex::new(Digest::default()));
        let sum = Arc::clone(&digest);
        let records = complete(merged).map(move |record| {
            let (key, value) = record?;
            sum.lock().unwrap_or_else(PoisonError::into_inner).add(&key, &value);
            Ok((key, record::encode(Some(&value))))
        });
        let segments = write_run(&self.repository, RunKind::Image, path_of, records).await?;
        let found = *digest.lock().unwrap_or_else(PoisonError::into_inner);
        if found != newest.digest {
            tracing::error!(volume = %self.volume, seq = %newest.seq, "the published image contradicts its digest");
            let (expected, found) = (newest.digest.to_string(), found.to_string());
            return Err(Error::Digest { volume: self.volume, seq: newest.seq, expected, found });
        }
        Ok(segments)
    }
}

/// The first run to be merged with all newer ones; `None` if there are few enough.
fn pick(runs: &[Run], runs_max: usize) -> Option<usize> {
    if runs.len() <= runs_max.max(1) {
        return None;
    }
    let mut from = runs.len() - 1;
    let mut sum = runs[from].bytes();
    while from > 0 {
        let older = runs[from - 1].bytes();
        // What is left must be few enough, and at least two runs merged.
        if older > 2 * sum && from < runs_max {
            break;
        }
        sum += older;
        from -= 1;
    }
    Some(from)
}

/// `newest` with `run` in the place of the runs that were merged; `None` if it does not have them any more.
fn splice(newest: &Head, merged: &[Run], run: &Run) -> Option<Head> {
    let at = newest.runs.windows(merged.len()).position(|window| window == merged)?;
    let mut head = newest.clone();
    head.runs.splice(at..at + merged.len(), [run.clone()]);
    Some(head)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use causeway_base::Seq;

    use super::*;

    fn run(bytes: u64) -> Run {
        let segment =
            SegmentRef { name: 1, first: Bytes::new(), last: Bytes::new(), records: 1, bytes, blake3: [0; 32] };
        Run { since: None, to: Seq(1), segments: vec![segment] }
    }

    #[test]
    fn what_is_large_is_merged_only_when_the_changes_have_grown() {
        let runs = |sizes: &[u64]| sizes.iter().map(|bytes| run(*bytes)).collect::<Vec<_>>();
        assert_eq!(pick(&runs(&[1000, 1, 1, 1]), 4), None);
        assert_eq!(pick(&runs(&[1000, 1, 1, 1, 1]), 4), Some(1));
        assert_eq!(pick(&runs(&[1000, 100, 1, 1, 1]), 4), Some(2));
        assert_eq!(pick(&runs(&[1000, 300, 200, 1, 1]), 4), Some(3));
        assert_eq!(pick(&runs(&[1000, 300, 200, 100, 1]), 4), Some(0));
        assert_eq!(pick(&runs(&[1, 1]), 0), Some(0));
    }

    /// The bytes merged while 4,000 equal changes are published on a large image stay a small multiple of what changed.
    #[test]
    fn merging_costs_a_small_multiple_of_the_change() {
        let mut runs = vec![run(100_000)];
        let mut written = 0;
        for _ in 0..4_000 {
            runs.push(run(10));
            if let Some(from) = pick(&runs, 8) {
                let sum = runs[from..].iter().map(Run::bytes).sum();
                written += sum;
                runs.truncate(from);
                runs.push(run(sum));
            }
            assert!(runs.len() <= 8);
        }
        assert!(written < 4_000 * 10 * 12, "{written} bytes merged for 40,000 changed");
    }
}
