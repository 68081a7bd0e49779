//! Publishes images of one volume.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use causeway_base::{ClusterId, Epoch, RetryClass, Seq, VolumeId};
use causeway_namespace_core::digest::Digest;

use super::record;
use super::source::{ImageRecords, ImageSource, RecordIter};
use crate::error::Error;
use crate::head::{self, Head, Run};
use crate::names;
use crate::repository::Repository;
use crate::run::{RunKind, SegmentRef, write_run};
use crate::store::Put;

/// Settings of an [`ImageWriter`].
#[derive(Clone, Copy, Debug)]
pub struct WriterOptions {
    /// Runs of an image above which [`ImageWriter::compact`] merges some. Default: 8.
    pub runs_max: usize,
    /// An image with less than this share of the newest one's files or bytes is refused. Default: 0.5.
    pub shrink_share: f64,
    /// Images with fewer files than this may shrink as they like. Default: 1,000.
    pub shrink_files_min: u64,
    /// Images with fewer bytes than this may shrink as they like. Default: 64 MiB.
    pub shrink_bytes_min: u64,
    /// How long the newest head, once seen, is trusted without a listing. Must be far below the grace after which old heads
    /// are cleaned. Default: 60 s.
    pub refresh_after: Duration,
}

impl Default for WriterOptions {
    fn default() -> Self {
        Self {
            runs_max: 8,
            shrink_share: 0.5,
            shrink_files_min: 1_000,
            shrink_bytes_min: 64 << 20,
            refresh_after: Duration::from_secs(60),
        }
    }
}

/// A published image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Published {
    /// Its generation.
    pub generation: u64,
    /// What it shows.
    pub seq: Seq,
    /// Whether this call made it; false if just this state was the newest image already.
    pub new: bool,
    /// Bytes of the objects written for it, the head included.
    pub bytes: u64,
    /// Runs that the image has now; above [`WriterOptions::runs_max`] it is time to compact.
    pub runs: usize,
}

/// Publishes the images of one volume; one per leader is enough, and any number at once is safe.
#[derive(Debug)]
pub struct ImageWriter {
    pub(super) repository: Repository,
    pub(super) directory: String,
    pub(super) volume: VolumeId,
    pub(super) options: WriterOptions,
    /// Held while a head is decided and put, not while runs are written by `compact`.
    pub(super) publishing: tokio::sync::Mutex<()>,
    known: Mutex<Option<Known>>,
}

/// The newest head as it was seen last.
#[derive(Clone, Debug)]
struct Known {
    head: Option<Head>,
    at: Instant,
    /// Cleared when a put had an unknown outcome.
    fresh: bool,
}

/// What to do about the newest head.
#[derive(Debug)]
pub(super) enum Decision {
    /// Put this one after it.
    Put(Head),
    /// Nothing.
    Done(Option<Published>),
}

/// Time from the first segment of an image to its head. Cleaning spares segments that nothing names for longer than that.
pub(super) const PUBLISH_TIME_MAX: Duration = Duration::from_secs(12 * 3600);

impl ImageWriter {
    /// A writer for a volume of a cluster. No request is made.
    #[must_use]
    pub fn new(repository: Repository, cluster: ClusterId, volume: VolumeId, options: WriterOptions) -> Self {
        let directory = names::volume_directory(cluster, volume);
        let (publishing, known) = (tokio::sync::Mutex::new(()), Mutex::new(None));
        Self { repository, directory, volume, options, publishing, known }
    }

