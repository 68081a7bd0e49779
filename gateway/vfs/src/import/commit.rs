//! Committing items as atomic batches, and finding out which of them are to blame when a batch is refused.

use bytes::Bytes;
use causeway_namespace::client::ClientError;
use causeway_namespace_core::command::{At, Errno, Op};
use causeway_namespace_core::inode::Content;

use super::{Import, ImportReport};
use crate::error::VfsError;
use crate::local::scan::{LeftOut, LocalEntry, LocalKind};

/// Most operations that are sent as one batch: half of what a request may hold.
const BATCH_OPS: usize = 512;
/// Most bytes of content in one batch, well below what a request may hold.
pub(super) const BATCH_BYTES: usize = 2 << 20;
/// So many refusals of one batch, and its items are sent one by one.
const REFUSALS_MAX: usize = 8;
/// How often the chunks of a batch are sent again when a node says that it lacks them.
const RESENDS_MAX: usize = 2;

/// What is committed for one local entry, all or none.
#[derive(Debug, Clone)]
pub(super) struct Item {
    path: Bytes,
    kind: LocalKind,
    pub(super) ops: Vec<Op>,
    /// To be done instead if something stands in the way already.
    pub(super) instead: Option<Vec<Op>>,
    /// Whether it is a new item of the report.
    pub(super) counts: bool,
}

impl Item {
    pub(super) fn new(entry: &LocalEntry) -> Self {
        let (path, kind) = (entry.path.clone(), entry.kind.clone());
        Self { path, kind, ops: Vec::new(), instead: None, counts: true }
    }

    pub(super) fn set_xattrs(&mut self, at: &At, xattrs: &[(Bytes, Bytes)]) {
        self.ops.extend(xattrs.iter().map(|(name, value)| Op::SetXattr {
            at: at.clone(),
            name: name.clone(),
            value: Some(value.clone()),
        }));
    }

    fn is_file(&self) -> bool {
        matches!(self.kind, LocalKind::File { .. })
    }

    pub(super) fn bytes(&self) -> usize {
        let content = |op: &Op| match op {
            Op::PutFile { content: Content::Inline(bytes), .. } => bytes.len(),
            Op::PutFile { content: Content::Manifest(manifest), .. } => manifest.root.len(),
            Op::SetXattr { value: Some(value), .. } => value.len(),
            _ => 0,
        };
        self.ops.iter().map(|op| content(op) + 128).sum()
    }

    fn left_out(&self, reason: String) -> LeftOut {
        LeftOut { path: self.path.clone(), reason }
    }
}

impl Import {
    /// Commits items in order, in as few batches as they fit. An item that the namespace refuses is reported; an item of
    /// no operations counts as done.
    pub(super) async fn commit(&self, items: Vec<Item>) -> Result<ImportReport, VfsError> {
        let mut report = ImportReport::default();
        let mut batch = Vec::new();
        let (mut ops, mut bytes) = (0, 0);
        for item in items {
            let (item_ops, item_bytes) = (item.ops.len(), item.bytes());
            if !batch.is_empty() && (ops + item_ops > BATCH_OPS || bytes + item_bytes > BATCH_BYTES) {
                self.commit_batch(std::mem::take(&mut batch), &mut report).await?;
                (ops, bytes) = (0, 0);
            }
            ops += item_ops;
            bytes += item_bytes;
            batch.push(item);
        }
        self.commit_batch(batch, &mut report).await?;
        Ok(report)
    }

    async fn commit_batch(&self, mut items: Vec<Item>, report: &mut ImportReport) -> Result<(), VfsError> {
        let mut refusals = 0;
        let mut resends = 0;
        while !items.is_empty() {
            let take = if refusals < REFUSALS_MAX { items.len() } else { 1 };
            let ops: Vec<Op> = items[..take].iter().flat_map(|item| item.ops.iter().cloned()).collect();
            if ops.is_empty() {
                self.count(items.drain(..take), report);
                continue;
            }
            match self.vfs.names.mutate(self.target.volume.id, ops).await {
                Ok(mutated) => {
                    report.seq = report.seq.max(mutated.seq);
                    self.count(items.drain(..take), report);
                    resends = 0;
                }
                Err(ClientError::Refused { refusal, .. }) => {
                    refusals += 1;
                    let blamed = blame(&items[..take], refusal.op);
                    match (refusal.code, items[blamed].instead.take()) {
                        (Errno::Exists, Some(instead)) => items[blamed].ops = instead,
                        (code, _) => {
                            let item = items.remove(blamed);
                            report.left_out.push(item.left_out(format!("was refused: {code}")));
                        }
                    }
                }
                Err(ClientError::ContentMissing { node, .. }) if resends < RESENDS_MAX => {
                    // Another node answers than the one that took the chunks: it gets them too.
                    resends += 1;
                    for item in items[..take].iter().filter(|item| item.is_file()) {
                        self.resend(&item.path, &node).await?;
                    }
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    fn count(&self, items: impl Iterator<Item = Item>, report: &mut ImportReport) {
        for item in items.filter(|item| item.counts) {
            let bytes = match item.kind {
                LocalKind::Directory => {
                    report.directories += 1;
                    0
                }
                LocalKind::File { size } => {
                    report.files += 1;
                    report.logical_bytes += size;
                    size
                }
                LocalKind::Symlink(_) => {
                    report.symlinks += 1;
                    0
                }
                LocalKind::HardLink(_) => {
                    report.links += 1;
                    0
                }
            };
            self.progress.done(1, bytes);
        }
    }
}

/// The item that an operation of the batch belongs to.
fn blame(items: &[Item], op: u32) -> usize {
    let mut before = 0;
    for (index, item) in items.iter().enumerate() {
        before += item.ops.len();
        if (op as usize) < before {
            return index;
        }
    }
    items.len() - 1
}
