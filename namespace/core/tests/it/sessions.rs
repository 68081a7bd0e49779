//! At most once.

use causeway_base::ClientId;
use causeway_namespace_core::command::{OPS_MAX, Op, Outcome, RequestBody, SESSION_WINDOW, SESSIONS_MAX, SessionId};
use causeway_namespace_core::query;

use crate::support::{Volume, at, mkdir, put};

fn mutate(session: SessionId, number: u64, acked_below: u64, ops: Vec<Op>) -> RequestBody {
    RequestBody::Mutate { session, number, acked_below, ops }
}

#[test]
fn a_request_is_applied_once_however_often_it_comes() {
    let mut volume = Volume::new();
    let session = volume.open();
    let create = mutate(session, 1, 0, vec![mkdir("a"), mkdir("b"), put("a/f", b"1"), mkdir("b/c")]);
    let refused = mutate(session, 2, 0, vec![mkdir("c"), mkdir("a")]);
    let applied = volume.command(vec![create.clone(), create.clone(), refused.clone()]);
    assert_eq!(applied.outcomes[0], applied.outcomes[1]);
    // What made the refusal is gone; the answer stays.
    let gone = volume.next(vec![Op::Rename { from: at("a"), to: at("z"), no_replace: false }]);
    volume.one(gone);
    assert_eq!(volume.one(create.clone()), applied.outcomes[0]);
    assert_eq!(volume.one(refused), applied.outcomes[2]);
    assert_eq!(query::totals(&volume.records).unwrap().dirs, 4);
    // A later request acknowledges both: their answers are forgotten, and they are not applied again.
    assert!(matches!(volume.one(mutate(session, 3, 3, vec![])), Outcome::Done(_)));
    assert_eq!(volume.one(create), Outcome::Forgotten);
}

#[test]
fn requests_may_come_in_any_order_within_the_window() {
    let mut volume = Volume::new();
    let session = volume.open();
    for number in [SESSION_WINDOW, 3, 1, 2] {
        let outcome = volume.one(mutate(session, number, 1, vec![mkdir(&format!("d{number}"))]));
        assert!(matches!(outcome, Outcome::Done(_)), "{number}: {outcome:?}");
    }
    let ahead = mutate(session, SESSION_WINDOW + 1, 1, vec![mkdir("ahead")]);
    assert_eq!(volume.one(ahead), Outcome::WindowExceeded);
    let acked = mutate(session, SESSION_WINDOW + 1, 2, vec![mkdir("ahead")]);
    assert!(matches!(volume.one(acked), Outcome::Done(_)));
}

#[test]
fn kept_answers_are_bounded_in_bytes_and_what_does_not_fit_is_not_applied() {
    let mut volume = Volume::new();
    let session = volume.open();
    // Every second inode only: the answers cannot be told as runs.
    let make: Vec<Op> = (0..OPS_MAX).map(|n| put(&format!("{n}"), b"")).collect();
    volume.done(make);
    let touch = |n: usize| put(&format!("{}", n * 2 % OPS_MAX), b"again");
    let ops: Vec<Op> = (0..OPS_MAX).map(touch).collect();
    let mut number = 1;
    let exceeded = loop {
        match volume.one(mutate(session, number, 1, ops.clone())) {
            Outcome::Done(_) => number += 1,
            other => break other,
        }
    };
    assert_eq!(exceeded, Outcome::WindowExceeded);
    assert!((4..20).contains(&number), "{number} full batches");
    let seq = volume.seq;
    assert!(query::stat(&volume.records, b"0").unwrap().unwrap().1.version < seq);
    assert!(matches!(volume.one(mutate(session, number, number, ops)), Outcome::Done(_)));
}

#[test]
fn the_session_unused_longest_makes_room() {
    let mut volume = Volume::new();
    let first = volume.open();
    let second = volume.open();
    let fill = SESSIONS_MAX - 3;
    for chunk in vec![(); fill].chunks(500) {
        let open = |()| RequestBody::OpenSession { client: ClientId(2) };
        volume.command(chunk.iter().copied().map(open).collect());
    }
    assert_eq!(query::totals(&volume.records).unwrap().sessions, SESSIONS_MAX as u64);
    // Far enough after its place for the use to be written down.
    for _ in 0..100 {
        volume.done(vec![]);
    }
    assert!(matches!(volume.one(mutate(first, 1, 0, vec![mkdir("a")])), Outcome::Done(_)));
    let new = volume.open();
    assert_eq!(query::totals(&volume.records).unwrap().sessions, SESSIONS_MAX as u64);
    assert_eq!(volume.one(mutate(second, 1, 0, vec![mkdir("b")])), Outcome::SessionUnknown);
    assert!(query::stat(&volume.records, b"b").unwrap().is_err());
    assert!(matches!(volume.one(mutate(first, 2, 0, vec![])), Outcome::Done(_)));
    assert!(new.0 > second.0, "ids are never given again");
}

#[test]
fn what_can_never_be_right_is_invalid() {
    let mut volume = Volume::new();
    let session = volume.open();
    let many = vec![mkdir("a"); OPS_MAX + 1];
    for body in [
        mutate(session, 0, 0, vec![]),
        mutate(session, 1, 2, vec![]),
        mutate(session, u64::MAX, 0, vec![]),
        mutate(session, 1, 0, many),
    ] {
        assert!(matches!(volume.one(body), Outcome::Invalid(_)));
    }
    assert_eq!(volume.one(mutate(SessionId(77), 1, 0, vec![])), Outcome::SessionUnknown);
}
