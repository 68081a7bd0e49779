//! Questions that any set of records answers: a replica's, an earlier seq's, a repository image's.
//!
//! Paths are bytes, absolute within the volume; the rules of [`crate::path`] hold, and symlinks are not followed. The outer
//! error is the store's, the inner one is POSIX's.

mod audit;
mod changes;
mod cluster;
mod manage;
mod named;
mod tree;
mod walk;

pub use self::audit::audit;
pub use self::changes::{ChangeKind, TreeChange, tree_changes};
pub use self::cluster::{
    cluster, nodes, promotions, realm_key, realms, topology, volume, volume_by_mount, volume_by_name, volumes,
};
pub use self::manage::{Mount, first_lock_end, locks, mounts, owners, quota, quotas, retention, snapshot, snapshots};
pub use self::named::{names_of, paths_of};
pub use self::tree::{
    Answer, Found, Totals, list, lookup, lookup_many, path_of, readdir_plus, resolve, resolve_at, stat, stat_ino,
    totals,
};
pub use self::walk::{Walk, WalkEntry};
