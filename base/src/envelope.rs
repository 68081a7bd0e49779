//! The envelope of small sealed objects: magic, version, length and checksum around a payload.
//!
//! ```text
//! 0       4         6          8            12             12+len       16+len
//! | magic | version | reserved | len (u32) | payload ...   | crc32c     |
//! ```
//! Numbers are little-endian; the CRC-32C covers everything before it. Larger formats (logs, packs, runs) have layouts of
//! their own, see `docs/formats/`.

use serde::Serialize;
use serde::de::DeserializeOwned;

/// Bytes that an envelope adds to its payload.
pub const OVERHEAD: usize = 16;

/// What a sealed object is: its magic, the version written, and the largest payload accepted.
#[derive(Clone, Copy, Debug)]
pub struct Kind {
    /// Four bytes that no other format uses.
    pub magic: [u8; 4],
    /// Version written and, until a migration exists, the only one read.
    pub version: u16,
    /// Largest payload in bytes, so that a lying length allocates nothing.
    pub payload_bytes_max: u32,
}

/// Why a sealed object was not opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EnvelopeError {
    /// Fewer bytes than the header says; a torn or cut object.
    #[error("{have} bytes, {need} are needed")]
    Short {
        /// Bytes there are.
        have: usize,
        /// Bytes there should be.
        need: usize,
    },
    /// More bytes than the header says.
    #[error("{0} bytes follow the end")]
    Trailing(usize),
    /// Another format.
    #[error("magic {found:02x?}, expected {expected:02x?}")]
    Magic {
        /// Read.
        found: [u8; 4],
        /// Of this kind.
        expected: [u8; 4],
    },
    /// A version that this program does not know.
    #[error("version {found}, this program reads {known}")]
    Version {
        /// Read.
        found: u16,
        /// Known here.
        known: u16,
    },
    /// Larger than this kind may be.
    #[error("payload of {len} bytes, at most {max} are allowed")]
    TooLarge {
        /// Read, or to be written.
        len: u64,
        /// The bound.
        max: u32,
    },
    /// The bytes are not those that were written.
    #[error("checksum {found:08x}, expected {expected:08x}")]
    Checksum {
        /// Stored in the object.
        found: u32,
        /// Of the bytes read.
        expected: u32,
    },
    /// The checksum holds but the payload does not decode: written by a faulty program.
    #[error("payload does not decode: {0}")]
    Payload(String),
}

/// Wraps `payload`.
///
/// # Errors
/// [`EnvelopeError::TooLarge`].
pub fn seal(kind: Kind, payload: &[u8]) -> Result<Vec<u8>, EnvelopeError> {
    let len = u32::try_from(payload.len()).ok().filter(|len| *len <= kind.payload_bytes_max);
    let len = len.ok_or(EnvelopeError::TooLarge { len: payload.len() as u64, max: kind.payload_bytes_max })?;
    let mut out = Vec::with_capacity(OVERHEAD + payload.len());
    out.extend_from_slice(&kind.magic);
    out.extend_from_slice(&kind.version.to_le_bytes());
    out.extend_from_slice(&[0; 2]);
    out.extend_from_slice(&len.to_le_bytes());
    out.extend_from_slice(payload);
    out.extend_from_slice(&crc32c::crc32c(&out).to_le_bytes());
    Ok(out)
}

/// Unwraps what [`seal`] made: exactly one object, no byte more.
///
/// # Errors
/// Any [`EnvelopeError`]; nothing is allocated before the checksum held.
pub fn open(kind: Kind, sealed: &[u8]) -> Result<&[u8], EnvelopeError> {
    let short = |need| EnvelopeError::Short { have: sealed.len(), need };
    let (header, _) = sealed.split_first_chunk::<12>().ok_or_else(|| short(OVERHEAD))?;
    let magic = [header[0], header[1], header[2], header[3]];
    if magic != kind.magic {
        return Err(EnvelopeError::Magic { found: magic, expected: kind.magic });
    }
    let version = u16::from_le_bytes([header[4], header[5]]);
    if version != kind.version {
        return Err(EnvelopeError::Version { found: version, known: kind.version });
    }
    let len = u32::from_le_bytes([header[8], header[9], header[10], header[11]]);
    if len > kind.payload_bytes_max {
        return Err(EnvelopeError::TooLarge { len: u64::from(len), max: kind.payload_bytes_max });
    }
    let end = 12 + len as usize;
    let stored = sealed.get(end..end + 4).ok_or_else(|| short(end + 4))?;
    if sealed.len() > end + 4 {
        return Err(EnvelopeError::Trailing(sealed.len() - end - 4));
    }
    let found = u32::from_le_bytes([stored[0], stored[1], stored[2], stored[3]]);
    let expected = crc32c::crc32c(&sealed[..end]);
    if found != expected {
        return Err(EnvelopeError::Checksum { found, expected });
    }
    Ok(&sealed[12..end])
}

