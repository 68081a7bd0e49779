//! Keys of the records: one leading byte for the table, then big-endian fields, so that byte order is the wanted order.

use bytes::{BufMut, Bytes, BytesMut};

use causeway_base::{Ino, NodeId, Seq, Timestamp, VolumeId};

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
/// How long old states are kept.
pub const RETENTION: u8 = 0x07;
/// What users own, and their quotas.
pub const OWNER: u8 = 0x08;
/// Advisory locks by inode.
pub const LOCK: u8 = 0x09;
/// Advisory locks by the end of their leases.
pub const LOCK_BY_END: u8 = 0x0a;
/// Where other volumes are mounted, by inode.
pub const MOUNT: u8 = 0x0b;
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
/// The topology (root group).
pub const TOPOLOGY: u8 = 0x15;
/// The audit by number (root group).
pub const AUDIT: u8 = 0x16;
/// Which numbers the audit has (root group).
pub const AUDIT_RANGE: u8 = 0x17;
/// The newest promotion of each group (root group).
pub const PROMOTION: u8 = 0x18;

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

/// A mount by its inode.
#[must_use]
pub fn mount(ino: Ino) -> Bytes {
    numbered(MOUNT, ino.0)
}

/// The inode of a mount's key.
#[must_use]
pub fn mount_of(key: &[u8]) -> Option<Ino> {
    let number = key.strip_prefix(&[MOUNT])?;
    Some(Ino(u64::from_be_bytes(number.try_into().ok()?)))
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

/// How long old states are kept.
#[must_use]
pub fn retention() -> Bytes {
    Bytes::from_static(&[RETENTION])
}

/// What a user owns.
#[must_use]
pub fn owner(uid: u32) -> Bytes {
    let mut key = BytesMut::with_capacity(5);
    key.put_u8(OWNER);
    key.put_u32(uid);
    key.freeze()
}

/// The user in a key of [`OWNER`]; `None` for any other key.
#[must_use]
pub fn owner_of(key: &[u8]) -> Option<u32> {
    let number = key.strip_prefix(&[OWNER])?;
    Some(u32::from_be_bytes(number.try_into().ok()?))
}

/// A lock.
#[must_use]
pub fn lock(ino: Ino, token: u64) -> Bytes {
    let mut key = BytesMut::with_capacity(17);
    key.put_u8(LOCK);
    key.put_u64(ino.0);
    key.put_u64(token);
    key.freeze()
}

/// The bounds of an inode's locks.
#[must_use]
pub fn locks(ino: Ino) -> (Bytes, Bytes) {
    let end = ino.next().map_or_else(|| Bytes::from_static(&[LOCK + 1]), |next| numbered(LOCK, next.0));
    (numbered(LOCK, ino.0), end)
}

/// The inode and the token in a lock's key; `None` for any other key.
#[must_use]
pub fn lock_of(key: &[u8]) -> Option<(Ino, u64)> {
    two_numbers(key.strip_prefix(&[LOCK])?).map(|(ino, token)| (Ino(ino), token))
}

/// A lock's place in the order of the ends of leases.
#[must_use]
pub fn lock_by_end(end: Timestamp, ino: Ino, token: u64) -> Bytes {
    let mut key = BytesMut::with_capacity(25);
    key.put_u8(LOCK_BY_END);
    // The sign bit turned, so that times before 1970 sort first.
    key.put_u64(end.0.cast_unsigned() ^ (1 << 63));
    key.put_u64(ino.0);
    key.put_u64(token);
    key.freeze()
}

/// The end, the inode and the token in a key of [`LOCK_BY_END`]; `None` for any other key.
#[must_use]
pub fn lock_by_end_of(key: &[u8]) -> Option<(Timestamp, Ino, u64)> {
    let rest = key.strip_prefix(&[LOCK_BY_END])?;
    let (end, rest) = rest.split_first_chunk::<8>()?;
    let (ino, token) = two_numbers(rest)?;
    Some((Timestamp((u64::from_be_bytes(*end) ^ (1 << 63)).cast_signed()), Ino(ino), token))
}

fn two_numbers(bytes: &[u8]) -> Option<(u64, u64)> {
    let (first, second) = bytes.split_first_chunk::<8>()?;
    Some((u64::from_be_bytes(*first), u64::from_be_bytes(second.try_into().ok()?)))
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

/// The topology.
#[must_use]
pub fn topology() -> Bytes {
    Bytes::from_static(&[TOPOLOGY])
}

/// A record of the audit.
#[must_use]
pub fn audit(number: u64) -> Bytes {
    numbered(AUDIT, number)
}

/// Which records the audit has.
#[must_use]
pub fn audit_range() -> Bytes {
    Bytes::from_static(&[AUDIT_RANGE])
}

/// A group's newest promotion.
#[must_use]
pub fn promotion(group: VolumeId) -> Bytes {
    numbered(PROMOTION, group.0)
}

/// The group in the key of a promotion; `None` for any other key.
#[must_use]
pub fn promotion_of(key: &[u8]) -> Option<VolumeId> {
    let number = key.strip_prefix(&[PROMOTION])?;
    Some(VolumeId(u64::from_be_bytes(number.try_into().ok()?)))
}

/// A realm.
#[must_use]
pub fn realm(name: &str) -> Bytes {
    named(REALM, name.as_bytes())
}

/// The name in a realm's key; `None` for any other key.
#[must_use]
pub fn realm_of(key: &[u8]) -> Option<&str> {
    std::str::from_utf8(key.strip_prefix(&[REALM])?).ok()
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
