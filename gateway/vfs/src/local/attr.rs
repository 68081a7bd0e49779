//! Attributes between the local file system and the namespace.

use std::ffi::OsStr;
use std::fs::Metadata;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use bytes::Bytes;
use causeway_base::Timestamp;
use causeway_namespace_core::inode::Attr;
use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, UTIME_OMIT, XattrFlags};
use rustix::io::Errno;

/// Largest list of attribute names, and largest value, that the kernel gives (`XATTR_LIST_MAX`, `XATTR_SIZE_MAX`).
const XATTR_BYTES_MAX: usize = 64 << 10;

/// The attributes of a local file.
#[must_use]
pub fn attr_of(metadata: &Metadata) -> Attr {
    Attr {
        mode: metadata.mode() & 0o7777,
        uid: metadata.uid(),
        gid: metadata.gid(),
        mtime: Timestamp::from_parts(metadata.mtime(), metadata.mtime_nsec()),
        ctime: Timestamp::from_parts(metadata.ctime(), metadata.ctime_nsec()),
    }
}

/// The extended attributes of a local file that belong to users (`user.*`), sorted by name. A file system without them has
/// none.
///
/// # Errors
/// As the operating system says.
pub fn xattrs_of(path: &Path) -> io::Result<Vec<(Bytes, Bytes)>> {
    let mut names = vec![0; XATTR_BYTES_MAX];
    let len = match rustix::fs::llistxattr(path, &mut names) {
        Ok(len) => len,
        Err(Errno::NOTSUP) => return Ok(Vec::new()),
        Err(error) => return Err(error.into()),
    };
    let mut found = Vec::new();
    let mut value = Vec::new();
    for name in names[..len].split(|byte| *byte == 0).filter(|name| name.starts_with(b"user.")) {
        value.resize(XATTR_BYTES_MAX, 0);
        match rustix::fs::lgetxattr(path, OsStr::from_bytes(name), &mut value[..]) {
            Ok(len) => found.push((Bytes::copy_from_slice(name), Bytes::copy_from_slice(&value[..len]))),
            // Removed since it was listed.
            Err(Errno::NODATA) => {}
            Err(error) => return Err(error.into()),
        }
    }
    found.sort();
    Ok(found)
}

/// Gives a local file its attributes back: owner (only as root, else it stays ours), mode, extended attributes and, last,
/// its time. A symlink has no mode of its own.
///
/// # Errors
/// As the operating system says.
pub fn apply(path: &Path, attr: &Attr, xattrs: &[(Bytes, Bytes)], symlink: bool) -> io::Result<()> {
    if rustix::process::geteuid().is_root() {
        std::os::unix::fs::lchown(path, Some(attr.uid), Some(attr.gid))?;
    }
    if !symlink {
        for (name, value) in xattrs {
            match rustix::fs::lsetxattr(path, OsStr::from_bytes(name), value, XattrFlags::empty()) {
                Ok(()) | Err(Errno::NOTSUP) => {}
                Err(error) => return Err(error.into()),
            }
        }
        let mode = rustix::fs::Mode::from_raw_mode(attr.mode & 0o7777);
        rustix::fs::chmod(path, mode)?;
    }
    let mtime =
        Timespec { tv_sec: attr.mtime.0.div_euclid(1_000_000_000), tv_nsec: attr.mtime.0.rem_euclid(1_000_000_000) };
    let times = Timestamps { last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT }, last_modification: mtime };
    rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW)?;
    Ok(())
}
