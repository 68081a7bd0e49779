//! How records, commands and outcomes become bytes: one version byte, then the postcard form. See `docs/formats/records.md`.
//!
//! Decoding takes bytes from a disk or a peer: it is bounded before it allocates, and noise is an error, never a panic.

use std::fmt;
use std::marker::PhantomData;

use bytes::Bytes;
use serde::de::{DeserializeOwned, Error as _, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use crate::command::{COMMAND_BYTES_MAX, Command, Outcome, REQUEST_BYTES_MAX, Request};
use crate::records::ReadError;

/// The version written, and the only one read until a second exists.
pub const VERSION: u8 = 1;
/// Largest encoded record in bytes: an inode with the largest manifest root and full extended attributes is a quarter.
pub const RECORD_BYTES_MAX: usize = 512 << 10;

/// Why bytes did not decode.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// There is nothing.
    #[error("no bytes")]
    Empty,
    /// More bytes than this type may have; nothing was decoded.
    #[error("{len} bytes, at most {max} are allowed")]
    TooLarge {
        /// Given.
        len: usize,
        /// The bound.
        max: usize,
    },
    /// Written by a program that this one does not know.
    #[error("version {0}, this program reads {VERSION}")]
    Version(u8),
    /// The value does not decode, or breaks a bound of its type.
    #[error("payload: {0}")]
    Payload(String),
    /// Bytes follow the value.
    #[error("{0} bytes follow the value")]
    Trailing(usize),
}

/// The stored form of a value: version byte and postcard.
#[must_use]
pub fn to_bytes<T: Serialize>(value: &T) -> Bytes {
    let mut out = Vec::with_capacity(64);
    out.push(VERSION);
    // Every type of this crate is plain data: postcard fails only on unsized sequences and on a full buffer.
    postcard::to_extend(value, out).expect("plain data has a postcard form and a Vec grows").into()
}

/// A value from its stored form of at most `bytes_max` bytes; bytes after it are refused.
///
/// # Errors
/// Any [`DecodeError`].
pub fn from_bytes<T: DeserializeOwned>(bytes: &[u8], bytes_max: usize) -> Result<T, DecodeError> {
    if bytes.len() > bytes_max {
        return Err(DecodeError::TooLarge { len: bytes.len(), max: bytes_max });
    }
    let (version, payload) = bytes.split_first().ok_or(DecodeError::Empty)?;
    if *version != VERSION {
        return Err(DecodeError::Version(*version));
    }
    let (value, rest) = postcard::take_from_bytes(payload).map_err(|error| DecodeError::Payload(error.to_string()))?;
    if rest.is_empty() { Ok(value) } else { Err(DecodeError::Trailing(rest.len())) }
}

/// A record from its stored form.
///
/// # Errors
/// [`ReadError::Corrupt`] with the key.
pub fn record<T: DeserializeOwned>(key: &[u8], value: &[u8]) -> Result<T, ReadError> {
    from_bytes(value, RECORD_BYTES_MAX).map_err(|error| corrupt(key, error))
}

/// The error for a record that cannot be.
pub(crate) fn corrupt(key: &[u8], reason: impl fmt::Display) -> ReadError {
    let mut hex = String::with_capacity(2 * key.len());
    for byte in key {
        let digit = |nibble: u8| char::from_digit(u32::from(nibble), 16).unwrap_or('?');
        hex.extend([digit(byte >> 4), digit(byte & 15)]);
    }
    ReadError::Corrupt { key: hex, reason: reason.to_string() }
}

macro_rules! message {
    ($type:ty, $max:expr) => {
        impl $type {
            /// Its bytes, as they go into a log or over a wire.
            #[must_use]
            pub fn encode(&self) -> Bytes {
                to_bytes(self)
            }

            /// From the bytes of `encode`.
            ///
            /// # Errors
            /// Any [`DecodeError`]; bounds are checked before anything is allocated for them.
            pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
                from_bytes(bytes, $max)
            }
        }
    };
}

message!(Command, COMMAND_BYTES_MAX);
message!(Request, REQUEST_BYTES_MAX);
message!(Outcome, REQUEST_BYTES_MAX);

/// Deserializes a list of at most `MAX` elements: one more is an error before it is decoded.
pub(crate) fn bounded_vec<'de, const MAX: usize, T, D>(deserializer: D) -> Result<Vec<T>, D::Error>
where
    T: Deserialize<'de>,
    D: Deserializer<'de>,
{
    struct Bounded<T, const MAX: usize>(PhantomData<T>);
    impl<'de, T: Deserialize<'de>, const MAX: usize> Visitor<'de> for Bounded<T, MAX> {
        type Value = Vec<T>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "a list of at most {MAX} elements")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Vec<T>, A::Error> {
            let len = seq.size_hint().unwrap_or(0);
            if len > MAX {
                return Err(A::Error::invalid_length(len, &self));
            }
            // No more than 64 at once on the word of the length alone.
            let mut list = Vec::with_capacity(len.min(64));
            while let Some(element) = seq.next_element()? {
                if list.len() == MAX {
                    return Err(A::Error::invalid_length(MAX + 1, &self));
                }
                list.push(element);
            }
            Ok(list)
        }
    }
    deserializer.deserialize_seq(Bounded::<T, MAX>(PhantomData))
}
