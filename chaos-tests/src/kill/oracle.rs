//! What must be there: of each file the last acknowledged content, and what unknown writes may have made of it since.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use causeway_namespace::Consistency;
use causeway_namespace_core::command::Errno;
use causeway_vfs::fetch::{Entry, Range, Sink};
use causeway_vfs::{Vfs, VfsError};
use tokio::sync::watch;

use super::Seen;

/// The hash of a content.
pub(super) type Content = [u8; 32];

#[derive(Debug)]
pub(super) struct Oracle {
    files: Mutex<BTreeMap<String, File>>,
    acknowledged: watch::Sender<u64>,
    unknown: Mutex<u64>,
    compared: Mutex<u64>,
}

impl Default for Oracle {
    fn default() -> Self {
        Self {
            files: Mutex::default(),
            acknowledged: watch::Sender::new(0),
            unknown: Mutex::default(),
            compared: Mutex::default(),
        }
    }
}

/// One file. Its writer waits for each write to end before the next begins.
#[derive(Debug, Default)]
struct File {
    acknowledged: Option<Content>,
    /// Unknown writes since; any of them may take effect, at any time before the client's next acknowledged one.
    unknown: Vec<Content>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Oracle {
    pub(super) fn wrote(&self, path: &str, content: Content, acknowledged: bool) {
        let mut files = lock(&self.files);
        let file = files.entry(path.to_owned()).or_default();
        if acknowledged {
            file.acknowledged = Some(content);
            file.unknown.clear();
            self.acknowledged.send_modify(|count| *count += 1);
        } else {
            file.unknown.push(content);
            *lock(&self.unknown) += 1;
        }
    }

    pub(super) fn acknowledged(&self) -> u64 {
        *self.acknowledged.borrow()
    }

    /// Waits until so many writes are acknowledged.
    pub(super) async fn wait_for(&self, count: u64, within: Duration) -> anyhow::Result<()> {
        let mut acknowledged = self.acknowledged.subscribe();
        let reached = acknowledged.wait_for(|now| *now >= count);
        tokio::time::timeout(within, reached).await.context("the cluster takes no writes")??;
        Ok(())
    }

    /// Reads every file and compares.
    pub(super) async fn check(&self, vfs: &Vfs) -> anyhow::Result<()> {
        let expected: Vec<_> = lock(&self.files)
            .iter()
            .map(|(path, file)| (path.clone(), file.acknowledged, file.unknown.clone()))
            .collect();
        for (path, acknowledged, unknown) in expected {
            let found = read(vfs, &path).await.with_context(|| format!("read {path}"))?;
            let allowed = found == acknowledged || found.is_some_and(|found| unknown.contains(&found));
            ensure!(
                allowed,
                "{path}: found {found:02x?}, acknowledged was {acknowledged:02x?}, unknown since: {}",
                unknown.len()
            );
            *lock(&self.compared) += 1;
        }
        Ok(())
    }

    pub(super) fn seen(&self) -> Seen {
        Seen { acknowledged: self.acknowledged(), unknown: *lock(&self.unknown), compared: *lock(&self.compared) }
    }
}

/// The hash of a file's content; `None` if there is no such file.
async fn read(vfs: &Vfs, path: &str) -> anyhow::Result<Option<Content>> {
    let place = vfs.locate(path.as_bytes()).await?;
    let (ino, inode) = match vfs.stat(&place, Consistency::Linearizable).await {
        Ok(read) => read.value,
        Err(error) if error.errno() == Some(Errno::NotFound) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let entry = Entry { path: Bytes::new(), ino, inode };
    let sink = vfs.fetch_file(&place, entry, Range::ALL, Hash(blake3::Hasher::new())).await?;
    Ok(Some(*sink.0.finalize().as_bytes()))
}

struct Hash(blake3::Hasher);

impl Sink for Hash {
    fn start(&mut self, _: &Entry) -> Result<bool, VfsError> {
        Ok(true)
    }

    fn data(&mut self, bytes: &[u8]) -> Result<(), VfsError> {
        self.0.update(bytes);
        Ok(())
    }

    fn hole(&mut self, len: u64) -> Result<(), VfsError> {
        for _ in 0..len {
            self.0.update(&[0]);
        }
        Ok(())
    }

    fn end(&mut self, _: &Entry) -> Result<(), VfsError> {
        Ok(())
    }
}
