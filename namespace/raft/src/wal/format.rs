//! Frames and records as bytes. The page is `docs/formats/wal.md`.

use bytes::{Buf, BufMut, Bytes};

use causeway_base::VolumeId;

/// Largest payload of a record in bytes.
pub const RECORD_BYTES_MAX: usize = 12 << 20;

/// Bytes of a segment's header.
pub(super) const SEGMENT_HEADER: usize = 40;
const SEGMENT_MAGIC: [u8; 4] = *b"CWWL";
const VERSION: u16 = 1;

/// Bytes of a frame's header.
pub(super) const FRAME_HEADER: usize = 20;
const FRAME_MAGIC: [u8; 4] = *b"CWFR";

/// Bytes of a record's header.
pub(super) const RECORD_HEADER: usize = 25;

/// What a record says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// An entry that follows the group's last.
    Entry,
    /// An entry that was in an older segment.
    Moved,
    /// The group's vote.
    Vote,
    /// How far the group knows its log to be committed.
    Committed,
    /// Entries from `index` on are void.
    Truncate,
    /// Entries up to `index` are not needed; the payload is the caller's name for the last of them.
    Purge,
    /// The group is gone from this node.
    Remove,
    /// The segment ends here.
    Seal,
}

impl Kind {
    const fn code(self) -> u8 {
        match self {
            Self::Entry => 1,
            Self::Moved => 2,
            Self::Vote => 3,
            Self::Committed => 4,
            Self::Truncate => 5,
            Self::Purge => 6,
            Self::Remove => 7,
            Self::Seal => 8,
        }
    }

    const fn from_code(code: u8) -> Option<Self> {
        Some(match code {
            1 => Self::Entry,
            2 => Self::Moved,
            3 => Self::Vote,
            4 => Self::Committed,
            5 => Self::Truncate,
            6 => Self::Purge,
            7 => Self::Remove,
            8 => Self::Seal,
            _ => return None,
        })
    }
}

/// A record and where it starts within what it was read from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) kind: Kind,
    pub(super) group: VolumeId,
    pub(super) index: u64,
    pub(super) payload: Bytes,
}

impl Record {
    /// Bytes with its header.
    pub(super) fn len(&self) -> usize {
        RECORD_HEADER + self.payload.len()
    }

    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        // Callers bound payloads by RECORD_BYTES_MAX, so the length fits.
        let len = u32::try_from(self.payload.len()).unwrap_or(u32::MAX);
        let start = out.len();
        out.put_u32_le(len);
        out.put_u32_le(0);
        out.put_u8(self.kind.code());
        out.put_u64_le(self.group.0);
        out.put_u64_le(self.index);
        out.put_slice(&self.payload);
        let crc = crc32c::crc32c(&out[start + 8..]);
        out[start + 4..start + 8].copy_from_slice(&crc.to_le_bytes());
    }

    /// Reads the record at the start of `bytes` and cuts it off; `None` if there is none that checks out.
    pub(super) fn decode(bytes: &mut Bytes) -> Option<Self> {
        let mut header = bytes.get(..RECORD_HEADER)?;
        let len = header.get_u32_le() as usize;
        let crc = header.get_u32_le();
        let checked = bytes.get(8..RECORD_HEADER.checked_add(len)?)?;
        if crc32c::crc32c(checked) != crc {
            return None;
        }
        let kind = Kind::from_code(header.get_u8())?;
        let group = VolumeId(header.get_u64_le());
        let index = header.get_u64_le();
        let mut record = bytes.split_to(RECORD_HEADER + len);
        record.advance(RECORD_HEADER);
        Some(Self { kind, group, index, payload: record })
    }
}

/// What stands at the start of a segment file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SegmentHeader {
    /// Number of the segment; its file's name says the same.
    pub(super) segment: u64,
    /// Enters every frame's checksum: bytes of another segment, or of a user's file, are never taken for a frame.
    pub(super) salt: u64,
    /// Size of the file.
    pub(super) bytes: u64,
}

impl SegmentHeader {
    pub(super) fn encode(&self) -> [u8; SEGMENT_HEADER] {
        let mut out = [0; SEGMENT_HEADER];
        let mut at = &mut out[..];
        at.put_slice(&SEGMENT_MAGIC);
        at.put_u16_le(VERSION);
        at.put_u16_le(0);
        at.put_u64_le(self.segment);
        at.put_u64_le(self.salt);
        at.put_u64_le(self.bytes);
        at.put_u32_le(0);
        let crc = crc32c::crc32c(&out[..36]);
        out[36..].copy_from_slice(&crc.to_le_bytes());
        out
    }

    /// # Errors
    /// What is wrong, in words.
    pub(super) fn decode(bytes: &[u8; SEGMENT_HEADER]) -> Result<Self, String> {
        let mut at = &bytes[4..];
        if bytes[..4] != SEGMENT_MAGIC {
            return Err(format!("magic {:02x?} is not a log segment's", &bytes[..4]));
        }
        let version = at.get_u16_le();
        if version != VERSION {
            return Err(format!("version {version}, this program reads {VERSION}"));
        }
        at.advance(2);
        let header = Self { segment: at.get_u64_le(), salt: at.get_u64_le(), bytes: at.get_u64_le() };
        at.advance(4);
        if at.get_u32_le() != crc32c::crc32c(&bytes[..36]) {
            return Err("the header's checksum does not hold".to_owned());
        }
        Ok(header)
    }
}

