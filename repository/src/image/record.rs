//! How a record, or its absence, stands in a run: one tag byte, then the value.

use bytes::{BufMut, Bytes, BytesMut};

use crate::error::Error;

const TOMBSTONE: u8 = 0;
const VALUE: u8 = 1;

pub(crate) fn encode(value: Option<&[u8]>) -> Bytes {
    match value {
        None => Bytes::from_static(&[TOMBSTONE]),
        Some(value) => {
            let mut out = BytesMut::with_capacity(1 + value.len());
            out.put_u8(VALUE);
            out.put_slice(value);
            out.freeze()
        }
    }
}

/// `Ok(None)` is a tombstone.
pub(crate) fn decode(stored: &Bytes) -> Result<Option<Bytes>, Error> {
    match stored.first() {
        Some(&VALUE) => Ok(Some(stored.slice(1..))),
        Some(&TOMBSTONE) if stored.len() == 1 => Ok(None),
        _ => Err(Error::Corrupt { path: "image record".to_owned(), reason: "its tag is not known".to_owned() }),
    }
}

/// The records that are there, of merged runs whose first is complete: tombstones go.
pub(crate) fn complete(
    merged: impl Iterator<Item = Result<(Bytes, Bytes), Error>>,
) -> impl Iterator<Item = Result<(Bytes, Bytes), Error>> {
    merged.filter_map(|record| {
        record.and_then(|(key, stored)| Ok(decode(&stored)?.map(|value| (key, value)))).transpose()
    })
}