    /// The newest image: what the next changes must continue. `None`: publish everything.
    ///
    /// Cancel safe.
    ///
    /// # Errors
    /// [`Error::HeadDamaged`], or the store's.
    pub async fn newest(&self) -> Result<Option<Head>, Error> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner).clone();
        match known {
            Some(known) if known.fresh && known.at.elapsed() < self.options.refresh_after => Ok(known.head),
            _ => self.refresh().await,
        }
    }

    /// As [`ImageWriter::newest`], always asking the store.
    ///
    /// # Errors
    /// As [`ImageWriter::newest`].
    pub async fn refresh(&self) -> Result<Option<Head>, Error> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let generation = known.and_then(|known| known.head).map(|head| head.generation);
        let at = Instant::now();
        let newest = head::newest_readable(&self.repository.store, &self.directory, generation).await?;
        self.remember(newest.clone(), at);
        Ok(newest)
    }

    /// Publishes a state. On return its head and runs are durable.
    ///
    /// Not cancel safe in this sense: if the future is dropped, the image may or may not be published; [`refresh`] tells.
    ///
    /// # Errors
    /// - [`Error::Fenced`]: another leader is further; stop publishing.
    /// - [`Error::Base`]: the changes do not continue the newest image; gather them again, from the seq in the error.
    /// - [`Error::ChunksNotDurable`], [`Error::Shrunk`], [`Error::Digest`]: refused; the last good image stays.
    /// - a failure of class [`RetryClass::Unknown`]: it may be published.
    ///
    /// [`refresh`]: ImageWriter::refresh
    pub async fn publish(&self, source: ImageSource) -> Result<Published, Error> {
        if source.chunks_durable_to < source.seq {
            let (durable, seq) = (source.chunks_durable_to, source.seq);
            return Err(Error::ChunksNotDurable { volume: self.volume, durable, seq });
        }
        let _publishing = self.publishing.lock().await;
        let started = Instant::now();
        let newest = self.newest().await?;
        if let Some(published) = self.check(&source, newest.as_ref())? {
            return Ok(published);
        }
        self.check_size(&source, newest.as_ref())?;
        let (head, since, records) = split(source);
        let (segments, digest) = self.write(records).await?;
        if let Some(found) = digest.filter(|found| *found != head.digest) {
            tracing::error!(volume = %self.volume, seq = %head.seq, "the image contradicts its digest and is not published");
            let (expected, found) = (head.digest.to_string(), found.to_string());
            return Err(Error::Digest { volume: self.volume, seq: head.seq, expected, found });
        }
        let segment_bytes: u64 = segments.iter().map(|segment| segment.bytes).sum();
        let decide = |newest: Option<&Head>| match self.fence(&head, newest)? {
            Some(published) => Ok(Decision::Done(Some(published))),
            None => with_run(newest, head.clone(), since, &segments).map(Decision::Put),
        };
        // `decide` gives a result whenever it ends without a put.
        let published = self.put_head(newest, started, decide).await?;
        let published = published.ok_or_else(|| Error::Task("a publish without a result".to_owned()))?;
        Ok(Published { bytes: published.bytes + segment_bytes, ..published })
    }

    /// Puts the head that `decide` makes from the newest one as the next generation; it is asked again each time that another
    /// writer was faster. `started` is when the first of its segments may have been written.
    pub(super) async fn put_head<F>(
        &self,
        mut newest: Option<Head>,
        started: Instant,
        decide: F,
    ) -> Result<Option<Published>, Error>
    where
        F: Fn(Option<&Head>) -> Result<Decision, Error>,
    {
        loop {
            let mut next = match decide(newest.as_ref())? {
                Decision::Put(next) => next,
                Decision::Done(published) => return Ok(published),
            };
            next.previous = newest.as_ref().map(|head| head.generation);
            next.generation = next.previous.unwrap_or(0) + 1;
            next.writer_token = self.repository.store.names().draw();
            let sealed = next.seal()?;
            let bytes = sealed.len() as u64;
            let path = names::head(&self.directory, next.generation);
            if started.elapsed() >= PUBLISH_TIME_MAX {
                return Err(Error::Deadline { op: "put", path, after: PUBLISH_TIME_MAX });
            }
            let putting = Instant::now();
            let looked_at = self.looked_at();
            if self.put_own(&next, &path, sealed).await? {
                let (generation, seq, runs) = (next.generation, next.seq, next.runs.len());
                // A pause between looking and putting, longer than old heads are kept, could have let this generation be
                // created a second time, below newer ones. Look again before saying that it counts.
                if looked_at.is_some_and(|at| at.elapsed() < self.options.refresh_after * 2) {
                    self.remember(Some(next), putting);
                } else {
                    let there = self.refresh().await?;
                    if there.as_ref().is_none_or(|there| there.generation < generation) || self.lost(&next).await? {
                        return Err(self.fenced(there.as_ref().unwrap_or(&next)));
                    }
                }
                return Ok(Some(Published { generation, seq, new: true, bytes, runs }));
            }
            newest = self.refresh().await?;
        }
    }

    /// Whether the chain of heads passed `next` by: its successor does not continue it.
    async fn lost(&self, next: &Head) -> Result<bool, Error> {
        let listed = self.repository.store.list(&names::heads(&self.directory), usize::MAX).await?;
        let above =
            listed.iter().filter_map(|object| names::head_generation(&object.name)).filter(|g| *g > next.generation);
        // Heads are deleted only from the old end, so the successor is there unless `next` was put below the old end.
        Ok(above.min().is_some_and(|lowest| lowest != next.generation + 1))
    }

    /// Whether `next` is there and this writer's. A lost reply is resolved by reading back.
    async fn put_own(&self, next: &Head, path: &str, sealed: Bytes) -> Result<bool, Error> {
        let store = &self.repository.store;
        match store.create(path, sealed).await {
            Ok(Put::Created) => Ok(true),
            Ok(Put::Exists) => match head::read(store, &self.directory, next.generation).await? {
                Some(Ok(there)) => Ok(there.writer_token == next.writer_token),
                Some(Err(damaged)) => Err(damaged),
                None => Err(Error::Missing { path: path.to_owned() }),
            },
            Err(error) if error.retry_class() == RetryClass::Unknown => {
                self.forget();
                match head::read(store, &self.directory, next.generation).await {
                    Ok(Some(Ok(there))) => Ok(there.writer_token == next.writer_token),
                    // Not there now, which does not mean never.
                    _ => Err(error),
                }
            }
            Err(error) => Err(error),
        }
    }

    async fn write(&self, records: ImageRecords) -> Result<(Vec<SegmentRef>, Option<Digest>), Error> {
        let directory = self.directory.clone();
        let path_of = move |name| names::segment(&directory, name);
        match records {
            ImageRecords::Full(records) => {
                let digest = Arc::new(Mutex::new(Digest::default()));
                let records = Digesting { records, digest: Arc::clone(&digest) };
                let segments = write_run(&self.repository, RunKind::Image, path_of, records).await?;
                let digest = *digest.lock().unwrap_or_else(PoisonError::into_inner);
                Ok((segments, Some(digest)))
            }
            ImageRecords::Changes { changes, .. } => {
                let records = changes.map(|change| {
                    let (key, value) = change?;
                    Ok((key, record::encode(value.as_deref())))
                });
                Ok((write_run(&self.repository, RunKind::Image, path_of, records).await?, None))
            }
        }
    }

    fn check(&self, source: &ImageSource, newest: Option<&Head>) -> Result<Option<Published>, Error> {
        let authority = (source.epoch, source.term, source.seq);
        let published = self.fence_by(authority, source.digest, newest)?;
        if published.is_none()
            && let ImageRecords::Changes { since_epoch, since, .. } = &source.records
        {
            self.check_base(newest, (*since_epoch, *since))?;
        }
        Ok(published)
    }

    fn check_base(&self, newest: Option<&Head>, base: (Epoch, Seq)) -> Result<(), Error> {
        if newest.map(|head| (head.epoch, head.seq)) == Some(base) {
            return Ok(());
        }
        // Of another epoch: its seqs mean nothing to the caller, who must publish everything.
        let expected = newest.filter(|head| head.epoch == base.0).map(|head| head.seq);
        Err(Error::Base { volume: self.volume, expected })
    }

    fn fence(&self, head: &Head, newest: Option<&Head>) -> Result<Option<Published>, Error> {
        self.fence_by(head.authority(), head.digest, newest)
    }

    /// Refuses what is below the newest image. `Some` if just this state is published already.
    fn fence_by(
        &self,
        authority: (Epoch, u64, Seq),
        digest: Digest,
        newest: Option<&Head>,
    ) -> Result<Option<Published>, Error> {
        let Some(newest) = newest else { return Ok(None) };
        let (epoch, _, seq) = authority;
        // Within an epoch what is committed stays: a later term cannot be behind an archived seq.
        if authority < newest.authority() || (epoch == newest.epoch && seq < newest.seq) {
            return Err(self.fenced(newest));
        }
        if epoch == newest.epoch && seq == newest.seq && digest != newest.digest {
            tracing::error!(volume = %self.volume, %seq, "two states of one seq: a replica diverged");
            let (expected, found) = (newest.digest.to_string(), digest.to_string());
            return Err(Error::Digest { volume: self.volume, seq, expected, found });
        }
        if authority != newest.authority() {
            return Ok(None);
        }
        let (generation, runs) = (newest.generation, newest.runs.len());
        Ok(Some(Published { generation, seq, new: false, bytes: 0, runs }))
    }

    fn check_size(&self, source: &ImageSource, newest: Option<&Head>) -> Result<(), Error> {
        let Some(newest) = newest.filter(|_| !source.force_shrink) else { return Ok(()) };
        let shares = [
            ("files", newest.totals.files, source.totals.files, self.options.shrink_files_min),
            ("bytes", newest.totals.logical_bytes, source.totals.logical_bytes, self.options.shrink_bytes_min),
        ];
        for (what, before, after, min) in shares {
            #[allow(clippy::cast_precision_loss)] // a share
            if before >= min && (after as f64) < before as f64 * self.options.shrink_share {
                tracing::error!(volume = %self.volume, seq = %source.seq, what, before, after, "the image shrank abnormally and is not published");
                return Err(Error::Shrunk { volume: self.volume, what, before, after });
            }
        }
        Ok(())
    }

    fn fenced(&self, newest: &Head) -> Error {
        Error::Fenced { volume: self.volume, epoch: newest.epoch, term: newest.term, seq: newest.seq }
    }

    fn remember(&self, head: Option<Head>, at: Instant) {
        *self.known.lock().unwrap_or_else(PoisonError::into_inner) = Some(Known { head, at, fresh: true });
    }

    fn looked_at(&self) -> Option<Instant> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).as_ref().map(|known| known.at)
    }

    /// Makes the next look ask the store, keeping the generation as a hint.
    fn forget(&self) {
        if let Some(known) = self.known.lock().unwrap_or_else(PoisonError::into_inner).as_mut() {
            known.fresh = false;
        }
    }
}

