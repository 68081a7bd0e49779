//! Reads pack files: one record, the footer, or all records of a pack that has none.

use std::io;

use bytes::Bytes;

use causeway_base::ChunkId;
use causeway_storage::disk::DiskFile;

use super::Damage;
use super::block::{decode_directory, directory_len};
use super::format::{
    FooterEntry, Kind, PACK_HEADER_BYTES, PackHeader, RECORD_HEADER_BYTES, RECORD_MARKER, RecordHeader, TRAILER_BYTES,
    Trailer, decode_footer,
};
use crate::delta::{BASES_MAX, BaseRef, DeltaRecord};

/// Reading failed, or what was read is wrong.
#[derive(Debug)]
pub(super) enum ReadError {
    Io(io::Error),
    Damage(Damage),
}

impl From<io::Error> for ReadError {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::UnexpectedEof { Self::Damage(Damage::CutOff) } else { Self::Io(error) }
    }
}

impl From<Damage> for ReadError {
    fn from(damage: Damage) -> Self {
        Self::Damage(damage)
    }
}

fn array<const N: usize>(file: &dyn DiskFile, offset: u64) -> Result<[u8; N], ReadError> {
    let mut bytes = [0; N];
    file.read_exact_at(&mut bytes, offset)?;
    Ok(bytes)
}

pub(super) fn read_pack_header(file: &dyn DiskFile) -> Result<PackHeader, ReadError> {
    Ok(PackHeader::decode(&array::<PACK_HEADER_BYTES>(file, 0)?)?)
}

/// Checks a chunk's or a block's record in memory; gives its payload without copying. `id` is that of a chunk that has a
/// record of its own.
pub(super) fn open_record(record: &Bytes, salt: u64, id: Option<&ChunkId>) -> Result<(RecordHeader, Bytes), Damage> {
    let header = record.first_chunk::<RECORD_HEADER_BYTES>().ok_or(Damage::CutOff)?;
    let header = RecordHeader::decode(header, salt)?;
    let right = match id {
        Some(id) => matches!(header.kind, Kind::Chunk | Kind::Delta) && header.id == *id,
        None => header.kind == Kind::Block,
    };
    if !right {
        return Err(Damage::OtherChunk);
    }
    if header.record_len() != record.len() as u64 {
        return Err(Damage::Length);
    }
    let payload = record.slice(RECORD_HEADER_BYTES..);
    if crc32c::crc32c(&payload) != header.payload_crc {
        return Err(Damage::PayloadChecksum);
    }
    Ok((header, payload))
}

/// The header of the record at `offset`, if the whole record lies before `len`; its payload is checked on request.
fn read_record(file: &dyn DiskFile, offset: u64, len: u64, salt: u64, check: bool) -> Result<RecordHeader, ReadError> {
    if offset + RECORD_HEADER_BYTES as u64 > len {
        return Err(Damage::CutOff.into());
    }
    let header = RecordHeader::decode(&array(file, offset)?, salt)?;
    if offset + header.record_len() > len {
        return Err(Damage::CutOff.into());
    }
    // What a delta stands on is told by its payload, so that is always checked.
    if check || header.kind == Kind::Delta {
        let mut payload = vec![0; header.payload_len as usize];
        file.read_exact_at(&mut payload, offset + RECORD_HEADER_BYTES as u64)?;
        if crc32c::crc32c(&payload) != header.payload_crc {
            return Err(Damage::PayloadChecksum.into());
        }
    }
    Ok(header)
}

/// The entries of a record, as the footer will list them. A block's directory is read and checked.
fn entries_of(file: &dyn DiskFile, offset: u64, header: &RecordHeader) -> Result<Vec<FooterEntry>, ReadError> {
    let entry = |id, raw_len, member| FooterEntry {
        id,
        offset: offset as u32, // packs are below 2^31 bytes, which `scan` checks
        payload_len: header.payload_len,
        raw_len,
        codec: header.codec,
        member,
        depth: 0,
        bases: Vec::new(),
    };
    match header.kind {
        Kind::Footer => Ok(Vec::new()),
        Kind::Chunk => Ok(vec![entry(header.id, header.raw_len, None)]),
        Kind::Delta => {
            let head = BaseRef::cost(BASES_MAX).min(header.payload_len as usize);
            let mut payload = vec![0; head];
            file.read_exact_at(&mut payload, offset + RECORD_HEADER_BYTES as u64)?;
            let record = DeltaRecord::from_payload(&payload.into()).map_err(|_| Damage::Undecodable)?;
            let alone = entry(header.id, header.raw_len, None);
            Ok(vec![FooterEntry { depth: record.depth, bases: record.base.chunks, ..alone }])
        }
        Kind::Block => {
            let mut directory = vec![0; directory_len(header).ok_or(Damage::Length)?];
            file.read_exact_at(&mut directory, offset + RECORD_HEADER_BYTES as u64)?;
            let members = decode_directory(header, &directory)?;
            // Their number is at most 256.
            Ok((0..=u8::MAX).zip(members).map(|(number, one)| entry(one.id, one.raw_len, Some(number))).collect())
        }
    }
}

