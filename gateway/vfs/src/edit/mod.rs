//! Writing parts of a file that exists: over what is there, behind it, into it; cutting and lengthening it.
//!
//! Only what is at the edges of a change is read, and only what is new is sent (`causeway_dedup::rechunk`). The result is
//! committed on the condition that the file is still the one that was looked at. If another writer was faster, the change is
//! made again to what that one left, so that neither is lost.

mod new_bytes;
mod work;

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use causeway_base::{Ino, Seq, Timestamp};
use causeway_dedup::Realm;
use causeway_dedup::rechunk::{Plan, PlanError, RechunkOptions, RechunkStats};
use causeway_namespace::Consistency;
use causeway_namespace::client::ClientError;
use causeway_namespace_core::command::{At, Errno, Expect, Op};
use causeway_namespace_core::inode::{Attr, Body, Content, FileKind, Inode};

use crate::error::VfsError;
use crate::import::{blocking, content, options};
use crate::node_sink::{NodeSink, Sent};
use crate::{Located, Vfs};

pub use new_bytes::NewBytes;

/// How often a change is made again to what another writer left.
const CONFLICTS_MAX: u32 = 16;
/// How often a node is sent chunks of the file that it says it lacks.
const BRINGS_MAX: u32 = 2;

/// What becomes of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// The new bytes are written over what is at an offset; a gap behind the end becomes a hole.
    Write {
        /// First byte.
        offset: u64,
    },
    /// The new bytes are put before what is at an offset, which must not be behind the end.
    Insert {
        /// Their first byte.
        offset: u64,
    },
    /// The new bytes are put behind the end.
    Append,
    /// The file is cut, or lengthened by a hole; there are no new bytes.
    Truncate {
        /// Its length then.
        size: u64,
    },
}

/// What a change took.
#[derive(Debug, Clone, Copy, Default)]
pub struct EditReport {
    /// Length of the file before, in bytes.
    pub size_before: u64,
    /// And now.
    pub size: u64,
    /// What was read of the old file, and what was cut; of the attempt that was committed.
    pub rechunk: RechunkStats,
    /// Chunks uploaded, in all attempts.
    pub chunks_new: u64,
    /// Their plain bytes.
    pub new_bytes: u64,
    /// Their bytes as they travelled.
    pub uploaded_bytes: u64,
    /// How often it was done: once, and again for each writer that was faster.
    pub attempts: u32,
    /// The file's version now.
    pub version: Seq,
    /// A read with this `seq_min` sees it.
    pub seq: Seq,
    /// How long it took.
    pub elapsed: Duration,
}

impl Vfs {
    /// Writes over what is at `offset`. See [`Vfs::edit`].
    ///
    /// # Errors
    /// As [`Vfs::edit`].
    pub async fn write_at(
        &self,
        place: &Located,
        offset: u64,
        new: NewBytes,
        mtime: Timestamp,
    ) -> Result<EditReport, VfsError> {
        self.edit(place, Change::Write { offset }, new, mtime, None).await
    }

    /// Writes behind the end, wherever that is by then: two appends never overwrite each other. See [`Vfs::edit`].
    ///
    /// # Errors
    /// As [`Vfs::edit`].
    pub async fn append(&self, place: &Located, new: NewBytes, mtime: Timestamp) -> Result<EditReport, VfsError> {
        self.edit(place, Change::Append, new, mtime, None).await
    }

    /// Makes a file `size` bytes long. See [`Vfs::edit`].
    ///
    /// # Errors
    /// As [`Vfs::edit`].
    pub async fn truncate(&self, place: &Located, size: u64, mtime: Timestamp) -> Result<EditReport, VfsError> {
        self.edit(place, Change::Truncate { size }, NewBytes::default(), mtime, None).await
    }

