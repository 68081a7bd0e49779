//! Reads whole packs to find what has gone bad before someone needs it.
//!
//! A scrub checks every byte of a pack: header, records, footer, trailer. A live chunk whose record is bad is taken out of
//! service, so that it counts as missing and is fetched again; the caller then has the pack rewritten
//! ([`ChunkStore::rewrite`]), which also mends what is not a chunk's.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;
use std::sync::PoisonError;

use bytes::Bytes;
use causeway_base::envelope::{self, Kind};
use causeway_base::{ChunkId, Timestamp};
use causeway_storage::disk::{Disk, DiskFile, Open};

use super::block::{decode_directory, directory_len};
use super::format::{
    FOOTER_ENTRY_BYTES, FooterEntry, PACK_HEADER_BYTES, RECORD_HEADER_BYTES, TRAILER_BYTES, footer_len,
};
use super::gc::files::{read, replace};
use super::index::{Location, PackState};
use super::pack::{ReadError, open_record, read_footer, read_pack_header, read_trailer, scan};
use super::{ChunkStore, Damage, StoreError, lock};

/// Records are read in windows of about this size.
const WINDOW_BYTES: usize = 1 << 20;

/// What the scrub of a pack found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scrubbed {
    /// Its number.
    pub pack: u32,
    /// Bytes read.
    pub bytes: u64,
    /// Records checked.
    pub chunks: u64,
    /// Chunks that were served from a record that is bad. They count as missing now.
    pub corrupt: Vec<ChunkId>,
    /// Bad records that nothing is served from.
    pub dead: u64,
    /// What is wrong beside records: with the header, the footer, the trailer, or the bytes between.
    pub structure: Option<Damage>,
}

impl Scrubbed {
    /// Whether every byte is right.
    #[must_use]
    pub const fn is_good(&self) -> bool {
        self.corrupt.is_empty() && self.dead == 0 && self.structure.is_none()
    }
}

/// What reading a pack shows, before anything is done about it.
#[derive(Debug, Default)]
struct Seen {
    bytes: u64,
    chunks: u64,
    bad: Vec<(ChunkId, Location, Damage)>,
    structure: Option<Damage>,
    /// The good records, if the pack's own list of them cannot be had: all others that the index has here are lost.
    only: Option<BTreeSet<(ChunkId, u32)>>,
}

impl Seen {
    fn blame(&mut self, damage: Damage) {
        self.structure.get_or_insert(damage);
    }
}

impl ChunkStore {
    /// The numbers of all packs, ascending.
    #[must_use]
    pub fn packs(&self) -> Vec<u32> {
        lock(&self.writer).metas.keys().copied().collect()
    }

    /// Bytes of all pack files, about.
    #[must_use]
    pub fn pack_bytes(&self) -> u64 {
        lock(&self.writer).metas.values().map(|meta| u64::from(meta.indexed_to)).sum()
    }

    /// Checks every byte of a pack; `None` if there is no such pack (any more). Bad chunks are missing from then on.
    ///
    /// # Errors
    /// [`StoreError::Io`], [`StoreError::Index`].
    pub fn scrub_pack(&self, pack: u32) -> Result<Option<Scrubbed>, StoreError> {
        let Some(seen) = self.look_at(pack)? else { return Ok(None) };
        let mut scrubbed =
            Scrubbed { pack, bytes: seen.bytes, chunks: seen.chunks, structure: seen.structure, ..Scrubbed::default() };
        let _gate = self.gate.read().unwrap_or_else(PoisonError::into_inner);
        for (id, location, damage) in seen.bad {
            if self.placed(&id)? == Some(location) {
                self.quarantine(&id, location, damage);
                scrubbed.corrupt.push(id);
            } else {
                scrubbed.dead += 1;
            }
        }
        if let Some(good) = seen.only {
            for (id, location) in self.indexed_in(pack)? {
                if !good.contains(&(id, location.offset)) {
                    self.quarantine(&id, location, seen.structure.unwrap_or(Damage::CutOff));
                    scrubbed.corrupt.push(id);
                }
            }
        }
        Ok(Some(scrubbed))
    }

    /// What a scrub sees, with nothing done about it: the chunks with bad records, and what else is wrong.
    #[cfg(test)]
    pub(super) fn inspect(&self, pack: u32) -> Result<(Vec<ChunkId>, Option<Damage>), StoreError> {
        let seen = self.look_at(pack)?.unwrap_or_default();
        Ok((seen.bad.iter().map(|(id, ..)| *id).collect(), seen.structure))
    }

    /// Everything that the index has in a pack: a scan of all of it, for packs that cannot say so themselves.
    fn indexed_in(&self, pack: u32) -> Result<Vec<(ChunkId, Location)>, StoreError> {
        let (mut found, mut after) = (Vec::new(), None);
        loop {
            let page = self.index.page(after, 4096)?;
            let Some((last, _)) = page.last() else { return Ok(found) };
            after = Some(*last);
            found.extend(page.into_iter().filter(|(_, location)| location.pack == pack));
        }
    }

