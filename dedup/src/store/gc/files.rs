//! Small files in the store's folder.

use std::io;
use std::path::Path;

use causeway_storage::disk::{Disk, DiskFile, Open};

/// Replaces a small file of the store's folder, durably.
pub(in crate::store) fn replace(disk: &dyn Disk, dir: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    replace_with(disk, dir, name, |file| file.write_all_at(bytes, 0))
}

/// As [`replace`], by whatever `write` writes.
pub(in crate::store) fn replace_with(
    disk: &dyn Disk,
    dir: &Path,
    name: &str,
    write: impl FnOnce(&dyn DiskFile) -> io::Result<()>,
) -> io::Result<()> {
    let (path, aside) = (dir.join(name), dir.join(format!("{name}.new")));
    match disk.remove(&aside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let file = disk.open(&aside, Open::CreateNew)?;
    write(file.as_ref())?;
    file.sync_data()?;
    disk.rename(&aside, &path)?;
    disk.sync_dir(dir)
}

/// Reads a small file whole.
pub(in crate::store) fn read(disk: &dyn Disk, path: &Path, most: u64) -> io::Result<Vec<u8>> {
    let file = disk.open(path, Open::Read)?;
    let len = file.len()?;
    if len > most {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("{len} bytes")));
    }
    let mut bytes = vec![0; usize::try_from(len).map_err(io::Error::other)?];
    file.read_exact_at(&mut bytes, 0)?;
    Ok(bytes)
}
