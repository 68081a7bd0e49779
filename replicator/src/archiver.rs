//! Keeps the repository's image of a volume close behind the leader.
//!
//! One task a volume; it works while this node leads. An image at seq N is published after all chunks of N are in the
//! archive. A leader that was deposed is fenced by the repository, stops, and says so; it goes on when it leads again in
//! a later term.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use causeway_base::{Clock, ClusterId, Seq, Timestamp, VolumeId};
use causeway_dedup::chunk::LEVEL_DEFAULT;
use causeway_namespace_core::root::VolumeRecord;
use causeway_namespace_core::{encode, query};
use causeway_repository::archive::ChunkArchive;
use causeway_repository::image::{ImageRecords, ImageSource, ImageWriter, WriterOptions};
use causeway_repository::{Error as RepositoryError, ImageTotals};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::counters::{Account, Counters, Place};
use crate::fetcher::{Fetcher, Job, Need};
use crate::follower::{RunError, changed_keys, view_of};
use crate::local::{self, LocalError, Realms};
use crate::volume::{ChangesError, VolumeSource, VolumeView, changed};
use crate::walk::{Files, Walk};
use crate::wire::Cause;

/// Records read from a view at once.
const RECORDS: usize = 1024;
/// Longest wait after a failure.
const RETRY_MAX: Duration = Duration::from_secs(15);

/// Where a volume's image stands, as far as this node publishes it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ArchiveStatus {
    /// Whether this node publishes now: it leads, and the volume is to be archived.
    pub publishes: bool,
    /// The seq of the newest image that this node published or found.
    pub published: Option<Seq>,
    /// When that state was current.
    pub published_at: Option<Timestamp>,
    /// Commits that no image shows yet.
    pub owed_seqs: u64,
    /// Plain bytes of chunks that the run under way has yet to archive.
    pub owed_bytes: u64,
    /// What would be lost if this node's region were gone now: the age of the oldest commit that no image shows.
    pub rpo: Duration,
    /// Set when another leader has published: this node has stopped until it leads in a later term.
    pub fenced: Option<String>,
    /// Why the last run failed, if it did.
    pub error: Option<String>,
    /// Images published since the node started.
    pub images: u64,
}

/// Why an image was not published.
#[derive(Debug, thiserror::Error)]
enum ArchiveError {
    #[error(transparent)]
    Run(#[from] RunError),
    #[error(transparent)]
    Repository(#[from] RepositoryError),
    #[error("this node does not lead any more")]
    Deposed,
}

impl From<LocalError> for ArchiveError {
    fn from(error: LocalError) -> Self {
        Self::Run(error.into())
    }
}

impl From<ChangesError> for ArchiveError {
    fn from(error: ChangesError) -> Self {
        Self::Run(error.into())
    }
}

/// How long nothing is looked at while nothing happens that is told of.
const LOOK_AGAIN: Duration = Duration::from_secs(60);

pub(crate) struct Archiver {
    pub(crate) cluster: ClusterId,
    pub(crate) source: Arc<dyn VolumeSource>,
    pub(crate) fetcher: Fetcher,
    pub(crate) realms: Arc<dyn Realms>,
    pub(crate) archive: ChunkArchive,
    pub(crate) counters: Arc<Counters>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) interval: Duration,
    pub(crate) status: watch::Sender<ArchiveStatus>,
    pub(crate) stop: CancellationToken,
}

/// A term of leadership.
struct Leading {
    term: u64,
    writer: ImageWriter,
    fenced: bool,
}

impl Archiver {
    /// Runs until it is stopped.
    pub(crate) async fn run(self) {
        let mut applied = self.source.watch_applied();
        let mut settings = self.source.watch_settings();
        let mut leading = Leading { term: 0, writer: self.writer(), fenced: false };
        let mut dirty_since = None;
        let mut wait = self.interval;
        let mut idle = false;
        loop {
            if idle {
                // Thousands of volumes at rest cost no timers. A new leader commits, so that it is noticed here too.
                tokio::select! {
                    _ = applied.changed() => {}
                    () = changed(&mut settings) => {}
                    () = tokio::time::sleep(LOOK_AGAIN) => {}
                    () = self.stop.cancelled() => return,
                }
            }
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = self.stop.cancelled() => return,
            }
            wait = self.interval;
            idle = true;
            settings.mark_unchanged();
            let seq = *applied.borrow_and_update();
            let term = self.source.leads().filter(|_| self.source.spec().0.archive);
            self.status.send_modify(|status| status.publishes = term.is_some());
            let Some(term) = term else {
                dirty_since = None;
                continue;
            };
            if leading.term != term {
                leading = Leading { term, writer: self.writer(), fenced: false };
                self.status.send_modify(|status| (status.fenced, status.published) = (None, None));
            }
            if leading.fenced || self.published() >= Some(seq) {
                continue;
            }
            idle = false;
            let since = *dirty_since.get_or_insert_with(Instant::now);
            self.show(seq, Some(since));
            let began = Instant::now();
            match self.publish(&leading).await {
                Ok(()) => {
                    // What was committed meanwhile is as old as the beginning of this run at most.
                    let seq = *applied.borrow();
                    dirty_since = (self.published() < Some(seq)).then_some(began);
                    self.show(seq, dirty_since);
                    self.status.send_modify(|status| status.error = None);
                }
                Err(ArchiveError::Repository(error @ RepositoryError::Fenced { .. })) => {
                    tracing::warn!(volume = %self.source.id(), %error, "fenced: another leader publishes this volume");
                    leading.fenced = true;
                    self.status.send_modify(|status| status.fenced = Some(error.to_string()));
                }
                Err(error) => {
                    tracing::warn!(volume = %self.source.id(), %error, "the archive is held up");
                    self.status.send_modify(|status| status.error = Some(error.to_string()));
                    wait = (self.interval * 4).min(RETRY_MAX);
                }
            }
        }
    }

