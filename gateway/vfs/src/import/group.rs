//! The walk's output: groups of items that are sent and committed together.

use tokio::sync::mpsc;

use super::{GROUP_BYTES, GROUP_ITEMS};
use crate::Progress;
use crate::local::scan::{LeftOut, LocalEntry, LocalKind, Scan};

/// Items that were found one after the other.
#[derive(Debug, Default)]
pub(super) struct Group {
    pub(super) directories: Vec<LocalEntry>,
    /// Files and symlinks; or one file larger than a group, see `large`.
    pub(super) files: Vec<LocalEntry>,
    pub(super) links: Vec<LocalEntry>,
    pub(super) left_out: Vec<LeftOut>,
    /// The one file is cut and sent piece by piece.
    pub(super) large: bool,
}

/// Walks and groups until the end, or until nobody receives any more.
pub(super) fn walk(scan: Scan, groups: &mpsc::Sender<Group>, progress: &Progress) {
    let mut group = Group::default();
    let mut bytes = 0;
    for found in scan {
        match found {
            Err(left_out) => group.left_out.push(left_out),
            Ok(entry) => match entry.kind {
                LocalKind::Directory => {
                    progress.found(1, 0);
                    group.directories.push(entry);
                }
                LocalKind::HardLink(_) => {
                    progress.found(1, 0);
                    group.links.push(entry);
                }
                LocalKind::Symlink(_) => {
                    progress.found(1, 0);
                    group.files.push(entry);
                }
                LocalKind::File { size } => {
                    progress.found(1, size);
                    if size > GROUP_BYTES {
                        // Folders found so far go first: the file may lie in one of them.
                        bytes = 0;
                        let before = std::mem::take(&mut group);
                        let large = Group { files: vec![entry], large: true, ..Group::default() };
                        if groups.blocking_send(before).is_err() || groups.blocking_send(large).is_err() {
                            return;
                        }
                        continue;
                    }
                    bytes += size;
                    group.files.push(entry);
                }
            },
        }
        let items = group.directories.len() + group.files.len() + group.links.len() + group.left_out.len();
        if bytes >= GROUP_BYTES || items >= GROUP_ITEMS {
            bytes = 0;
            if groups.blocking_send(std::mem::take(&mut group)).is_err() {
                return;
            }
        }
    }
    // An error means that the import has ended early, with an error of its own.
    let _ = groups.blocking_send(group);
}
