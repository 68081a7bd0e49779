//! A whole state as a stream of blocks: a Raft snapshot on its way to a replica, and the file in which it arrives.
//!
//! The page is `docs/formats/state.md`.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use serde::{Deserialize, Serialize};

use causeway_base::envelope::{self, Kind};
use causeway_base::{Seq, Timestamp, VolumeId};
use causeway_namespace_core::digest::Digest;
use causeway_namespace_core::encode::RECORD_BYTES_MAX;
use causeway_namespace_core::manage::SNAPSHOTS_MAX;
use causeway_namespace_core::query;
use causeway_namespace_core::records::ReadError;
use causeway_storage::disk::{Disk, DiskFile, Open};
use causeway_storage::kv::KEY_BYTES_MAX;

use super::layout::{Position, decode_old_key, group_range, group_start, read_kept, unstamped};
use super::{GroupStore, OLD, StateView, StoreError, chain};

const HEADER_KIND: Kind = Kind { magic: *b"CWSH", version: 1, payload_bytes_max: 1 << 20 };
const RECORDS_KIND: Kind = Kind { magic: *b"CWSR", version: 1, payload_bytes_max: 2 << 20 };
const VERSIONS_KIND: Kind = Kind { magic: *b"CWSO", version: 1, payload_bytes_max: 2 << 20 };
const END_KIND: Kind = Kind { magic: *b"CWSE", version: 1, payload_bytes_max: 1024 };
/// A block is ended when it has this many bytes.
const BLOCK_BYTES: usize = 256 << 10;
/// Records read at once.
const READ: usize = 512;

/// What a snapshot is of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotHeader {
    /// The group.
    pub group: VolumeId,
    /// Last applied entry.
    pub applied: Position,
    /// Members as of then, encoded by the adaptor.
    pub membership: Bytes,
    /// Digest of the records.
    pub digest: Digest,
    /// Number of records, if it was known beforehand.
    pub records: Option<u64>,
    /// The latest time that an applied command carried.
    pub time: Timestamp,
    /// Seqs of the named snapshots whose versions come with it, ascending.
    pub kept: Vec<Seq>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct End {
    records: u64,
    digest: Digest,
    /// Old versions.
    versions: u64,
}

/// One decoded block.
#[derive(Debug)]
pub(super) enum Block {
    Header(SnapshotHeader),
    Records(Bytes),
    Versions(Bytes),
    End(End),
}

/// A record of a snapshot.
pub(super) type Stamped = (Bytes, Seq, Bytes);

/// A replaced record that a named snapshot sees: key, seq written, seq replaced, value.
pub(super) type OldVersion = (Bytes, Seq, Seq, Bytes);

/// The blocks of the snapshot of a view, in order: header, records, old versions that named snapshots see, end. Reads as it goes; blocks the thread.
#[derive(Debug)]
pub struct SnapshotBlocks {
    header: Option<SnapshotHeader>,
    source: Source,
    records: u64,
    digest: Digest,
    old: Option<OldVersions>,
    versions: u64,
    ended: bool,
}

/// What named snapshots see, read from a view's snapshot of the store.
#[derive(Debug)]
struct OldVersions {
    view: StateView,
    /// Ascending.
    kept: Vec<Seq>,
    from: Bytes,
    ahead: VecDeque<OldVersion>,
    at_end: bool,
}

impl OldVersions {
    fn next(&mut self) -> Result<Option<OldVersion>, StoreError> {
        while self.ahead.is_empty() && !self.at_end {
            let group = self.view.group();
            let damaged = || StoreError::Damaged { group, reason: "an old version does not decode".to_owned() };
            let (_, end) = group_range(group);
            let range = (Bound::Excluded(self.from.clone()), end);
            let mut read = 0;
            for entry in self.view.kv().scan(OLD, range, false).take(READ) {
                let (stored_key, stored) = entry.map_err(|source| StoreError::Kv { group, source })?;
                read += 1;
                let (key, written) = decode_old_key(&stored_key).ok_or_else(damaged)?;
                let (replaced, value) = unstamped(stored).ok_or_else(damaged)?;
                if is_seen(&self.kept, written, replaced).is_some() {
                    self.ahead.push_back((key, written, replaced, value));
                }
                self.from = stored_key;
            }
            self.at_end = read < READ;
        }
        Ok(self.ahead.pop_front())
    }
}