    fn writer(&self) -> ImageWriter {
        let repository = self.archive.repository().clone();
        ImageWriter::new(repository, self.cluster, self.source.id(), WriterOptions::default())
    }

    fn published(&self) -> Option<Seq> {
        self.status.borrow().published
    }

    fn show(&self, applied: Seq, dirty_since: Option<Instant>) {
        self.status.send_modify(|status| {
            status.rpo = dirty_since.map_or(Duration::ZERO, |since| since.elapsed());
            status.owed_seqs = applied.get().saturating_sub(status.published.map_or(0, Seq::get));
        });
    }

    /// Publishes the newest state, if it is not published.
    async fn publish(&self, leading: &Leading) -> Result<(), ArchiveError> {
        // The view may outlive the versions that it sees: their chunks are still to be archived.
        let _lease = self.fetcher.local().lease(None, Duration::ZERO);
        let at = self.clock.now();
        let view = view_of(&self.source).await?;
        let (spec, epoch) = self.source.spec();
        if self.source.leads() != Some(leading.term) {
            return Err(ArchiveError::Deposed);
        }
        let (volume, seq, digest) = (self.source.id(), view.seq(), view.digest());
        let newest = leading.writer.newest().await?;
        if newest.as_ref().is_some_and(|head| (head.epoch, head.seq, head.digest) == (epoch, seq, digest)) {
            self.status.send_modify(|status| (status.published, status.published_at) = (Some(seq), Some(at)));
            return Ok(());
        }
        // An image of another epoch may be of another history: its seqs say nothing about what changed since.
        let base = newest.filter(|head| head.epoch == epoch && head.seq <= seq);
        let changed = changed_keys(&self.source, base.as_ref().map(|head| head.seq), seq, false).await?;
        if volume != VolumeId::ROOT {
            let files = changed.clone().map_or_else(Files::all, |keys| Files::Changed(keys.into_iter()));
            self.archive_chunks(&spec.realm, view.clone(), files).await?;
        }
        let totals = totals(&view).await?;
        let records = match (changed, base) {
            (Some(keys), Some(head)) => {
                ImageRecords::Changes { since_epoch: head.epoch, since: head.seq, changes: changes(view.clone(), keys) }
            }
            _ => ImageRecords::Full(all_records(view.clone())),
        };
        let name = spec.name.clone();
        let spec = encode::to_bytes(&VolumeRecord::new(volume, epoch, spec));
        let source = ImageSource {
            cluster: self.cluster,
            volume,
            name,
            epoch,
            term: leading.term,
            seq,
            digest,
            at,
            spec,
            totals,
            chunks_durable_to: seq,
            force_shrink: false,
            records,
        };
        let published = leading.writer.publish(source).await?;
        let account = Account { place: Place::Repository, volume: Some(volume), cause: Cause::Archive };
        self.counters.add(&account, |bytes| bytes.control_sent += published.bytes);
        self.status.send_modify(|status| {
            status.published = Some(seq);
            status.published_at = Some(at);
            status.images += u64::from(published.new);
        });
        if published.runs > WriterOptions::default().runs_max {
            // The image is whole without it; the next publish tries again.
            if let Err(error) = leading.writer.compact().await {
                tracing::warn!(%volume, %error, "the image's runs were not merged");
            }
        }
        Ok(())
    }

