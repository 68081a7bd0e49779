//! Operations on the volume as a whole.

use bytes::Bytes;

use causeway_base::Ino;
use causeway_namespace_core::command::{At, Errno, Expect, Op, Outcome, RequestBody, SessionId};
use causeway_namespace_core::inode::Content;
use causeway_namespace_core::manage::{ManageOp, QuotaLimit, SNAPSHOTS_MAX};
use causeway_namespace_core::{key, query};

use crate::support::{ATTR, Volume, at, mkdir, put, rename};

fn create(name: &str) -> ManageOp {
    ManageOp::CreateSnapshot { name: Bytes::copy_from_slice(name.as_bytes()) }
}

fn delete(name: &str) -> ManageOp {
    ManageOp::DeleteSnapshot { name: Bytes::copy_from_slice(name.as_bytes()) }
}

pub(crate) fn code(outcome: Outcome) -> Errno {
    match outcome {
        Outcome::Refused(refusal) => refusal.code,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_snapshot_names_the_commit_that_made_it() {
    let mut volume = Volume::new();
    volume.done(vec![mkdir("a"), put("a/f", b"1")]);
    assert!(matches!(volume.manage(create("before")), Outcome::Done(_)));
    let seq = volume.seq;
    // The name is taken, also in the same log entry, and the refusal says which.
    let Outcome::Refused(refusal) = volume.manage(create("before")) else { panic!() };
    assert_eq!((refusal.code, &refusal.path[..]), (Errno::Exists, &b"before"[..]));
    volume.manage(create("\u{e9}t\u{e9}"));
    let found = query::snapshots(&volume.records).unwrap();
    assert_eq!(found.iter().map(|(name, _)| name.as_ref()).collect::<Vec<_>>(), [&b"before"[..], "été".as_bytes()]);
    assert_eq!(found[0].1.seq, seq);
    assert_eq!(query::snapshot(&volume.records, b"before").unwrap().unwrap().seq, seq);
    assert!(matches!(volume.manage(delete("before")), Outcome::Done(_)));
    assert_eq!(code(volume.manage(delete("before"))), Errno::NotFound);
    assert_eq!(query::snapshots(&volume.records).unwrap().len(), 1);
    for bad in ["", ".", "..", "a/b", "a\0"] {
        assert_eq!(code(volume.manage(create(bad))), Errno::Invalid);
    }
}

#[test]
fn a_snapshot_is_one_record_whatever_the_size() {
    let mut volume = Volume::new();
    volume.done((0..1000).map(|n| put(&format!("f{n}"), b"x")).collect());
    let session = volume.open();
    let body = RequestBody::Manage { session, number: 1, acked_below: 1, op: create("s") };
    let applied = volume.command(vec![body]);
    let tables: Vec<u8> = applied.changes.iter().map(|change| change.key[0]).collect();
    assert_eq!(tables, [key::META, key::SESSION, key::SNAPSHOT]);
}

#[test]
fn managing_is_at_most_once_as_well() {
    let mut volume = Volume::new();
    let session = volume.open();
    let request = |number, op| RequestBody::Manage { session, number, acked_below: 1, op };
    let made = volume.one(request(1, create("s")));
    assert!(matches!(volume.one(request(2, delete("s"))), Outcome::Done(_)));
    assert_eq!(volume.one(request(1, create("s"))), made);
    assert_eq!(query::snapshots(&volume.records).unwrap(), vec![]);
    let unknown = RequestBody::Manage { session: SessionId(99), number: 1, acked_below: 1, op: create("s") };
    assert_eq!(volume.one(unknown), Outcome::SessionUnknown);
}

#[test]
fn snapshots_are_bounded() {
    let mut volume = Volume::new();
    let session = volume.open();
    for chunk in (1..=SNAPSHOTS_MAX).collect::<Vec<_>>().chunks(500) {
        let make = |number: &u64| RequestBody::Manage {
            session,
            number: *number,
            acked_below: *number,
            op: create(&format!("s{number}")),
        };
        let applied = volume.command(chunk.iter().map(make).collect());
        assert!(applied.outcomes.iter().all(|outcome| matches!(outcome, Outcome::Done(_))));
    }
    assert_eq!(code(volume.manage(create("one more"))), Errno::QuotaExceeded);
    volume.manage(delete("s1"));
    assert!(matches!(volume.manage(create("one more")), Outcome::Done(_)));
}

fn quota(path: &str, files: Option<u64>, bytes: Option<u64>) -> ManageOp {
    ManageOp::SetQuota { at: at(path), limit: Some(QuotaLimit { files, bytes }) }
}

#[test]
fn a_quota_counts_what_is_below_and_refuses_what_exceeds_it() {
    let mut volume = Volume::new();
    let dir = volume.done(vec![mkdir("q"), put("out", b"12345")])[0].ino;
    volume.manage(quota("q", Some(3), Some(10)));
    volume.done(vec![mkdir("q/d"), put("q/d/f", b"12345")]);
    assert_eq!(volume.refused(put("q/g", b"123456")), Errno::TreeQuotaExceeded);
    assert_eq!(volume.refused(rename("out", "q/d/g/h")), Errno::NotFound);
    volume.done(vec![rename("out", "q/d/out")]);
    let used = query::quota(&volume.records, dir).unwrap().unwrap();
    assert_eq!((used.files, used.bytes), (3, 10));
    assert_eq!(volume.refused(mkdir("q/more")), Errno::TreeQuotaExceeded);
    // Replacing frees what it replaces; and an open file is counted where it is.
    volume.done(vec![rename("q/d/out", "q/d/f"), mkdir("q/more")]);
    let ino = query::resolve(&volume.records, b"q/d/f").unwrap().unwrap();
    let content = Content::Inline(Bytes::from_static(&[0; 11]));
    let grow = Op::PutFile { at: At { dir: ino, path: Bytes::new() }, attr: ATTR, content, expect: Expect::Any };
    assert_eq!(volume.refused(grow), Errno::TreeQuotaExceeded);
    // A limit below what is used takes nothing away, and lets it shrink.
    volume.manage(quota("q", None, Some(1)));
    volume.done(vec![put("q/d/f", b"1234"), mkdir("q/even")]);
    assert_eq!(volume.refused(put("q/d/f", b"12345")), Errno::TreeQuotaExceeded);
}

#[test]
fn the_quota_of_the_top_holds_for_the_volume_at_any_time() {
    let mut volume = Volume::new();
    volume.done(vec![mkdir("d"), put("d/f", b"12345")]);
    volume.manage(quota("", Some(3), Some(8)));
    let used = query::quota(&volume.records, Ino::ROOT).unwrap().unwrap();
    assert_eq!((used.files, used.bytes), (2, 5));
    assert_eq!(volume.refused(put("g", b"1234")), Errno::QuotaExceeded);
    volume.done(vec![put("g", b"123"), rename("g", "d/g")]);
    assert_eq!(volume.refused(mkdir("more")), Errno::QuotaExceeded);
    let lift = ManageOp::SetQuota { at: at(""), limit: None };
    assert!(matches!(volume.manage(lift.clone()), Outcome::Done(_)));
    assert_eq!(code(volume.manage(lift)), Errno::NotFound);
    volume.done(vec![mkdir("more")]);
}

#[test]
fn only_what_is_single_moves_between_quotas() {
    let mut volume = Volume::new();
    volume.done(vec![mkdir("a"), mkdir("a/own"), mkdir("b")]);
    assert_eq!(code(volume.manage(quota("a", None, None))), Errno::NotEmpty);
    for path in ["a/own", "b"] {
        assert!(matches!(volume.manage(quota(path, Some(4), None)), Outcome::Done(_)));
    }
    volume.done(vec![mkdir("a/full"), put("a/full/f", b"1"), put("a/own/x", b"22"), put("two", b"333")]);
    volume.done(vec![Op::Link { from: at("two"), to: at("names") }, mkdir("a/empty")]);
    assert_eq!(volume.refused(rename("a/full", "b/full")), Errno::CrossesQuota);
    assert_eq!(volume.refused(rename("two", "b/two")), Errno::CrossesQuota);
    assert_eq!(volume.refused(Op::Link { from: at("two"), to: at("b/two") }), Errno::CrossesQuota);
    volume.done(vec![rename("a/empty", "b/empty"), rename("a/own", "b/own")]);
    let b = query::resolve(&volume.records, b"b").unwrap().unwrap();
    let used = query::quota(&volume.records, b).unwrap().unwrap();
    assert_eq!((used.files, used.bytes), (3, 2));
    // One quota in another: both count.
    volume.done(vec![put("b/own/y", b"4444")]);
    let own = query::resolve(&volume.records, b"b/own").unwrap().unwrap();
    let all: Vec<_> = query::quotas(&volume.records).unwrap();
    assert_eq!(
        all.iter().map(|(dir, used)| (*dir, used.files, used.bytes)).collect::<Vec<_>>(),
        [(own, 2, 6), (b, 4, 6)]
    );
    assert_eq!(volume.refused(put("b/own/z", b"")), Errno::TreeQuotaExceeded);
    // Lifted while something is in it, it counts on; with the directory it goes.
    volume.manage(ManageOp::SetQuota { at: at("b/own"), limit: None });
    let gone = |path| Op::Unlink { at: at(path), expect: Expect::Any };
    volume.done(vec![gone("b/own/x"), gone("b/own/y"), Op::Rmdir { at: at("b/own") }]);
    assert_eq!(query::quotas(&volume.records).unwrap().len(), 1);
}

#[test]
fn what_a_user_owns_is_counted_and_limited() {
    let mut volume = Volume::new();
    let owner = |volume: &Volume, uid| {
        let owners: std::collections::BTreeMap<_, _> = query::owners(&volume.records).unwrap().into_iter().collect();
        owners.get(&uid).map(|owner| (owner.files, owner.bytes))
    };
    volume.done(vec![mkdir("d"), put("d/f", b"12345")]);
    assert_eq!((owner(&volume, 0), owner(&volume, 1)), (Some((1, 0)), Some((2, 5))));
    let limit = |uid, files, bytes| ManageOp::SetOwnerQuota { uid, limit: Some(QuotaLimit { files, bytes }) };
    assert!(matches!(volume.manage(limit(1, Some(3), Some(8))), Outcome::Done(_)));
    assert_eq!(volume.refused(put("g", b"1234")), Errno::OwnerQuotaExceeded);
    volume.done(vec![put("g", b"123")]);
    assert_eq!(volume.refused(put("h", b"")), Errno::OwnerQuotaExceeded);
    // Given away it is another's; taken back it is too much.
    let chown = |path, uid| {
        let (at, expect) = (at(path), Expect::Any);
        Op::SetAttr { at, mode: None, uid: Some(uid), gid: None, mtime: None, expect }
    };
    volume.done(vec![chown("g", 7), put("h", b"")]);
    assert_eq!(owner(&volume, 7), Some((1, 3)));
    assert_eq!(volume.refused(chown("g", 1)), Errno::OwnerQuotaExceeded);
    let lift = ManageOp::SetOwnerQuota { uid: 1, limit: None };
    assert!(matches!(volume.manage(lift.clone()), Outcome::Done(_)));
    assert_eq!(code(volume.manage(lift)), Errno::NotFound);
    volume.done(vec![chown("g", 1)]);
    assert_eq!(owner(&volume, 7), None);
}

#[test]
fn retention_is_set_and_left_to_the_nodes() {
    use causeway_namespace_core::manage::RetentionRecord;
    let mut volume = Volume::new();
    let keep = RetentionRecord { seqs: 10, seconds: 60 };
    volume.manage(ManageOp::SetRetention { keep: Some(keep) });
    assert_eq!(query::retention(&volume.records).unwrap(), Some(keep));
    let nothing = ManageOp::SetRetention { keep: Some(RetentionRecord::default()) };
    assert_eq!(code(volume.manage(nothing)), Errno::Invalid);
    volume.manage(ManageOp::SetRetention { keep: None });
    assert_eq!(query::retention(&volume.records).unwrap(), None);
}
