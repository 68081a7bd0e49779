//! In which records two replicas differ, found with few bytes: sums over ranges of keys first, then over parts of the ranges
//! that differ, then keys.
//!
//! A sum of hashes over a range is what [`Digest`] is over all records, so the ranges are a Merkle tree of which only the
//! part that is looked at is ever computed. Pure: who asks the other replica, and how, is [`Other`]'s.

use bytes::{BufMut, Bytes, BytesMut};
use serde::{Deserialize, Serialize};

use crate::digest::{Digest, element};
use crate::records::{ReadError, Records};

/// Records of a range of the first level.
const LEAF: usize = 1024;
/// Records of a range whose keys are looked at.
const PART: usize = 64;
/// Records read at once.
const STEP: usize = 256;
/// Most ranges in one question.
pub const RANGES_MAX: usize = 64;
/// Most keys in one answer.
pub const KEYS_MAX: usize = 512;
/// Records that one question about sums may make the other read.
pub const VISITED_MAX: u64 = 4 * (LEAF * RANGES_MAX) as u64;
/// Ranges of the first level that are looked into; that more differ is said, not counted.
const LEAVES_MAX: usize = 256;
/// Above every key.
const END: [u8; 32] = [0xff; 32];

/// Keys with `from <= key < to`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyRange {
    /// The lowest.
    pub from: Bytes,
    /// Above the highest.
    pub to: Bytes,
}

/// The records of a range, added up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sum {
    /// How many.
    pub records: u64,
    /// Their digest.
    pub digest: Digest,
}

/// A key and the hash of its record.
pub type Hashed = (Bytes, [u8; 32]);

/// A page of the keys of a range.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyPage {
    /// In order: [`KEYS_MAX`], or fewer if the range has no more.
    pub keys: Vec<Hashed>,
    /// The range has more behind the last.
    pub more: bool,
}

/// Another replica at the same seq.
pub trait Other {
    /// Why it does not answer.
    type Error;

    /// The sums of the first of these ranges, at least of one; `None` for one with more records than it will read.
    ///
    /// # Errors
    /// It does not answer.
    fn sums(&mut self, ranges: &[KeyRange]) -> Result<Vec<Option<Sum>>, Self::Error>;

    /// The first keys of a range.
    ///
    /// # Errors
    /// It does not answer.
    fn keys(&mut self, range: &KeyRange) -> Result<KeyPage, Self::Error>;
}

/// How a record differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum How {
    /// Both have the key, with different records.
    Changed,
    /// Only this replica has it.
    OnlyHere,
    /// Only the other has it.
    OnlyThere,
}

/// What differs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// The first differing keys, in order.
    pub named: Vec<(Bytes, How)>,
    /// How many differ.
    pub count: u64,
    /// Whether all were counted: too much differs otherwise, and `count` is the least.
    pub complete: bool,
}

/// Why a descent ended early.
#[derive(Debug, thiserror::Error)]
pub enum DescentError<E> {
    /// Records here cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The other does not answer.
    #[error("the other replica: {0}")]
    Other(E),
    /// The other answers what cannot be.
    #[error("the other replica answered badly: {0}")]
    Bad(&'static str),
}

/// What the other side of a descent answers about sums: of the first ranges, as long as no more than [`VISITED_MAX`]
/// records are read.
///
/// # Errors
/// The store's.
pub fn sums(records: &dyn Records, ranges: &[KeyRange]) -> Result<Vec<Option<Sum>>, ReadError> {
    let (mut sums, mut visited) = (Vec::new(), 0);
    for range in ranges {
        let mut sum = Sum::default();
        let mut from = range.from.clone();
        loop {
            let page = records.scan(&from, &range.to, STEP)?;
            for (key, value) in &page {
                sum.records += 1;
                sum.digest.add(key, value);
            }
            visited += page.len() as u64;
            if page.len() < STEP {
                sums.push(Some(sum));
                break;
            }
            if visited > VISITED_MAX {
                // The first is answered in any case, so that whoever asks gets on.
                if sums.is_empty() {
                    sums.push(None);
                }
                return Ok(sums);
            }
            from = page.last().map_or_else(Bytes::new, |(key, _)| after(key));
        }
    }
    Ok(sums)
}

/// What the other side of a descent answers about keys.
///
/// # Errors
/// The store's.
pub fn keys(records: &dyn Records, range: &KeyRange) -> Result<KeyPage, ReadError> {
    let mut page = KeyPage::default();
    let mut from = range.from.clone();
    loop {
        let read = records.scan(&from, &range.to, STEP)?;
        let ended = read.len() < STEP;
        for (key, value) in read {
            if page.keys.len() == KEYS_MAX {
                page.more = true;
                return Ok(page);
            }
            from = after(&key);
            let hash = element(&key, &value);
            page.keys.push((key, hash));
        }
        if ended {
            return Ok(page);
        }
    }
}

/// The next possible key.
fn after(key: &[u8]) -> Bytes {
    let mut next = BytesMut::with_capacity(key.len() + 1);
    next.put_slice(key);
    next.put_u8(0);
    next.freeze()
}

/// Compares all records with another replica's; of those that differ the first `named_max` are named.
///
/// Reads each record here once, and those in ranges that differ twice more. A hostile other can make the answer wrong or
/// useless; it cannot make this read or keep more, or go on for ever.
///
/// # Errors
/// Any [`DescentError`].
pub fn descend<O: Other>(own: &dyn Records, other: &mut O, named_max: usize) -> Result<Found, DescentError<O::Error>> {
    let mut descent = Descent { own, other, named_max, leaves: 0, found: Found { complete: true, ..Found::default() } };
    let mut from = Bytes::new();
    let mut open = Vec::new();
    loop {
        let (range, sum, last) = descent.leaf(from)?;
        from = range.to.clone();
        open.push((range, sum));
        if last || open.len() == RANGES_MAX {
            for leaf in descent.differing(&std::mem::take(&mut open))? {
                if descent.leaves == LEAVES_MAX {
                    descent.found.complete = false;
                    descent.found.count += 1;
                    return Ok(descent.found);
                }
                descent.leaves += 1;
                descent.look_into(&leaf)?;
            }
        }
        if last {
            return Ok(descent.found);
        }
    }
}

struct Descent<'a, O> {
    own: &'a dyn Records,
    other: &'a mut O,
    named_max: usize,
    leaves: usize,
    found: Found,
}

