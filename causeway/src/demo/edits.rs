//! The edits of the demo: chosen from what was imported, the same each time for the same input.

use std::io;
use std::path::{Path, PathBuf};

use bytes::Bytes;

use super::expected::{Expected, Want};

/// Most files of one kind of edit.
const FILES_MAX: usize = 20;

/// A file to be written.
#[derive(Debug, Clone)]
pub(super) struct Write {
    /// Path below the imported folder.
    pub(super) path: Bytes,
    /// A local file with the new content.
    pub(super) source: PathBuf,
    /// Its length.
    pub(super) size: u64,
}

/// Takes every so many, so that the choice is spread over the tree.
fn spread<T>(items: Vec<T>, most: usize) -> Vec<T> {
    let step = items.len().div_ceil(most).max(1);
    items.into_iter().step_by(step).collect()
}

/// Small in-place edits: sixteen bytes in the middle of some files that are large enough to have chunks.
pub(super) fn in_place(expected: &Expected, overlay: &Path) -> io::Result<Vec<Write>> {
    let large = expected.files().filter(|(_, _, size)| (32 << 10..256 << 20).contains(size));
    let chosen: Vec<_> = large.map(|(path, source, _)| (path.clone(), source.clone())).collect();
    let mut writes = Vec::new();
    for (number, (path, source)) in spread(chosen, FILES_MAX).into_iter().enumerate() {
        let mut content = std::fs::read(&source)?;
        let middle = content.len() / 2;
        for byte in content.iter_mut().skip(middle).take(16) {
            *byte ^= 0x55;
        }
        writes.push(write(path, overlay.join(format!("in-place-{number}")), &content)?);
    }
    Ok(writes)
}

/// An insertion into the largest file, a third of the way in: everything after it moves.
pub(super) fn insertion(expected: &Expected, overlay: &Path) -> io::Result<Option<Write>> {
    // Bounded, since the edit is made in memory.
    let fits = expected.files().filter(|(_, _, size)| *size <= 1 << 30);
    let Some((path, source, _)) = fits.max_by_key(|(_, _, size)| *size) else { return Ok(None) };
    let mut content = std::fs::read(source)?;
    let at = content.len() / 3;
    let inserted: Vec<u8> = b"inserted by the demo\n".iter().copied().cycle().take(1000).collect();
    content.splice(at..at, inserted);
    write(path.clone(), overlay.join("insertion"), &content).map(Some)
}

fn write(path: Bytes, source: PathBuf, content: &[u8]) -> io::Result<Write> {
    std::fs::write(&source, content)?;
    Ok(Write { path, source, size: content.len() as u64 })
}

/// The folder at the top that holds most bytes, and its new name; none if there are only files.
pub(super) fn rename(expected: &Expected) -> Option<(Bytes, Bytes, u64)> {
    let mut sums = std::collections::BTreeMap::<Bytes, u64>::new();
    for (path, _, size) in expected.files() {
        if let Some(slash) = path.iter().position(|byte| *byte == b'/') {
            *sums.entry(path.slice(..slash)).or_default() += size;
        }
    }
    let (from, bytes) = sums.into_iter().max_by_key(|(_, bytes)| *bytes)?;
    let mut to = from.to_vec();
    // A name may already be as long as a name can be.
    to.truncate(200);
    to.extend_from_slice(b".renamed-by-the-demo");
    Some((from, to.into(), bytes))
}

/// Some files to delete.
pub(super) fn deletes(expected: &Expected) -> Vec<(Bytes, u64)> {
    let files: Vec<_> = expected.files().map(|(path, _, size)| (path.clone(), size)).collect();
    // Few inputs have so few files that all would go.
    if files.len() < 4 { Vec::new() } else { spread(files, FILES_MAX * 2) }
}

/// The largest files, to be written again under new names.
pub(super) fn copies(expected: &Expected) -> Vec<Write> {
    let mut files: Vec<_> = expected.files().map(|(_, source, size)| (size, source.clone())).collect();
    files.sort_by(|a, b| b.cmp(a));
    files.truncate(FILES_MAX);
    let numbered = files.into_iter().enumerate();
    numbered
        .map(|(number, (size, source))| Write { path: format!("copies-of-the-demo/{number}").into(), source, size })
        .collect()
}

/// Records writes in what is expected.
pub(super) fn apply(expected: &mut Expected, writes: &[Write]) {
    for write in writes {
        expected.entries.insert(write.path.clone(), Want::File { source: write.source.clone(), size: write.size });
    }
}
