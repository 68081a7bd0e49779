//! Quotas of directory trees.
//!
//! An inode knows the nearest directory above it that has a quota, and so the chain of all that it counts in, without a
//! walk up the tree. That stays true without touching whole trees because a directory is empty when it gets a quota and
//! keeps counting until it is empty again, and because only what is single (a file with one name, an empty directory, a
//! directory with a quota of its own) moves from one quota to another.

use std::collections::BTreeMap;

use causeway_base::Ino;

use super::names::Tree;
use super::table::QuotaOf;
use super::transaction::{Fault, file_bytes};
use crate::command::{At, Errno, OpDone};
use crate::encode;
use crate::inode::{Body, Inode};
use crate::key;
use crate::manage::{OwnerRecord, QUOTAS_MAX, QuotaLimit, QuotaRecord};
use crate::meta::Meta;

/// How much something uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Usage {
    pub(super) files: u64,
    pub(super) bytes: u128,
}

impl Usage {
    /// Of one inode.
    pub(super) fn of(inode: &Inode) -> Self {
        Self { files: 1, bytes: file_bytes(inode) }
    }
}

/// The quotas as they were before an operation: it is refused if it makes one use more, and more than it may.
#[derive(Debug, Default)]
pub(super) struct Before {
    meta: Meta,
    touched: BTreeMap<Ino, QuotaRecord>,
    pub(super) owners: BTreeMap<u32, OwnerRecord>,
}

impl Tree<'_, '_> {
    pub(super) fn set_quota(&mut self, at: &At, limit: Option<QuotaLimit>) -> Result<OpDone, Fault> {
        let dir = self.existing(at)?;
        let Body::Directory { entries, .. } = self.transaction.inode(dir)?.body else {
            return Err(Errno::NotDirectory.into());
        };
        let free = entries == 0 || dir == Ino::ROOT;
        let done = OpDone { ino: dir, version: self.seq() };
        let quota = self.transaction.quotas.edit(self.transaction.base, &QuotaOf(dir))?;
        match (quota.as_mut(), limit) {
            (Some(quota), Some(limit)) => quota.limit = limit,
            // What is below refers to it: it counts on, without a limit.
            (Some(quota), None) if !free => quota.limit = QuotaLimit::default(),
            (Some(_), None) => {
                *quota = None;
                self.transaction.meta.quotas -= 1;
            }
            (None, None) => return Err(Errno::NotFound.into()),
            (None, Some(_)) if !free => return Err(Errno::NotEmpty.into()),
            (None, Some(_)) if self.transaction.meta.quotas >= QUOTAS_MAX => return Err(Errno::QuotaExceeded.into()),
            (None, Some(limit)) => {
                *quota = Some(QuotaRecord { limit, ..QuotaRecord::default() });
                self.transaction.meta.quotas += 1;
            }
        }
        Ok(done)
    }

    /// Forgets the quota of a directory that is gone.
    pub(super) fn forget_quota(&mut self, dir: Ino) -> Result<(), Fault> {
        if self.has_quota(dir)? {
            *self.transaction.quotas.edit(self.transaction.base, &QuotaOf(dir))? = None;
            self.transaction.meta.quotas -= 1;
        }
        Ok(())
    }

    fn has_quota(&mut self, dir: Ino) -> Result<bool, Fault> {
        if self.transaction.meta.quotas == 0 {
            return Ok(false);
        }
        Ok(self.transaction.quotas.get(self.transaction.base, &QuotaOf(dir))?.is_some())
    }

    /// What an inode in this directory has as its `quota`.
    pub(super) fn quota_below(&mut self, dir: Ino) -> Result<Option<Ino>, Fault> {
        if dir != Ino::ROOT && self.has_quota(dir)? {
            return Ok(Some(dir));
        }
        Ok(self.transaction.inode(dir)?.quota)
    }

    /// The directories whose quotas count an inode with this `quota`, nearest first, without the top.
    fn chain(&mut self, quota: Option<Ino>) -> Result<Vec<Ino>, Fault> {
        let mut chain = Vec::new();
        let mut at = quota;
        while let Some(dir) = at {
            chain.push(dir);
            at = self.transaction.inode(dir)?.quota;
        }
        Ok(chain)
    }

    /// Counts, in every quota of the chain, what goes and what comes.
    pub(super) fn account(&mut self, quota: Option<Ino>, goes: Usage, comes: Usage) -> Result<(), Fault> {
        self.chain(quota)?.into_iter().try_for_each(|dir| self.account_in(dir, goes, comes))
    }

    fn account_in(&mut self, dir: Ino, goes: Usage, comes: Usage) -> Result<(), Fault> {
        let wrong = || encode::corrupt(&key::quota(dir), "what is below it is not counted");
        let record = self.transaction.quotas.edit(self.transaction.base, &QuotaOf(dir))?.as_mut().ok_or_else(wrong)?;
        self.before.touched.entry(dir).or_insert(*record);
        record.files = (record.files + comes.files).checked_sub(goes.files).ok_or_else(wrong)?;
        record.bytes = (record.bytes + comes.bytes).checked_sub(goes.bytes).ok_or_else(wrong)?;
        Ok(())
    }

    /// Counts an inode that moves where it is then.
    pub(super) fn change_quota(&mut self, moved: Ino, to_dir: Ino) -> Result<(), Fault> {
        let to = self.quota_below(to_dir)?;
        let inode = self.transaction.inode(moved)?;
        if inode.quota == to {
            return Ok(());
        }
        let (from, mut usage) = (inode.quota, Usage::of(inode));
        let single = match inode.body {
            Body::File(_) | Body::Symlink(_) => inode.nlink == 1,
            Body::Directory { entries, .. } => entries == 0,
            Body::Mount { .. } => true,
        };
        if let Some(own) = self.quota_record(moved)? {
            usage = Usage { files: usage.files + own.files, bytes: usage.bytes + own.bytes };
        } else if !single {
            return Err(Errno::CrossesQuota.into());
        }
        self.account(from, usage, Usage::default())?;
        self.account(to, Usage::default(), usage)?;
        self.transaction.inode_mut(moved)?.quota = to;
        Ok(())
    }

    fn quota_record(&mut self, dir: Ino) -> Result<Option<QuotaRecord>, Fault> {
        let has = self.has_quota(dir)?;
        Ok(if has { self.transaction.quotas.get(self.transaction.base, &QuotaOf(dir))?.copied() } else { None })
    }

    /// Starts an operation.
    pub(super) fn remember_quotas(&mut self) {
        self.before = Before { meta: self.transaction.meta, ..Before::default() };
    }

    /// Refuses an operation that made a quota use more, and more than it may.
    pub(super) fn check_quotas(&mut self) -> Result<(), Fault> {
        let before = std::mem::take(&mut self.before);
        for (uid, before) in &before.owners {
            if self.owner_grown_over(*uid, before)? {
                return Err(Errno::OwnerQuotaExceeded.into());
            }
        }
        if self.transaction.meta.quotas == 0 {
            return Ok(());
        }
        for (dir, before) in before.touched {
            // It is gone if the operation removed the directory.
            if self.quota_record(dir)?.is_some_and(|now| now.grown_over(&before)) {
                return Err(Errno::TreeQuotaExceeded.into());
            }
        }
        let meta = self.transaction.meta;
        match self.quota_record(Ino::ROOT)? {
            Some(top) if top.of_volume(&meta).grown_over(&top.of_volume(&before.meta)) => {
                Err(Errno::QuotaExceeded.into())
            }
            _ => Ok(()),
        }
    }
}
