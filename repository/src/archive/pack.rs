//! Packs: containers of chunks, from which an index can be made anew.
//!
//! ```text
//! header   | magic CWPK | version u16 | zero u16 | zero u32 | crc32c of the 12 bytes |
//! record   | chunk id 32 | raw len u32 | payload len u32 | codec u8 | zero 3 | crc32c | payload |   ...
//! trailer  | magic CWPE | version u16 | zero u16 | records u64 | blake3 32 | crc32c of the 48 bytes |
//! ```
//! A record's CRC-32C covers the 44 bytes before it and the payload; the BLAKE3 everything before the trailer.

use bytes::Bytes;

use causeway_base::ChunkId;
use causeway_dedup::{CHUNK_BYTES_MAX, Codec, EncodedChunk};

const HEADER_LEN: usize = 16;
pub(crate) const RECORD_HEADER_LEN: usize = 48;
const TRAILER_LEN: usize = 52;
const VERSION: u16 = 1;

/// Largest pack that is read whole: a pack is closed at 64 MiB at most, one record may go past.
pub(crate) const PACK_BYTES_MAX: u64 = 80 << 20;

/// Where a chunk's record lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) pack: u128,
    pub(crate) offset: u32,
    /// Of the record, header included.
    pub(crate) len: u32,
    pub(crate) raw_len: u32,
    pub(crate) codec: u8,
}

impl Place {
    pub(crate) const LEN: usize = 29;

    pub(crate) fn encode(&self) -> Bytes {
        let mut out = Vec::with_capacity(Self::LEN);
        out.extend_from_slice(&self.pack.to_be_bytes());
        for number in [self.offset, self.len, self.raw_len] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        out.push(self.codec);
        out.into()
    }

    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; Self::LEN] = bytes.try_into().ok()?;
        let number = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let place = Self {
            pack: u128::from_be_bytes(bytes[..16].try_into().ok()?),
            offset: number(16),
            len: number(20),
            raw_len: number(24),
            codec: bytes[28],
        };
        let payload = (place.len as usize).checked_sub(RECORD_HEADER_LEN)?;
        (payload <= CHUNK_BYTES_MAX as usize && place.raw_len <= CHUNK_BYTES_MAX).then_some(place)
    }
}

/// Collects chunks into a pack in memory.
#[derive(Debug)]
pub(crate) struct PackBuilder {
    name: u128,
    out: Vec<u8>,
    places: Vec<(ChunkId, Place)>,
}

/// A finished pack.
#[derive(Debug)]
pub(crate) struct BuiltPack {
    pub(crate) name: u128,
    pub(crate) bytes: Bytes,
    pub(crate) places: Vec<(ChunkId, Place)>,
}

impl PackBuilder {
    pub(crate) fn new(name: u128) -> Self {
        let mut out = Vec::new();
        out.extend_from_slice(b"CWPK");
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&[0; 6]);
        out.extend_from_slice(&crc32c::crc32c(&out).to_le_bytes());
        Self { name, out, places: Vec::new() }
    }

    /// The caller has checked that the chunk is at most [`CHUNK_BYTES_MAX`] and the pack far below 4 GiB.
    pub(crate) fn push(&mut self, chunk: &EncodedChunk) {
        let header = record_header(chunk);
        let offset = u32::try_from(self.out.len()).unwrap_or(u32::MAX);
        let len = u32::try_from(RECORD_HEADER_LEN + chunk.payload.len()).unwrap_or(u32::MAX);
        self.out.extend_from_slice(&header);
        self.out.extend_from_slice(&chunk.payload);
        let (raw_len, codec) = (chunk.raw_len, chunk.codec.to_byte());
        self.places.push((chunk.id, Place { pack: self.name, offset, len, raw_len, codec }));
    }

    pub(crate) fn len(&self) -> usize {
        self.out.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    pub(crate) fn finish(mut self) -> BuiltPack {
        let hash = blake3::hash(&self.out);
        let mut trailer = Vec::with_capacity(TRAILER_LEN);
        trailer.extend_from_slice(b"CWPE");
        trailer.extend_from_slice(&VERSION.to_le_bytes());
        trailer.extend_from_slice(&[0; 2]);
        trailer.extend_from_slice(&(self.places.len() as u64).to_le_bytes());
        trailer.extend_from_slice(hash.as_bytes());
        trailer.extend_from_slice(&crc32c::crc32c(&trailer).to_le_bytes());
        self.out.extend_from_slice(&trailer);
        BuiltPack { name: self.name, bytes: self.out.into(), places: self.places }
    }
}

fn record_header(chunk: &EncodedChunk) -> [u8; RECORD_HEADER_LEN] {
    let mut header = [0; RECORD_HEADER_LEN];
    header[..32].copy_from_slice(chunk.id.as_bytes());
    header[32..36].copy_from_slice(&chunk.raw_len.to_le_bytes());
    header[36..40].copy_from_slice(&u32::try_from(chunk.payload.len()).unwrap_or(u32::MAX).to_le_bytes());
    header[40] = chunk.codec.to_byte();
    let crc = crc32c::crc32c_append(crc32c::crc32c(&header[..44]), &chunk.payload);
    header[44..].copy_from_slice(&crc.to_le_bytes());
    header
}

