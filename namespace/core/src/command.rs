//! What goes through a volume's Raft log, and what comes back.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use causeway_base::{ClientId, Ino, Seq, Timestamp};

use crate::audit::By;
use crate::inode::{Attr, Content, FileKind};
use crate::manage::{ManageOp, MountOp};
use crate::root::{RootOp, RootOutcome};

/// Most operations in one request.
pub const OPS_MAX: usize = 1024;
/// Most requests in one log entry.
pub const REQUESTS_MAX: usize = 512;
/// Largest encoded request in bytes.
pub const REQUEST_BYTES_MAX: usize = 4 << 20;
/// Largest encoded command in bytes: twice a request, so that the largest one still shares its entry with small ones.
pub const COMMAND_BYTES_MAX: usize = 2 * REQUEST_BYTES_MAX;
/// Most requests of a session that may be unacknowledged at once; more are refused.
pub const SESSION_WINDOW: u64 = 256;
/// Most bytes of kept answers of a session. One answer takes at most two thirds of it.
pub const SESSION_ANSWER_BYTES_MAX: usize = 32 << 10;
/// Most open sessions of a volume; the one unused longest makes room.
pub const SESSIONS_MAX: usize = 16_384;

/// The payload of a log entry: requests that the leader coalesced, applied in order, each atomic by itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Command {
    /// The requests; at most [`REQUESTS_MAX`].
    #[serde(deserialize_with = "crate::encode::bounded_vec::<REQUESTS_MAX, _, _>")]
    pub requests: Vec<Request>,
}

/// One client's request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// When the proposer received it: the only time that its effects know.
    pub at: Timestamp,
    /// What is asked.
    pub body: RequestBody,
}

/// The kinds of request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RequestBody {
    /// Opens a session; answered with its id.
    OpenSession {
        /// The client's own name for itself, for people who look.
        client: ClientId,
    },
    /// An atomic batch, at most once.
    Mutate {
        /// From `OpenSession`.
        session: SessionId,
        /// Counts up from 1 within the session. The same number again is answered with the first answer.
        number: u64,
        /// Every number below is acknowledged by the client: its answer may be forgotten.
        acked_below: u64,
        /// Applied in order; all or none. At most [`OPS_MAX`].
        #[serde(deserialize_with = "crate::encode::bounded_vec::<OPS_MAX, _, _>")]
        ops: Vec<Op>,
    },
    /// An operation on the root group.
    Root(RootOp),
    /// Starts a new epoch after a restore or a promotion; refused if not above the current one.
    RaiseEpoch {
        /// The new epoch.
        epoch: causeway_base::Epoch,
    },
    /// An atomic batch, at most once for an id that the client chose itself: the same id again is answered with the first
    /// answer for as long as it is among the newest [`SESSIONS_MAX`] sessions and ids of the volume.
    Once {
        /// The id; of random bits, so that no two clients take the same.
        id: u128,
        /// Tells this batch from another under the same id, which is refused: a hash of what the client means by it.
        print: u128,
        /// As in `Mutate`.
        #[serde(deserialize_with = "crate::encode::bounded_vec::<OPS_MAX, _, _>")]
        ops: Vec<Op>,
    },
    /// Collects locks whose leases have ended, and what only they kept. Proposed by the leader now and then.
    ExpireLocks,
    /// An operation on the volume as a whole, at most once; answered as a batch of one.
    Manage {
        /// From `OpenSession`.
        session: SessionId,
        /// As in `Mutate`, from the same count.
        number: u64,
        /// As in `Mutate`.
        acked_below: u64,
        /// What is asked.
        op: ManageOp,
    },
    /// An operation on the root group that somebody asked for: recorded in the audit if it changes something.
    Audited {
        /// The operation.
        op: RootOp,
        /// By whom, and why.
        by: By,
    },
    /// Another volume is mounted here, or no more. Proposed by nodes.
    Mount(MountOp),
}

/// A session of at-most-once requests: numbered by the volume, never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SessionId(pub u64);

/// A place in the tree: a path relative to a directory (`openat`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct At {
    /// Where the path starts; [`Ino::ROOT`] for a path from the volume's top.
    pub dir: Ino,
    /// Names separated by `/`; no leading `/` needed, empty and `.` components are skipped, `..` is refused. Symlinks on
    /// the way are not followed: the client resolves them. A path without any name means the inode `dir` itself, which
    /// may then be of any kind (`AT_EMPTY_PATH`): what holds an inode number can change it whatever it is called now.
    pub path: Bytes,
}

/// What must hold of the target, or the whole batch is refused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Expect {
    /// Nothing.
    #[default]
    Any,
    /// The target does not exist.
    Absent,
    /// The target's inode has exactly this version.
    Version(Seq),
    /// The lock with this token is held on the target at the request's time.
    Token(u64),
}

