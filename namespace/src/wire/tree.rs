//! The tree: inodes, operations, outcomes, volumes.

use std::collections::BTreeSet;

use causeway_base::{Epoch, Ino, NodeId, Seq, SiteName, Timestamp, VolumeId};
use causeway_namespace_core::command::{At, Errno, Expect, Op, OpDone, Refusal};
use causeway_namespace_core::inode::{Attr, Body, Content, FileKind, Inode, ManifestRef};
use causeway_namespace_core::root::{VolumeRecord, VolumeSpec};
use causeway_proto::v1;
use causeway_topology::{Residency, Survive};

use super::{Wire, WireError, required, site};
use crate::entry::{Entry, Found, Place};

impl Wire for FileKind {
    type Message = i32;

    fn into_wire(self) -> i32 {
        let kind = match self {
            Self::File => v1::FileKind::File,
            Self::Directory => v1::FileKind::Directory,
            Self::Symlink => v1::FileKind::Symlink,
            Self::Mount => v1::FileKind::Mount,
        };
        kind.into()
    }

    fn from_wire(message: i32) -> Result<Self, WireError> {
        match v1::FileKind::try_from(message) {
            Ok(v1::FileKind::File) => Ok(Self::File),
            Ok(v1::FileKind::Directory) => Ok(Self::Directory),
            Ok(v1::FileKind::Symlink) => Ok(Self::Symlink),
            Ok(v1::FileKind::Mount) => Ok(Self::Mount),
            Ok(v1::FileKind::Unspecified) | Err(_) => Err(WireError::bad("kind", message)),
        }
    }
}

/// Pairs of ours and theirs, written once for both directions.
macro_rules! errnos {
    ($($ours:ident = $theirs:ident),+ $(,)?) => {
        impl Wire for Errno {
            type Message = i32;

            fn into_wire(self) -> i32 {
                match self { $(Self::$ours => v1::Errno::$theirs.into()),+ }
            }

            fn from_wire(message: i32) -> Result<Self, WireError> {
                match v1::Errno::try_from(message) {
                    $(Ok(v1::Errno::$theirs) => Ok(Self::$ours),)+
                    Ok(v1::Errno::Unspecified) | Err(_) => Err(WireError::bad("errno", message)),
                }
            }
        }
    };
}

errnos! {
    NotFound = NotFound,
    Exists = Exists,
    NotDirectory = NotDirectory,
    IsDirectory = IsDirectory,
    NotEmpty = NotEmpty,
    Invalid = Invalid,
    NameTooLong = NameTooLong,
    TooManyLinks = TooManyLinks,
    SymlinkInPath = SymlinkInPath,
    TooLarge = TooLarge,
    NoAttribute = NoAttribute,
    Conflict = Conflict,
    NotPermitted = NotPermitted,
    Busy = Busy,
    QuotaExceeded = QuotaExceeded,
    CrossesQuota = CrossesQuota,
    Locked = Locked,
    TreeQuotaExceeded = TreeQuotaExceeded,
    OwnerQuotaExceeded = OwnerQuotaExceeded,
    Fenced = Fenced,
    CrossesVolume = CrossesVolume,
}

impl Wire for At {
    type Message = v1::At;

    fn into_wire(self) -> v1::At {
        v1::At { dir: self.dir.0, path: self.path }
    }

    fn from_wire(message: v1::At) -> Result<Self, WireError> {
        let dir = if message.dir == 0 { Ino::ROOT } else { Ino(message.dir) };
        Ok(Self { dir, path: message.path })
    }
}

impl Wire for Attr {
    type Message = v1::Attr;

    fn into_wire(self) -> v1::Attr {
        v1::Attr { mode: self.mode, uid: self.uid, gid: self.gid, mtime: self.mtime.0, ctime: self.ctime.0 }
    }

    fn from_wire(message: v1::Attr) -> Result<Self, WireError> {
        let v1::Attr { mode, uid, gid, mtime, ctime } = message;
        Ok(Self { mode, uid, gid, mtime: Timestamp(mtime), ctime: Timestamp(ctime) })
    }
}