    /// Changes a file that exists; `mtime` becomes its content time, its other attributes stay. All or nothing: readers see
    /// the file as it was or as it is then.
    ///
    /// With `expect` the change is made only if the file has exactly this version. Without, it is made to what another
    /// writer left if one was faster; but not an insertion, whose place that one may have moved.
    ///
    /// # Errors
    /// [`VfsError::Posix`], [`VfsError::Plan`], [`VfsError::Changed`], [`VfsError::Client`], [`VfsError::Transfer`],
    /// [`VfsError::Manifest`], [`VfsError::Local`] for the new bytes. Dropping it leaves the outcome unknown.
    pub async fn edit(
        &self,
        place: &Located,
        change: Change,
        new: NewBytes,
        mtime: Timestamp,
        expect: Option<Seq>,
    ) -> Result<EditReport, VfsError> {
        let started = Instant::now();
        let pipeline = options(place)?;
        let realm = self.realm(&place.volume).await?;
        let options =
            RechunkOptions { realm: realm.clone(), sizes: pipeline.sizes, inline_bytes_max: pipeline.inline_bytes_max };
        let edit = Edit {
            vfs: self,
            place,
            change,
            new: Arc::new(new),
            mtime,
            realm: realm.clone(),
            options: Arc::new(options),
            level: pipeline.level,
            node: Arc::new(NodeSink::new(self.chunks.clone(), None, realm)),
        };
        let mut report = EditReport::default();
        loop {
            report.attempts += 1;
            let (ino, inode) = self.stat(place, Consistency::Linearizable).await?.value;
            if expect.is_some_and(|version| version != inode.version) {
                return Err(place.error(Errno::Conflict));
            }
            let once = expect.is_some() || matches!(change, Change::Insert { .. });
            if edit.attempt(ino, inode, &mut report).await? {
                let Sent { chunks, plain_bytes, stored_bytes, .. } = edit.node.counts();
                (report.chunks_new, report.new_bytes, report.uploaded_bytes) = (chunks, plain_bytes, stored_bytes);
                report.elapsed = started.elapsed();
                return Ok(report);
            }
            if once || report.attempts > CONFLICTS_MAX {
                return Err(VfsError::Changed { path: place.shown.clone(), attempts: report.attempts });
            }
        }
    }
}

/// What all attempts share.
struct Edit<'a> {
    vfs: &'a Vfs,
    place: &'a Located,
    change: Change,
    new: Arc<NewBytes>,
    mtime: Timestamp,
    realm: Realm,
    options: Arc<RechunkOptions>,
    level: Option<i32>,
    node: Arc<NodeSink>,
}

impl Edit<'_> {
    /// Makes the change to the file as it is now; `false` if it is another when that is committed.
    async fn attempt(&self, ino: Ino, inode: Inode, report: &mut EditReport) -> Result<bool, VfsError> {
        let old = match &inode.body {
            Body::File(content) => content.clone(),
            Body::Directory { .. } => return Err(self.place.error(Errno::IsDirectory)),
            Body::Symlink(_) => return Err(self.place.error(Errno::SymlinkInPath)),
            Body::Mount { .. } => return Err(self.place.error(Errno::CrossesVolume)),
        };
        debug_assert_eq!(inode.kind(), FileKind::File);
        report.size_before = inode.size();
        let plan =
            self.plan(inode.size()).map_err(|source| VfsError::Plan { path: self.place.shown.clone(), source })?;
        report.size = plan.size();
        let (node, new, options, level) = (self.node.clone(), self.new.clone(), self.options.clone(), self.level);
        let shown = self.place.shown.clone();
        let (imported, stats) =
            blocking(move || work::rechunked(&old, plan, &options, &new, &node, level, &shown)).await??;
        report.rechunk = stats;
        let content = content(imported, self.place);
        let op = Op::PutFile {
            // By its number: under the path there may be another file by now, of the same version.
            at: At { dir: ino, path: Bytes::new() },
            attr: Attr { mtime: self.mtime, ..inode.attr },
            content: content.clone(),
            expect: Expect::Version(inode.version),
        };
        let mut brought = 0;
        loop {
            match self.vfs.names.mutate(self.place.volume.id, vec![op.clone()]).await {
                Ok(mutated) => {
                    report.seq = mutated.seq;
                    report.version = mutated.done.first().map_or(mutated.seq, |done| done.version);
                    return Ok(true);
                }
                // Changed, or removed: looking again tells which.
                Err(ClientError::Refused { refusal, .. })
                    if matches!(refusal.code, Errno::Conflict | Errno::NotFound) =>
                {
                    return Ok(false);
                }
                Err(ClientError::ContentMissing { node, .. }) if brought < BRINGS_MAX => {
                    brought += 1;
                    self.bring(&content, &inode, node).await?;
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn plan(&self, size: u64) -> Result<Plan, PlanError> {
        let mut plan = Plan::new(size);
        match self.change {
            Change::Write { offset } => plan.write(offset, 0, self.new.len())?,
            Change::Insert { offset } => plan.insert(offset, 0, self.new.len())?,
            Change::Append => plan.write(size, 0, self.new.len())?,
            Change::Truncate { size } => plan.truncate(size)?,
        }
        Ok(plan)
    }

    /// Brings a file's chunks to a node that commits for us and lacks some: those that were kept, at a site that never had
    /// the file, or those that went to another node.
    async fn bring(&self, content: &Content, inode: &Inode, node: String) -> Result<(), VfsError> {
        let Content::Manifest(manifest) = content else { return Ok(()) };
        let to = NodeSink::new(self.vfs.chunks.clone(), Some(node), self.realm.clone());
        let origin = match &inode.body {
            Body::File(Content::Manifest(old)) => Some(old.origin.clone()),
            _ => None,
        };
        let (root, from, shown, level) =
            (manifest.root.clone(), self.node.clone(), self.place.shown.clone(), self.level);
        blocking(move || work::bring(&root, &from, origin, &to, level, &shown)).await?
    }
}
