//! The request that begins each call.

use std::fmt;

use bytes::{BufMut, Bytes, BytesMut};
use causeway_base::{ChunkId, SiteName, VolumeId};
use serde::{Deserialize, Serialize};

use super::{Bases, WINDOW_LOG_MAX};

/// Most ids of one request: 2 MiB of them.
pub const IDS_MAX: usize = 64 << 10;
/// Longest name of a realm in bytes.
pub const REALM_BYTES_MAX: usize = 63;
/// Version of the requests written and read.
const VERSION: u8 = 1;
/// The same, by one who takes deltas against chunks that the request does not name.
const VERSION_ANY_BASE: u8 = 2;
/// Longest encoded head: a realm, a site and a few numbers.
const HEAD_BYTES_MAX: usize = 512;

/// What a transfer is for; bytes are counted by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Cause {
    /// A replica follows its volume.
    Replication,
    /// Someone reads here what is elsewhere.
    Read,
    /// A chunk that was lost or damaged is fetched again.
    Repair,
    /// The archive needs it.
    Archive,
    /// A client writes.
    Upload,
    /// Questions about what is there.
    Query,
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Replication => "replication",
            Self::Read => "read",
            Self::Repair => "repair",
            Self::Archive => "archive",
            Self::Upload => "upload",
            Self::Query => "query",
        })
    }
}

/// How chunks are to be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Form {
    /// Each as it is stored: least work at both ends.
    Stored,
    /// Those that compress in one zstd stream over the whole answer: fewest bytes.
    Stream {
        /// The zstd level, -7 to 19.
        level: i8,
        /// Log2 of the window in bytes, 17 to [`WINDOW_LOG_MAX`]: the memory that the reader must have.
        window_log: u8,
    },
}

impl Form {
    /// For links between regions. On 314 MB of source code: 47.7 MB, where chunks by themselves take 69.0 at about the same
    /// speed; twice the window saves 1.5 % more at five sixths of the speed. See `docs/replication.md`.
    pub const WAN: Self = Self::Stream { level: 3, window_log: 22 };
}

/// Asks for chunks, or about them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChunkRequest {
    /// The dedup realm in which the ids are names.
    pub realm: String,
    /// The volume that it is for, if it is for one; for the books.
    pub volume: Option<VolumeId>,
    /// What it is for.
    pub cause: Cause,
    /// The site that should have the chunks, if one is known.
    pub origin: Option<SiteName>,
    /// How to send them.
    pub form: Form,
    /// The chunks, at most [`IDS_MAX`], in the order in which they should come.
    pub ids: Vec<ChunkId>,
    /// What the asker holds that they may be sent against; only FETCH looks at it.
    pub bases: Bases,
    /// Whether the asker also takes deltas that name what they are against, which it may hold or not; only FETCH looks at it.
    pub any_base: bool,
}

#[derive(Serialize, Deserialize)]
struct Head {
    realm: String,
    volume: Option<VolumeId>,
    cause: Cause,
    origin: Option<SiteName>,
    form: Form,
    ids: u32,
    held: u32,
}

/// A request that is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RequestError {
    /// A version that this program does not know.
    #[error("version {0}, this program knows {VERSION} and {VERSION_ANY_BASE}")]
    Version(u8),
    /// More ids than [`IDS_MAX`].
    #[error("{0} chunk ids, at most {IDS_MAX} are allowed")]
    TooMany(usize),
    /// A field is out of its range.
    #[error("{0}")]
    Field(&'static str),
    /// The bytes do not decode.
    #[error("does not decode: {0}")]
    Malformed(String),
}

impl ChunkRequest {
    /// The request's bytes.
    ///
    /// # Errors
    /// A field is out of its range.
    pub fn encode(&self) -> Result<Bytes, RequestError> {
        self.check()?;
        let head = Head {
            realm: self.realm.clone(),
            volume: self.volume,
            cause: self.cause,
            origin: self.origin.clone(),
            form: self.form,
            ids: u32::try_from(self.ids.len()).unwrap_or(u32::MAX),
            held: u32::try_from(self.bases.held().len()).unwrap_or(u32::MAX),
        };
        let head = postcard::to_stdvec(&head).map_err(|error| RequestError::Malformed(error.to_string()))?;
        let ids_len = self.ids.len() * ChunkId::LEN;
        let mut out = BytesMut::with_capacity(3 + head.len() + ids_len + self.bases.encoded_len());
        out.put_u8(if self.any_base { VERSION_ANY_BASE } else { VERSION });
        out.put_u16_le(u16::try_from(head.len()).map_err(|_| RequestError::Field("the head is too long"))?);
        out.put_slice(&head);
        for id in &self.ids {
            out.put_slice(id.as_bytes());
        }
        self.bases.write(&mut out);
        Ok(out.freeze())
    }

