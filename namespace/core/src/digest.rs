//! An incremental digest of a set of records.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::apply::Change;

/// The sum modulo 2²⁵⁶ of the BLAKE3 hashes of all records (AdHash, Bellare and Micciancio 1997): equal sets have equal
/// digests whatever the order of their changes, and a change costs one or two hashes.
///
/// It finds divergence by fault, not by malice: sums can be forged by whoever may choose very many records. The default is
/// the digest of no records.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Digest([u8; 32]);

impl Digest {
    /// The digest whose bytes these are (little-endian).
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Its bytes, little-endian.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Of a whole set of records, each given once.
    pub fn of<'a>(records: impl IntoIterator<Item = (&'a [u8], &'a [u8])>) -> Self {
        let mut digest = Self::default();
        for (key, value) in records {
            digest.add(key, value);
        }
        digest
    }

    /// Of records whose hashes these are.
    pub(crate) fn sum_of<'a>(hashes: impl IntoIterator<Item = &'a [u8; 32]>) -> Self {
        let mut digest = Self::default();
        hashes.into_iter().for_each(|hash| digest.sum(hash, false));
        digest
    }

    /// Takes a record in.
    pub fn add(&mut self, key: &[u8], value: &[u8]) {
        self.sum(&element(key, value), false);
    }

    /// Takes a record out that was taken in.
    pub fn remove(&mut self, key: &[u8], value: &[u8]) {
        self.sum(&element(key, value), true);
    }

    /// With all records of another taken in.
    #[must_use]
    pub fn plus(mut self, other: &Self) -> Self {
        self.sum(&other.0, false);
        self
    }

    /// With all records of another taken out.
    #[must_use]
    pub fn minus(mut self, other: &Self) -> Self {
        self.sum(&other.0, true);
        self
    }

    /// Takes a change in: the old value out, the new one in.
    pub fn apply(&mut self, change: &Change) {
        if let Some(old) = &change.old {
            self.remove(&change.key, old);
        }
        if let Some(new) = &change.new {
            self.add(&change.key, new);
        }
    }

    /// Adds (or subtracts) limb by limb, with the carry (or borrow) of each into the next.
    fn sum(&mut self, other: &[u8; 32], subtract: bool) {
        let mut carry = false;
        for (mine, theirs) in self.0.chunks_exact_mut(8).zip(other.chunks_exact(8)) {
            let mut limb = [0; 8];
            limb.copy_from_slice(mine);
            let left = u64::from_le_bytes(limb);
            limb.copy_from_slice(theirs);
            let right = u64::from_le_bytes(limb);
            let step = if subtract { u64::overflowing_sub } else { u64::overflowing_add };
            let (partial, first) = step(left, right);
            let (result, second) = step(partial, u64::from(carry));
            carry = first || second;
            mine.copy_from_slice(&result.to_le_bytes());
        }
    }
}

/// The hash of one record. The key's length stands before it, so that no two records share their bytes.
pub(crate) fn element(key: &[u8], value: &[u8]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&(key.len() as u64).to_le_bytes());
    hasher.update(key);
    hasher.update(&(value.len() as u64).to_le_bytes());
    hasher.update(value);
    *hasher.finalize().as_bytes()
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Digest({self})")
    }
}

/// A text that is no digest: 64 hexadecimal digits are.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a digest: 64 hexadecimal digits are expected")]
pub struct ParseDigestError;

impl FromStr for Digest {
    type Err = ParseDigestError;

    fn from_str(text: &str) -> Result<Self, ParseDigestError> {
        if text.len() != 64 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(ParseDigestError);
        }
        let mut bytes = [0; 32];
        for (at, byte) in bytes.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&text[2 * at..2 * at + 2], 16).map_err(|_| ParseDigestError)?;
        }
        Ok(Self(bytes))
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_order_of_records_does_not_matter(
            records in prop::collection::vec((prop::collection::vec(any::<u8>(), 0..20), prop::collection::vec(any::<u8>(), 0..40)), 1..20),
            rotate in any::<prop::sample::Index>(),
        ) {
            let pair = |(key, value): &(Vec<u8>, Vec<u8>)| (key.clone(), value.clone());
            let mut shuffled: Vec<_> = records.iter().map(pair).collect();
            let mid = rotate.index(shuffled.len());
            shuffled.rotate_left(mid);
            shuffled.reverse();
            let digest = |list: &[(Vec<u8>, Vec<u8>)]| Digest::of(list.iter().map(|(k, v)| (k.as_slice(), v.as_slice())));
            prop_assert_eq!(digest(&records), digest(&shuffled));
            let (some, rest) = records.split_at(mid);
            prop_assert_eq!(digest(some).plus(&digest(rest)), digest(&records));
            prop_assert_eq!(digest(&records).minus(&digest(rest)), digest(some));
        }

        #[test]
        fn what_is_taken_out_was_never_there(seed in any::<[u8; 32]>(), key in prop::collection::vec(any::<u8>(), 0..20), a in prop::collection::vec(any::<u8>(), 0..20), b in prop::collection::vec(any::<u8>(), 0..20)) {
            let start = Digest::from_bytes(seed);
            let mut digest = start;
            let bytes = |v: &Vec<u8>| Some(Bytes::from(v.clone()));
            digest.apply(&Change { key: key.clone().into(), old: None, new: bytes(&a) });
            prop_assert_ne!(digest, start);
            digest.apply(&Change { key: key.clone().into(), old: bytes(&a), new: bytes(&b) });
            digest.apply(&Change { key: key.into(), old: bytes(&b), new: None });
            prop_assert_eq!(digest, start);
            prop_assert_eq!(digest.to_string().parse(), Ok(digest));
        }
    }

    #[test]
    fn where_key_and_value_meet_matters_and_carries_run_through() {
        assert_ne!(Digest::of([(&b"ab"[..], &b"c"[..])]), Digest::of([(&b"a"[..], &b"bc"[..])]));
        let mut digest = Digest::from_bytes([0xff; 32]);
        let mut one = [0; 32];
        one[0] = 1;
        digest.sum(&one, false);
        assert_eq!(digest, Digest::default());
        digest.sum(&one, true);
        assert_eq!(digest, Digest::from_bytes([0xff; 32]));
    }

    #[test]
    fn the_digest_is_a_format() {
        let digest = Digest::of([(&b"key"[..], &b"value"[..]), (&b""[..], &b""[..])]);
        assert_eq!(digest.to_string(), "87c470bc4a23c72a15f764d6898c57e5024ff215ad6030a5b26b6e42a44292a1");
    }
}