impl<O: Other> Descent<'_, O> {
    /// The next records here and their sum; whether they are the last.
    fn leaf(&self, from: Bytes) -> Result<(KeyRange, Sum, bool), ReadError> {
        let mut sum = Sum::default();
        let mut next = from.clone();
        while sum.records < LEAF as u64 {
            let page = self.own.scan(&next, &END, STEP)?;
            for (key, value) in &page {
                sum.records += 1;
                sum.digest.add(key, value);
            }
            if page.len() < STEP {
                return Ok((KeyRange { from, to: Bytes::from_static(&END) }, sum, true));
            }
            next = page.last().map_or(next, |(key, _)| after(key));
        }
        Ok((KeyRange { from, to: next }, sum, false))
    }

    /// Those of the ranges in which the other has something else.
    fn differing(&mut self, mut open: &[(KeyRange, Sum)]) -> Result<Vec<KeyRange>, DescentError<O::Error>> {
        let mut differing = Vec::new();
        while !open.is_empty() {
            let ranges: Vec<KeyRange> = open.iter().map(|(range, _)| range.clone()).collect();
            let sums = self.other.sums(&ranges).map_err(DescentError::Other)?;
            if sums.is_empty() || sums.len() > open.len() {
                return Err(DescentError::Bad("not the sums of the ranges"));
            }
            let (answered, rest) = open.split_at(sums.len());
            let differs = answered.iter().zip(&sums).filter(|((_, own), theirs)| Some(own) != theirs.as_ref());
            differing.extend(differs.map(|((range, _), _)| range.clone()));
            open = rest;
        }
        Ok(differing)
    }

    /// A range of the first level that differs: which of its parts do, and in which keys.
    fn look_into(&mut self, leaf: &KeyRange) -> Result<(), DescentError<O::Error>> {
        let own = self.hashed(leaf)?;
        let mut parts = Vec::new();
        let mut from = leaf.from.clone();
        for part in own.chunks(PART) {
            let digest = Digest::sum_of(part.iter().map(|(_, hash)| hash));
            let to = part.last().map_or_else(|| leaf.to.clone(), |(key, _)| after(key));
            let range = KeyRange { from: std::mem::replace(&mut from, to.clone()), to };
            parts.push((range, Sum { records: part.len() as u64, digest }));
        }
        // What the other has behind the last record here.
        match parts.last_mut() {
            Some((last, _)) => last.to = leaf.to.clone(),
            None => parts.push((leaf.clone(), Sum::default())),
        }
        for part in self.differing(&parts)? {
            let start = own.partition_point(|(key, _)| *key < part.from);
            let end = own.partition_point(|(key, _)| *key < part.to);
            self.compare(&part, &own[start..end])?;
        }
        Ok(())
    }

    fn hashed(&self, range: &KeyRange) -> Result<Vec<Hashed>, ReadError> {
        let (mut hashed, mut from) = (Vec::new(), range.from.clone());
        loop {
            let page = self.own.scan(&from, &range.to, STEP)?;
            hashed.extend(page.iter().map(|(key, value)| (key.clone(), element(key, value))));
            match page.last() {
                Some((key, _)) if page.len() == STEP => from = after(key),
                _ => return Ok(hashed),
            }
        }
    }

    /// Key by key.
    fn compare(&mut self, range: &KeyRange, own: &[Hashed]) -> Result<(), DescentError<O::Error>> {
        let mut own = own.iter().peekable();
        let mut rest = range.clone();
        let mut fetched = 0;
        loop {
            let page = self.other.keys(&rest).map_err(DescentError::Other)?;
            let in_order = page.keys.is_sorted_by(|(a, _), (b, _)| a < b);
            let inside = page.keys.iter().all(|(key, _)| rest.from <= *key && *key < rest.to);
            if !in_order || !inside || page.keys.len() > KEYS_MAX || (page.more && page.keys.len() < KEYS_MAX) {
                return Err(DescentError::Bad("not the keys of the range"));
            }
            fetched += page.keys.len();
            for (key, hash) in &page.keys {
                while let Some((mine, _)) = own.next_if(|(mine, _)| mine < key) {
                    self.differs(mine, How::OnlyHere);
                }
                match own.next_if(|(mine, _)| mine == key) {
                    None => self.differs(key, How::OnlyThere),
                    Some((_, mine)) if mine != hash => self.differs(key, How::Changed),
                    Some(_) => {}
                }
            }
            match page.keys.last() {
                // It has far more here than this replica: enough is known.
                _ if page.more && fetched > 64 * KEYS_MAX => {
                    self.found.complete = false;
                    return Ok(());
                }
                Some((last, _)) if page.more => rest.from = after(last),
                _ => break,
            }
        }
        for (mine, _) in own {
            self.differs(mine, How::OnlyHere);
        }
        Ok(())
    }

    fn differs(&mut self, key: &Bytes, how: How) {
        self.found.count += 1;
        if self.found.named.len() < self.named_max {
            self.found.named.push((key.clone(), how));
        }
    }
}

#[cfg(test)]
#[path = "descent_test.rs"]
mod tests;