impl Wire for ManifestRef {
    type Message = v1::ManifestRef;

    fn into_wire(self) -> v1::ManifestRef {
        v1::ManifestRef { size: self.size, root: self.root, origin: self.origin.into() }
    }

    fn from_wire(message: v1::ManifestRef) -> Result<Self, WireError> {
        let origin = site(message.origin, "manifest.origin")?;
        Ok(Self { size: message.size, root: message.root, origin })
    }
}

impl Wire for Content {
    type Message = v1::Content;

    fn into_wire(self) -> v1::Content {
        use v1::content::Kind;
        let kind = match self {
            Self::Inline(bytes) => Kind::Inline(bytes),
            Self::Manifest(manifest) => Kind::Manifest(manifest.into_wire()),
        };
        v1::Content { kind: Some(kind) }
    }

    fn from_wire(message: v1::Content) -> Result<Self, WireError> {
        use v1::content::Kind;
        match message.kind.ok_or(WireError::Unset("content.kind"))? {
            Kind::Inline(bytes) => Ok(Self::Inline(bytes)),
            Kind::Manifest(manifest) => ManifestRef::from_wire(manifest).map(Self::Manifest),
        }
    }
}

impl Wire for Inode {
    type Message = v1::Inode;

    fn into_wire(self) -> v1::Inode {
        use v1::inode::Body as Theirs;
        let body = match self.body {
            Body::File(content) => Theirs::File(content.into_wire()),
            Body::Directory { parent, name, entries } => {
                Theirs::Directory(v1::Directory { parent: parent.0, entries, name })
            }
            Body::Symlink(target) => Theirs::Symlink(target),
            Body::Mount { parent, name, volume } => Theirs::Mount(v1::Mount { parent: parent.0, name, volume }),
        };
        let xattrs = self.xattrs.into_iter().map(|(name, value)| v1::Xattr { name, value }).collect();
        v1::Inode {
            attr: Some(self.attr.into_wire()),
            nlink: self.nlink,
            version: self.version.0,
            body: Some(body),
            xattrs,
            quota: self.quota.map_or(0, |dir| dir.0),
        }
    }

    fn from_wire(message: v1::Inode) -> Result<Self, WireError> {
        use v1::inode::Body as Theirs;
        let body = match message.body.ok_or(WireError::Unset("inode.body"))? {
            Theirs::File(content) => Body::File(Content::from_wire(content)?),
            Theirs::Directory(v1::Directory { parent, entries, name }) => {
                Body::Directory { parent: Ino(parent), name, entries }
            }
            Theirs::Symlink(target) => Body::Symlink(target),
            Theirs::Mount(v1::Mount { parent, name, volume }) => Body::Mount { parent: Ino(parent), name, volume },
        };
        Ok(Self {
            attr: required(message.attr, "inode.attr")?,
            nlink: message.nlink,
            version: Seq(message.version),
            body,
            xattrs: message.xattrs.into_iter().map(|xattr| (xattr.name, xattr.value)).collect(),
            // Where its use is counted is the state machine's own business.
            quota: (message.quota != 0).then_some(Ino(message.quota)),
        })
    }
}

impl Wire for Found {
    type Message = v1::Entry;

    fn into_wire(self) -> v1::Entry {
        let kind = self.inode.kind();
        Entry { name: bytes::Bytes::new(), ino: self.ino, kind, inode: Some(self.inode) }.into_wire()
    }

    fn from_wire(message: v1::Entry) -> Result<Self, WireError> {
        Ok(Self { ino: Ino(message.ino), inode: required(message.inode, "entry.inode")? })
    }
}

impl Wire for Entry {
    type Message = v1::Entry;

    fn into_wire(self) -> v1::Entry {
        let inode = self.inode.map(Wire::into_wire);
        v1::Entry { name: self.name, ino: self.ino.0, kind: self.kind.into_wire(), inode }
    }

