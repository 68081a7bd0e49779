//! Inodes and directory entries as they are stored.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use causeway_base::{Ino, Seq, SiteName, Timestamp};

/// Longest name of a directory entry in bytes (POSIX `NAME_MAX`). Any byte but `/` and NUL may stand in it.
pub const NAME_BYTES_MAX: usize = 255;
/// Longest path in bytes (POSIX `PATH_MAX`).
pub const PATH_BYTES_MAX: usize = 4096;
/// Largest file content kept in the inode itself, in bytes; a volume may set less.
pub const INLINE_BYTES_MAX: usize = 4096;
/// Largest encoded manifest root, in bytes.
pub const MANIFEST_ROOT_BYTES_MAX: usize = 8192;
/// Longest symlink target in bytes.
pub const SYMLINK_BYTES_MAX: usize = 4095;
/// Largest file in bytes (`off_t`).
pub const FILE_BYTES_MAX: u64 = i64::MAX as u64;
/// Most names of an inode.
pub const LINKS_MAX: u32 = i32::MAX as u32;
/// Longest name of an extended attribute in bytes.
pub const XATTR_NAME_BYTES_MAX: usize = 255;
/// Largest value of an extended attribute in bytes.
pub const XATTR_VALUE_BYTES_MAX: usize = 4096;
/// Most bytes of names and values of one inode's extended attributes.
pub const XATTRS_BYTES_MAX: usize = 64 << 10;
/// Permission bits that there are.
pub const MODE_MASK: u32 = 0o7777;

/// What an inode is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum FileKind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// Where another volume is mounted.
    Mount,
}

/// The content of a regular file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Content {
    /// The bytes themselves, at most [`INLINE_BYTES_MAX`]. An empty file is inline.
    Inline(Bytes),
    /// The encoded root of a manifest, at most [`MANIFEST_ROOT_BYTES_MAX`]. The namespace never looks inside.
    Manifest(ManifestRef),
}

/// A file's content in chunks, as the namespace knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ManifestRef {
    /// Length of the file in bytes, holes included.
    pub size: u64,
    /// The manifest's root, opaque here; the chunk engine decodes it.
    pub root: Bytes,
    /// The site whose store held every chunk when the write was acknowledged: the first place to ask.
    pub origin: SiteName,
}

/// What is particular to a kind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Body {
    /// A regular file.
    File(Content),
    /// A directory; its entries are records of their own.
    Directory {
        /// The directory above; the root's is itself.
        parent: Ino,
        /// Its name there, so that its path can be told; the root's is empty.
        name: Bytes,
        /// Number of entries.
        entries: u64,
    },
    /// A symbolic link and its target, uninterpreted bytes.
    Symlink(Bytes),
    /// Where another volume is mounted: paths end here and go on in that volume.
    Mount {
        /// The directory above.
        parent: Ino,
        /// Its name there.
        name: Bytes,
        /// The volume's name.
        volume: String,
    },
}

/// Ownership, permissions and times.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attr {
    /// Permission bits, `0o7777` and no more.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Last change of the content.
    pub mtime: Timestamp,
    /// Last change of the inode.
    pub ctime: Timestamp,
}

/// A file, directory or symlink.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inode {
    /// Ownership, permissions and times.
    pub attr: Attr,
    /// Names that point here; a directory has one.
    pub nlink: u32,
    /// The seq of the last change of content (of a directory: its entries), attributes or extended attributes: the version
    /// that preconditions compare. A change of names alone (link, rename, unlink) leaves it.
    pub version: Seq,
    /// What it is and holds.
    pub body: Body,
    /// Extended attributes, sorted by name.
    pub xattrs: Vec<(Bytes, Bytes)>,
    /// The nearest directory above that had a quota when this came below it, not counting the top's: what it uses counts
    /// there, and in that directory's own `quota`, and so on.
    pub quota: Option<Ino>,
}

impl Inode {
    /// What it is.
    #[must_use]
    pub fn kind(&self) -> FileKind {
        match self.body {
            Body::File(_) => FileKind::File,
            Body::Directory { .. } => FileKind::Directory,
            Body::Symlink(_) => FileKind::Symlink,
            Body::Mount { .. } => FileKind::Mount,
        }
    }

    /// Length in bytes: of a file its content, of a symlink its target, of a directory or mount 0.
    #[must_use]
    pub fn size(&self) -> u64 {
        match &self.body {
            Body::File(Content::Inline(bytes)) | Body::Symlink(bytes) => bytes.len() as u64,
            Body::File(Content::Manifest(manifest)) => manifest.size,
            Body::Directory { .. } | Body::Mount { .. } => 0,
        }
    }
}

/// A directory entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dirent {
    /// The inode it names.
    pub ino: Ino,
    /// That inode's kind, so that a listing need not read it.
    pub kind: FileKind,
}
