//! The record of a session: what is kept so that a request is applied at most once.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use causeway_base::{ClientId, Ino, Seq, Timestamp};

use crate::command::{At, Errno, Op, OpDone, Outcome, Refusal, SESSION_WINDOW};
use crate::inode::PATH_BYTES_MAX;
use crate::manage::ManageOp;

/// A session and its kept answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Session {
    /// Who opened it.
    pub client: ClientId,
    /// When.
    pub opened: Timestamp,
    /// Its place in the order of last use. Moved only by [`USE_GRAIN`] seqs or more, so that a busy session does not
    /// rewrite its place with each request.
    pub used: Seq,
    /// Every number below is acknowledged and its answer forgotten.
    pub acked_below: u64,
    /// The answers kept, by number, ascending; all in `acked_below .. acked_below + SESSION_WINDOW`.
    pub answers: Vec<(u64, Answer)>,
}

/// How far a session's use may be ahead of its place in the order of last use, in seqs.
pub const USE_GRAIN: u64 = 64;

/// What was answered, in few bytes. The paths of a refusal are not kept: the same request brings them again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// Every operation was applied.
    Done {
        /// The seq that applied it.
        seq: Seq,
        /// What was touched, in the order of the operations.
        touched: Vec<Run>,
    },
    /// Nothing was applied.
    Refused {
        /// Index of the operation.
        op: u32,
        /// Why.
        code: Errno,
        /// Which of the operation's two paths it is about.
        place: Place,
    },
}

/// Consecutive operations that touched consecutive inodes (as creates do) and left them at versions of one age.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    /// Of the first operation.
    pub ino: Ino,
    /// How many operations.
    pub count: u32,
    /// How far the version is below the seq of the answer; 0 where the operation wrote it.
    pub age: u64,
}

/// Which path of an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Place {
    /// The only one, or `from`.
    First,
    /// `to`.
    Second,
}

/// What is to be done with a request's number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Seen<'a> {
    /// Apply it.
    New,
    /// It was answered so.
    Answered(&'a Answer),
    /// Its answer was acknowledged.
    Forgotten,
    /// Too far ahead of what is acknowledged.
    Ahead,
}

impl Session {
    /// Forgets the answers that the client acknowledged.
    pub(crate) fn acknowledge(&mut self, below: u64) {
        if below > self.acked_below {
            self.acked_below = below;
            self.answers.retain(|(number, _)| *number >= below);
        }
    }

    /// What is known of a number.
    pub(crate) fn seen(&self, number: u64) -> Seen<'_> {
        if number < self.acked_below {
            Seen::Forgotten
        } else if let Ok(at) = self.answers.binary_search_by_key(&number, |(number, _)| *number) {
            Seen::Answered(&self.answers[at].1)
        } else if number - self.acked_below >= SESSION_WINDOW {
            Seen::Ahead
        } else {
            Seen::New
        }
    }

    /// Keeps an answer.
    pub(crate) fn keep(&mut self, number: u64, answer: Answer) {
        let at = self.answers.partition_point(|(kept, _)| *kept < number);
        self.answers.insert(at, (number, answer));
    }

    /// An upper bound of the bytes that the kept answers take when stored.
    pub(crate) fn answer_bytes(&self) -> usize {
        self.answers.iter().map(|(_, answer)| answer.bytes()).sum()
    }
}

impl Answer {
    /// The short form of what an applied batch touched.
    pub(crate) fn done(seq: Seq, done: &[OpDone]) -> Self {
        let mut touched: Vec<Run> = Vec::new();
        for op in done {
            let age = seq.0.saturating_sub(op.version.0);
            match touched.last_mut() {
                Some(run) if run.age == age && run.ino.0.checked_add(u64::from(run.count)) == Some(op.ino.0) => {
                    run.count += 1;
                }
                _ => touched.push(Run { ino: op.ino, count: 1, age }),
            }
        }
        Self::Done { seq, touched }
    }

