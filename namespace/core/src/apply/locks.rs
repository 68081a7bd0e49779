//! Advisory locks with leases and fencing tokens, and holds that keep an inode without a name.
//!
//! Time is what requests carry, made monotonous: a lease ends when a request that looks at locks carries a later time. A
//! token is never given twice and grows, so what checks tokens refuses a holder that was followed by another, however late
//! its write arrives.

use bytes::Bytes;

use causeway_base::{Ino, Timestamp};

use super::names::Tree;
use super::quotas::Usage;
use super::transaction::{Fault, Transaction};
use crate::command::{At, Errno, OpDone, Outcome};
use crate::encode;
use crate::key;
use crate::manage::{LEASE_MILLIS_MAX, LOCK_HOLDER_BYTES_MAX, LOCKS_MAX, LOCKS_OF_INODE_MAX, LockKind, LockRecord};
use crate::meta::GroupKind;
use crate::records::ReadError;

use causeway_base::Seq;

/// Ended locks collected by one request that takes a lock, and by one that does nothing else.
const COLLECT: usize = 8;
const EXPIRE: usize = 1024;

/// Part of a file; `len` 0: to its end.
#[derive(Clone, Copy, Debug)]
pub(super) struct ByteRange {
    pub(super) start: u64,
    pub(super) len: u64,
}

/// Collects ended locks.
pub(super) fn expire(transaction: &mut Transaction<'_>, at: Timestamp) -> Result<Outcome, ReadError> {
    if transaction.meta.kind != GroupKind::Volume || transaction.meta.locks == 0 {
        return Ok(Outcome::Done(Vec::new()));
    }
    match Tree::new(transaction, at).collect_ended(EXPIRE) {
        Ok(()) => Ok(Outcome::Done(Vec::new())),
        Err(Fault::Read(error)) => Err(error),
        Err(Fault::Refused(code, _)) => {
            transaction.roll_back();
            Ok(Outcome::Invalid(code.to_string()))
        }
    }
}

impl Tree<'_, '_> {
    pub(super) fn acquire_lock(
        &mut self,
        at: &At,
        kind: LockKind,
        range: ByteRange,
        holder: &Bytes,
        lease_millis: u64,
    ) -> Result<OpDone, Fault> {
        if holder.len() > LOCK_HOLDER_BYTES_MAX {
            return Err(Errno::NameTooLong.into());
        }
        let ino = self.existing(at)?;
        let now = self.lock_time();
        let end = if range.len == 0 { Some(u64::MAX) } else { range.start.checked_add(range.len) };
        let end = end.ok_or(Errno::Invalid)?;
        let lock = LockRecord {
            kind,
            start: range.start,
            end,
            holder: holder.clone(),
            since: now,
            ends: ends(now, lease_millis)?,
        };
        self.collect_ended(COLLECT)?;
        let mut held = 0;
        for (token, other) in self.locks(ino)? {
            if other.ends <= now {
                self.forget_lock(ino, token, &other)?;
            } else if other.excludes(&lock) {
                return Err(Errno::Locked.into());
            } else {
                held += 1;
            }
        }
        // The inode may have been kept by nothing but a hold that has just ended.
        if self.transaction.inodes.get(self.transaction.base, &ino)?.is_none() {
            return Err(Errno::NotFound.into());
        }
        if held >= LOCKS_OF_INODE_MAX || self.transaction.meta.locks >= LOCKS_MAX {
            return Err(Errno::TooLarge.into());
        }
        let token = self.transaction.meta.next_token;
        self.transaction.meta.next_token = token.checked_add(1).ok_or(Errno::TooLarge)?;
        self.transaction.meta.locks += 1;
        let base = self.transaction.base;
        self.transaction.others.set(base, key::lock_by_end(lock.ends, ino, token), Some(&()))?;
        self.transaction.others.set(base, key::lock(ino, token), Some(&lock))?;
        Ok(OpDone { ino, version: Seq(token) })
    }

    pub(super) fn renew_lock(&mut self, at: &At, token: u64, lease_millis: u64) -> Result<OpDone, Fault> {
        let ino = self.existing(at)?;
        let now = self.lock_time();
        let lock = self.held(ino, token)?.ok_or(Errno::Fenced)?;
        let renewed = LockRecord { ends: ends(now, lease_millis)?.max(lock.ends), ..lock.clone() };
        let base = self.transaction.base;
        self.transaction.others.set::<()>(base, key::lock_by_end(lock.ends, ino, token), None)?;
        self.transaction.others.set(base, key::lock_by_end(renewed.ends, ino, token), Some(&()))?;
        self.transaction.others.set(base, key::lock(ino, token), Some(&renewed))?;
        Ok(OpDone { ino, version: Seq(token) })
    }

