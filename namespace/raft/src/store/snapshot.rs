//! A whole state as a stream of blocks: a Raft snapshot on its way to a replica, and the file in which it arrives.
//!
//! The page is `docs/formats/state.md`.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use serde::{Deserialize, Serialize};

use causeway_base::envelope::{self, Kind};
use causeway_base::{Seq, VolumeId};
use causeway_namespace_core::digest::Digest;
use causeway_namespace_core::encode::RECORD_BYTES_MAX;
use causeway_storage::disk::{Disk, DiskFile, Open};
use causeway_storage::kv::KEY_BYTES_MAX;

use super::layout::Position;
use super::{GroupStore, StateView, StoreError};

const HEADER_KIND: Kind = Kind { magic: *b"CWSH", version: 1, payload_bytes_max: 1 << 20 };
const RECORDS_KIND: Kind = Kind { magic: *b"CWSR", version: 1, payload_bytes_max: 2 << 20 };
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
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct End {
    records: u64,
    digest: Digest,
}

/// One decoded block.
#[derive(Debug)]
pub(super) enum Block {
    Header(SnapshotHeader),
    Records(Bytes),
    End(u64, Digest),
}

/// A record of a snapshot.
pub(super) type Stamped = (Bytes, Seq, Bytes);

/// The blocks of the snapshot of a view, in order: header, records, end. Reads as it goes; blocks the thread.
#[derive(Debug)]
pub struct SnapshotBlocks {
    header: Option<SnapshotHeader>,
    source: Source,
    records: u64,
    digest: Digest,
    ended: bool,
}

/// Where the records come from.
enum Source {
    View { view: StateView, from: Bytes, ahead: VecDeque<Stamped>, at_end: bool },
    Records(Box<dyn Iterator<Item = Result<Stamped, StoreError>> + Send>),
}

impl std::fmt::Debug for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::View { .. } => "View",
            Self::Records(_) => "Records",
        })
    }
}

impl Source {
    fn next(&mut self) -> Result<Option<Stamped>, StoreError> {
        match self {
            Self::Records(records) => records.next().transpose(),
            Self::View { view, from, ahead, at_end } => {
                if ahead.is_empty() && !*at_end {
                    let read = |source| StoreError::Read { group: view.group(), source };
                    let found = view.scan_versioned(from, None, READ).map_err(read)?;
                    *at_end = found.len() < READ;
                    if let Some((last, _, _)) = found.last() {
                        let mut next = BytesMut::from(last.as_ref());
                        next.put_u8(0);
                        *from = next.freeze();
                    }
                    *ahead = found.into();
                }
                Ok(ahead.pop_front())
            }
        }
    }
}

impl SnapshotBlocks {
    /// Of a view at its newest seq; `None` if nothing is applied yet.
    #[must_use]
    pub fn of(view: &StateView) -> Option<Self> {
        let meta = view.meta();
        let header = SnapshotHeader {
            group: view.group(),
            applied: meta.applied?,
            membership: meta.membership.clone(),
            digest: meta.digest,
            records: Some(meta.records),
        };
        let view = view.at(meta.seq()).ok()?;
        let source = Source::View { view, from: Bytes::new(), ahead: VecDeque::new(), at_end: false };
        Some(Self::new(header, source))
    }

    /// Of records given in key order.
    pub(super) fn from_records(
        header: SnapshotHeader,
        records: impl Iterator<Item = Result<Stamped, StoreError>> + Send + 'static,
    ) -> Self {
        Self::new(header, Source::Records(Box::new(records)))
    }

    fn new(header: SnapshotHeader, source: Source) -> Self {
        Self { header: Some(header), source, records: 0, digest: Digest::default(), ended: false }
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
            // Bounded by KEY_BYTES_MAX and RECORD_BYTES_MAX.
            body.put_u16_le(u16::try_from(key.len()).unwrap_or(u16::MAX));
            body.put_u32_le(u32::try_from(value.len()).unwrap_or(u32::MAX));
            body.put_u64_le(seq.0);
            body.put_slice(&key);
            body.put_slice(&value);
        }
        if !body.is_empty() {
            return seal(VolumeId::ROOT, envelope::seal(RECORDS_KIND, &body)).map(Some);
        }
        self.ended = true;
        let end = End { records: self.records, digest: self.digest };
        seal(VolumeId::ROOT, envelope::seal_value(END_KIND, &end)).map(Some)
    }
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
        Some(b"CWSE") => {
            envelope::open_value(END_KIND, block).map(|end: End| Block::End(end.records, end.digest)).map_err(text)
        }
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

/// Checks blocks one by one: their order, the order of the keys, number and digest of the records.
#[derive(Debug, Default)]
pub(super) struct Checker {
    pub(super) header: Option<SnapshotHeader>,
    last_key: Option<Bytes>,
    pub(super) records: u64,
    digest: Digest,
    pub(super) complete: bool,
}

impl Checker {
    /// The block's records.
    pub(super) fn check(&mut self, block: &[u8]) -> Result<Vec<Stamped>, String> {
        if self.complete {
            return Err("a block behind the end".to_owned());
        }
        let block = decode_block(block)?;
        match (&self.header, block) {
            (None, Block::Header(header)) => {
                self.header = Some(header);
                Ok(Vec::new())
            }
            (Some(_), Block::Records(mut body)) => {
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
                Ok(records)
            }
            (Some(header), Block::End(records, digest)) => {
                let sent = (records, digest) == (self.records, self.digest);
                let announced =
                    header.records.is_none_or(|count| count == self.records) && header.digest == self.digest;
                if !sent || !announced {
                    return Err(format!(
                        "{} records with digest {}; {:?} with {} were announced",
                        self.records, self.digest, header.records, header.digest
                    ));
                }
                self.complete = true;
                Ok(Vec::new())
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