/// [`seal`]s the postcard form of `value`.
///
/// # Errors
/// [`EnvelopeError::TooLarge`], or [`EnvelopeError::Payload`] if the value has no postcard form.
pub fn seal_value<T: Serialize>(kind: Kind, value: &T) -> Result<Vec<u8>, EnvelopeError> {
    let payload = postcard::to_stdvec(value).map_err(|error| EnvelopeError::Payload(error.to_string()))?;
    seal(kind, &payload)
}

/// [`open`]s what [`seal_value`] made; bytes after the value are refused.
///
/// # Errors
/// Any [`EnvelopeError`].
pub fn open_value<T: DeserializeOwned>(kind: Kind, sealed: &[u8]) -> Result<T, EnvelopeError> {
    let payload = open(kind, sealed)?;
    let (value, rest) =
        postcard::take_from_bytes(payload).map_err(|error| EnvelopeError::Payload(error.to_string()))?;
    if rest.is_empty() { Ok(value) } else { Err(EnvelopeError::Trailing(rest.len())) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const KIND: Kind = Kind { magic: *b"TEST", version: 3, payload_bytes_max: 4096 };

    proptest! {
        #[test]
        fn what_is_sealed_opens(payload in proptest::collection::vec(any::<u8>(), 0..512)) {
            let sealed = seal(KIND, &payload).unwrap();
            prop_assert_eq!(open(KIND, &sealed).unwrap(), payload.as_slice());
        }

        #[test]
        fn any_flipped_bit_is_noticed(payload in proptest::collection::vec(any::<u8>(), 0..64), at in any::<prop::sample::Index>(), bit in 0..8) {
            let mut sealed = seal(KIND, &payload).unwrap();
            let at = at.index(sealed.len());
            sealed[at] ^= 1_u8 << bit;
            prop_assert!(open(KIND, &sealed).is_err());
        }

        #[test]
        fn any_cut_is_noticed(payload in proptest::collection::vec(any::<u8>(), 0..64), at in any::<prop::sample::Index>()) {
            let sealed = seal(KIND, &payload).unwrap();
            prop_assert!(open(KIND, &sealed[..at.index(sealed.len())]).is_err());
        }

        #[test]
        fn noise_is_an_error_and_no_panic(noise in proptest::collection::vec(any::<u8>(), 0..64)) {
            prop_assert!(open(KIND, &noise).is_err());
        }
    }

    #[test]
    fn a_lying_length_and_a_newer_version_are_named() {
        let mut sealed = seal(KIND, b"x").unwrap();
        sealed[8..12].copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(matches!(open(KIND, &sealed), Err(EnvelopeError::TooLarge { .. })));
        let newer = seal(Kind { version: 4, ..KIND }, b"x").unwrap();
        assert_eq!(open(KIND, &newer), Err(EnvelopeError::Version { found: 4, known: 3 }));
        assert!(matches!(seal(KIND, &[0; 4097]), Err(EnvelopeError::TooLarge { len: 4097, .. })));
    }

    #[test]
    fn values_are_whole() {
        let sealed = seal_value(KIND, &(7_u64, "seven")).unwrap();
        assert_eq!(open_value::<(u64, String)>(KIND, &sealed).unwrap(), (7, "seven".to_owned()));
        assert_eq!(open_value::<u64>(KIND, &sealed), Err(EnvelopeError::Trailing(6)));
    }
}