/// Adds the digest up while the records pass.
struct Digesting {
    records: RecordIter,
    digest: Arc<Mutex<Digest>>,
}

impl Iterator for Digesting {
    type Item = Result<(Bytes, Bytes), Error>;

    fn next(&mut self) -> Option<Self::Item> {
        Some(self.records.next()?.map_err(Error::from).map(|(key, value)| {
            self.digest.lock().unwrap_or_else(PoisonError::into_inner).add(&key, &value);
            let stored = record::encode(Some(&value));
            (key, stored)
        }))
    }
}

/// The head without runs and generation, the base of its changes, and the records.
fn split(source: ImageSource) -> (Head, Option<(Epoch, Seq)>, ImageRecords) {
    let since = match &source.records {
        ImageRecords::Full(_) => None,
        ImageRecords::Changes { since_epoch, since, .. } => Some((*since_epoch, *since)),
    };
    let head = Head {
        cluster: source.cluster,
        volume: source.volume,
        name: source.name,
        epoch: source.epoch,
        term: source.term,
        seq: source.seq,
        digest: source.digest,
        at: source.at,
        generation: 0,
        writer_token: 0,
        previous: None,
        spec: source.spec,
        totals: source.totals,
        runs: Vec::new(),
    };
    (head, since, source.records)
}

/// Puts the new run on the newest image's runs; alone if it is complete.
fn with_run(
    newest: Option<&Head>,
    mut head: Head,
    since: Option<(Epoch, Seq)>,
    segments: &[SegmentRef],
) -> Result<Head, Error> {
    if let Some(base) = since {
        let newest = newest.filter(|newest| (newest.epoch, newest.seq) == base);
        let newest = newest.ok_or(Error::Base { volume: head.volume, expected: None })?;
        head.runs.clone_from(&newest.runs);
    }
    if !segments.is_empty() {
        // An image may stand at a seq past its last run's, when nothing changed in between.
        let since = head.runs.last().map(|run| run.to);
        head.runs.push(Run { since, to: head.seq, segments: segments.to_vec() });
    }
    Ok(head)
}
