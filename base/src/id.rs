//! The ids of the system: one newtype each, so that two of them are never mixed up.

use std::fmt;
use std::str::FromStr;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

macro_rules! number_id {
    ($(#[$doc:meta])* $name:ident, $prefix:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub u64);

        impl $name {
            /// The number itself.
            #[must_use]
            pub const fn get(self) -> u64 {
                self.0
            }

            /// The id that follows, or `None` past `u64::MAX`.
            #[must_use]
            pub fn next(self) -> Option<Self> {
                self.0.checked_add(1).map(Self)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($prefix, "{}"), self.0)
            }
        }
    };
}

number_id!(
    /// A process of a site. Never reused: a replaced node gets a new one.
    NodeId,
    "n"
);
number_id!(
    /// A volume, and the Raft group that holds it. [`VolumeId::ROOT`] is the root group.
    VolumeId,
    "v"
);
number_id!(
    /// A volume's commit number: its Raft log index. Every state, snapshot, watermark and image is named by it.
    Seq,
    ""
);
number_id!(
    /// An inode of a volume. [`Ino::ROOT`] is the volume's top directory; numbers are never reused.
    Ino,
    "i"
);
number_id!(
    /// A generation of a cluster's authority over a volume. Raised by a restore or a break-glass promotion, never by an
    /// election, and compared before the Raft term: it fences every process of an earlier generation.
    Epoch,
    "e"
);

impl VolumeId {
    /// The root group: topology, volume table, policies, node registrations.
    pub const ROOT: Self = Self(0);
}

impl Ino {
    /// The top directory of a volume.
    pub const ROOT: Self = Self(1);
}

impl Seq {
    /// Before the first commit.
    pub const ZERO: Self = Self(0);
}

macro_rules! random_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        ///
        /// Hexadecimal in texts (TOML, JSON), 128 bits in binary formats.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub u128);

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                if serializer.is_human_readable() { serializer.collect_str(self) } else { self.0.serialize(serializer) }
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                if deserializer.is_human_readable() {
                    String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
                } else {
                    u128::deserialize(deserializer).map(Self)
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:032x}", self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({:032x})"), self.0)
            }
        }

        impl FromStr for $name {
            type Err = ParseIdError;

            fn from_str(text: &str) -> Result<Self, ParseIdError> {
                if text.len() != 32 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
                    return Err(ParseIdError::new(stringify!($name), text));
                }
                u128::from_str_radix(text, 16)
                    .map(Self)
                    .map_err(|_| ParseIdError::new(stringify!($name), text))
            }
        }
    };
}

random_id!(
    /// A cluster: drawn at random by `init`, carried by every message, compared before anything else.
    ClusterId
);
random_id!(
    /// One incarnation of a node's data folder: drawn at its first start. A known [`NodeId`] with another store id is a
    /// node that lost its disk, and is refused.
    StoreId
);
random_id!(
    /// A client's own random name for itself; opens a session of at-most-once requests.
    ClientId
);

/// A text that is not the id it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a {kind}: {} hexadecimal digits are expected", if *kind == "ChunkId" { 64 } else { 32 })]
pub struct ParseIdError {
    kind: &'static str,
    text: String,
}

impl ParseIdError {
    /// Keeps at most 80 characters of the text, so that bad input cannot flood a log.
    pub(crate) fn new(kind: &'static str, text: &str) -> Self {
        Self { kind, text: text.chars().take(80).collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn random_ids_survive_text() {
        let id = ClusterId(0x00ff_0000_0000_0000_0000_0000_0000_0abc);
        assert_eq!(id.to_string().parse::<ClusterId>(), Ok(id));
    }

    #[test]
    fn a_sign_or_a_short_text_is_no_id() {
        for text in ["", "12", "+0000000000000000000000000000001", "zz000000000000000000000000000000"] {
            assert!(text.parse::<StoreId>().is_err(), "{text}");
        }
    }

    #[test]
    fn the_last_number_has_no_next() {
        assert_eq!(Seq(u64::MAX).next(), None);
        assert_eq!(Seq(7).next(), Some(Seq(8)));
    }
}