/// One step of a batch.
///
/// `attr.ctime` is not taken from an operation: the inode's `ctime` becomes the request's `at`, as no POSIX call sets it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Op {
    /// Creates a directory.
    Mkdir {
        /// Where.
        at: At,
        /// Its attributes.
        attr: Attr,
        /// Create missing parents with the same attributes, and accept that it exists already.
        parents: bool,
    },
    /// Creates a file or replaces one's content (and attributes); a directory or symlink there is refused. A replaced file
    /// keeps its inode, names and extended attributes.
    PutFile {
        /// Where.
        at: At,
        /// Its attributes.
        attr: Attr,
        /// Its content.
        content: Content,
        /// Precondition.
        expect: Expect,
    },
    /// Creates a symlink.
    Symlink {
        /// Where.
        at: At,
        /// Its attributes.
        attr: Attr,
        /// Its target.
        target: Bytes,
    },
    /// Adds a name for a file or symlink.
    Link {
        /// The existing name.
        from: At,
        /// The new name; must not exist.
        to: At,
    },
    /// Removes a name of a file or symlink; the inode goes with its last name.
    Unlink {
        /// Which.
        at: At,
        /// Precondition.
        expect: Expect,
    },
    /// Removes an empty directory.
    Rmdir {
        /// Which.
        at: At,
    },
    /// Renames, replacing atomically what POSIX `rename` would replace.
    Rename {
        /// From.
        from: At,
        /// To.
        to: At,
        /// Refuse if `to` exists.
        no_replace: bool,
    },
    /// Changes attributes; `None` leaves one as it is.
    SetAttr {
        /// Which.
        at: At,
        /// Permission bits.
        mode: Option<u32>,
        /// Owner.
        uid: Option<u32>,
        /// Group.
        gid: Option<u32>,
        /// Content time.
        mtime: Option<Timestamp>,
        /// Precondition.
        expect: Expect,
    },
    /// Sets (`Some`) or removes (`None`) an extended attribute.
    SetXattr {
        /// Which.
        at: At,
        /// Its name, at most 255 bytes.
        name: Bytes,
        /// Its value, at most 4 KiB; all of an inode's at most 64 KiB.
        value: Option<Bytes>,
    },
    /// Changes nothing; refuses the batch unless the precondition holds (`Any`: the target exists).
    Check {
        /// Of what.
        at: At,
        /// Precondition.
        expect: Expect,
    },
}

/// What a request came to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// The session is open.
    Session(SessionId),
    /// Every operation of the batch was applied, or had been when the request came first.
    Done(#[serde(deserialize_with = "crate::encode::bounded_vec::<OPS_MAX, _, _>")] Vec<OpDone>),
    /// Nothing of the batch was applied.
    Refused(Refusal),
    /// The session is not known (never opened, or its place was needed): whether the request was applied earlier is unknown.
    SessionUnknown,
    /// The number was acknowledged earlier, so its answer is forgotten; it was applied once.
    Forgotten,
    /// More than [`SESSION_WINDOW`] requests of the session are unacknowledged, or their kept answers would take more than
    /// [`SESSION_ANSWER_BYTES_MAX`]; nothing was applied. Send it again with a higher `acked_below`.
    WindowExceeded,
    /// Of a root operation.
    Root(RootOutcome),
    /// The epoch was raised.
    EpochRaised,
    /// The request does not fit this group, or breaks a bound; nothing was applied.
    Invalid(String),
}

/// What an applied operation touched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpDone {
    /// The inode.
    pub ino: Ino,
    /// Its version now; for a removal the seq of the removal.
    pub version: Seq,
}

/// Why a batch was refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// Index of the operation in the batch.
    pub op: u32,
    /// Why.
    pub code: Errno,
    /// The path it is about, as the operation gave it; cut at [`crate::inode::PATH_BYTES_MAX`].
    pub path: Bytes,
}

/// The POSIX errors that a mutation or query can meet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, thiserror::Error)]
pub enum Errno {
    /// `ENOENT`
    #[error("no such file or directory")]
    NotFound,
    /// `EEXIST`
    #[error("it exists already")]
    Exists,
    /// `ENOTDIR`
    #[error("not a directory")]
    NotDirectory,
    /// `EISDIR`
    #[error("it is a directory")]
    IsDirectory,
    /// `ENOTEMPTY`
    #[error("the directory is not empty")]
    NotEmpty,
    /// `EINVAL`
    #[error("invalid argument")]
    Invalid,
    /// `ENAMETOOLONG`
    #[error("a name over 255 or a path over 4096 bytes")]
    NameTooLong,
    /// `EMLINK`
    #[error("too many links")]
    TooManyLinks,
    /// `ELOOP`: a directory would be moved into itself is `Invalid`; this is a symlink in the middle of a path.
    #[error("a symbolic link is in the way")]
    SymlinkInPath,
    /// `EFBIG`: a bound of this module.
    #[error("too large")]
    TooLarge,
    /// `ENODATA`: no such extended attribute.
    #[error("no such extended attribute")]
    NoAttribute,
    /// The precondition does not hold.
    #[error("it changed: the expected version is not the current one")]
    Conflict,
    /// `EPERM`: a second name for a directory.
    #[error("not permitted on a directory")]
    NotPermitted,
    /// `EBUSY`: a volume's top directory is neither removed nor renamed, nor is a directory above a mounted volume renamed.
    #[error("it is the top of a volume, or a volume is mounted below it")]
    Busy,
    /// `EDQUOT` of the volume.
    #[error("over the quota of the volume")]
    QuotaExceeded,
    /// `EXDEV`: a move or link between directory trees of different quotas; copy instead.
    #[error("between trees of different quotas")]
    CrossesQuota,
    /// `EAGAIN`: somebody holds a lock that excludes this one.
    #[error("locked by another")]
    Locked,
    /// `EDQUOT` of a directory tree.
    #[error("over the quota of a directory above it")]
    TreeQuotaExceeded,
    /// `EDQUOT` of a user.
    #[error("over the quota of its owner")]
    OwnerQuotaExceeded,
    /// `ESTALE`: the lock with the expected token is not held any more, another may have followed.
    #[error("the lock with this token is not held any more")]
    Fenced,
    /// `EXDEV`: the path goes on in another volume.
    #[error("another volume is mounted there")]
    CrossesVolume,
}

/// What a listing shows of an entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListEntry {
    /// The name.
    pub name: Bytes,
    /// Its inode's number.
    pub ino: Ino,
    /// Its kind.
    pub kind: FileKind,
}