    /// Reads a request; allocates in proportion to `bytes` at most.
    ///
    /// # Errors
    /// Any [`RequestError`].
    pub fn decode(bytes: &[u8]) -> Result<Self, RequestError> {
        let malformed = |what: &str| RequestError::Malformed(what.to_owned());
        let (version, rest) = bytes.split_first().ok_or_else(|| malformed("no bytes"))?;
        let any_base = match *version {
            VERSION => false,
            VERSION_ANY_BASE => true,
            other => return Err(RequestError::Version(other)),
        };
        let (len, rest) = rest.split_first_chunk::<2>().ok_or_else(|| malformed("no head"))?;
        let len = usize::from(u16::from_le_bytes(*len));
        if len > HEAD_BYTES_MAX || len > rest.len() {
            return Err(malformed("the head's length is wrong"));
        }
        let (head, rest) = rest.split_at(len);
        let (head, left) =
            postcard::take_from_bytes::<Head>(head).map_err(|error| RequestError::Malformed(error.to_string()))?;
        if !left.is_empty() {
            return Err(malformed("the head has bytes left over"));
        }
        let Head { realm, volume, cause, origin, form, ids, held } = head;
        let (ids, held) = (ids as usize, held as usize);
        if ids > IDS_MAX {
            return Err(RequestError::TooMany(ids));
        }
        let (ids, bases) = rest.split_at_checked(ids * ChunkId::LEN).ok_or_else(|| malformed("the ids are cut off"))?;
        let ids: Vec<ChunkId> = ids.chunks_exact(ChunkId::LEN).filter_map(ChunkId::from_slice).collect();
        let bases = Bases::read(bases, held, ids.len())?;
        let request = Self { realm, volume, cause, origin, form, ids, bases, any_base };
        request.check()?;
        Ok(request)
    }

    fn check(&self) -> Result<(), RequestError> {
        if self.ids.len() > IDS_MAX {
            return Err(RequestError::TooMany(self.ids.len()));
        }
        self.bases.check(self.ids.len())?;
        if self.realm.is_empty() || self.realm.len() > REALM_BYTES_MAX {
            return Err(RequestError::Field("the realm's name is empty or too long"));
        }
        match self.form {
            Form::Stream { window_log, .. } if !(17..=WINDOW_LOG_MAX).contains(&window_log) => {
                Err(RequestError::Field("the window is out of its range"))
            }
            Form::Stream { level, .. } if !(-7..=19).contains(&level) => {
                Err(RequestError::Field("the level is out of its range"))
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn request(ids: usize) -> ChunkRequest {
        ChunkRequest {
            realm: "default".to_owned(),
            volume: Some(VolumeId(3)),
            cause: Cause::Replication,
            origin: Some("zurich".parse().unwrap()),
            form: Form::WAN,
            ids: (0..ids).map(|at| ChunkId([at as u8; 32])).collect(),
            bases: Bases::default(),
            any_base: ids % 2 == 1,
        }
    }

    #[test]
    fn a_request_survives_and_its_bounds_hold() {
        for ids in [0, 1, IDS_MAX] {
            let mut request = request(ids);
            assert!(request.bases.push(0, &[ChunkId([7; 32]), ChunkId([8; 32])], -9));
            if ids == 0 {
                assert!(matches!(request.encode(), Err(RequestError::Field(_))), "a base for no chunk");
                continue;
            }
            assert_eq!(ChunkRequest::decode(&request.encode().unwrap()), Ok(request));
        }
        assert_eq!(request(IDS_MAX + 1).encode(), Err(RequestError::TooMany(IDS_MAX + 1)));
        let ChunkRequest { realm, volume, cause, origin, form, .. } = request(0);
        let head = Head { realm, volume, cause, origin, form, ids: IDS_MAX as u32 + 1, held: 0 };
        let head = postcard::to_stdvec(&head).unwrap();
        let bytes = [&[VERSION, head.len() as u8, 0], &head[..], &vec![0; 32 * (IDS_MAX + 1)]].concat();
        assert_eq!(ChunkRequest::decode(&bytes), Err(RequestError::TooMany(IDS_MAX + 1)));
        let mut bytes = request(IDS_MAX).encode().unwrap().to_vec();
        bytes.push(0);
        assert!(matches!(ChunkRequest::decode(&bytes), Err(RequestError::Malformed(_))));
        bytes[0] = 9;
        assert_eq!(ChunkRequest::decode(&bytes), Err(RequestError::Version(9)));
        let wide = ChunkRequest { form: Form::Stream { level: 3, window_log: 31 }, ..request(1) };
        assert!(matches!(wide.encode(), Err(RequestError::Field(_))));
        let nameless = ChunkRequest { realm: String::new(), ..request(1) };
        assert!(matches!(nameless.encode(), Err(RequestError::Field(_))));
    }

    proptest! {
        #[test]
        fn noise_is_an_error_and_no_panic(mut noise in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = ChunkRequest::decode(&noise);
            if let Some(first) = noise.first_mut() {
                *first = VERSION + *first % 2;
            }
            if let Ok(request) = ChunkRequest::decode(&noise) {
                prop_assert_eq!(ChunkRequest::decode(&request.encode().unwrap()), Ok(request));
            }
        }
    }
}