    fn from_wire(message: v1::Entry) -> Result<Self, WireError> {
        Ok(Self {
            name: message.name,
            ino: Ino(message.ino),
            kind: FileKind::from_wire(message.kind)?,
            inode: message.inode.map(Inode::from_wire).transpose()?,
        })
    }
}

impl Wire for Expect {
    type Message = Option<v1::Expect>;

    fn into_wire(self) -> Option<v1::Expect> {
        use v1::expect::{Absent, Kind};
        let kind = match self {
            Self::Any => return None,
            Self::Absent => Kind::Absent(Absent {}),
            Self::Version(version) => Kind::Version(version.0),
            Self::Token(token) => Kind::Token(token),
        };
        Some(v1::Expect { kind: Some(kind) })
    }

    fn from_wire(message: Option<v1::Expect>) -> Result<Self, WireError> {
        use v1::expect::Kind;
        let Some(message) = message else { return Ok(Self::Any) };
        // A precondition of a newer kind must not be taken for none.
        match message.kind.ok_or(WireError::Unset("expect.kind"))? {
            Kind::Absent(_) => Ok(Self::Absent),
            Kind::Version(version) => Ok(Self::Version(Seq(version))),
            Kind::Token(token) => Ok(Self::Token(token)),
        }
    }
}

impl Wire for Op {
    type Message = v1::Op;

    fn into_wire(self) -> v1::Op {
        use v1::op::{Check, Kind, Link, Mkdir, PutFile, Rename, Rmdir, SetAttr, SetXattr, Symlink, Unlink};
        let some = |at: At| Some(at.into_wire());
        let kind = match self {
            Self::Mkdir { at, attr, parents } => {
                Kind::Mkdir(Mkdir { at: some(at), attr: Some(attr.into_wire()), parents })
            }
            Self::PutFile { at, attr, content, expect } => Kind::PutFile(PutFile {
                at: some(at),
                attr: Some(attr.into_wire()),
                content: Some(content.into_wire()),
                expect: expect.into_wire(),
            }),
            Self::Symlink { at, attr, target } => {
                Kind::Symlink(Symlink { at: some(at), attr: Some(attr.into_wire()), target })
            }
            Self::Link { from, to } => Kind::Link(Link { from: some(from), to: some(to) }),
            Self::Unlink { at, expect } => Kind::Unlink(Unlink { at: some(at), expect: expect.into_wire() }),
            Self::Rmdir { at } => Kind::Rmdir(Rmdir { at: some(at) }),
            Self::Rename { from, to, no_replace } => {
                Kind::Rename(Rename { from: some(from), to: some(to), no_replace })
            }
            Self::SetAttr { at, mode, uid, gid, mtime, expect } => Kind::SetAttr(SetAttr {
                at: some(at),
                mode,
                uid,
                gid,
                mtime: mtime.map(|time| time.0),
                expect: expect.into_wire(),
            }),
            Self::SetXattr { at, name, value } => Kind::SetXattr(SetXattr { at: some(at), name, value }),
            Self::Check { at, expect } => Kind::Check(Check { at: some(at), expect: expect.into_wire() }),
        };
        v1::Op { kind: Some(kind) }
    }

