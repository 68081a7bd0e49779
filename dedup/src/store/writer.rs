//! Appends records to the active pack, seals it when it is full, and syncs for many callers at once.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;

use causeway_base::ChunkId;
use causeway_storage::disk::{DiskFile, Open};

use super::files::{OpenPack, PackFiles};
use super::format::{
    FooterEntry, Kind, PACK_HEADER_BYTES, PackHeader, RECORD_HEADER_BYTES, RecordHeader, TRAILER_BYTES, Trailer,
    VERSION, encode_footer, footer_len,
};
use super::index::{Entry, PackMeta};
use super::shape::Item;
use super::{StoreError, StoreOptions};
use crate::Codec;

/// Records are gathered to writes of about this size.
const WRITE_BYTES: usize = 1 << 20;
/// Free space is asked for again after so many bytes: other programs write to the disk too.
const ROOM_BYTES_MAX: u64 = 32 << 20;

/// The pack that is appended to.
#[derive(Debug)]
pub(super) struct Active {
    pub(super) pack: u32,
    pub(super) file: Arc<dyn DiskFile>,
    pub(super) salt: u64,
    /// Where the next record goes.
    pub(super) offset: u32,
    /// Everything before is durable.
    pub(super) synced_to: u32,
    /// All records so far; becomes the footer.
    pub(super) entries: Vec<FooterEntry>,
}

/// What only one thread at a time may touch.
#[derive(Debug, Default)]
pub(super) struct Writer {
    pub(super) active: Option<Active>,
    /// Full packs that get their footers with the next sync.
    pub(super) closing: Vec<Active>,
    pub(super) next_pack: u32,
    /// Bytes appended since the store was opened: a sync that began later than an append covers it.
    pub(super) appended: u64,
    /// Files written since they were last synced.
    pub(super) dirty: BTreeMap<u32, Arc<dyn DiskFile>>,
    /// Packs were created or removed since the folder was last synced.
    pub(super) dir_dirty: bool,
    /// Written and not yet in the index, in order.
    pub(super) unpublished: Vec<Entry>,
    /// Packs whose marks in the index are older than `metas`.
    pub(super) unmarked: BTreeSet<u32>,
    /// All packs.
    pub(super) metas: BTreeMap<u32, PackMeta>,
    /// Bytes that may be written before free space is looked at again.
    room: u64,
}

/// A write that failed.
#[derive(Debug)]
pub(super) enum AppendError {
    /// No space, and nothing changed.
    Full { free: u64 },
    /// Not known what is on disk.
    Failed(StoreError),
}

impl From<StoreError> for AppendError {
    fn from(error: StoreError) -> Self {
        Self::Failed(error)
    }
}

impl Writer {
    /// Appends all items, in as many packs as it takes. On an error a prefix of them was appended.
    pub(super) fn append(
        &mut self,
        files: &PackFiles,
        options: &StoreOptions,
        items: &[Item],
        mut appended: impl FnMut(&Entry),
    ) -> Result<(), AppendError> {
        let mut rest = items;
        let mut buffer = Vec::new();
        while let Some(first) = rest.first() {
            let record_len = RECORD_HEADER_BYTES + first.payload_len();
            self.ensure_active(files, options, record_len)?;
            let Some(active) = self.active.as_ref() else { continue };
            let room_in_pack = (options.pack_bytes as usize).saturating_sub(active.offset as usize).max(record_len);
            buffer.clear();
            let mut entries = Vec::new();
            let mut taken = 0;
            for item in rest {
                let record_len = RECORD_HEADER_BYTES + item.payload_len();
                let fits = buffer.len() + record_len <= room_in_pack.min(WRITE_BYTES);
                if !fits && taken > 0 {
                    break;
                }
                active.put_record(&mut buffer, item, &mut entries);
                taken += 1;
            }
            self.write(files, options, &buffer)?;
            let Some(active) = self.active.as_mut() else { continue };
            active.offset += buffer.len() as u32; // at most `pack_bytes` and one record, below 2^31
            let meta = self.metas.entry(active.pack).or_insert(PackMeta::EMPTY);
            for entry in &entries {
                meta.count(entry);
                let entry = Entry::of(active.pack, entry);
                appended(&entry);
                self.unpublished.push(entry);
            }
            meta.indexed_to = active.offset; // by the time this mark is published
            self.unmarked.insert(active.pack);
            rest = &rest[taken..];
            active.entries.append(&mut entries);
        }
        Ok(())
    }

    /// Writes at the end of the active pack, within the space that may be used. On an error the pack ends where it did.
    fn write(&mut self, files: &PackFiles, options: &StoreOptions, bytes: &[u8]) -> Result<(), AppendError> {
        self.take_room(files, options, bytes.len() as u64)?;
        let Some(active) = self.active.as_ref() else { return Ok(()) };
        self.dirty.insert(active.pack, Arc::clone(&active.file));
        if let Err(error) = active.file.write_all_at(bytes, u64::from(active.offset)) {
            self.room = 0;
            // Part of it may have been written: cut it off, or a later and shorter write would leave its end behind.
            let cut = active.file.set_len(u64::from(active.offset));
            return Err(match (full(&error), cut) {
                (true, Ok(())) => AppendError::Full { free: files.disk().free_bytes(files.dir()).unwrap_or(0) },
                _ => AppendError::Failed(files.error("write", active.pack, error)),
            });
        }
        self.appended += bytes.len() as u64;
        Ok(())
    }

