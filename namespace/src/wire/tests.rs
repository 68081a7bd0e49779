//! What goes over the wire comes back, and what is incomplete is refused.

use std::fmt::Debug;
use std::time::Duration;

use bytes::Bytes;
use causeway_base::{Ino, NodeId, Seq, StoreId, Timestamp, VolumeId};
use causeway_namespace_core::command::{At, Errno, Expect, Op, OpDone, Refusal};
use causeway_namespace_core::inode::{Attr, Body, Content, Inode, ManifestRef};
use causeway_namespace_core::root::NodeRecord;
use prost::Message;

use super::*;
use crate::entry::Found;
use crate::status::{ArchiveStatus, Deltas, GroupReport, NodeReport, NodeStatus, Transfer, Watermark};

fn survives<T>(value: T)
where
    T: Wire + Clone + PartialEq + Debug,
    T::Message: Message + Default,
{
    let bytes = value.clone().into_wire().encode_to_vec();
    let message = T::Message::decode(bytes.as_slice()).unwrap();
    assert_eq!(T::from_wire(message), Ok(value));
}

fn at(path: &'static [u8]) -> At {
    At { dir: Ino(7), path: Bytes::from_static(path) }
}

fn attr() -> Attr {
    Attr { mode: 0o7777, uid: u32::MAX, gid: 0, mtime: Timestamp(i64::MIN), ctime: Timestamp(-1) }
}

fn manifest() -> ManifestRef {
    ManifestRef { size: u64::MAX, root: Bytes::from_static(b"\0root"), origin: "zurich".parse().unwrap() }
}

#[test]
fn every_operation_survives() {
    let content = Content::Manifest(manifest());
    let ops = [
        Op::Mkdir { at: at(b"\xff/a"), attr: attr(), parents: true },
        Op::PutFile { at: at(b"f"), attr: attr(), content, expect: Expect::Absent },
        Op::PutFile { at: at(b""), attr: attr(), content: Content::Inline(Bytes::new()), expect: Expect::Any },
        Op::Symlink { at: at(b"l"), attr: attr(), target: Bytes::from_static(b"\xfe") },
        Op::Link { from: at(b"a"), to: at(b"b") },
        Op::Unlink { at: at(b"a"), expect: Expect::Version(Seq(0)) },
        Op::Rmdir { at: at(b"a") },
        Op::Rename { from: at(b"a"), to: at(b"b"), no_replace: true },
        Op::SetAttr {
            at: at(b"a"),
            mode: Some(0),
            uid: None,
            gid: Some(0),
            mtime: Some(Timestamp(0)),
            expect: Expect::Any,
        },
        Op::SetXattr { at: at(b"a"), name: "user.k".into(), value: Some(Bytes::new()) },
        Op::SetXattr { at: at(b"a"), name: "user.k".into(), value: None },
    ];
    ops.into_iter().for_each(survives);
}

#[test]
fn answers_survive() {
    let bodies = [
        Body::File(Content::Inline("x".into())),
        Body::File(Content::Manifest(manifest())),
        Body::Directory { parent: Ino::ROOT, name: "d".into(), entries: 3 },
        Body::Symlink(Bytes::new()),
    ];
    for body in bodies {
        let xattrs = vec![("k".into(), "v".into())];
        let inode = Inode { attr: attr(), nlink: 2, version: Seq(9), body, xattrs, quota: Some(Ino(3)) };
        survives::<Result<Found, Errno>>(Ok(Found { ino: Ino(5), inode }));
    }
    survives::<Result<Found, Errno>>(Err(Errno::SymlinkInPath));
    survives(OpDone { ino: Ino(1), version: Seq(2) });
    survives(Refusal { op: 3, code: Errno::Conflict, path: "p".into() });
    survives(ReadState { seq: Seq(1), age: None, node: NodeId(1) });
    survives(ReadState { seq: Seq(1), age: Some(Duration::ZERO), node: NodeId(1) });
    for consistency in [Consistency::Linearizable, Consistency::Bounded(Duration::from_millis(5)), Consistency::Local] {
        survives(Freshness { consistency, seq_min: Seq(4), at: None });
        survives(Freshness { consistency, seq_min: Seq(4), at: Some(Seq(3)) });
    }
}

#[test]
fn status_survives() {
    let site = "zurich".parse().unwrap();
    let node = NodeRecord {
        id: NodeId(1),
        site,
        store: Some(StoreId(5)),
        grpc: "a:1".into(),
        quic: "a:2".into(),
        witness: true,
        state: Default::default(),
    };
    let archive =
        ArchiveStatus { volume: VolumeId(1), rpo: Some(Duration::from_millis(1)), ..ArchiveStatus::default() };
    let status = NodeStatus {
        node: node.clone(),
        version: "1".to_owned(),
        uptime: Duration::from_secs(1),
        groups: vec![GroupReport { leader: Some(NodeId(2)), stopped: Some("full".into()), ..GroupReport::default() }],
        stores: vec![],
        watermarks: vec![Watermark { seq: Seq(3), stalled: Some("no source".into()), ..Watermark::default() }],
        archives: vec![archive, ArchiveStatus::default()],
        wire: vec![],
        transfers: vec![Transfer {
            place: "site/zurich".into(),
            sent: 3,
            sent_deltas: Deltas { count: 1, bytes: 2, plain_bytes: 3 },
            received_deltas: Deltas { count: 4, bytes: 5, plain_bytes: 6 },
            ..Transfer::default()
        }],
        upkeep: None,
        digest_messages: 4,
    };
    survives(NodeReport { node: node.clone(), status: Ok(status) });
    survives(NodeReport { node: NodeRecord { store: None, ..node }, status: Err("no route".to_owned()) });
}

#[test]
fn what_is_incomplete_or_unknown_is_refused() {
    assert_eq!(Op::from_wire(v1::Op { kind: None }), Err(WireError::Unset("op.kind")));
    let rename = v1::op::Rename { from: Some(at(b"a").into_wire()), to: None, no_replace: false };
    let rename = v1::Op { kind: Some(v1::op::Kind::Rename(rename)) };
    assert_eq!(Op::from_wire(rename), Err(WireError::Unset("rename.to")));
    // A newer precondition decodes as a set message without a known kind: it must not be taken for none.
    assert_eq!(Expect::from_wire(Some(v1::Expect { kind: None })), Err(WireError::Unset("expect.kind")));
    assert!(Errno::from_wire(0).is_err() && Errno::from_wire(999).is_err());
    assert!(id_from_bytes(&[0; 15], "id").is_err());
    assert_eq!(At::from_wire(v1::At::default()), Ok(At { dir: Ino::ROOT, path: Bytes::new() }));
}