/// The newest of the snapshots (ascending) that see a version.
pub(super) fn is_seen(kept: &[Seq], written: Seq, replaced: Seq) -> Option<Seq> {
    let below = kept.partition_point(|seq| *seq < replaced);
    kept[..below].last().copied().filter(|seq| written <= *seq)
}

/// The records of a view at its seq, in key order, read as they are asked for.
struct Versioned {
    view: StateView,
    from: Bytes,
    ahead: VecDeque<Stamped>,
    at_end: bool,
}

impl Iterator for Versioned {
    type Item = Result<Stamped, StoreError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ahead.is_empty() && !self.at_end {
            match self.view.scan_versioned(&self.from, None, READ) {
                Ok(found) => {
                    self.at_end = found.len() < READ;
                    if let Some((last, _, _)) = found.last() {
                        let mut next = BytesMut::from(last.as_ref());
                        next.put_u8(0);
                        self.from = next.freeze();
                    }
                    self.ahead = found.into();
                }
                Err(source) => {
                    self.at_end = true;
                    return Some(Err(StoreError::Read { group: self.view.group(), source }));
                }
            }
        }
        self.ahead.pop_front().map(Ok)
    }
}

/// Records with some of them replaced, removed or added. A replaced one keeps the seq that wrote it, so that named
/// snapshots still see it.
struct Overlaid {
    records: std::iter::Peekable<Versioned>,
    rewritten: std::iter::Peekable<std::collections::btree_map::IntoIter<Bytes, Option<Bytes>>>,
    /// Of added records.
    seq: Seq,
}

impl Iterator for Overlaid {
    type Item = Result<Stamped, StoreError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let stored = match self.records.peek() {
                Some(Ok((key, _, _))) => Some(key),
                Some(Err(_)) => return self.records.next(),
                None => None,
            };
            let is_next = |(key, _): &(Bytes, Option<Bytes>)| stored.is_none_or(|stored| key <= stored);
            let Some((key, value)) = self.rewritten.next_if(is_next) else { return self.records.next() };
            let replaced = self.records.next_if(|record| record.as_ref().is_ok_and(|(stored, _, _)| *stored == key));
            let seq = replaced.and_then(Result::ok).map_or(self.seq, |(_, seq, _)| seq);
            if let Some(value) = value {
                return Some(Ok((key, seq, value)));
            }
        }
    }
}

/// Where the records come from.
enum Source {
    View(Versioned),
    Records(Box<dyn Iterator<Item = Result<Stamped, StoreError>> + Send>),
}

impl std::fmt::Debug for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::View(_) => "View",
            Self::Records(_) => "Records",
        })
    }
}

impl Source {
    fn next(&mut self) -> Result<Option<Stamped>, StoreError> {
        match self {
            Self::Records(records) => records.next().transpose(),
            Self::View(records) => records.next().transpose(),
        }
    }
}

impl SnapshotBlocks {
    /// Of a view at its newest seq; `None` if nothing is applied yet.
    ///
    /// # Errors
    /// The names of its snapshots cannot be read.
    pub fn of(view: &StateView) -> Result<Option<Self>, ReadError> {
        let meta = view.meta();
        let Some(applied) = meta.applied else { return Ok(None) };
        let view = view.newest_of();
        // One that is neither is not here: the cluster was restored without it.
        let whole = read_kept(view.kv(), view.group()).map_err(|error| ReadError::Store(chain(&error)))?;
        let is_whole = |seq: &Seq| *seq >= meta.oldest || whole.iter().any(|kept| kept.seq == *seq && !kept.gone);
        let mut kept: Vec<Seq> = query::snapshots(&view)?.into_iter().map(|(_, snapshot)| snapshot.seq).collect();
        kept.retain(is_whole);
        kept.sort_unstable();
        kept.dedup();
        let header = SnapshotHeader {
            group: view.group(),
            applied,
            membership: meta.membership.clone(),
            digest: meta.digest,
            records: Some(meta.records),
            time: meta.time,
            kept: kept.clone(),
        };
        let old = (!kept.is_empty()).then(|| OldVersions {
            view: view.clone(),
            kept,
            from: group_start(view.group()),
            ahead: VecDeque::new(),
            at_end: false,
        });
        let source = Source::View(Versioned { view, from: Bytes::new(), ahead: VecDeque::new(), at_end: false });
        Ok(Some(Self { old, ..Self::new(header, source) }))
    }