    /// The outcome again, for the request that this is the work of.
    pub(crate) fn outcome(&self, work: Work<'_>) -> Outcome {
        match self {
            Self::Done { seq, touched } => {
                let each = |run: &Run| {
                    let (first, version) = (run.ino.0, Seq(seq.0.saturating_sub(run.age)));
                    (0..u64::from(run.count)).map(move |step| OpDone { ino: Ino(first + step), version })
                };
                Outcome::Done(touched.iter().flat_map(each).collect())
            }
            Self::Refused { op, code, place } => {
                let path = work.path(*op, *place);
                let path = path.slice(..path.len().min(PATH_BYTES_MAX));
                Outcome::Refused(Refusal { op: *op, code: *code, path })
            }
        }
    }

    /// An upper bound of its stored bytes: varints of at most 10 (`u64`) and 5 (`u32`) bytes, with its number.
    fn bytes(&self) -> usize {
        let varint = |value: u64| (64 - value.leading_zeros() as usize).div_ceil(7).max(1);
        match self {
            Self::Done { seq, touched } => {
                let run = |run: &Run| varint(run.ino.0) + varint(u64::from(run.count)) + varint(run.age);
                14 + varint(seq.0) + touched.iter().map(run).sum::<usize>()
            }
            Self::Refused { .. } => 24,
        }
    }
}

/// What a session's request asks.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Work<'a> {
    /// A batch on the tree.
    Batch(&'a [Op]),
    /// One operation on the volume.
    Manage(&'a ManageOp),
}

impl Work<'_> {
    /// The path (or name) that a refusal is about; empty if the request is not the one that was refused.
    fn path(self, op: u32, place: Place) -> Bytes {
        match self {
            Self::Batch(ops) => ops.get(op as usize).map(|op| place.of(op).path.clone()).unwrap_or_default(),
            Self::Manage(op) => op.about().clone(),
        }
    }
}

impl Place {
    /// That path of an operation.
    pub(crate) fn of(self, op: &Op) -> &At {
        match (op, self) {
            (Op::Link { from, .. } | Op::Rename { from, .. }, Self::First) => from,
            (Op::Link { to, .. } | Op::Rename { to, .. }, Self::Second) => to,
            (
                Op::Mkdir { at, .. }
                | Op::PutFile { at, .. }
                | Op::Symlink { at, .. }
                | Op::Unlink { at, .. }
                | Op::Rmdir { at }
                | Op::SetAttr { at, .. }
                | Op::SetXattr { at, .. }
                | Op::Check { at, .. },
                _,
            ) => at,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::encode;

    fn answer() -> impl Strategy<Value = Answer> {
        let ino = prop_oneof![4 => 1..6_u64, 1 => any::<u64>()];
        let done = prop::collection::vec((ino, 90..=100_u64), 0..30);
        let list = |done: Vec<(u64, u64)>| {
            done.into_iter().map(|(ino, version)| OpDone { ino: Ino(ino), version: Seq(version) }).collect::<Vec<_>>()
        };
        prop_oneof![
            5 => done.prop_map(move |done| Answer::done(Seq(100), &list(done))),
            1 => any::<u32>().prop_map(|op| Answer::Refused { op, code: Errno::QuotaExceeded, place: Place::Second }),
        ]
    }

    proptest! {
        #[test]
        fn a_short_answer_is_told_in_full_again(done in prop::collection::vec((1..6_u64, 99..=100_u64), 0..30)) {
            let done: Vec<_> =
                done.into_iter().map(|(ino, version)| OpDone { ino: Ino(ino), version: Seq(version) }).collect();
            prop_assert_eq!(Answer::done(Seq(100), &done).outcome(Work::Batch(&[])), Outcome::Done(done));
        }

        #[test]
        fn the_bytes_of_answers_are_not_underrated(answers in prop::collection::vec((any::<u64>(), answer()), 0..8)) {
            let client = ClientId(0);
            let empty = Session { client, opened: Timestamp(0), used: Seq(0), acked_below: 0, answers: vec![] };
            let session = Session { answers, ..empty.clone() };
            let stored = encode::to_bytes(&session).len() - encode::to_bytes(&empty).len();
            prop_assert!(stored <= session.answer_bytes());
        }
    }
}