    pub(super) fn release_lock(&mut self, at: &At, token: u64) -> Result<OpDone, Fault> {
        let ino = self.existing(at)?;
        self.lock_time();
        let lock = self.held(ino, token)?.ok_or(Errno::Fenced)?;
        self.forget_lock(ino, token, &lock)?;
        Ok(OpDone { ino, version: Seq(token) })
    }

    /// Whether a lock is held at the request's time.
    pub(super) fn is_held(&mut self, ino: Ino, token: u64) -> Result<bool, Fault> {
        self.lock_time();
        Ok(self.held(ino, token)?.is_some())
    }

    /// Whether something keeps an inode that has no name any more.
    pub(super) fn keeps_nameless(&mut self, ino: Ino) -> Result<bool, Fault> {
        if self.transaction.meta.locks == 0 {
            return Ok(false);
        }
        let now = self.lock_time();
        Ok(self.locks(ino)?.iter().any(|(_, lock)| lock.kind == LockKind::Hold && lock.ends > now))
    }

    /// Forgets the locks of an inode that is gone.
    pub(super) fn forget_locks(&mut self, ino: Ino) -> Result<(), Fault> {
        if self.transaction.meta.locks == 0 {
            return Ok(());
        }
        for (token, lock) in self.locks(ino)? {
            self.remove_lock(ino, token, &lock)?;
        }
        Ok(())
    }

    fn held(&mut self, ino: Ino, token: u64) -> Result<Option<LockRecord>, Fault> {
        let lock: Option<LockRecord> = self.transaction.others.get(self.transaction.base, &key::lock(ino, token))?;
        Ok(lock.filter(|lock| lock.ends > self.transaction.meta.clock))
    }

    fn locks(&self, ino: Ino) -> Result<Vec<(u64, LockRecord)>, Fault> {
        let (from, to) = key::locks(ino);
        let mut locks = Vec::new();
        for (key, value) in self.transaction.others.entries(self.transaction.base, &from, &to, usize::MAX)? {
            let (_, token) = key::lock_of(&key).ok_or_else(|| encode::corrupt(&key, "not a lock's key"))?;
            locks.push((token, encode::record(&key, &value)?));
        }
        Ok(locks)
    }

    /// The time by which leases end.
    fn lock_time(&mut self) -> Timestamp {
        self.transaction.meta.clock = self.transaction.meta.clock.max(self.at);
        self.transaction.meta.clock
    }

    fn collect_ended(&mut self, max: usize) -> Result<(), Fault> {
        let now = self.lock_time();
        let (from, to) = key::table(key::LOCK_BY_END);
        let first = self.transaction.others.entries(self.transaction.base, &from, &to, max)?;
        for (place, _) in first {
            let parts = key::lock_by_end_of(&place).ok_or_else(|| encode::corrupt(&place, "not a lock's place"))?;
            let (ends, ino, token) = parts;
            if ends > now {
                break;
            }
            // An inode that went with an earlier one of these took its other locks along.
            let lock: Option<LockRecord> =
                self.transaction.others.get(self.transaction.base, &key::lock(ino, token))?;
            if let Some(lock) = lock {
                self.forget_lock(ino, token, &lock)?;
            }
        }
        Ok(())
    }

    /// Removes a lock, and an inode without a name that only it kept.
    fn forget_lock(&mut self, ino: Ino, token: u64, lock: &LockRecord) -> Result<(), Fault> {
        self.remove_lock(ino, token, lock)?;
        if lock.kind == LockKind::Hold
            && self.transaction.inode(ino)?.nlink == 0
            && !self.keeps_nameless(ino)?
            && let Some(gone) = self.transaction.inodes.edit(self.transaction.base, &ino)?.take()
        {
            self.transaction.discount(&gone);
            self.account(gone.quota, Usage::of(&gone), Usage::default())?;
            self.account_owner(gone.attr.uid, Usage::of(&gone), Usage::default())?;
            self.forget_locks(ino)?;
        }
        Ok(())
    }

    fn remove_lock(&mut self, ino: Ino, token: u64, lock: &LockRecord) -> Result<(), Fault> {
        let base = self.transaction.base;
        self.transaction.others.set::<()>(base, key::lock_by_end(lock.ends, ino, token), None)?;
        self.transaction.others.set::<LockRecord>(base, key::lock(ino, token), None)?;
        self.transaction.meta.locks = self.transaction.meta.locks.saturating_sub(1);
        Ok(())
    }
}

fn ends(now: Timestamp, lease_millis: u64) -> Result<Timestamp, Errno> {
    let nanos = lease_millis.checked_mul(1_000_000).and_then(|nanos| i64::try_from(nanos).ok());
    match nanos {
        Some(nanos) if (1..=LEASE_MILLIS_MAX).contains(&lease_millis) => Ok(Timestamp(now.0.saturating_add(nanos))),
        _ => Err(Errno::Invalid),
    }
}