    /// Of a view's state at another place: see [`GroupStore::snapshot_rebased`].
    pub(super) fn rebased(
        view: &StateView,
        group: VolumeId,
        applied: Position,
        membership: Bytes,
        rewritten: BTreeMap<Bytes, Option<Bytes>>,
    ) -> Result<Self, ReadError> {
        let records = |view: StateView| Versioned { view, from: Bytes::new(), ahead: VecDeque::new(), at_end: false };
        let mut digest = match view.digest() {
            Some(digest) => digest,
            None => {
                let mut digest = Digest::default();
                for record in records(view.clone()) {
                    let (key, _, value) = record.map_err(|error| ReadError::Store(chain(&error)))?;
                    digest.add(&key, &value);
                }
                digest
            }
        };
        for (key, new) in &rewritten {
            if let Some((_, old)) = view.get_versioned(key)? {
                digest.remove(key, &old);
            }
            if let Some(new) = new {
                digest.add(key, new);
            }
        }
        let is_newest = view.seq() == view.meta().seq();
        let with_old = if is_newest { Self::of(view)? } else { None };
        let (kept, old) = with_old.map_or((Vec::new(), None), |blocks| {
            (blocks.header.map(|header| header.kept).unwrap_or_default(), blocks.old)
        });
        let time = view.meta().time;
        let header = SnapshotHeader { group, applied, membership, digest, records: None, time, kept };
        let overlaid = Overlaid {
            records: records(view.clone()).peekable(),
            rewritten: rewritten.into_iter().peekable(),
            seq: Seq(applied.index),
        };
        Ok(Self { old, ..Self::new(header, Source::Records(Box::new(overlaid))) })
    }

    /// Of records given in key order.
    pub(super) fn from_records(
        header: SnapshotHeader,
        records: impl Iterator<Item = Result<Stamped, StoreError>> + Send + 'static,
    ) -> Self {
        Self::new(header, Source::Records(Box::new(records)))
    }

    fn new(header: SnapshotHeader, source: Source) -> Self {
        let digest = Digest::default();
        Self { header: Some(header), source, records: 0, digest, old: None, versions: 0, ended: false }
    }

    fn block(&mut self) -> Result<Option<Vec<u8>>, StoreError> {
        if let Some(header) = self.header.take() {
            return seal(header.group, envelope::seal_value(HEADER_KIND, &header)).map(Some);
        }
        if self.ended {
            return Ok(None);
        }
        let mut body = BytesMut::new();
        while body.len() < BLOCK_BYTES {
            let Some((key, seq, value)) = self.source.next()? else { break };
            self.digest.add(&key, &value);
            self.records += 1;
            put_record(&mut body, &key, seq, &value);
        }
        if !body.is_empty() {
            return seal(VolumeId::ROOT, envelope::seal(RECORDS_KIND, &body)).map(Some);
        }
        if let Some(body) = self.versions()? {
            return seal(VolumeId::ROOT, envelope::seal(VERSIONS_KIND, &body)).map(Some);
        }
        self.ended = true;
        let end = End { records: self.records, digest: self.digest, versions: self.versions };
        seal(VolumeId::ROOT, envelope::seal_value(END_KIND, &end)).map(Some)
    }

    /// The body of the next block of old versions.
    fn versions(&mut self) -> Result<Option<BytesMut>, StoreError> {
        let Some(old) = &mut self.old else { return Ok(None) };
        let mut body = BytesMut::new();
        while body.len() < BLOCK_BYTES {
            let Some((key, written, replaced, value)) = old.next()? else { break };
            self.versions += 1;
            put_record(&mut body, &key, written, &value);
            body.put_u64_le(replaced.0);
        }
        Ok((!body.is_empty()).then_some(body))
    }
}

fn put_record(body: &mut BytesMut, key: &[u8], seq: Seq, value: &[u8]) {
    // Bounded by KEY_BYTES_MAX and RECORD_BYTES_MAX.
    body.put_u16_le(u16::try_from(key.len()).unwrap_or(u16::MAX));
    body.put_u32_le(u32::try_from(value.len()).unwrap_or(u32::MAX));
    body.put_u64_le(seq.0);
    body.put_slice(key);
    body.put_slice(value);
}

