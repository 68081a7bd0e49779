//! How inodes are shown: by `ls`, and by `dr ls` from an image.

use causeway_base::Timestamp;
use causeway_namespace_core::inode::{Body, FileKind, Inode};
use serde::Serialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::output::show_name;

/// A line of a listing.
#[derive(Debug, Serialize)]
pub(crate) struct ListRow {
    pub(crate) name: String,
    pub(crate) kind: &'static str,
    pub(crate) size: u64,
    pub(crate) mode: String,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) mtime: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) target: Option<String>,
}

impl ListRow {
    pub(crate) fn new(name: &[u8], inode: &Inode) -> Self {
        let (kind, letter) = match inode.kind() {
            FileKind::File => ("file", '-'),
            FileKind::Directory => ("folder", 'd'),
            FileKind::Symlink => ("symlink", 'l'),
            FileKind::Mount => ("mount", 'm'),
        };
        let target = match &inode.body {
            Body::Symlink(target) => Some(show_name(target)),
            Body::Mount { volume, .. } => Some(format!("volume {volume}")),
            _ => None,
        };
        Self {
            name: show_name(name),
            kind,
            size: inode.size(),
            mode: mode(letter, inode.attr.mode),
            uid: inode.attr.uid,
            gid: inode.attr.gid,
            mtime: when(inode.attr.mtime),
            target,
        }
    }

    /// A folder that exists because a volume is mounted at or below it.
    pub(crate) fn mount(name: &[u8]) -> Self {
        Self {
            name: show_name(name),
            kind: "folder",
            size: 0,
            mode: mode('d', 0o755),
            uid: 0,
            gid: 0,
            mtime: String::new(),
            target: None,
        }
    }
}

/// A listing for people.
pub(crate) fn listing(rows: &[ListRow], long: bool) -> String {
    let suffix = |row: &ListRow| match (&row.target, row.kind) {
        (Some(target), _) if long => format!(" -> {target}"),
        (_, "folder" | "mount") => "/".to_owned(),
        _ => String::new(),
    };
    let line = |row: &ListRow| {
        let name = format!("{}{}\n", row.name, suffix(row));
        if long {
            format!("{} {:>5} {:>5} {:>12} {:>20} {name}", row.mode, row.uid, row.gid, row.size, row.mtime)
        } else {
            name
        }
    };
    rows.iter().map(line).collect()
}

/// A time as RFC 3339 in UTC, to the second.
pub(crate) fn when(time: Timestamp) -> String {
    let seconds = time.0.div_euclid(1_000_000_000);
    let text = OffsetDateTime::from_unix_timestamp(seconds).ok().and_then(|time| time.format(&Rfc3339).ok());
    text.unwrap_or_else(|| time.to_string())
}

fn mode(letter: char, mode: u32) -> String {
    let mut text = String::from(letter);
    for (shift, special, set, unset) in [(6, 0o4000, 's', 'S'), (3, 0o2000, 's', 'S'), (0, 0o1000, 't', 'T')] {
        let bits = mode >> shift;
        text.push(if bits & 4 != 0 { 'r' } else { '-' });
        text.push(if bits & 2 != 0 { 'w' } else { '-' });
        text.push(match (mode & special != 0, bits & 1 != 0) {
            (false, false) => '-',
            (false, true) => 'x',
            (true, true) => set,
            (true, false) => unset,
        });
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_and_times_are_shown_as_ls_does() {
        assert_eq!(mode('-', 0o644), "-rw-r--r--");
        assert_eq!(mode('d', 0o1777), "drwxrwxrwt");
        assert_eq!(mode('-', 0o4750), "-rwsr-x---");
        assert_eq!(mode('-', 0o2640), "-rw-r-S---");
        assert_eq!(when(Timestamp(0)), "1970-01-01T00:00:00Z");
        assert_eq!(when(Timestamp(-1)), "1969-12-31T23:59:59Z");
    }
}
