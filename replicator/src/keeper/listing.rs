//! Lists what a volume names, from a view of its state, page by page.
//!
//! A listing that was cut short can be gone on with by another, of a later state. What both listed together holds all that
//! the later state names: of an inode that the first one passed, either the version is the same, or the inode is among
//! those that changed since, and these are listed again first. Older versions are always listed whole: one that came and
//! was replaced between the two states is among them, or was listed as the newest by the first.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use causeway_base::{Ino, Seq};
use causeway_namespace_core::inode::ManifestRef;
use causeway_namespace_core::listing::{Listed, ManifestPage};
use causeway_namespace_core::{key, query};
use tokio::runtime::Handle;
use tokio::sync::mpsc;

use super::RootsError;
use crate::volume::VolumeView;
use crate::walk::manifests_of;

/// Inodes read at once.
const INODES: usize = 1024;
/// A page ends when its manifests' roots take this much, in bytes.
const PAGE_BYTES: usize = 512 << 10;
/// Pages that may wait for whoever reads them.
const AHEAD: usize = 2;
/// A reader that takes no page for this long has gone: the view that is kept for it keeps replaced data.
const STALL_MAX: Duration = Duration::from_secs(900);

/// A listing under way. One that ends without its last page, or with an error, is not whole.
pub type Pages = mpsc::Receiver<Result<ManifestPage, RootsError>>;

/// Begins a listing of everything that a view of a volume's newest state, and the versions kept beside it, name; from `since` on, if
/// it is still known what changed since then. Must be called within a tokio runtime: a thread of it reads, a few pages
/// ahead.
#[must_use]
pub fn list(view: Arc<dyn VolumeView>, since: Option<Listed>) -> Pages {
    let (pages, listing) = mpsc::channel(AHEAD);
    let runtime = Handle::current();
    tokio::task::spawn_blocking(move || {
        let mut out = Out { pages, runtime, gone: false };
        if let Err(error) = run(view.as_ref(), since, &mut out) {
            out.send(Err(error));
        }
    });
    listing
}

struct Out {
    pages: mpsc::Sender<Result<ManifestPage, RootsError>>,
    runtime: Handle,
    gone: bool,
}

impl Out {
    fn send(&mut self, page: Result<ManifestPage, RootsError>) {
        let sent = self.runtime.block_on(tokio::time::timeout(STALL_MAX, self.pages.send(page)));
        self.gone |= !matches!(sent, Ok(Ok(())));
    }

    /// Hands on files, in as many pages as they fill. Only with the last of them the listing is as far as `listed`; before, it
    /// is `before`.
    fn files(&mut self, files: Vec<(Ino, ManifestRef)>, before: Listed, listed: Listed) {
        let (mut page, mut bytes) = (Vec::new(), 0);
        for (ino, manifest) in files {
            bytes += manifest.root.len();
            page.push((ino, manifest));
            if bytes >= PAGE_BYTES {
                self.send(Ok(ManifestPage { manifests: std::mem::take(&mut page), listed: before, end: false }));
                bytes = 0;
            }
        }
        self.send(Ok(ManifestPage { manifests: page, listed, end: false }));
    }
}

fn failed(error: impl std::fmt::Display) -> RootsError {
    RootsError { what: "what a volume names".to_owned(), reason: error.to_string() }
}

fn run(view: &dyn VolumeView, since: Option<Listed>, out: &mut Out) -> Result<(), RootsError> {
    snapshots_are_kept(view)?;
    let mut listed = Listed { seq: view.seq(), below: Ino(0), line: view.line() };
    // Where what is kept begins, the state may have been replaced, and is not the one that was listed.
    let goes_on = |since: &Listed| {
        since.line == view.line()
            && since.seq <= view.seq()
            && since.seq.0.checked_sub(1).is_some_and(|before| view.keeps(Seq(before)))
    };
    if let Some(since) = since.filter(goes_on)
        && let Some(changed) = view.changed_inodes(since.seq).map_err(failed)?
    {
        let changed: Vec<Ino> = changed.range(..since.below).copied().collect();
        for some in changed.chunks(INODES) {
            let mut records = Vec::with_capacity(some.len());
            for ino in some {
                let key = key::inode(*ino);
                records.extend(view.get(&key).map_err(failed)?.map(|value| (key, value)));
            }
            // As far as before until all of them are listed.
            out.files(manifests_of(records).map_err(failed)?, since, since);
            if out.gone {
                return Ok(());
            }
        }
        listed.below = since.below;
    }
    let (_, end) = key::table(key::INODE);
    while listed.below < Listed::ALL {
        let records = view.scan(&key::inode(listed.below), &end, INODES).map_err(failed)?;
        let last = records.last().and_then(|(key, _)| key::inode_of(key));
        let before =
            std::mem::replace(&mut listed.below, last.map_or(Listed::ALL, |last| Ino(last.0.saturating_add(1))));
        out.files(manifests_of(records).map_err(failed)?, Listed { below: before, ..listed }, listed);
        if out.gone {
            return Ok(());
        }
    }
    let mut from = Some(Bytes::new());
    while let Some(at) = from.take() {
        let (records, next) = view.older(&key::table(key::INODE), &at, INODES).map_err(failed)?;
        from = next;
        out.files(manifests_of(records).map_err(failed)?, listed, listed);
        if out.gone {
            return Ok(());
        }
    }
    out.send(Ok(ManifestPage { manifests: Vec::new(), listed, end: true }));
    Ok(())
}

/// A snapshot whose state is not kept here may name chunks that are.
fn snapshots_are_kept(view: &dyn VolumeView) -> Result<(), RootsError> {
    let snapshots = query::snapshots(view).map_err(failed)?;
    match snapshots.into_iter().find(|(_, snapshot)| !view.keeps(snapshot.seq)) {
        None => Ok(()),
        Some((name, snapshot)) => Err(RootsError {
            what: format!("what the snapshot {:?} of seq {} names", String::from_utf8_lossy(&name), snapshot.seq),
            reason: "that state is not kept on this node; delete the snapshot, or collect where it is kept".to_owned(),
        }),
    }
}

/// More changed inodes than these are not gone on with (8 MB of numbers): a listing from the start costs no more.
pub const CHANGED_MAX: usize = 1 << 20;

/// Adds the inodes among keys that changed; false if there are more than [`CHANGED_MAX`] by then.
pub fn add_inodes(inodes: &mut BTreeSet<Ino>, keys: impl Iterator<Item = Bytes>) -> bool {
    inodes.extend(keys.filter_map(|key| key::inode_of(&key)));
    inodes.len() <= CHANGED_MAX
}