fn frame_crc(salt: u64, number: u64, body: &[u8]) -> u32 {
    let mut head = [0; 20];
    head[..8].copy_from_slice(&salt.to_le_bytes());
    head[8..16].copy_from_slice(&number.to_le_bytes());
    // A body is at most a segment, whose size is bounded well below 4 GiB.
    head[16..].copy_from_slice(&u32::try_from(body.len()).unwrap_or(u32::MAX).to_le_bytes());
    crc32c::crc32c_append(crc32c::crc32c(&head), body)
}

/// Starts a frame in `out`: records follow, [`finish_frame`] ends it.
pub(super) fn start_frame(out: &mut Vec<u8>) {
    out.clear();
    out.extend_from_slice(&[0; FRAME_HEADER]);
}

/// Fills in the header of the frame that is `out`.
pub(super) fn finish_frame(out: &mut [u8], salt: u64, number: u64) {
    let (header, body) = out.split_at_mut(FRAME_HEADER);
    let crc = frame_crc(salt, number, body);
    let mut at = header;
    at.put_slice(&FRAME_MAGIC);
    at.put_u32_le(u32::try_from(body.len()).unwrap_or(u32::MAX));
    at.put_u32_le(crc);
    at.put_u64_le(number);
}

/// A valid frame.
#[derive(Clone, Debug)]
pub(super) struct Frame {
    pub(super) number: u64,
    pub(super) body: Bytes,
}

/// The frame at `offset` of a segment's bytes, if one is there and checks out.
pub(super) fn frame_at(segment: &Bytes, offset: usize, salt: u64) -> Option<Frame> {
    let mut header = segment.get(offset..offset.checked_add(FRAME_HEADER)?)?;
    if header[..4] != FRAME_MAGIC {
        return None;
    }
    header.advance(4);
    let len = header.get_u32_le() as usize;
    let crc = header.get_u32_le();
    let number = header.get_u64_le();
    let start = offset + FRAME_HEADER;
    let body = segment.get(start..start.checked_add(len)?)?;
    (frame_crc(salt, number, body) == crc).then(|| Frame { number, body: segment.slice(start..start + len) })
}

/// The place of the first valid frame at or after `from`.
pub(super) fn find_frame(segment: &Bytes, from: usize, salt: u64) -> Option<usize> {
    let haystack = segment.get(from..)?;
    haystack
        .windows(4)
        .enumerate()
        .filter(|(_, window)| *window == FRAME_MAGIC)
        .map(|(at, _)| from + at)
        .find(|at| frame_at(segment, *at, salt).is_some())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn record(payload: &[u8]) -> Record {
        Record { kind: Kind::Entry, group: VolumeId(7), index: 42, payload: Bytes::copy_from_slice(payload) }
    }

    fn frame(payload: &[u8], salt: u64, number: u64) -> Vec<u8> {
        let mut out = Vec::new();
        start_frame(&mut out);
        record(payload).encode(&mut out);
        finish_frame(&mut out, salt, number);
        out
    }

    proptest! {
        #[test]
        fn a_frame_reads_back(payload in proptest::collection::vec(any::<u8>(), 0..300), salt: u64, number: u64) {
            let bytes = Bytes::from(frame(&payload, salt, number));
            let read = frame_at(&bytes, 0, salt).unwrap();
            prop_assert_eq!(read.number, number);
            let mut body = read.body;
            prop_assert_eq!(Record::decode(&mut body).unwrap(), record(&payload));
            prop_assert!(body.is_empty());
        }

        #[test]
        fn a_flipped_bit_or_another_salt_is_noticed(payload in proptest::collection::vec(any::<u8>(), 0..60), at: prop::sample::Index, bit in 0..8) {
            let mut bytes = frame(&payload, 1, 2);
            prop_assert!(frame_at(&bytes.clone().into(), 0, 9).is_none());
            let at = at.index(bytes.len());
            bytes[at] ^= 1_u8 << bit;
            prop_assert!(frame_at(&bytes.into(), 0, 1).is_none());
        }

        #[test]
        fn noise_is_no_record(noise in proptest::collection::vec(any::<u8>(), 0..80)) {
            prop_assert!(Record::decode(&mut Bytes::from(noise)).is_none());
        }
    }

    #[test]
    fn a_frame_is_found_behind_rubble() {
        let mut bytes = vec![0x43; 50];
        bytes.extend(frame(b"x", 5, 9));
        assert_eq!(find_frame(&bytes.clone().into(), 3, 5), Some(50));
        assert_eq!(find_frame(&bytes.into(), 3, 6), None);
    }

    #[test]
    fn a_segment_header_reads_back_and_a_newer_version_is_named() {
        let header = SegmentHeader { segment: 3, salt: 4, bytes: 65536 };
        assert_eq!(SegmentHeader::decode(&header.encode()), Ok(header));
        let mut newer = header.encode();
        newer[4] = 2;
        assert!(SegmentHeader::decode(&newer).unwrap_err().contains("version 2"));
    }
}
