//! Heads: each names one image of a volume, whole. The newest generation counts.
//!
//! A head is created, never changed: generation N + 1 by a create-only put, so of two writers one wins, on every backend
//! and also where objects are write-once. Who lost reads the winner's head and sees whether it is deposed.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use causeway_base::envelope::{self, Kind};
use causeway_base::{ClusterId, Epoch, Seq, Timestamp, VolumeId};
use causeway_namespace_core::digest::Digest;

use crate::error::Error;
use crate::names;
use crate::run::SegmentRef;
use crate::store::Store;

const HEAD_KIND: Kind = Kind { magic: *b"CWHD", version: 1, payload_bytes_max: 16 << 20 };
/// Names asked of one listing: the newest few are enough, and where listings are in order the rest is never sent.
const LISTED_MAX: usize = 16;
/// Heads that are looked at for a readable one when the newest is damaged.
const OLDER_MAX: usize = 8;

/// What an image of a volume is made of, and what it stands for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// Whose volume it is.
    pub cluster: ClusterId,
    /// Which volume.
    pub volume: VolumeId,
    /// Its name, for people.
    pub name: String,
    /// Authority under which it was published.
    pub epoch: Epoch,
    /// The publishing leader's Raft term.
    pub term: u64,
    /// The commit that it shows, exactly.
    pub seq: Seq,
    /// Set digest of all records at `seq`.
    pub digest: Digest,
    /// When the state at `seq` was current, by the publisher's clock.
    pub at: Timestamp,
    /// Counts up from 1.
    pub generation: u64,
    /// Drawn for this head alone: tells its writer that it is its own.
    pub writer_token: u128,
    /// The generation that it continues.
    pub previous: Option<u64>,
    /// The volume's settings as the publisher encodes them; opaque here.
    pub spec: Bytes,
    /// Counts of the whole tree.
    pub totals: ImageTotals,
    /// Oldest first; of equal keys the newest run's record counts. The first is complete.
    pub runs: Vec<Run>,
}

/// Counts of a tree.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageTotals {
    /// Regular files.
    pub files: u64,
    /// Directories.
    pub directories: u64,
    /// Symbolic links.
    pub symlinks: u64,
    /// Sum of the files' lengths in bytes.
    pub logical_bytes: u64,
}

/// Changes of a span of seqs, net, or the whole tree.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    /// The changes after this seq; `None` for all records.
    pub since: Option<Seq>,
    /// Up to this one.
    pub to: Seq,
    /// In key order, not overlapping.
    pub segments: Vec<SegmentRef>,
}

impl Run {
    /// Length of its objects.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.segments.iter().map(|segment| segment.bytes).sum()
    }

    /// Number of its records, tombstones included.
    #[must_use]
    pub fn records(&self) -> u64 {
        self.segments.iter().map(|segment| segment.records).sum()
    }
}

impl Head {
    /// What a writer must not be below.
    #[must_use]
    pub const fn authority(&self) -> (Epoch, u64, Seq) {
        (self.epoch, self.term, self.seq)
    }

    /// Length of all objects of the image.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.runs.iter().map(Run::bytes).sum()
    }

    pub(crate) fn seal(&self) -> Result<Bytes, Error> {
        let sealed = envelope::seal_value(HEAD_KIND, self).map_err(|error| Error::Source(error.to_string()))?;
        Ok(sealed.into())
    }
}

/// The newest generation and what its object says; an error in it if it is damaged.
#[derive(Debug)]
pub(crate) struct Newest {
    pub(crate) generation: u64,
    pub(crate) head: Result<Head, Error>,
    /// Other generations that were listed, newest first.
    pub(crate) older: Vec<u64>,
}

