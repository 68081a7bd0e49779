//! Reading, cutting and uploading the files of a group.

use std::collections::HashSet;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use causeway_dedup::EncodedChunk;
use causeway_dedup::chunk::LEVEL_DEFAULT;
use causeway_namespace_core::command::{Expect, Op};
use causeway_namespace_core::inode::{Content, ManifestRef};
use tokio::sync::mpsc;

use super::claims::Claims;
use super::commit::Item;
use super::{GROUP_BYTES, Import, ImportReport};
use crate::error::VfsError;
use crate::local::scan::{LeftOut, LocalEntry, LocalKind};
use crate::prepare::{self, PlainChunk, Prepared};

impl Import {
    /// Files that are in memory together.
    pub(super) async fn small(&self, entries: Vec<LocalEntry>) -> Result<ImportReport, VfsError> {
        let this = self.clone();
        let (items, chunks, mut report) = blocking(move || this.prepare(&entries)).await?;
        self.send(None, chunks, &mut report).await?;
        let committed = self.commit(items).await?;
        report.add(committed);
        Ok(report)
    }

    fn prepare(&self, entries: &[LocalEntry]) -> (Vec<Item>, Vec<PlainChunk>, ImportReport) {
        let mut report = ImportReport::default();
        let mut chunks = Vec::new();
        let mut items = Vec::with_capacity(entries.len());
        for entry in entries {
            let start = chunks.len();
            match &entry.kind {
                LocalKind::Symlink(target) => items.push(self.symlink(entry, target)),
                LocalKind::File { .. } => {
                    let emit = |chunk| {
                        chunks.push(chunk);
                        Ok(())
                    };
                    match prepare::file(&self.local(&entry.path), &self.rules, emit) {
                        Ok(prepared) => items.push(self.file(entry, prepared, &mut report)),
                        Err(error) => {
                            chunks.truncate(start);
                            report.left_out.push(unreadable(entry, &error));
                        }
                    }
                }
                LocalKind::Directory | LocalKind::HardLink(_) => {}
            }
        }
        (items, chunks, report)
    }

    /// One file that is larger than a group: cut on a thread of its own, sent while the next piece is cut.
    pub(super) async fn large(&self, entries: Vec<LocalEntry>) -> Result<ImportReport, VfsError> {
        let mut report = ImportReport::default();
        for entry in entries {
            match self.cut_and_send(&entry.path, None, &mut report).await? {
                Ok(prepared) => {
                    let item = self.file(&entry, prepared, &mut report);
                    let committed = self.commit(vec![item]).await?;
                    report.add(committed);
                }
                Err(error) => report.left_out.push(unreadable(&entry, &error)),
            }
        }
        Ok(report)
    }

    async fn cut_and_send(
        &self,
        path: &Bytes,
        node: Option<&str>,
        report: &mut ImportReport,
    ) -> Result<std::io::Result<Prepared>, VfsError> {
        let (pieces, mut received) = mpsc::channel::<Vec<PlainChunk>>(1);
        let (this, path) = (self.clone(), path.clone());
        let cut = tokio::task::spawn_blocking(move || {
            let mut piece = Vec::new();
            let mut bytes = 0;
            let prepared = prepare::file(&this.local(&path), &this.rules, |chunk| {
                bytes += chunk.1.len() as u64;
                piece.push(chunk);
                if bytes < GROUP_BYTES {
                    return Ok(());
                }
                bytes = 0;
                pieces.blocking_send(std::mem::take(&mut piece)).map_err(|_| std::io::ErrorKind::BrokenPipe.into())
            })?;
            pieces.blocking_send(piece).map_err(|_| std::io::Error::from(std::io::ErrorKind::BrokenPipe))?;
            Ok(prepared)
        });
        while let Some(piece) = received.recv().await {
            self.send(node, piece, report).await?;
        }
        cut.await.map_err(|error| VfsError::Internal(error.to_string()))
    }

    /// Sends the chunks of a file again, to a node that says that it lacks some. A file that cannot be read any more is
    /// left for the commit to refuse.
    pub(super) async fn resend(&self, path: &Bytes, node: &str) -> Result<(), VfsError> {
        let mut unused = ImportReport::default();
        let _ = self.cut_and_send(path, Some(node), &mut unused).await?;
        Ok(())
    }

    /// Uploads what the node lacks of these chunks; all of them are durable there afterwards.
    async fn send(
        &self,
        node: Option<&str>,
        chunks: Vec<PlainChunk>,
        report: &mut ImportReport,
    ) -> Result<(), VfsError> {
        if chunks.is_empty() {
            return Ok(());
        }
        let mut seen = HashSet::with_capacity(chunks.len());
        let ids: Vec<_> = chunks.iter().map(|(id, _)| *id).filter(|id| seen.insert(*id)).collect();
        let realm = &self.rules.realm;
        let missing = self.vfs.chunks.missing(node, realm, &ids).await?;
        // A node that asks for chunks again gets them, whoever else is sending them to another.
        let (claim, others) =
            if node.is_some() { (Claims::new().claim(missing).0, Vec::new()) } else { self.claims.claim(missing) };
        report.chunks_known += (chunks.len() - claim.ids.len()) as u64;
        report.chunks_new += claim.ids.len() as u64;
        if !claim.ids.is_empty() {
            let mut wanted = claim.ids.clone();
            let encoded: Vec<EncodedChunk> = blocking(move || {
                let wanted = chunks.into_iter().filter(|(id, _)| wanted.remove(id));
                wanted.map(|(id, plain)| EncodedChunk::encode(id, plain, LEVEL_DEFAULT)).collect()
            })
            .await?;
            report.new_bytes += encoded.iter().map(|chunk| u64::from(chunk.raw_len)).sum::<u64>();
            report.stored_bytes += encoded.iter().map(|chunk| chunk.payload.len() as u64).sum::<u64>();
            self.vfs.chunks.upload(node, realm, encoded).await?;
        }
        drop(claim);
        self.claims.wait(&others).await;
        Ok(())
    }

    fn file(&self, entry: &LocalEntry, prepared: Prepared, report: &mut ImportReport) -> Item {
        let content = match prepared {
            Prepared::Inline(bytes) => {
                report.inline_bytes += bytes.len() as u64;
                Content::Inline(bytes)
            }
            Prepared::Manifest(root) => Content::Manifest(ManifestRef {
                size: root.size(),
                root: root.as_bytes().clone(),
                // Set by the node that commits it.
                origin: self.target.volume.spec.home.clone(),
            }),
        };
        let at = self.place(&entry.path);
        let mut item = Item::new(entry);
        item.ops.push(Op::PutFile { at: at.clone(), attr: entry.attr, content, expect: Expect::Any });
        item.set_xattrs(&at, &entry.xattrs);
        item
    }

    fn local(&self, path: &[u8]) -> PathBuf {
        if path.is_empty() {
            self.root.to_path_buf()
        } else {
            self.root.join(Path::new(std::ffi::OsStr::from_bytes(path)))
        }
    }
}

fn unreadable(entry: &LocalEntry, error: &std::io::Error) -> LeftOut {
    LeftOut { path: entry.path.clone(), reason: format!("cannot be read: {error}") }
}

/// Runs work that takes processor time or blocks off the reactor.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, VfsError> {
    tokio::task::spawn_blocking(work).await.map_err(|error| VfsError::Internal(error.to_string()))
}