    fn from_wire(message: v1::Op) -> Result<Self, WireError> {
        use v1::op::Kind;
        Ok(match message.kind.ok_or(WireError::Unset("op.kind"))? {
            Kind::Mkdir(op) => Self::Mkdir {
                at: required(op.at, "mkdir.at")?,
                attr: required(op.attr, "mkdir.attr")?,
                parents: op.parents,
            },
            Kind::PutFile(op) => Self::PutFile {
                at: required(op.at, "put_file.at")?,
                attr: required(op.attr, "put_file.attr")?,
                content: required(op.content, "put_file.content")?,
                expect: Expect::from_wire(op.expect)?,
            },
            Kind::Symlink(op) => Self::Symlink {
                at: required(op.at, "symlink.at")?,
                attr: required(op.attr, "symlink.attr")?,
                target: op.target,
            },
            Kind::Link(op) => Self::Link { from: required(op.from, "link.from")?, to: required(op.to, "link.to")? },
            Kind::Unlink(op) => {
                Self::Unlink { at: required(op.at, "unlink.at")?, expect: Expect::from_wire(op.expect)? }
            }
            Kind::Rmdir(op) => Self::Rmdir { at: required(op.at, "rmdir.at")? },
            Kind::Rename(op) => Self::Rename {
                from: required(op.from, "rename.from")?,
                to: required(op.to, "rename.to")?,
                no_replace: op.no_replace,
            },
            Kind::SetAttr(op) => Self::SetAttr {
                at: required(op.at, "set_attr.at")?,
                mode: op.mode,
                uid: op.uid,
                gid: op.gid,
                mtime: op.mtime.map(Timestamp),
                expect: Expect::from_wire(op.expect)?,
            },
            Kind::SetXattr(op) => {
                Self::SetXattr { at: required(op.at, "set_xattr.at")?, name: op.name, value: op.value }
            }
            Kind::Check(op) => Self::Check { at: required(op.at, "check.at")?, expect: Expect::from_wire(op.expect)? },
        })
    }
}

impl Wire for OpDone {
    type Message = v1::OpDone;

    fn into_wire(self) -> v1::OpDone {
        v1::OpDone { ino: self.ino.0, version: self.version.0 }
    }

    fn from_wire(message: v1::OpDone) -> Result<Self, WireError> {
        Ok(Self { ino: Ino(message.ino), version: Seq(message.version) })
    }
}

impl Wire for Refusal {
    type Message = v1::Refusal;

    fn into_wire(self) -> v1::Refusal {
        v1::Refusal { op: self.op, code: self.code.into_wire(), path: self.path }
    }

    fn from_wire(message: v1::Refusal) -> Result<Self, WireError> {
        Ok(Self { op: message.op, code: Errno::from_wire(message.code)?, path: message.path })
    }
}

impl Wire for Result<Found, Errno> {
    type Message = v1::StatResult;

    fn into_wire(self) -> v1::StatResult {
        use v1::stat_result::Result as Theirs;
        let result = match self {
            Ok(found) => Theirs::Found(found.into_wire()),
            Err(errno) => Theirs::Missing(errno.into_wire()),
        };
        v1::StatResult { result: Some(result) }
    }

    fn from_wire(message: v1::StatResult) -> Result<Self, WireError> {
        use v1::stat_result::Result as Theirs;
        Ok(match message.result.ok_or(WireError::Unset("stat.result"))? {
            Theirs::Found(entry) => Ok(Found::from_wire(entry)?),
            Theirs::Missing(errno) => Err(Errno::from_wire(errno)?),
        })
    }
}

impl Wire for VolumeSpec {
    type Message = v1::VolumeSpec;

    fn into_wire(self) -> v1::VolumeSpec {
        let names = |sites: Vec<SiteName>| sites.into_iter().map(String::from).collect();
        v1::VolumeSpec {
            name: self.name,
            mount: self.mount,
            home: self.home.into(),
            voters: self.voters.into_iter().map(|node| node.0).collect(),
            replicas: names(self.replicas),
            caches: names(self.caches),
            archive: self.archive,
            chunk_bytes_avg: self.chunk_bytes_avg,
            inline_bytes_max: self.inline_bytes_max,
            realm: self.realm,
            survive: self.survive.map(|survive| survive.to_string()).unwrap_or_default(),
            learners: self.learners.into_iter().map(|node| node.0).collect(),
            residency: residency_into(self.residency),
        }
    }

