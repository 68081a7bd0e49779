//! Advisory locks, fencing, and holds of open files.

use bytes::Bytes;

use causeway_base::{Ino, Seq, Timestamp};
use causeway_namespace_core::command::{At, Errno, Expect, Op, Outcome, RequestBody};
use causeway_namespace_core::manage::{LEASE_MILLIS_MAX, LockKind, ManageOp};
use causeway_namespace_core::{key, query};

use crate::support::{Volume, at, mkdir, put};

/// A lock of 1 ms: a thousand seqs, by the clock of the test volume.
fn acquire(path: &str, kind: LockKind, start: u64, len: u64) -> ManageOp {
    let holder = Bytes::from_static(b"someone");
    ManageOp::AcquireLock { at: at(path), kind, start, len, holder, lease_millis: 1 }
}

fn token(outcome: Outcome) -> u64 {
    match outcome {
        Outcome::Done(done) => done[0].version.0,
        other => panic!("{other:?}"),
    }
}

fn code(outcome: Outcome) -> Errno {
    match outcome {
        Outcome::Refused(refusal) => refusal.code,
        other => panic!("{other:?}"),
    }
}

fn held(volume: &Volume) -> usize {
    query::locks(&volume.records, Timestamp(volume.seq.0 as i64 * 1000)).unwrap().len()
}

fn no_lock_records(volume: &Volume) -> bool {
    volume.records.iter().all(|(key, _)| !matches!(key[0], key::LOCK | key::LOCK_BY_END))
}

#[test]
fn ranges_and_kinds_exclude_as_they_should() {
    let mut volume = Volume::new();
    volume.done(vec![put("f", b"x"), put("g", b"x")]);
    let first = token(volume.manage(acquire("f", LockKind::Exclusive, 10, 10)));
    for (kind, start, len, locked) in [
        (LockKind::Exclusive, 0, 10, false),
        (LockKind::Shared, 20, 0, false),
        (LockKind::Shared, 19, 1, true),
        (LockKind::Exclusive, 0, 0, true),
        (LockKind::Hold, 0, 0, false),
    ] {
        let outcome = volume.manage(acquire("f", kind, start, len));
        if locked {
            assert_eq!(code(outcome), Errno::Locked, "{kind:?} {start} {len}");
            continue;
        }
        let got = token(outcome);
        assert!(got > first);
        assert!(matches!(volume.manage(ManageOp::ReleaseLock { at: at("f"), token: got }), Outcome::Done(_)));
    }
    // Another file, and two that share.
    token(volume.manage(acquire("g", LockKind::Shared, 0, 0)));
    token(volume.manage(acquire("g", LockKind::Shared, 5, 5)));
    assert_eq!(code(volume.manage(acquire("g", LockKind::Exclusive, 9, 1))), Errno::Locked);
    assert_eq!(held(&volume), 3);
    assert_eq!(code(volume.manage(acquire("f", LockKind::Shared, u64::MAX, 2))), Errno::Invalid);
    for lease_millis in [0, LEASE_MILLIS_MAX + 1] {
        let holder = Bytes::new();
        let op = ManageOp::AcquireLock { at: at("f"), kind: LockKind::Shared, start: 0, len: 0, holder, lease_millis };
        assert_eq!(code(volume.manage(op)), Errno::Invalid);
    }
}

#[test]
fn a_lease_ends_and_its_token_is_refused() {
    let mut volume = Volume::new();
    volume.done(vec![put("lock", b""), put("f", b"1")]);
    let first = token(volume.manage(acquire("lock", LockKind::Exclusive, 0, 0)));
    let guarded = |token| vec![Op::Check { at: at("lock"), expect: Expect::Token(token) }, put("f", b"2")];
    volume.done(guarded(first));
    volume.seq = Seq(volume.seq.0 + 900);
    let renew = |token| ManageOp::RenewLock { at: at("lock"), token, lease_millis: 1 };
    volume.manage(renew(first));
    volume.seq = Seq(volume.seq.0 + 900);
    volume.done(guarded(first));
    assert_eq!(code(volume.manage(acquire("lock", LockKind::Exclusive, 0, 0))), Errno::Locked);
    volume.seq = Seq(volume.seq.0 + 1000);
    // Nobody else came, yet it has ended.
    assert!(matches!(volume.batch(guarded(first)), Outcome::Refused(refusal) if refusal.code == Errno::Fenced));
    assert_eq!(code(volume.manage(renew(first))), Errno::Fenced);
    let second = token(volume.manage(acquire("lock", LockKind::Exclusive, 0, 0)));
    assert!(second > first);
    assert!(matches!(volume.batch(guarded(first)), Outcome::Refused(refusal) if refusal.code == Errno::Fenced));
    volume.done(guarded(second));
    // The precondition of an operation on the locked file itself.
    let own = |token| Op::Unlink { at: at("lock"), expect: Expect::Token(token) };
    assert_eq!(volume.refused(own(first)), Errno::Fenced);
    volume.done(vec![own(second)]);
    assert!(no_lock_records(&volume));
}

