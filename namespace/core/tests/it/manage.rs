//! Operations on the volume as a whole.

use bytes::Bytes;

use causeway_namespace_core::command::{Errno, Outcome, RequestBody, SessionId};
use causeway_namespace_core::manage::{ManageOp, SNAPSHOTS_MAX};
use causeway_namespace_core::{key, query};

use crate::support::{Volume, mkdir, put};

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
