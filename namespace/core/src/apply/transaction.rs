//! All tables as a command sees them.

use bytes::Bytes;

use causeway_base::{Ino, Seq};

use super::table::{QuotaOf, RawTable, Table};
use super::{Change, Named};
use crate::command::{Errno, SessionId};
use crate::encode;
use crate::inode::{Body, Inode};
use crate::key;
use crate::meta::Meta;
use crate::records::{ReadError, Records};
use crate::session::Place;

/// Why an operation stops: the batch is refused, or the replica cannot go on.
#[derive(Debug)]
pub(super) enum Fault {
    /// The request is at fault.
    Refused(Errno, Place),
    /// The store is.
    Read(ReadError),
}

impl Fault {
    /// The same, said of the operation's second path.
    pub(super) fn at_second(self) -> Self {
        match self {
            Self::Refused(code, _) => Self::Refused(code, Place::Second),
            read @ Self::Read(_) => read,
        }
    }
}

impl From<Errno> for Fault {
    fn from(code: Errno) -> Self {
        Self::Refused(code, Place::First)
    }
}

impl From<ReadError> for Fault {
    fn from(error: ReadError) -> Self {
        Self::Read(error)
    }
}

/// The state of a command in progress.
#[derive(Debug)]
pub(super) struct Transaction<'a> {
    pub(super) base: &'a dyn Records,
    pub(super) seq: Seq,
    pub(super) meta: Meta,
    meta_old: Option<Bytes>,
    meta_before: Meta,
    pub(super) inodes: Table<Ino>,
    pub(super) dirents: Table<(Ino, Bytes)>,
    pub(super) quotas: Table<QuotaOf>,
    /// Never rolled back: a refused batch is an answer that is kept.
    pub(super) sessions: Table<SessionId>,
    /// The order of sessions by use; never rolled back either.
    pub(super) uses: RawTable,
    /// The root group's tables, and the small ones of a volume.
    pub(super) others: RawTable,
    named: Vec<Named>,
    /// How many of `named` the requests before gave.
    named_before: usize,
}

impl<'a> Transaction<'a> {
    pub(super) fn open(base: &'a dyn Records, seq: Seq) -> Result<Self, ReadError> {
        let key = key::meta();
        let meta_old = base.get(&key)?;
        let meta = meta_old.as_ref().map(|value| encode::record(&key, value)).transpose()?.unwrap_or_default();
        Ok(Self {
            base,
            seq,
            meta,
            meta_old,
            meta_before: meta,
            inodes: Table::default(),
            dirents: Table::default(),
            quotas: Table::default(),
            sessions: Table::default(),
            uses: RawTable::default(),
            others: RawTable::default(),
            named: Vec::new(),
            named_before: 0,
        })
    }

    /// Starts a request.
    pub(super) fn begin(&mut self) {
        self.meta_before = self.meta;
        self.inodes.begin();
        self.dirents.begin();
        self.quotas.begin();
        self.others.begin();
        self.named_before = self.named.len();
    }

    /// Undoes the request's effects on the tree, the cluster and the totals.
    pub(super) fn roll_back(&mut self) {
        self.meta = self.meta_before;
        self.inodes.roll_back();
        self.dirents.roll_back();
        self.quotas.roll_back();
        self.others.roll_back();
        self.named.truncate(self.named_before);
    }

    /// An existing inode is changed by a name.
    pub(super) fn name(&mut self, ino: Ino, dir: Ino, name: Bytes) {
        self.named.push(Named { ino, dir, name });
    }

    pub(super) fn take_named(&mut self) -> Vec<Named> {
        std::mem::take(&mut self.named)
    }

    pub(super) fn into_changes(self) -> Vec<Change> {
        let mut changes = Vec::new();
        let meta = encode::to_bytes(&self.meta);
        if self.meta_old.as_ref() != Some(&meta) && (self.meta_old.is_some() || self.meta != Meta::default()) {
            changes.push(Change { key: key::meta(), old: self.meta_old, new: Some(meta) });
        }
        self.inodes.into_changes(&mut changes);
        self.dirents.into_changes(&mut changes);
        self.quotas.into_changes(&mut changes);
        self.sessions.into_changes(&mut changes);
        self.uses.into_changes(&mut changes);
        self.others.into_changes(&mut changes);
        changes.sort_unstable_by(|a, b| a.key.cmp(&b.key));
        changes
    }

    /// An inode that something refers to.
    pub(super) fn inode(&mut self, ino: Ino) -> Result<&Inode, ReadError> {
        self.inodes.get(self.base, &ino)?.ok_or_else(|| missing(ino))
    }

    /// An inode that something refers to, to be changed.
    pub(super) fn inode_mut(&mut self, ino: Ino) -> Result<&mut Inode, ReadError> {
        self.inodes.edit(self.base, &ino)?.as_mut().ok_or_else(|| missing(ino))
    }

    /// Counts an inode that appears.
    pub(super) fn count(&mut self, inode: &Inode) {
        match inode.body {
            Body::File(_) => self.meta.files += 1,
            Body::Directory { .. } | Body::Mount { .. } => self.meta.dirs += 1,
            Body::Symlink(_) => self.meta.symlinks += 1,
        }
        self.meta.logical_bytes += file_bytes(inode);
    }

    /// Counts an inode that goes.
    pub(super) fn discount(&mut self, inode: &Inode) {
        match inode.body {
            Body::File(_) => self.meta.files -= 1,
            Body::Directory { .. } | Body::Mount { .. } => self.meta.dirs -= 1,
            Body::Symlink(_) => self.meta.symlinks -= 1,
        }
        self.meta.logical_bytes -= file_bytes(inode);
    }
}

/// What an inode adds to the logical bytes: the length of a file, nothing else.
pub(super) fn file_bytes(inode: &Inode) -> u128 {
    if matches!(inode.body, Body::File(_)) { u128::from(inode.size()) } else { 0 }
}

fn missing(ino: Ino) -> ReadError {
    encode::corrupt(&key::inode(ino), "an entry refers to it and it is not there")
}