    /// Refuses before the disk does: a full disk would also stop the index, the log and whatever else lives there.
    pub(super) fn take_room(
        &mut self,
        files: &PackFiles,
        options: &StoreOptions,
        bytes: u64,
    ) -> Result<(), AppendError> {
        if self.room < bytes {
            let free = files.disk().free_bytes(files.dir()).map_err(|source| files.dir_error("look at", source))?;
            self.room = free.saturating_sub(options.reserve_bytes).min(ROOM_BYTES_MAX.max(bytes));
            if self.room < bytes {
                self.room = 0;
                return Err(AppendError::Full { free });
            }
        }
        self.room -= bytes;
        Ok(())
    }

    /// Free space is looked at again before the next write: another reserve holds.
    pub(super) fn forget_room(&mut self) {
        self.room = 0;
    }

    /// Makes sure that there is an active pack, and that a record fits it or is its first.
    fn ensure_active(
        &mut self,
        files: &PackFiles,
        options: &StoreOptions,
        record_len: usize,
    ) -> Result<(), AppendError> {
        if let Some(active) = &self.active {
            if active.entries.is_empty() || active.offset as usize + record_len <= options.pack_bytes as usize {
                return Ok(());
            }
            self.closing.extend(self.active.take());
        }
        let pack = self.next_pack;
        let salt = salt(options.seed, pack);
        let file = match files.open(pack, Open::CreateNew) {
            Ok(file) => file,
            Err(StoreError::Io { source, .. }) if full(&source) => return Err(AppendError::Full { free: 0 }),
            Err(error) => return Err(error.into()),
        };
        // The number is used up whatever happens: the file may be there.
        self.next_pack += 1;
        self.dir_dirty = true;
        files.insert(pack, OpenPack { file: Arc::clone(&file), salt });
        self.active = Some(Active { pack, file, salt, offset: 0, synced_to: 0, entries: Vec::new() });
        self.metas.insert(pack, PackMeta::EMPTY);
        let written = self.write(files, options, &PackHeader { pack, salt, version: VERSION }.encode());
        if let Err(error) = written {
            self.active = None;
            self.metas.remove(&pack);
            self.dirty.remove(&pack);
            files.forget(pack);
            let _ = files.disk().remove(&files.path(pack)); // recovery removes it otherwise
            return Err(error);
        }
        if let Some(active) = &mut self.active {
            active.offset = PACK_HEADER_BYTES as u32;
        }
        Ok(())
    }
}

impl Active {
    /// Ends a pack, all records of which are durable, with its footer; that is durable too on return. Gives the new length.
    ///
    /// The order matters: a footer vouches for the records before it, so that nobody need read them again.
    pub(super) fn seal(&self) -> io::Result<u32> {
        let end = end_of_pack(self.pack, self.salt, self.offset, &self.entries);
        let written = self.file.write_all_at(&end, u64::from(self.offset)).and_then(|()| self.file.sync_data());
        match written {
            Ok(()) => Ok(self.offset + end.len() as u32),
            Err(error) if full(&error) => {
                self.file.set_len(u64::from(self.offset))?;
                Err(error)
            }
            Err(error) => Err(error),
        }
    }

    /// Appends a record's bytes to `buffer`, which starts at this pack's end, and its chunks to `entries`.
    fn put_record(&self, buffer: &mut Vec<u8>, item: &Item, entries: &mut Vec<FooterEntry>) {
        let offset = self.offset + buffer.len() as u32;
        let header = RecordHeader {
            kind: item.kind,
            codec: item.codec,
            payload_len: item.payload_len() as u32, // a little over 1 MiB at most
            raw_len: item.raw_len,
            synced_to: self.synced_to,
            id: item.mark(),
            payload_crc: item.payload_crc,
        };
        buffer.extend_from_slice(&header.encode(self.salt));
        buffer.extend_from_slice(&item.directory);
        buffer.extend_from_slice(&item.body);
        // At most 256 members.
        entries.extend((0..=u8::MAX).zip(&item.members).map(|(number, member)| FooterEntry {
            id: member.id,
            offset,
            payload_len: header.payload_len,
            raw_len: member.raw_len,
            codec: item.codec,
            member: (item.kind == Kind::Block).then_some(number),
            depth: item.depth,
            bases: item.bases.clone(),
        }));
    }
}

/// The footer record and the trailer of a pack whose records end at `offset` and are durable.
fn end_of_pack(pack: u32, salt: u64, offset: u32, entries: &[FooterEntry]) -> Vec<u8> {
    let payload = encode_footer(entries);
    let count = footer_len(entries) as u32; // a pack of less than 2 GiB has fewer
    let header = RecordHeader {
        kind: Kind::Footer,
        codec: Codec::Raw,
        payload_len: payload.len() as u32,
        raw_len: count,
        synced_to: offset,
        id: ChunkId([0; 32]),
        payload_crc: crc32c::crc32c(&payload),
    };
    let mut out = Vec::with_capacity(RECORD_HEADER_BYTES + payload.len() + TRAILER_BYTES);
    out.extend_from_slice(&header.encode(salt));
    out.extend_from_slice(&payload);
    out.extend_from_slice(&Trailer { pack, footer_offset: offset, entries: count, salt }.encode());
    out
}

/// A pack's salt: hard to foresee for who does not know the seed, and another for each pack.
fn salt(seed: u64, pack: u32) -> u64 {
    let mut hasher = blake3::Hasher::new_derive_key("causeway pack salt");
    hasher.update(&seed.to_le_bytes()).update(&pack.to_le_bytes());
    let mut out = [0; 8];
    hasher.finalize_xof().fill(&mut out);
    u64::from_le_bytes(out)
}

pub(super) fn full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}