    fn look_at(&self, pack: u32) -> Result<Option<Seen>, StoreError> {
        let open = {
            let writer = lock(&self.writer);
            if !writer.metas.contains_key(&pack) {
                return Ok(None);
            }
            let mut open = writer.active.iter().chain(&writer.closing);
            open.find(|open| open.pack == pack).map(|open| (open.salt, open.offset, open.entries.clone()))
        };
        // Opened anew: what the file system has under the name, not what was open before.
        let opened = self.files.disk().open(&self.files.path(pack), Open::Read);
        let file = match opened {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                // It may just have been removed, with nothing in it that is used.
                let gone = !lock(&self.writer).metas.contains_key(&pack);
                let lost = Seen { structure: Some(Damage::Gone), only: Some(BTreeSet::new()), ..Seen::default() };
                return Ok((!gone).then_some(lost));
            }
            Err(error) => return Err(self.files.error("open", pack, error)),
        };
        let seen = match open {
            Some((salt, offset, entries)) => {
                Look { pack, file: file.as_ref(), seen: Seen::default() }.open(salt, offset, &entries)
            }
            None => Look { pack, file: file.as_ref(), seen: Seen::default() }.closed(),
        };
        seen.map(Some).map_err(|error| self.files.error("read", pack, error))
    }
}

struct Look<'a> {
    pack: u32,
    file: &'a dyn DiskFile,
    seen: Seen,
}

impl Look<'_> {
    fn header(&mut self) -> Option<u64> {
        match read_pack_header(self.file) {
            Ok(header) if header.pack == self.pack => Some(header.salt),
            Ok(_) => {
                self.seen.blame(Damage::OtherChunk);
                None
            }
            Err(error) => {
                self.seen.blame(damage_of(&error));
                None
            }
        }
    }

    /// A pack that is written: up to where it was when it was looked at.
    fn open(mut self, salt: u64, offset: u32, entries: &[FooterEntry]) -> io::Result<Seen> {
        self.header();
        self.records(salt, entries, u64::from(offset));
        self.seen.bytes = u64::from(offset);
        Ok(self.seen)
    }

    /// A pack that is not written any more.
    fn closed(mut self) -> io::Result<Seen> {
        let len = self.file.len()?;
        self.seen.bytes = len;
        let header = self.header();
        let trailer = match read_trailer(self.file, len) {
            Ok(Some(trailer)) if trailer.pack == self.pack => Some(trailer),
            Ok(_) => None,
            Err(error) => {
                self.seen.blame(damage_of(&error));
                None
            }
        };
        let Some(salt) = header.or_else(|| trailer.as_ref().map(|trailer| trailer.salt)) else {
            self.seen.only = Some(BTreeSet::new());
            return Ok(self.seen);
        };
        let footer = match &trailer {
            Some(trailer) if trailer.salt == salt => read_footer(self.file, len, trailer),
            _ => Err(Damage::CutOff.into()),
        };
        match (footer, trailer) {
            (Ok(entries), Some(trailer)) => {
                let end = u64::from(trailer.footer_offset);
                self.records(salt, &entries, end);
                let footer_len = RECORD_HEADER_BYTES + footer_len(&entries) * FOOTER_ENTRY_BYTES;
                if end + footer_len as u64 + TRAILER_BYTES as u64 != len {
                    self.seen.blame(Damage::Length);
                }
            }
            (footer, _) => {
                self.seen.blame(footer.err().as_ref().map_or(Damage::CutOff, damage_of));
                let scanned = scan(self.file, len, salt, 0)?;
                self.seen.chunks = scanned.entries.len() as u64;
                self.seen.only = Some(scanned.entries.iter().map(|entry| (entry.id, entry.offset)).collect());
            }
        }
        Ok(self.seen)
    }

    /// Checks records that should lie without gaps from the header to `end`.
    fn records(&mut self, salt: u64, entries: &[FooterEntry], end: u64) {
        let records: Vec<&[FooterEntry]> = entries.chunk_by(|one, next| one.offset == next.offset).collect();
        let mut at = PACK_HEADER_BYTES as u64;
        for record in &records {
            if u64::from(record[0].offset) != at {
                self.seen.blame(Damage::Length);
            }
            at = record[0].end();
        }
        if at != end {
            self.seen.blame(Damage::Length);
        }
        let mut rest = records.as_slice();
        while let Some(first) = rest.first() {
            let start = u64::from(first[0].offset);
            let count = rest.iter().take_while(|record| record[0].end() - start <= WINDOW_BYTES as u64).count().max(1);
            let (window, after) = rest.split_at(count);
            rest = after;
            let len = window.last().map_or(0, |last| last[0].end() - start) as usize; // a window or one record
            let bytes = self.read(start, len);
            for members in window {
                let (offset, record_end) = (u64::from(members[0].offset), members[0].end());
                self.seen.chunks += members.len() as u64;
                let record = match &bytes {
                    Some(bytes) => Ok(bytes.slice((offset - start) as usize..(record_end - start) as usize)),
                    // One bad sector must not take its neighbours.
                    None => self.read(offset, (record_end - offset) as usize).ok_or(Damage::Unreadable),
                };
                if let Err(damage) = record.and_then(|record| check(&record, salt, members)) {
                    let pack = self.pack;
                    let bad = members.iter().map(|entry| (entry.id, Location::of(pack, entry), damage));
                    self.seen.bad.extend(bad);
                }
            }
        }
    }

    fn read(&self, offset: u64, len: usize) -> Option<Bytes> {
        let mut bytes = vec![0; len];
        self.file.read_exact_at(&mut bytes, offset).ok()?;
        Some(bytes.into())
    }
}