/// The trailer of a sealed pack; `None` if there is none.
pub(super) fn read_trailer(file: &dyn DiskFile, len: u64) -> Result<Option<Trailer>, ReadError> {
    let Some(offset) = len.checked_sub(TRAILER_BYTES as u64).filter(|offset| *offset >= PACK_HEADER_BYTES as u64)
    else {
        return Ok(None);
    };
    Ok(Trailer::decode(&array(file, offset)?))
}

/// The footer that a trailer leads to.
pub(super) fn read_footer(file: &dyn DiskFile, len: u64, trailer: &Trailer) -> Result<Vec<FooterEntry>, ReadError> {
    let offset = u64::from(trailer.footer_offset);
    let header = read_record(file, offset, len, trailer.salt, false)?;
    // A footer that was written before its records were durable would vouch for nothing.
    if header.kind != Kind::Footer || header.raw_len != trailer.entries || header.synced_to != trailer.footer_offset {
        return Err(Damage::OtherChunk.into());
    }
    let mut payload = vec![0; header.payload_len as usize]; // lies within the file, so no lie can make it large
    file.read_exact_at(&mut payload, offset + RECORD_HEADER_BYTES as u64)?;
    if crc32c::crc32c(&payload) != header.payload_crc {
        return Err(Damage::PayloadChecksum.into());
    }
    Ok(decode_footer(&payload, trailer.footer_offset)?)
}

/// What a scan of all records found.
#[derive(Debug, Default)]
pub(super) struct Scanned {
    /// All good chunk records, in order.
    pub(super) entries: Vec<FooterEntry>,
    /// Bad bytes with a good record behind them: start and end.
    pub(super) bad: Vec<(u64, u64)>,
    /// End of the last good record.
    pub(super) good_end: u64,
    /// The largest offset that some record proves to have been durable.
    pub(super) proven: u64,
    /// Where a good footer record starts, if it is the last record: the pack was being sealed.
    pub(super) footer_at: Option<u64>,
}

/// Scans the records of a pack from its header to `len`. Payloads before `check_from` are not read.
pub(super) fn scan(file: &dyn DiskFile, len: u64, salt: u64, check_from: u64) -> io::Result<Scanned> {
    let mut found = Scanned { good_end: PACK_HEADER_BYTES as u64, ..Scanned::default() };
    let mut at = found.good_end;
    u32::try_from(len).map_err(io::Error::other)?; // offsets have 32 bits
    while at < len {
        let read = read_record(file, at, len, salt, at >= check_from)
            .and_then(|header| entries_of(file, at, &header).map(|entries| (header, entries)));
        let (header, mut entries) = match read {
            Ok(read) => read,
            Err(ReadError::Io(error)) => return Err(error),
            Err(ReadError::Damage(_)) => match find_record(file, at + 1, len, salt)? {
                Some(next) => {
                    found.bad.push((at, next));
                    at = next;
                    continue;
                }
                None => break,
            },
        };
        found.proven = found.proven.max(u64::from(header.synced_to));
        found.footer_at = (header.kind == Kind::Footer).then_some(at);
        found.entries.append(&mut entries);
        at += header.record_len();
        found.good_end = at;
    }
    Ok(found)
}

/// Where the next good record starts, from `from` on.
fn find_record(file: &dyn DiskFile, from: u64, len: u64, salt: u64) -> io::Result<Option<u64>> {
    const WINDOW_BYTES: u64 = 1 << 20;
    let mut start = from;
    while start + RECORD_HEADER_BYTES as u64 <= len {
        // Windows overlap, so that no marker is missed across their edge.
        let window_len = WINDOW_BYTES.min(len - start);
        let mut window = vec![0; window_len as usize];
        file.read_exact_at(&mut window, start)?;
        for at in 0..=window.len() - RECORD_MARKER.len() {
            if window[at..at + RECORD_MARKER.len()] != RECORD_MARKER {
                continue;
            }
            match read_record(file, start + at as u64, len, salt, true) {
                Ok(_) => return Ok(Some(start + at as u64)),
                Err(ReadError::Io(error)) => return Err(error),
                Err(ReadError::Damage(_)) => {}
            }
        }
        if start + window_len >= len {
            break;
        }
        start += window_len - (RECORD_MARKER.len() as u64 - 1);
    }
    Ok(None)
}
