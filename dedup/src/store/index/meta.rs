//! What the index knows of a pack.

use crate::store::format::{FooterEntry, RECORD_HEADER_BYTES};

/// What a pack is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) enum PackState {
    /// Records may follow.
    Open,
    /// It has a footer and never changes.
    Sealed,
    /// It has bad bytes before good ones: kept as it is, and never written.
    Damaged,
    /// Nothing in it is used: the file is being removed.
    Dead,
}

/// Bit beside a pack's state.
const THINNED: u8 = 0x10;

/// What the index knows of a pack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) struct PackMeta {
    pub(in crate::store) state: PackState,
    /// Chunks of it were collected: the index may lack what the pack has.
    pub(in crate::store) thinned: bool,
    /// All records before this offset are in the index.
    pub(in crate::store) indexed_to: u32,
    pub(in crate::store) chunks: u32,
    /// Bytes of the records.
    pub(in crate::store) stored_bytes: u64,
    /// Plain bytes of the chunks.
    pub(in crate::store) raw_bytes: u64,
    /// Of the chunks, those that are deltas.
    pub(in crate::store) deltas: Deltas,
}

/// Chunks that rest as deltas.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::store) struct Deltas {
    pub(in crate::store) chunks: u32,
    /// Bytes of the records.
    pub(in crate::store) stored_bytes: u64,
    /// Plain bytes of the chunks.
    pub(in crate::store) raw_bytes: u64,
}

impl PackMeta {
    pub(in crate::store) const EMPTY: Self = Self {
        state: PackState::Open,
        thinned: false,
        indexed_to: 0,
        chunks: 0,
        stored_bytes: 0,
        raw_bytes: 0,
        deltas: Deltas { chunks: 0, stored_bytes: 0, raw_bytes: 0 },
    };

    pub(in crate::store) fn count(&mut self, entry: &FooterEntry) {
        self.chunks += 1;
        if entry.is_first() {
            self.stored_bytes += RECORD_HEADER_BYTES as u64 + u64::from(entry.payload_len);
        }
        self.raw_bytes += u64::from(entry.raw_len);
        if entry.depth > 0 {
            self.deltas.chunks += 1;
            self.deltas.stored_bytes += RECORD_HEADER_BYTES as u64 + u64::from(entry.payload_len);
            self.deltas.raw_bytes += u64::from(entry.raw_len);
        }
    }

    pub(super) fn encode(self) -> [u8; 46] {
        let mut out = [0; 46];
        out[0] = 2; // version
        out[1] = match self.state {
            PackState::Open => 0,
            PackState::Sealed => 1,
            PackState::Damaged => 2,
            PackState::Dead => 3,
        };
        out[1] |= if self.thinned { THINNED } else { 0 };
        out[2..6].copy_from_slice(&self.indexed_to.to_le_bytes());
        out[6..10].copy_from_slice(&self.chunks.to_le_bytes());
        out[10..18].copy_from_slice(&self.stored_bytes.to_le_bytes());
        out[18..26].copy_from_slice(&self.raw_bytes.to_le_bytes());
        out[26..30].copy_from_slice(&self.deltas.chunks.to_le_bytes());
        out[30..38].copy_from_slice(&self.deltas.stored_bytes.to_le_bytes());
        out[38..].copy_from_slice(&self.deltas.raw_bytes.to_le_bytes());
        out
    }

    /// Version 1 ends before the deltas, of which it knew none.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        if !matches!((bytes.first()?, bytes.len()), (1, 26) | (2, 46)) {
            return None;
        }
        let word = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let long = |at: usize| u64::from(word(at)) | u64::from(word(at + 4)) << 32;
        let thinned = bytes[1] & THINNED != 0;
        let state = match bytes[1] & !THINNED {
            0 => PackState::Open,
            1 => PackState::Sealed,
            2 => PackState::Damaged,
            3 => PackState::Dead,
            _ => return None,
        };
        let deltas = match bytes[0] {
            1 => Deltas::default(),
            _ => Deltas { chunks: word(26), stored_bytes: long(30), raw_bytes: long(38) },
        };
        let (stored_bytes, raw_bytes) = (long(10), long(18));
        Some(Self { state, thinned, indexed_to: word(2), chunks: word(6), stored_bytes, raw_bytes, deltas })
    }
}
