//! Failures that a test asks for.

use std::path::{Path, PathBuf};

use super::names::normal;

/// What is done with a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // the names of the calls
pub enum Operation {
    Open,
    Create,
    CreateDir,
    List,
    Rename,
    Remove,
    SyncDir,
    FreeBytes,
    Read,
    Write,
    SetLen,
    SyncData,
}

impl Operation {
    /// Whether it changes what a power cut may leave.
    #[must_use]
    pub fn is_mutation(self) -> bool {
        !matches!(self, Self::Open | Self::List | Self::FreeBytes | Self::Read)
    }
}

/// Lets operations fail with `EIO`. A failed write has written a part, a failed sync has synced a part and forgets the
/// rest, anything else has done nothing.
#[derive(Clone, Debug)]
pub struct Fault {
    /// Which operations; all if empty.
    pub operations: Vec<Operation>,
    /// Only of this file, or of what is in this folder.
    pub path: Option<PathBuf>,
    /// How many that fit go well first.
    pub skip: u64,
    /// How many fail then.
    pub times: u64,
}

impl Fault {
    /// The `n`th operation from now fails, counted from 0.
    #[must_use]
    pub fn nth(n: u64) -> Self {
        Self { operations: Vec::new(), path: None, skip: n, times: 1 }
    }

    /// The next one of these operations fails.
    #[must_use]
    pub fn next(operations: &[Operation]) -> Self {
        Self { operations: operations.to_vec(), path: None, skip: 0, times: 1 }
    }

    /// Only of this file, or of what is in this folder.
    #[must_use]
    pub fn of(self, path: impl Into<PathBuf>) -> Self {
        Self { path: Some(normal(&path.into())), ..self }
    }

    /// After this many that go well.
    #[must_use]
    pub fn after(self, skip: u64) -> Self {
        Self { skip, ..self }
    }

    /// For ever.
    #[must_use]
    pub fn always(self) -> Self {
        Self { times: u64::MAX, ..self }
    }

    /// Whether the operation fails; counts it.
    pub(super) fn strikes(&mut self, operation: Operation, path: &Path) -> bool {
        let fits = (self.operations.is_empty() || self.operations.contains(&operation))
            && self.path.as_ref().is_none_or(|under| path.starts_with(under));
        if !fits || self.times == 0 {
            return false;
        }
        if self.skip > 0 {
            self.skip -= 1;
            return false;
        }
        self.times -= 1;
        true
    }
}
