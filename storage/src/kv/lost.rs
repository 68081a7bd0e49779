//! A store whose disk lost what was written.

use bytes::Bytes;

use super::{Batch, KeyRange, Kv, KvError, KvRead, Scan, Space};

const ENGINE: &str = "lost";

/// For tests of what follows from damage: each read and each sync says [`KvError::Damaged`], and each write that the disk is full.
#[derive(Clone, Copy, Debug, Default)]
pub struct LostKv;

fn damaged<T>() -> Result<T, KvError> {
    Err(KvError::Damaged { engine: ENGINE, reason: "a checksum does not hold".to_owned() })
}

impl KvRead for LostKv {
    fn get(&self, _: Space, _: &[u8]) -> Result<Option<Bytes>, KvError> {
        damaged()
    }

    fn scan(&self, _: Space, _: KeyRange, _: bool) -> Scan<'_> {
        Box::new(std::iter::once(damaged()))
    }
}

impl Kv for LostKv {
    fn write(&self, _: Batch) -> Result<(), KvError> {
        Err(KvError::Full { engine: ENGINE })
    }

    fn persist(&self) -> Result<(), KvError> {
        damaged()
    }

    fn snapshot(&self) -> Box<dyn KvRead> {
        Box::new(*self)
    }

    fn disk_bytes(&self) -> u64 {
        0
    }
}
