//! What each user owns in the volume, and quotas on it.
//!
//! It is always counted, so that a quota can be set at any time without a walk; a user that owns nothing and has no quota
//! has no record.

use causeway_base::Ino;

use super::names::Tree;
use super::quotas::Usage;
use super::transaction::Fault;
use crate::command::{Errno, OpDone};
use crate::encode;
use crate::key;
use crate::manage::{OwnerRecord, QuotaLimit};

impl Tree<'_, '_> {
    pub(super) fn set_owner_quota(&mut self, uid: u32, limit: Option<QuotaLimit>) -> Result<OpDone, Fault> {
        let record = self.owner(uid)?;
        if limit.is_none() && record.limit.is_none() {
            return Err(Errno::NotFound.into());
        }
        self.put_owner(uid, OwnerRecord { limit, ..record })?;
        Ok(OpDone { ino: Ino::ROOT, version: self.seq() })
    }

    /// Counts what a user loses and gains.
    pub(super) fn account_owner(&mut self, uid: u32, goes: Usage, comes: Usage) -> Result<(), Fault> {
        if goes == comes {
            return Ok(());
        }
        let wrong = || encode::corrupt(&key::owner(uid), "what the user owns is not counted");
        let before = self.owner(uid)?;
        self.before.owners.entry(uid).or_insert(before);
        let files = (before.files + comes.files).checked_sub(goes.files).ok_or_else(wrong)?;
        let bytes = (before.bytes + comes.bytes).checked_sub(goes.bytes).ok_or_else(wrong)?;
        self.put_owner(uid, OwnerRecord { files, bytes, ..before })
    }

    /// Counts an inode that changes hands or size.
    pub(super) fn change_owner(&mut self, from: (u32, Usage), to: (u32, Usage)) -> Result<(), Fault> {
        if from.0 == to.0 {
            return self.account_owner(from.0, from.1, to.1);
        }
        self.account_owner(from.0, from.1, Usage::default())?;
        self.account_owner(to.0, Usage::default(), to.1)
    }

    /// Whether a user came to use more, and more than the quota allows.
    pub(super) fn owner_grown_over(&mut self, uid: u32, before: &OwnerRecord) -> Result<bool, Fault> {
        let now = self.owner(uid)?;
        let Some(limit) = now.limit else { return Ok(false) };
        let files = now.files > before.files && limit.files.is_some_and(|limit| now.files > limit);
        Ok(files || now.bytes > before.bytes && limit.bytes.is_some_and(|limit| now.bytes > u128::from(limit)))
    }

    fn owner(&self, uid: u32) -> Result<OwnerRecord, Fault> {
        let record = self.transaction.others.get(self.transaction.base, &key::owner(uid))?;
        Ok(record.unwrap_or_default())
    }

    fn put_owner(&mut self, uid: u32, record: OwnerRecord) -> Result<(), Fault> {
        let record = Some(record).filter(|record| *record != OwnerRecord::default());
        Ok(self.transaction.others.set(self.transaction.base, key::owner(uid), record.as_ref())?)
    }
}
