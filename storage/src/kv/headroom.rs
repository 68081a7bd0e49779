//! Refusing early on a full disk.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

use super::{Batch, KvError};

/// Bytes written between two looks at the file system: small against any sensible reserve, large against the cost of
/// one `statvfs` (about a microsecond).
const CHECK_EVERY_BYTES: u64 = 256 << 10;

/// Keeps a reserve free below an engine that does not survive a full disk.
///
/// Both engines stop for good when their own log meets `ENOSPC`: what was half written is not known. So writes are
/// refused while less than the reserve is free; they go on by themselves when space returns. Batches that only delete
/// may use half of the reserve, since they are how space comes back.
#[derive(Debug)]
pub(super) struct Headroom {
    engine: &'static str,
    path: PathBuf,
    reserve: u64,
    /// Bytes that may be written before the next look.
    credit: AtomicU64,
}

impl Headroom {
    pub(super) fn new(engine: &'static str, path: PathBuf, reserve: u64) -> Self {
        Self { engine, path, reserve, credit: AtomicU64::new(0) }
    }

    /// Called before each batch; [`KvError::Full`] if the disk has less than the reserve.
    pub(super) fn admit(&self, batch: &Batch) -> Result<(), KvError> {
        if self.reserve == 0 {
            return Ok(());
        }
        let size = batch.size_bytes();
        let paid = self.credit.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(size));
        if paid.is_ok() {
            return Ok(());
        }
        let free = free_bytes(&self.path).map_err(|error| KvError::Other {
            engine: self.engine,
            reason: format!("cannot see how much is free at {}: {error}", self.path.display()),
        })?;
        let only_deletes = batch.ops.iter().all(|(_, _, value)| value.is_none());
        let needed = if only_deletes { self.reserve / 2 } else { self.reserve };
        if free < needed.saturating_add(size) {
            return Err(KvError::Full { engine: self.engine });
        }
        if free >= self.reserve.saturating_add(size + CHECK_EVERY_BYTES) {
            self.credit.store(CHECK_EVERY_BYTES, Ordering::Relaxed);
        }
        Ok(())
    }
}

fn free_bytes(path: &std::path::Path) -> std::io::Result<u64> {
    let stat = rustix::fs::statvfs(path)?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}