/// The chunk of exactly one record; `Err` says what does not hold.
pub(crate) fn open_record(record: &Bytes) -> Result<EncodedChunk, &'static str> {
    let (header, payload) = record.split_at_checked(RECORD_HEADER_LEN).ok_or("the record is cut")?;
    let number = |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
    if number(36) as usize != payload.len() {
        return Err("the payload's length");
    }
    if number(44) != crc32c::crc32c_append(crc32c::crc32c(&header[..44]), payload) {
        return Err("the checksum");
    }
    let id = ChunkId::from_slice(&header[..32]).ok_or("the id")?;
    let codec = Codec::from_byte(header[40]).map_err(|_| "the codec is not known")?;
    Ok(EncodedChunk { id, raw_len: number(32), codec, payload: record.slice(RECORD_HEADER_LEN..) })
}

/// Checks a whole pack and gives the places of its chunks: what its index entries must be.
pub(crate) fn scan(name: u128, pack: &Bytes) -> Result<Vec<(ChunkId, Place)>, &'static str> {
    let body = pack.len().checked_sub(TRAILER_LEN).filter(|len| *len >= HEADER_LEN).ok_or("it is cut")?;
    let (header, trailer) = (&pack[..HEADER_LEN], &pack[body..]);
    let crc = |bytes: &[u8], at: usize| crc32c::crc32c(&bytes[..at]).to_le_bytes() == bytes[at..at + 4];
    if &header[..4] != b"CWPK" || header[4..6] != VERSION.to_le_bytes() || !crc(header, 12) {
        return Err("the header");
    }
    if &trailer[..4] != b"CWPE" || trailer[4..6] != VERSION.to_le_bytes() || !crc(trailer, 48) {
        return Err("the trailer");
    }
    if blake3::hash(&pack[..body]).as_bytes() != &trailer[16..48] {
        return Err("the BLAKE3");
    }
    let mut places = Vec::new();
    let mut at = HEADER_LEN;
    while at < body {
        let header = pack.get(at..at + RECORD_HEADER_LEN).ok_or("a record is cut")?;
        let payload_len = u32::from_le_bytes([header[36], header[37], header[38], header[39]]) as usize;
        let end = at.saturating_add(RECORD_HEADER_LEN).saturating_add(payload_len);
        if end > body {
            return Err("a record passes the end");
        }
        let chunk = open_record(&pack.slice(at..end))?;
        let offset = u32::try_from(at).map_err(|_| "it is too large")?;
        let len = u32::try_from(end - at).map_err(|_| "it is too large")?;
        let (raw_len, codec) = (chunk.raw_len, chunk.codec.to_byte());
        places.push((chunk.id, Place { pack: name, offset, len, raw_len, codec }));
        at = end;
    }
    if trailer[8..16] != (places.len() as u64).to_le_bytes() {
        return Err("the number of records");
    }
    Ok(places)
}

#[cfg(test)]
mod tests {
    use causeway_dedup::Realm;
    use proptest::prelude::*;

    use super::*;

    fn pack(contents: &[Vec<u8>]) -> BuiltPack {
        let realm = Realm::new("default", [3; 32]);
        let mut builder = PackBuilder::new(9);
        for plain in contents {
            builder.push(&EncodedChunk::encode(realm.chunk_id(plain), Bytes::from(plain.clone()), 3));
        }
        builder.finish()
    }

    proptest! {
        #[test]
        fn the_index_can_be_made_from_the_pack(contents in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..300), 0..20)) {
            let built = pack(&contents);
            let places = scan(9, &built.bytes).unwrap();
            prop_assert_eq!(&places, &built.places);
            let realm = Realm::new("default", [3; 32]);
            for ((id, place), plain) in places.iter().zip(&contents) {
                let at = place.offset as usize;
                let chunk = open_record(&built.bytes.slice(at..at + place.len as usize)).unwrap();
                prop_assert_eq!(chunk.id, *id);
                prop_assert_eq!(&chunk.decode(&realm).unwrap()[..], &plain[..]);
                prop_assert_eq!(Place::decode(&place.encode()), Some(*place));
            }
        }

        #[test]
        fn noise_is_refused(noise in proptest::collection::vec(any::<u8>(), 0..300)) {
            let noise = Bytes::from(noise);
            prop_assert!(scan(1, &noise).is_err());
            prop_assert!(open_record(&noise).is_err());
        }
    }

    #[test]
    fn a_flip_of_any_byte_and_any_cut_is_noticed() {
        let built = pack(&[vec![1; 100], vec![2; 50], (0..=255).collect()]);
        for at in 0..built.bytes.len() {
            let mut bytes = built.bytes.to_vec();
            bytes[at] ^= 4;
            assert!(scan(9, &Bytes::from(bytes)).is_err(), "byte {at}");
            assert!(scan(9, &built.bytes.slice(..at)).is_err(), "cut at {at}");
        }
        for (_, place) in &built.places {
            let record = built.bytes.slice(place.offset as usize..(place.offset + place.len) as usize);
            for at in 0..record.len() {
                let mut bytes = record.to_vec();
                bytes[at] ^= 4;
                assert!(open_record(&Bytes::from(bytes)).is_err(), "byte {at}");
            }
        }
    }
}
