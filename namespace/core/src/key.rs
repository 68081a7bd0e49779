//! Keys of the records: one leading byte for the table, then big-endian fields, so that byte order is the wanted order.

use bytes::{BufMut, Bytes, BytesMut};

use causeway_base::{Ino, NodeId, Seq, VolumeId};

use crate::command::SessionId;

/// Counters and totals of the group.
pub const META: u8 = 0x00;
/// Inodes.
pub const INODE: u8 = 0x01;
/// Directory entries.
pub const DIRENT: u8 = 0x02;
/// Sessions.
pub const SESSION: u8 = 0x03;
/// Sessions by last use.
pub const SESSION_BY_USE: u8 = 0x04;
/// Snapshots by name.
pub const SNAPSHOT: u8 = 0x05;
/// Quotas by directory.
pub const QUOTA: u8 = 0x06;
/// The cluster (root group).
pub const CLUSTER: u8 = 0x0f;
/// Nodes (root group).
pub const NODE: u8 = 0x10;
/// Volumes (root group).
pub const VOLUME: u8 = 0x11;
/// Realm keys by name (root group).
pub const REALM: u8 = 0x12;
/// Volume ids by name (root group).
pub const VOLUME_BY_NAME: u8 = 0x13;
/// Volume ids by mount point (root group).
pub const VOLUME_BY_MOUNT: u8 = 0x14;

/// The bounds of a table: every key of it is `from <= key < to`.
#[must_use]
pub fn table(table: u8) -> (Bytes, Bytes) {
    (Bytes::copy_from_slice(&[table]), Bytes::copy_from_slice(&[table + 1]))
}

fn numbered(table: u8, number: u64) -> Bytes {
    let mut key = BytesMut::with_capacity(9);
    key.put_u8(table);
    key.put_u64(number);
    key.freeze()
}

fn named(table: u8, name: &[u8]) -> Bytes {
    let mut key = BytesMut::with_capacity(1 + name.len());
    key.put_u8(table);
    key.put_slice(name);
    key.freeze()
}

/// The group's counters and totals.
#[must_use]
pub fn meta() -> Bytes {
    Bytes::from_static(&[META])
}

/// An inode.
#[must_use]
pub fn inode(ino: Ino) -> Bytes {
    numbered(INODE, ino.0)
}

/// The number in an inode's key; `None` for any other key.
#[must_use]
pub fn inode_of(key: &[u8]) -> Option<Ino> {
    let (table, number) = key.split_first()?;
    (*table == INODE).then_some(Ino(u64::from_be_bytes(number.try_into().ok()?)))
}

/// A directory entry; `name` empty gives the lower bound of a directory's entries.
#[must_use]
pub fn dirent(parent: Ino, name: &[u8]) -> Bytes {
    let mut key = BytesMut::with_capacity(9 + name.len());
    key.put_u8(DIRENT);
    key.put_u64(parent.0);
    key.put_slice(name);
    key.freeze()
}

/// Above every entry of a directory.
#[must_use]
pub fn dirent_end(parent: Ino) -> Bytes {
    parent.next().map_or_else(|| Bytes::from_static(&[DIRENT + 1]), |next| dirent(next, b""))
}

/// A session.
#[must_use]
pub fn session(id: SessionId) -> Bytes {
    numbered(SESSION, id.0)
}

/// A node.
#[must_use]
pub fn node(id: NodeId) -> Bytes {
    numbered(NODE, id.0)
}

/// A volume.
#[must_use]
pub fn volume(id: VolumeId) -> Bytes {
    numbered(VOLUME, id.0)
}

/// A session's place in the order of last use.
#[must_use]
pub fn session_by_use(used: Seq, id: SessionId) -> Bytes {
    let mut key = BytesMut::with_capacity(17);
    key.put_u8(SESSION_BY_USE);
    key.put_u64(used.0);
    key.put_u64(id.0);
    key.freeze()
}

/// The session in a key of [`SESSION_BY_USE`]; `None` for any other key.
#[must_use]
pub fn session_by_use_of(key: &[u8]) -> Option<SessionId> {
    let rest = key.strip_prefix(&[SESSION_BY_USE])?;
    let (_, id) = rest.split_first_chunk::<8>()?;
    Some(SessionId(u64::from_be_bytes(id.try_into().ok()?)))
}

/// A snapshot.
#[must_use]
pub fn snapshot(name: &[u8]) -> Bytes {
    named(SNAPSHOT, name)
}

/// The quota of a directory.
#[must_use]
pub fn quota(dir: Ino) -> Bytes {
    numbered(QUOTA, dir.0)
}

/// The directory in a quota's key; `None` for any other key.
#[must_use]
pub fn quota_of(key: &[u8]) -> Option<Ino> {
    let number = key.strip_prefix(&[QUOTA])?;
    Some(Ino(u64::from_be_bytes(number.try_into().ok()?)))
}

/// The directory and the name in a directory entry's key; `None` for any other key.
#[must_use]
pub fn dirent_of(key: &[u8]) -> Option<(Ino, &[u8])> {
    let rest = key.strip_prefix(&[DIRENT])?;
    let (parent, name) = rest.split_first_chunk::<8>()?;
    Some((Ino(u64::from_be_bytes(*parent)), name))
}

/// The cluster.
#[must_use]
pub fn cluster() -> Bytes {
    Bytes::from_static(&[CLUSTER])
}

/// A realm.
#[must_use]
pub fn realm(name: &str) -> Bytes {
    named(REALM, name.as_bytes())
}

/// A volume's id by its name.
#[must_use]
pub fn volume_by_name(name: &str) -> Bytes {
    named(VOLUME_BY_NAME, name.as_bytes())
}

/// A volume's id by its mount point; `/` itself is the empty one, so that below it is what starts with it and a `/`.
#[must_use]
pub fn volume_by_mount(mount: &[u8]) -> Bytes {
    named(VOLUME_BY_MOUNT, if mount == b"/" { b"" } else { mount })
}
