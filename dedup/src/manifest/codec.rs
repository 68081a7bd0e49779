//! Bytes of extents and of references to nodes.
//!
//! Numbers are LEB128; one value has one encoding, so equal manifests are equal bytes.

use causeway_base::ChunkId;

use super::{Extent, ManifestError, NodeRef};
use crate::CHUNK_BYTES_MAX;

/// Most bytes of one entry: a 64-bit number and an id.
pub(super) const ENTRY_BYTES_MAX: usize = 10 + ChunkId::LEN;

pub(super) fn check(extent: &Extent) -> Result<(), ManifestError> {
    let good = match *extent {
        Extent::Chunk { len, .. } => (1..=CHUNK_BYTES_MAX).contains(&len),
        Extent::Hole { len } => (1..=super::FILE_BYTES_MAX).contains(&len),
    };
    if good { Ok(()) } else { Err(ManifestError::Extent(extent.len())) }
}

pub(super) fn put_extent(out: &mut Vec<u8>, extent: &Extent) {
    match *extent {
        Extent::Chunk { id, len } => {
            put_number(out, u64::from(len) << 1);
            out.extend_from_slice(id.as_bytes());
        }
        Extent::Hole { len } => put_number(out, len << 1 | 1),
    }
}

pub(super) fn put_child(out: &mut Vec<u8>, id: ChunkId, span: u64) {
    put_number(out, span);
    out.extend_from_slice(id.as_bytes());
}

fn put_number(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

/// Reads entries from bytes; refuses what [`put_extent`] and [`put_child`] do not write.
struct Entries<'a>(&'a [u8]);

const CUT_OFF: ManifestError = ManifestError::Node("an entry is cut off");

impl Entries<'_> {
    fn number(&mut self) -> Result<u64, ManifestError> {
        let mut number = 0_u64;
        for shift in (0..64).step_by(7) {
            let (byte, rest) = self.0.split_first().ok_or(CUT_OFF)?;
            self.0 = rest;
            if (shift == 63 && *byte > 1) || (shift > 0 && *byte == 0) {
                return Err(ManifestError::Node("a number is not in its shortest form"));
            }
            number |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(number);
            }
        }
        Err(ManifestError::Node("a number is too long"))
    }

    fn id(&mut self) -> Result<ChunkId, ManifestError> {
        let (id, rest) = self.0.split_first_chunk().ok_or(CUT_OFF)?;
        self.0 = rest;
        Ok(ChunkId(*id))
    }
}

/// Adds up spans; the sum must come out as claimed.
struct Sum(u64);

impl Sum {
    fn add(&mut self, span: u64, claimed: u64) -> Result<(), ManifestError> {
        self.0 = self.0.saturating_add(span);
        if self.0 > claimed { Err(ManifestError::Size { claimed, found: self.0 }) } else { Ok(()) }
    }

    fn end(self, claimed: u64) -> Result<(), ManifestError> {
        if self.0 == claimed { Ok(()) } else { Err(ManifestError::Size { claimed, found: self.0 }) }
    }
}

/// The extents in `bytes`, which must cover `span` bytes of the file. Allocates in proportion to `bytes`.
pub(super) fn extents(bytes: &[u8], span: u64) -> Result<Vec<Extent>, ManifestError> {
    let mut entries = Entries(bytes);
    let mut sum = Sum(0);
    let mut found = Vec::with_capacity(bytes.len() / 35);
    while !entries.0.is_empty() {
        let number = entries.number()?;
        let len = number >> 1;
        let extent = if number & 1 == 1 {
            if matches!(found.last(), Some(Extent::Hole { .. })) {
                return Err(ManifestError::Node("a hole follows a hole"));
            }
            Extent::Hole { len }
        } else {
            Extent::Chunk { len: u32::try_from(len).map_err(|_| ManifestError::Extent(len))?, id: entries.id()? }
        };
        check(&extent)?;
        sum.add(len, span)?;
        found.push(extent);
    }
    sum.end(span)?;
    Ok(found)
}

/// The references to nodes of `level` in `bytes`, which must cover `span` bytes of the file.
pub(super) fn children(bytes: &[u8], level: u8, span: u64) -> Result<Vec<NodeRef>, ManifestError> {
    let mut entries = Entries(bytes);
    let mut sum = Sum(0);
    let mut found = Vec::with_capacity(bytes.len() / 35);
    while !entries.0.is_empty() {
        let child_span = entries.number()?;
        if child_span == 0 {
            return Err(ManifestError::Node("a node of no bytes"));
        }
        sum.add(child_span, span)?;
        found.push(NodeRef { id: entries.id()?, span: child_span, level });
    }
    sum.end(span)?;
    Ok(found)
}
