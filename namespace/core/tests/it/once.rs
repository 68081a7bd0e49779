//! Ids that clients choose.

use causeway_namespace_core::command::{Errno, Op, Outcome, RequestBody, SESSIONS_MAX};
use causeway_namespace_core::query;

use crate::support::{Volume, mkdir, put};

fn once(id: u128, print: u128, ops: Vec<Op>) -> RequestBody {
    RequestBody::Once { id, print, ops }
}

#[test]
fn a_chosen_id_is_applied_once_and_means_one_batch() {
    let mut volume = Volume::new();
    let made = volume.one(once(7, 1, vec![mkdir("a")]));
    assert!(matches!(&made, Outcome::Done(done) if done.len() == 1), "{made:?}");
    // In the same entry, and later.
    let again = volume.command(vec![once(7, 1, vec![mkdir("a")]), once(7, 1, vec![mkdir("a")])]);
    assert_eq!(again.outcomes, vec![made.clone(), made]);
    assert!(matches!(volume.one(once(7, 2, vec![mkdir("b")])), Outcome::Invalid(_)));
    // Both halves of an id count, and a refusal is an answer too.
    assert!(matches!(volume.one(once(7 << 64, 1, vec![mkdir("b")])), Outcome::Done(_)));
    let refused = volume.one(once(8, 1, vec![mkdir("a")]));
    assert!(matches!(&refused, Outcome::Refused(refusal) if refusal.code == Errno::Exists));
    volume.done(vec![Op::Rmdir { at: crate::support::at("a") }]);
    assert_eq!(volume.one(once(8, 1, vec![mkdir("a")])), refused);
}

#[test]
fn chosen_ids_take_the_places_of_sessions() {
    let mut volume = Volume::new();
    for id in 0..SESSIONS_MAX as u128 + 10 {
        volume.one(once(id, 0, vec![put("f", b"x")]));
    }
    assert_eq!(query::totals(&volume.records).unwrap().sessions, SESSIONS_MAX as u64);
}