fn seal(group: VolumeId, sealed: Result<Vec<u8>, envelope::EnvelopeError>) -> Result<Vec<u8>, StoreError> {
    sealed.map_err(|error| StoreError::Snapshot { group, reason: error.to_string() })
}

impl Iterator for SnapshotBlocks {
    type Item = Result<Bytes, StoreError>;

    fn next(&mut self) -> Option<Self::Item> {
        let block = self.block();
        if block.is_err() {
            self.ended = true;
        }
        block.transpose().map(|block| block.map(Bytes::from))
    }
}

pub(super) fn decode_block(block: &[u8]) -> Result<Block, String> {
    let text = |error: envelope::EnvelopeError| error.to_string();
    match block.first_chunk::<4>() {
        Some(b"CWSH") => envelope::open_value(HEADER_KIND, block).map(Block::Header).map_err(text),
        Some(b"CWSR") => {
            envelope::open(RECORDS_KIND, block).map(|body| Block::Records(Bytes::copy_from_slice(body))).map_err(text)
        }
        Some(b"CWSO") => {
            envelope::open(VERSIONS_KIND, block).map(|body| Block::Versions(Bytes::copy_from_slice(body))).map_err(text)
        }
        Some(b"CWSE") => envelope::open_value(END_KIND, block).map(Block::End).map_err(text),
        _ => Err("not a block of a snapshot".to_owned()),
    }
}

/// Cuts the first record off the body of a block.
pub(super) fn next_record(body: &mut Bytes) -> Result<Stamped, String> {
    let short = || "a record is cut".to_owned();
    if body.len() < 14 {
        return Err(short());
    }
    let key = usize::from(body.get_u16_le());
    let value = usize::try_from(body.get_u32_le()).map_err(|_| short())?;
    let seq = Seq(body.get_u64_le());
    if key > KEY_BYTES_MAX || value > RECORD_BYTES_MAX {
        return Err(format!("a record of {key} + {value} bytes"));
    }
    if body.len() < key + value {
        return Err(short());
    }
    let key = body.split_to(key);
    Ok((key, seq, body.split_to(value)))
}

/// Cuts the first old version off the body of a block.
pub(super) fn next_version(body: &mut Bytes) -> Result<OldVersion, String> {
    let (key, written, value) = next_record(body)?;
    let replaced = body.try_get_u64_le().map_err(|_| "an old version is cut".to_owned())?;
    Ok((key, written, Seq(replaced), value))
}

/// What a checked block holds.
#[derive(Debug, Default)]
pub(super) struct Checked {
    pub(super) records: Vec<Stamped>,
    pub(super) versions: Vec<OldVersion>,
}

/// Checks blocks one by one: their order, the order of the keys, number and digest of the records.
#[derive(Debug, Default)]
pub(super) struct Checker {
    pub(super) header: Option<SnapshotHeader>,
    last_key: Option<Bytes>,
    pub(super) records: u64,
    digest: Digest,
    versions: u64,
    pub(super) complete: bool,
}

impl Checker {
    /// The block's records and versions.
    pub(super) fn check(&mut self, block: &[u8]) -> Result<Checked, String> {
        if self.complete {
            return Err("a block behind the end".to_owned());
        }
        let block = decode_block(block)?;
        match (&self.header, block) {
            (None, Block::Header(header)) => {
                let ascending = header.kept.is_sorted_by(|a, b| a < b);
                if header.kept.len() as u64 > SNAPSHOTS_MAX || !ascending {
                    return Err("its list of snapshots".to_owned());
                }
                self.header = Some(header);
                Ok(Checked::default())
            }
            (Some(header), Block::Versions(mut body)) => {
                let mut versions = Vec::new();
                while !body.is_empty() {
                    let version = next_version(&mut body)?;
                    if is_seen(&header.kept, version.1, version.2).is_none() {
                        return Err("an old version that no snapshot sees".to_owned());
                    }
                    self.versions += 1;
                    versions.push(version);
                }
                Ok(Checked { records: Vec::new(), versions })
            }
            (Some(_), Block::Records(mut body)) if self.versions == 0 => {
                let mut records = Vec::new();
                while !body.is_empty() {
                    let record = next_record(&mut body)?;
                    if self.last_key.as_ref().is_some_and(|last| *last >= record.0) {
                        return Err("keys are out of order".to_owned());
                    }
                    self.digest.add(&record.0, &record.2);
                    self.records += 1;
                    self.last_key = Some(record.0.clone());
                    records.push(record);
                }
                Ok(Checked { records, versions: Vec::new() })
            }
            (Some(header), Block::End(end)) => {
                let sent = (end.records, end.digest, end.versions) == (self.records, self.digest, self.versions);
                let announced =
                    header.records.is_none_or(|count| count == self.records) && header.digest == self.digest;
                if !sent || !announced {
                    return Err(format!(
                        "{} records with digest {}; {:?} with {} were announced",
                        self.records, self.digest, header.records, header.digest
                    ));
                }
                self.complete = true;
                Ok(Checked::default())
            }
            _ => Err("blocks are out of order".to_owned()),
        }
    }
}

