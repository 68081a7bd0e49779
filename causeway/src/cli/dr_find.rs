//! `causeway dr find`

use std::collections::BTreeSet;

use bytes::Bytes;
use causeway_base::Timestamp;
use causeway_namespace::Place;
use causeway_namespace_core::command::Errno;
use causeway_namespace_core::inode::{FileKind, Inode};
use causeway_namespace_core::query::{self, Walk};

use super::args::{FoundKind, Global};
use super::exit::{Exit, Failure};
use super::session::remote_path;
use super::show::{ListRow, listing};
use crate::dr::{Found, Image, blocking};
use crate::output::{self, show_name};

/// What is looked for.
#[derive(Clone, Debug, Default)]
pub(super) struct Wanted {
    pub(super) name: Option<String>,
    pub(super) kind: Option<FoundKind>,
    /// Files of so many bytes.
    pub(super) at_least: Option<u64>,
    /// Changed then or later.
    pub(super) since: Option<Timestamp>,
}

impl Wanted {
    fn fits(&self, path: &[u8], inode: &Inode) -> bool {
        let kind = match self.kind {
            None => true,
            Some(FoundKind::File) => inode.kind() == FileKind::File,
            Some(FoundKind::Folder) => matches!(inode.kind(), FileKind::Directory | FileKind::Mount),
            Some(FoundKind::Symlink) => inode.kind() == FileKind::Symlink,
        };
        let name = path.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
        kind && self.name.as_ref().is_none_or(|pattern| is_like(pattern.as_bytes(), name))
            && self.at_least.is_none_or(|least| inode.kind() == FileKind::File && inode.size() >= least)
            && self.since.is_none_or(|since| inode.attr.mtime >= since)
    }
}

pub(super) async fn find(global: &Global, url: &str, path: &str, wanted: Wanted, long: bool) -> anyhow::Result<Exit> {
    let image = Image::open(url).await?;
    let path = remote_path(path)?;
    let below = |mount: &Bytes| {
        mount.strip_prefix(&path[..]).is_some_and(|rest| path.ends_with(b"/") || rest.starts_with(b"/"))
    };
    let mut tops: Vec<Bytes> =
        image.catalog.volumes.values().map(|volume| volume.spec.mount.clone()).filter(below).collect();
    match image.resolve(&path)? {
        Place::InVolume { .. } => tops.insert(0, path.clone().into()),
        Place::Nowhere if tops.is_empty() => {
            let message = format!("{}: {} (in the image)", show_name(&path), Errno::NotFound);
            return Err(Failure::error(Exit::NotFound, message));
        }
        Place::Above { .. } | Place::Nowhere => {}
    }
    let mut seen = BTreeSet::new();
    tops.retain(|top| seen.insert(top.clone())); // a mount may be asked for by its own path
    let (mut rows, mut left_out) = (Vec::new(), Vec::new());
    for (number, top) in tops.iter().enumerate() {
        let found = match image.locate(top).await {
            Ok(found) => search(found, top.clone(), wanted.clone(), seen.clone()).await,
            Err(error) => Err(error),
        };
        match found {
            Ok(found) => rows.extend(found),
            // What was asked for itself.
            Err(error) if number == 0 && top[..] == path[..] => return Err(error),
            Err(error) => left_out.push(format!("{}: {error:#}", show_name(top))),
        }
    }
    rows.sort_by(|a, b| a.name.cmp(&b.name));
    output::print(global.output, &rows, |rows| listing(rows, long))?;
    for volume in &left_out {
        eprintln!("left out: {volume}");
    }
    Ok(if left_out.is_empty() { Exit::Done } else { Exit::Partial })
}

/// What is in one volume, from `top` down, by its whole path. Memory: what is found.
/// What `others` searches has its own row.
async fn search(found: Found, top: Bytes, wanted: Wanted, others: BTreeSet<Bytes>) -> anyhow::Result<Vec<ListRow>> {
    blocking(move || {
        let gone = |code| Failure::error(Exit::NotFound, format!("{}: {code} (in the image)", show_name(&top)));
        let (ino, inode) = query::stat(&found.volume, &found.path)?.map_err(gone)?;
        let mut rows = Vec::new();
        if wanted.fits(&top, &inode) {
            rows.push(ListRow::new(&top, &inode));
        }
        if inode.kind() != FileKind::Directory {
            return Ok(rows);
        }
        for entry in Walk::new(&found.volume, ino) {
            let entry = entry?;
            if wanted.fits(&entry.path, &entry.inode) {
                let parent = top.strip_suffix(b"/").unwrap_or(&top);
                let path = [parent, b"/", &entry.path].concat();
                if entry.inode.kind() != FileKind::Mount || !others.contains(&path[..]) {
                    rows.push(ListRow::new(&path, &entry.inode));
                }
            }
        }
        Ok(rows)
    })
    .await
}

/// Whether a name is like a pattern, in which `*` is any text and `?` any character. Time in proportion to the product of both
/// lengths at most.
fn is_like(pattern: &[u8], name: &[u8]) -> bool {
    let (mut at, mut seen) = (0, 0);
    // Behind the last star, and how much of the name it takes.
    let mut star: Option<(usize, usize)> = None;
    while seen < name.len() {
        match pattern.get(at) {
            Some(b'*') => {
                at += 1;
                star = Some((at, seen));
            }
            Some(b'?') => {
                at += 1;
                seen += 1;
                // A character may have several bytes.
                while name.get(seen).is_some_and(|byte| byte & 0xc0 == 0x80) {
                    seen += 1;
                }
            }
            Some(byte) if *byte == name[seen] => {
                at += 1;
                seen += 1;
            }
            _ => {
                let Some((behind, taken)) = star else { return false };
                (at, seen) = (behind, taken + 1);
                star = Some((behind, seen));
            }
        }
    }
    pattern.get(at..).is_none_or(|rest| rest.iter().all(|byte| *byte == b'*'))
}

#[cfg(test)]
mod tests {
    use super::is_like;

    #[test]
    fn patterns_match_whole_names() {
        for (pattern, name, like) in [
            ("*", "", true),
            ("*.rs", "main.rs", true),
            ("*.rs", "main.rs.bak", false),
            ("a*b*c", "a-b-b-c", true),
            ("a*b*c", "a-c-b", false),
            ("?", "é", true),
            ("??", "é", false),
            ("step-?", "step-1", true),
            ("step-?", "step-10", false),
            ("exact", "exact", true),
            ("exact", "exactly", false),
            ("", "", true),
            ("", "x", false),
        ] {
            assert_eq!(is_like(pattern.as_bytes(), name.as_bytes()), like, "{pattern} {name}");
        }
        // Not exponential.
        assert!(!is_like("*a".repeat(50).as_bytes(), "b".repeat(5000).as_bytes()));
    }
}