    fn from_wire(message: v1::VolumeSpec) -> Result<Self, WireError> {
        let sites =
            |names: Vec<String>, field| names.into_iter().map(|name| site(name, field)).collect::<Result<_, _>>();
        Ok(Self {
            name: message.name,
            mount: message.mount,
            home: site(message.home, "spec.home")?,
            voters: message.voters.into_iter().map(NodeId).collect(),
            replicas: sites(message.replicas, "spec.replicas")?,
            caches: sites(message.caches, "spec.caches")?,
            archive: message.archive,
            chunk_bytes_avg: message.chunk_bytes_avg,
            inline_bytes_max: message.inline_bytes_max,
            realm: message.realm,
            survive: survive(&message.survive)?,
            learners: message.learners.into_iter().map(NodeId).collect(),
            residency: residency(message.residency)?,
        })
    }
}

/// Empty stands for none.
fn survive(text: &str) -> Result<Option<Survive>, WireError> {
    Ok(match text {
        "" => None,
        "node" => Some(Survive::Node),
        "site" => Some(Survive::Site),
        "region" => Some(Survive::Region),
        other => return Err(WireError::bad("spec.survive", format!("{other:?} is none of node, site, region"))),
    })
}

fn residency_into(residency: Residency) -> Option<v1::Residency> {
    let (kind, names): (_, Vec<String>) = match residency {
        Residency::Anywhere => return None,
        Residency::Jurisdictions(names) => ("jurisdictions", names.iter().map(ToString::to_string).collect()),
        Residency::Regions(names) => ("regions", names.iter().map(ToString::to_string).collect()),
    };
    Some(v1::Residency { kind: kind.to_owned(), names })
}

fn residency(message: Option<v1::Residency>) -> Result<Residency, WireError> {
    fn all<T: std::str::FromStr<Err: std::fmt::Display> + Ord>(names: &[String]) -> Result<BTreeSet<T>, WireError> {
        names.iter().map(|name| name.parse().map_err(|error| WireError::bad("spec.residency", error))).collect()
    }
    let Some(message) = message else { return Ok(Residency::Anywhere) };
    Ok(match message.kind.as_str() {
        "jurisdictions" => Residency::Jurisdictions(all(&message.names)?),
        "regions" => Residency::Regions(all(&message.names)?),
        other => return Err(WireError::bad("spec.residency", format!("{other:?} is no kind of residency"))),
    })
}

impl Wire for VolumeRecord {
    type Message = v1::Volume;

    fn into_wire(self) -> v1::Volume {
        v1::Volume {
            id: self.id.0,
            epoch: self.epoch.0,
            revision: self.revision,
            members: self.members.into_iter().map(|node| node.0).collect(),
            founders: self.founders.into_iter().map(|node| node.0).collect(),
            spec: Some(self.spec.into_wire()),
        }
    }

    fn from_wire(message: v1::Volume) -> Result<Self, WireError> {
        let spec = required(message.spec, "volume.spec")?;
        Ok(Self {
            id: VolumeId(message.id),
            epoch: Epoch(message.epoch),
            revision: message.revision,
            spec,
            members: message.members.into_iter().map(NodeId).collect(),
            founders: message.founders.into_iter().map(NodeId).collect(),
        })
    }
}

impl Wire for Place {
    type Message = v1::resolve_response::Place;

    fn into_wire(self) -> v1::resolve_response::Place {
        use v1::resolve_response::{Above, InVolume, Nowhere, Place as Theirs};
        match self {
            Self::InVolume { volume, path } => Theirs::InVolume(InVolume { volume: Some(volume.into_wire()), path }),
            Self::Above { names } => Theirs::Above(Above { names }),
            Self::Nowhere => Theirs::Nowhere(Nowhere {}),
        }
    }

    fn from_wire(message: v1::resolve_response::Place) -> Result<Self, WireError> {
        use v1::resolve_response::Place as Theirs;
        Ok(match message {
            Theirs::InVolume(place) => {
                let volume = required(place.volume, "in_volume.volume")?;
                Self::InVolume { volume: Box::new(volume), path: place.path }
            }
            Theirs::Above(place) => Self::Above { names: place.names },
            Theirs::Nowhere(_) => Self::Nowhere,
        })
    }
}