/// Finds the newest head of a volume's directory: a listing, a get, and a look at the generation behind it, since a listing
/// may be stale. `known` is a generation that was seen before.
pub(crate) async fn newest(store: &Store, directory: &str, known: Option<u64>) -> Result<Option<Newest>, Error> {
    let listed = store.list(&names::heads(directory), LISTED_MAX).await?;
    let mut older: Vec<u64> = listed.iter().filter_map(|object| names::head_generation(&object.name)).collect();
    older.sort_unstable_by(|a, b| b.cmp(a));
    let mut generation = older.first().copied().max(known).unwrap_or(0);
    let mut found = None;
    let mut next = if generation == 0 {
        read(store, directory, 1).await?
    } else {
        let (at, next) = tokio::join!(read(store, directory, generation), read(store, directory, generation + 1));
        found = at?;
        next?
    };
    while let Some(newer) = next {
        generation += 1;
        found = Some(newer);
        next = read(store, directory, generation + 1).await?;
    }
    older.retain(|other| *other < generation);
    match found {
        Some(head) => Ok(Some(Newest { generation, head, older })),
        None if generation == 0 => Ok(None),
        // Listed or known, yet not there: heads are only deleted below newer ones, so this is damage.
        None => Err(Error::Missing { path: names::head(directory, generation) }),
    }
}

/// The newest head that a listing shows, for a reader: one request less than [`newest_readable`], and where listings may be
/// stale, perhaps an older image.
pub(crate) async fn newest_listed(store: &Store, directory: &str) -> Result<Option<Head>, Error> {
    let listed = store.list(&names::heads(directory), LISTED_MAX).await?;
    let mut generations: Vec<u64> = listed.iter().filter_map(|object| names::head_generation(&object.name)).collect();
    generations.sort_unstable_by(|a, b| b.cmp(a));
    let Some(generation) = generations.first().copied() else { return Ok(None) };
    match read(store, directory, generation).await? {
        Some(Ok(head)) => Ok(Some(head)),
        // Damaged, or cleaned away in between: look thoroughly.
        _ => newest_readable(store, directory, Some(generation)).await,
    }
}

/// The newest head, if it can be read; otherwise [`Error::HeadDamaged`] naming an older one that can.
pub(crate) async fn newest_readable(store: &Store, directory: &str, known: Option<u64>) -> Result<Option<Head>, Error> {
    let Some(newest) = newest(store, directory, known).await? else { return Ok(None) };
    let source = match newest.head {
        Ok(head) => return Ok(Some(head)),
        Err(error) => Box::new(error),
    };
    let mut older = None;
    for generation in newest.older.into_iter().take(OLDER_MAX) {
        if let Ok(Some(Ok(_))) = read(store, directory, generation).await {
            older = Some(generation);
            break;
        }
    }
    Err(Error::HeadDamaged { directory: directory.to_owned(), generation: newest.generation, older, source })
}

/// Reads the head of a generation. `None` if there is none; the inner error if its bytes are damaged.
pub(crate) async fn read(
    store: &Store,
    directory: &str,
    generation: u64,
) -> Result<Option<Result<Head, Error>>, Error> {
    let path = names::head(directory, generation);
    let max = u64::from(HEAD_KIND.payload_bytes_max) + envelope::OVERHEAD as u64;
    let sealed = match store.get(&path, max).await {
        Ok(Some(sealed)) => sealed,
        Ok(None) => return Ok(None),
        Err(damaged @ Error::Corrupt { .. }) => return Ok(Some(Err(damaged))),
        Err(error) => return Err(error),
    };
    let head = envelope::open_value::<Head>(HEAD_KIND, &sealed)
        .map_err(|error| error.to_string())
        .and_then(|head| check(head, directory, generation))
        .map_err(|reason| Error::Corrupt { path, reason });
    Ok(Some(head))
}

/// A head that is intact but in another's place is no head either.
fn check(head: Head, directory: &str, generation: u64) -> Result<Head, String> {
    if head.generation != generation {
        return Err(format!("it is the head of generation {}", head.generation));
    }
    if names::volume_directory(head.cluster, head.volume) != directory {
        return Err(format!("it is a head of volume {} of cluster {}", head.volume, head.cluster));
    }
    let mut upto = None;
    for run in &head.runs {
        if run.since != upto || run.to > head.seq || upto.is_some_and(|upto| run.to < upto) {
            return Err("its runs do not continue each other".to_owned());
        }
        upto = Some(run.to);
        let rising = run.segments.windows(2).all(|pair| pair[0].last < pair[1].first);
        if !rising || run.segments.iter().any(|segment| segment.first > segment.last) {
            return Err("segments of a run overlap".to_owned());
        }
    }
    Ok(head)
}