/// Checks a record, and that it holds the chunks that the footer lists.
fn check(record: &Bytes, salt: u64, members: &[FooterEntry]) -> Result<(), Damage> {
    let first = &members[0];
    if first.member.is_none() {
        let (header, _) = open_record(record, salt, Some(&first.id))?;
        let same = members.len() == 1 && (header.raw_len, header.codec) == (first.raw_len, first.codec);
        return if same { Ok(()) } else { Err(Damage::Length) };
    }
    let (header, payload) = open_record(record, salt, None)?;
    let directory = directory_len(&header).and_then(|len| payload.get(..len)).ok_or(Damage::Length)?;
    let listed = decode_directory(&header, directory)?;
    let same = listed.len() == members.len()
        && listed.iter().zip(members).all(|(listed, entry)| (listed.id, listed.raw_len) == (entry.id, entry.raw_len));
    if same { Ok(()) } else { Err(Damage::OtherChunk) }
}

fn damage_of(error: &ReadError) -> Damage {
    match error {
        ReadError::Damage(damage) => *damage,
        ReadError::Io(_) => Damage::Unreadable,
    }
}

/// How far the scrub of a store is; kept in its folder. `docs/formats/gc.md` is the page of the file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ScrubPosition {
    /// Passes that were completed.
    pub passes: u64,
    /// The next pack of the pass under way.
    pub next_pack: u32,
    /// When that began; 0 if none is under way.
    pub began: Timestamp,
    /// When the last pass was completed; 0 if none was.
    pub completed: Timestamp,
    /// Bad chunks found since the store was made.
    pub found: u64,
    /// Of them, chunks that were healed.
    pub healed: u64,
}

const KIND: Kind = Kind { magic: *b"CWSP", version: 1, payload_bytes_max: 64 };
const FILE: &str = "scrub.position";

impl ScrubPosition {
    fn encode(&self) -> [u8; 44] {
        let mut out = [0; 44];
        out[..8].copy_from_slice(&self.passes.to_le_bytes());
        out[8..12].copy_from_slice(&self.next_pack.to_le_bytes());
        out[12..20].copy_from_slice(&self.began.0.to_le_bytes());
        out[20..28].copy_from_slice(&self.completed.0.to_le_bytes());
        out[28..36].copy_from_slice(&self.found.to_le_bytes());
        out[36..].copy_from_slice(&self.healed.to_le_bytes());
        out
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; 44] = bytes.try_into().ok()?;
        let long = |at: usize| bytes[at..at + 8].iter().rev().fold(0_u64, |long, byte| long << 8 | u64::from(*byte));
        let next_pack = u32::from_le_bytes([bytes[8], bytes[9], bytes[10], bytes[11]]);
        let time = |at| Timestamp(long(at).cast_signed());
        Some(Self {
            passes: long(0),
            next_pack,
            began: time(12),
            completed: time(20),
            found: long(28),
            healed: long(36),
        })
    }

    fn load(disk: &dyn Disk, dir: &Path) -> Self {
        let most = u64::from(KIND.payload_bytes_max) + envelope::OVERHEAD as u64;
        let read = read(disk, &dir.join(FILE), most);
        let opened = read.ok().and_then(|sealed| Self::decode(envelope::open(KIND, &sealed).ok()?));
        opened.unwrap_or_default()
    }
}

impl ChunkStore {
    /// How far the scrub is. One that is lost or damaged means that it begins anew.
    #[must_use]
    pub fn scrub_position(&self) -> ScrubPosition {
        ScrubPosition::load(self.files.disk(), self.files.dir())
    }

    /// Keeps how far the scrub is; durable on return.
    ///
    /// # Errors
    /// [`StoreError::Io`]; harmless, a restart then begins where it was kept last.
    pub fn keep_scrub_position(&self, position: &ScrubPosition) -> Result<(), StoreError> {
        let sealed = envelope::seal(KIND, &position.encode()).map_err(io::Error::other);
        let kept = sealed.and_then(|sealed| replace(self.files.disk(), self.files.dir(), FILE, &sealed));
        kept.map_err(|source| self.files.dir_error("write the scrub's position to", source))
    }

    /// Packs that opening found damaged.
    #[must_use]
    pub fn damaged_packs(&self) -> Vec<u32> {
        let writer = lock(&self.writer);
        let damaged = writer.metas.iter().filter(|(_, meta)| meta.state == PackState::Damaged);
        damaged.map(|(pack, _)| *pack).collect()
    }
}