/// A snapshot in a file, complete and durable.
#[derive(Clone, Debug)]
pub struct SnapshotFile {
    /// Its name in the store's folder.
    pub(super) name: String,
    /// What it is of.
    pub header: SnapshotHeader,
}

/// Takes the blocks of a snapshot, checks them, and writes them to a file. Dropped before the end it removes the file.
#[derive(Debug)]
pub struct SnapshotReceiver {
    group: VolumeId,
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    part: PathBuf,
    file: Arc<dyn DiskFile>,
    offset: u64,
    checker: Checker,
    kept: bool,
}

impl SnapshotReceiver {
    fn io(&self, action: &'static str, source: std::io::Error) -> StoreError {
        StoreError::Io { action, path: self.part.clone(), source }
    }

    /// Takes the next block. Blocks the thread.
    ///
    /// # Errors
    /// [`StoreError::Snapshot`] if it does not check out, [`StoreError::Io`].
    pub fn push(&mut self, block: &[u8]) -> Result<(), StoreError> {
        let bad = |reason| StoreError::Snapshot { group: self.group, reason };
        self.checker.check(block).map_err(bad)?;
        if let Some(header) = &self.checker.header
            && header.group != self.group
        {
            return Err(bad(format!("it is of group {}", header.group)));
        }
        let len = u32::try_from(block.len()).map_err(|_| bad("a block of 4 GiB".to_owned()))?;
        let mut framed = BytesMut::with_capacity(4 + block.len());
        framed.put_u32_le(len);
        framed.put_slice(block);
        self.file.write_all_at(&framed, self.offset).map_err(|error| self.io("write", error))?;
        self.offset += framed.len() as u64;
        Ok(())
    }

    /// Whether the end block came.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.checker.complete
    }

    /// Makes the file durable under its name. Blocks the thread.
    ///
    /// # Errors
    /// [`StoreError::Snapshot`] if the end did not come, [`StoreError::Io`].
    pub fn finish(mut self) -> Result<SnapshotFile, StoreError> {
        let header = self.checker.header.clone().filter(|_| self.checker.complete);
        let header = header
            .ok_or_else(|| StoreError::Snapshot { group: self.group, reason: "it ended before its end".to_owned() })?;
        self.file.sync_data().map_err(|error| self.io("sync", error))?;
        let name = format!("{}-{}-{}.snap", self.group.0, header.applied.term, header.applied.index);
        self.disk.rename(&self.part, &self.dir.join(&name)).map_err(|error| self.io("rename", error))?;
        self.disk.sync_dir(&self.dir).map_err(|error| self.io("sync the folder of", error))?;
        self.kept = true;
        Ok(SnapshotFile { name, header })
    }
}

impl Drop for SnapshotReceiver {
    fn drop(&mut self) {
        if !self.kept {
            // Best effort: the next start removes it too.
            let _ = self.disk.remove(&self.part);
        }
    }
}

impl GroupStore {
    /// Begins to receive a snapshot. A second one at once for the same group fails. Blocks the thread.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn receive_snapshot(&self) -> Result<SnapshotReceiver, StoreError> {
        let part = self.dir.join(format!("{}.snap.part", self.id.0));
        let io = |source| StoreError::Io { action: "create", path: part.clone(), source };
        let file = self.disk.open(&part, Open::CreateNew).map_err(io)?;
        Ok(SnapshotReceiver {
            group: self.id,
            disk: Arc::clone(&self.disk),
            dir: self.dir.clone(),
            part,
            file,
            offset: 0,
            checker: Checker::default(),
            kept: false,
        })
    }
}
