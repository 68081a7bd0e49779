//! A walk over a whole tree.

use std::collections::VecDeque;

use bytes::Bytes;

use causeway_base::Ino;

use super::tree::{list, lookup, referred};
use crate::command::ListEntry;
use crate::inode::{FileKind, Inode};
use crate::records::{ReadError, Records};

/// Entries read at once.
const PAGE: usize = 256;
/// Levels that keep what is left of their page while the walk is further down; those above read it again.
const PAGES_MAX: usize = 16;

/// What a walk comes by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WalkEntry {
    /// The path from where the walk began, `/` between the names and none before them.
    pub path: Bytes,
    /// The directory that it is in.
    pub dir: Ino,
    /// Its name, number and kind.
    pub entry: ListEntry,
    /// Its inode.
    pub inode: Inode,
}

/// Everything below a directory, depth first, a directory before its entries, entries in byte order of their names.
///
/// Iterative. Memory is bounded by `PAGE` × `PAGES_MAX` entries and one name for each level.
#[derive(Debug)]
pub struct Walk<'a> {
    records: &'a dyn Records,
    path: Vec<u8>,
    levels: Vec<Level>,
}

#[derive(Debug)]
struct Level {
    dir: Ino,
    path_len: usize,
    after: Option<Bytes>,
    page: VecDeque<ListEntry>,
    ended: bool,
}

impl<'a> Walk<'a> {
    /// Starts below `dir`, which is not itself part of the walk.
    #[must_use]
    pub fn new(records: &'a dyn Records, dir: Ino) -> Self {
        let mut walk = Self { records, path: Vec::new(), levels: Vec::new() };
        walk.descend(dir);
        walk
    }

    /// Starts below `dir` as [`Walk::new`] does, after the entry whose path was `after`: what a walk cut off there would
    /// have come by next. The entry need not be there any more.
    ///
    /// # Errors
    /// The store's.
    pub fn resume(records: &'a dyn Records, dir: Ino, after: &[u8]) -> Result<Self, ReadError> {
        let mut walk = Self::new(records, dir);
        let mut at = dir;
        for name in after.split(|byte| *byte == b'/').filter(|name| !name.is_empty()) {
            let Some(level) = walk.levels.last_mut() else { break };
            level.after = Some(Bytes::copy_from_slice(name));
            match lookup(records, at, name)? {
                Some(entry) if entry.kind == FileKind::Directory => at = entry.ino,
                _ => break,
            }
            if !walk.path.is_empty() {
                walk.path.push(b'/');
            }
            walk.path.extend_from_slice(name);
            walk.descend(at);
        }
        Ok(walk)
    }

    fn descend(&mut self, dir: Ino) {
        if let Some(high) = self.levels.len().checked_sub(PAGES_MAX) {
            self.levels[high].forget_page();
        }
        let path_len = self.path.len();
        self.levels.push(Level { dir, path_len, after: None, page: VecDeque::new(), ended: false });
    }

    fn step(&mut self) -> Result<Option<WalkEntry>, ReadError> {
        while let Some(level) = self.levels.last_mut() {
            self.path.truncate(level.path_len);
            let Some(entry) = level.next(self.records)? else {
                self.levels.pop();
                continue;
            };
            if !self.path.is_empty() {
                self.path.push(b'/');
            }
            self.path.extend_from_slice(&entry.name);
            let (dir, path) = (level.dir, Bytes::copy_from_slice(&self.path));
            let inode = referred(self.records, entry.ino)?;
            if entry.kind == FileKind::Directory {
                self.descend(entry.ino);
            }
            return Ok(Some(WalkEntry { path, dir, entry, inode }));
        }
        Ok(None)
    }
}

impl Level {
    fn next(&mut self, records: &dyn Records) -> Result<Option<ListEntry>, ReadError> {
        if self.page.is_empty() && !self.ended {
            self.page = list(records, self.dir, self.after.as_deref(), PAGE)?.into();
            self.ended = self.page.len() < PAGE;
        }
        let entry = self.page.pop_front();
        if let Some(entry) = &entry {
            self.after = Some(entry.name.clone());
        }
        Ok(entry)
    }

    fn forget_page(&mut self) {
        self.ended &= self.page.is_empty();
        self.page = VecDeque::new();
    }
}

impl Iterator for Walk<'_> {
    type Item = Result<WalkEntry, ReadError>;

    /// The next entry; nothing follows an error.
    fn next(&mut self) -> Option<Self::Item> {
        let step = self.step();
        if step.is_err() {
            self.levels.clear();
        }
        step.transpose()
    }
}