#[test]
fn time_never_goes_back_for_a_lock() {
    let mut volume = Volume::new();
    volume.done(vec![put("f", b"")]);
    let body = |volume: &mut Volume, op| {
        let Op::Check { at, .. } = op else { unreachable!() };
        volume.manage(ManageOp::AcquireLock {
            at,
            kind: LockKind::Exclusive,
            start: 0,
            len: 0,
            holder: Bytes::new(),
            lease_millis: 1,
        })
    };
    volume.seq = Seq(5000);
    token(body(&mut volume, Op::Check { at: at("f"), expect: Expect::Any }));
    let clock = |volume: &Volume| query::locks(&volume.records, Timestamp(i64::MIN)).unwrap().len();
    assert_eq!(clock(&volume), 1);
    volume.seq = Seq(7000);
    assert_eq!(volume.refused(Op::Check { at: at("f"), expect: Expect::Token(9) }), Errno::Fenced);
    // The refused batch moved nothing; an applied one does, and the lock has ended for whoever asks with an older clock.
    volume.manage(acquire("f", LockKind::Shared, 0, 0));
    assert_eq!(clock(&volume), 1);
    volume.one(RequestBody::ExpireLocks);
    assert_eq!(clock(&volume), 1);
}

#[test]
fn an_open_file_outlives_its_last_name() {
    let mut volume = Volume::new();
    volume.done(vec![put("f", b"open"), mkdir("d")]);
    let ino = query::resolve(&volume.records, b"f").unwrap().unwrap();
    let itself = || At { dir: ino, path: Bytes::new() };
    let holds = [0, 1].map(|_| token(volume.manage(acquire("f", LockKind::Hold, 0, 0))));
    volume.done(vec![Op::Unlink { at: at("f"), expect: Expect::Any }]);
    assert_eq!(query::stat(&volume.records, b"f").unwrap(), Err(Errno::NotFound));
    let kept = query::stat_ino(&volume.records, ino).unwrap().unwrap();
    assert_eq!((kept.nlink, kept.size()), (0, 4));
    assert_eq!(query::totals(&volume.records).unwrap().files, 1);
    // It can be written, and gets no name again.
    let Op::PutFile { attr, content, .. } = put("", b"longer") else { unreachable!() };
    volume.done(vec![Op::PutFile { at: itself(), attr, content, expect: Expect::Any }]);
    assert_eq!(volume.refused(Op::Link { from: itself(), to: at("again") }), Errno::NotFound);
    volume.manage(ManageOp::ReleaseLock { at: itself(), token: holds[0] });
    assert!(query::stat_ino(&volume.records, ino).unwrap().is_some());
    // The other one's holder has died.
    volume.seq = Seq(volume.seq.0 + 2000);
    volume.one(RequestBody::ExpireLocks);
    assert!(query::stat_ino(&volume.records, ino).unwrap().is_none());
    assert_eq!(query::totals(&volume.records).unwrap().files, 0);
    assert_eq!(query::owners(&volume.records).unwrap().iter().map(|(_, owner)| owner.bytes).sum::<u128>(), 0);
    assert!(no_lock_records(&volume));
    assert_eq!(ino, Ino(2));
}

#[test]
fn a_replaced_file_that_is_open_is_kept_too() {
    let mut volume = Volume::new();
    volume.done(vec![put("f", b"old"), put("g", b"new")]);
    let ino = query::resolve(&volume.records, b"f").unwrap().unwrap();
    let hold = token(volume.manage(acquire("f", LockKind::Hold, 0, 0)));
    volume.done(vec![crate::support::rename("g", "f")]);
    assert_eq!(query::stat_ino(&volume.records, ino).unwrap().unwrap().nlink, 0);
    let itself = At { dir: ino, path: Bytes::new() };
    volume.manage(ManageOp::ReleaseLock { at: itself, token: hold });
    assert!(query::stat_ino(&volume.records, ino).unwrap().is_none());
}