    /// Brings every chunk of the files into the archive; what is not here is fetched first.
    async fn archive_chunks(&self, realm: &str, view: Arc<dyn VolumeView>, files: Files) -> Result<(), ArchiveError> {
        let realm = self.realms.realm(realm).ok_or_else(|| RunError::Realm(realm.to_owned()))?;
        let job = Job { realm, volume: Some(self.source.id()), cause: Cause::Archive };
        let account = Account { place: Place::Repository, volume: job.volume, cause: Cause::Archive };
        let mut walk = Walk::new(&self.fetcher, &job, view, files);
        while let Some(needs) = walk.next().await.map_err(RunError::from)? {
            let ids: Vec<_> = needs.iter().map(|need| need.id).collect();
            let absent = self.archive.missing(&ids).await?;
            if absent.is_empty() {
                continue;
            }
            let wanted: BTreeSet<_> = absent.iter().copied().collect();
            let bytes = needs.iter().filter(|need| wanted.contains(&need.id));
            let bytes = bytes.map(|need| u64::from(need.len.unwrap_or(0))).sum();
            self.status.send_modify(|status| status.owed_bytes = bytes);
            self.bring(&job, needs, absent.clone()).await?;
            let local = self.fetcher.local().clone();
            let chunks = absent.into_iter().map(move |id| match local.get(&id) {
                Ok(Some(chunk)) => Ok(chunk.compacted(LEVEL_DEFAULT)), // it rests plain in its block
                Ok(None) => Err(format!("chunk {id} is damaged here").into()),
                Err(error) => Err(error.into()),
            });
            let report = self.archive.put_chunks(Box::new(chunks)).await?;
            self.counters.add(&account, |bytes| bytes.chunk_sent += report.stored_bytes);
            self.status.send_modify(|status| status.owed_bytes = 0);
        }
        Ok(())
    }

    async fn bring(
        &self,
        job: &Job,
        needs: Vec<Need>,
        absent: Vec<causeway_base::ChunkId>,
    ) -> Result<(), ArchiveError> {
        let lacking: BTreeSet<_> = local::missing(self.fetcher.local(), absent).await?.into_iter().collect();
        if lacking.is_empty() {
            return Ok(());
        }
        let needs = needs.into_iter().filter(|need| lacking.contains(&need.id)).collect();
        let fetched = self.fetcher.run(job, needs, &|_, _| ()).await?;
        match fetched.missing.first().copied() {
            None => Ok(()),
            Some(first) => Err(RunError::Missing { count: fetched.missing.len(), first }.into()),
        }
    }
}

async fn totals(view: &Arc<dyn VolumeView>) -> Result<ImageTotals, ArchiveError> {
    let view = view.clone();
    let totals = local::blocking(move || query::totals(view.as_ref())).await?.map_err(ChangesError::from)?;
    let query::Totals { files, dirs, symlinks, logical_bytes, .. } = totals;
    Ok(ImageTotals { files, directories: dirs, symlinks, logical_bytes })
}

/// The value now of each changed key.
fn changes(view: Arc<dyn VolumeView>, keys: BTreeSet<Bytes>) -> causeway_repository::image::ChangeIter {
    Box::new(keys.into_iter().map(move |key| view.get(&key).map(|value| (key, value))))
}

/// All records of a view, in key order.
fn all_records(view: Arc<dyn VolumeView>) -> causeway_repository::image::RecordIter {
    let mut page = Vec::new().into_iter();
    let mut from = Some(Bytes::new());
    Box::new(std::iter::from_fn(move || {
        loop {
            if let Some(record) = page.next() {
                return Some(Ok(record));
            }
            // No key begins with 0xff.
            match view.scan(&from.take()?, &[0xff], RECORDS) {
                Ok(read) => {
                    from = read.last().map(|(last, _)| [last.as_ref(), &[0]].concat().into());
                    page = read.into_iter();
                }
                Err(error) => return Some(Err(error)),
            }
        }
    }))
}
