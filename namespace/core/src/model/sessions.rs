//! The model's sessions: every answer kept whole.

use std::collections::BTreeMap;

use causeway_base::{Epoch, Seq};

use super::tree::{Now, Tree};
use crate::command::{Op, Outcome, Refusal, Request, RequestBody, SESSION_WINDOW, SessionId};
use crate::manage::ManageOp;
use crate::session::{Place, USE_GRAIN};

#[derive(Debug)]
pub(super) struct Model {
    pub(super) tree: Option<Tree>,
    pub(super) sessions: BTreeMap<u64, ModelSession>,
    pub(super) next_session: u64,
    pub(super) epoch: Epoch,
    pub(super) sessions_max: usize,
}

#[derive(Debug)]
pub(super) struct ModelSession {
    used: u64,
    acked_below: u64,
    answers: BTreeMap<u64, Outcome>,
}

impl Model {
    pub(super) fn new(sessions_max: usize) -> Self {
        Self { tree: None, sessions: BTreeMap::new(), next_session: 1, epoch: Epoch(0), sessions_max }
    }

    pub(super) fn apply(&mut self, request: &Request, seq: Seq) -> Outcome {
        let now = Now { at: request.at, seq };
        match &request.body {
            RequestBody::OpenSession { .. } => {
                self.tree.get_or_insert_with(|| Tree::new(now.at, seq));
                while self.sessions.len() >= self.sessions_max {
                    let (_, oldest) = self.sessions.iter().map(|(id, session)| (session.used, *id)).min().unwrap();
                    self.sessions.remove(&oldest);
                }
                let id = self.next_session;
                self.next_session += 1;
                self.sessions.insert(id, ModelSession { used: seq.0, acked_below: 1, answers: BTreeMap::new() });
                Outcome::Session(SessionId(id))
            }
            RequestBody::RaiseEpoch { epoch } if *epoch > self.epoch => {
                self.epoch = *epoch;
                Outcome::EpochRaised
            }
            RequestBody::RaiseEpoch { .. } | RequestBody::Root(_) => Outcome::Invalid(String::new()),
            RequestBody::Once { .. }
            | RequestBody::ExpireLocks
            | RequestBody::Audited { .. }
            | RequestBody::Mount(_) => {
                panic!("the strategies make none")
            }
            RequestBody::Mutate { session, number, acked_below, ops } => {
                let each = ops.iter().map(Step::Op).collect();
                self.once((session.0, *number, *acked_below), each, now)
            }
            RequestBody::Manage { session, number, acked_below, op } => {
                self.once((session.0, *number, *acked_below), vec![Step::Manage(op)], now)
            }
        }
    }

    fn once(&mut self, (session, number, acked_below): (u64, u64, u64), steps: Vec<Step<'_>>, now: Now) -> Outcome {
        if number == 0 || acked_below > number {
            return Outcome::Invalid(String::new());
        }
        let Some(session) = self.sessions.get_mut(&session) else {
            return Outcome::SessionUnknown;
        };
        if now.seq.0 - session.used >= USE_GRAIN {
            session.used = now.seq.0;
        }
        session.acked_below = session.acked_below.max(acked_below);
        let acked = session.acked_below;
        session.answers.retain(|number, _| *number >= acked);
        if number < acked {
            return Outcome::Forgotten;
        }
        if let Some(answer) = session.answers.get(&number) {
            return answer.clone();
        }
        if number >= acked + SESSION_WINDOW {
            return Outcome::WindowExceeded;
        }
        let tree = self.tree.as_mut().unwrap();
        let copy = tree.clone();
        let mut outcome = Outcome::Done(vec![]);
        for (index, step) in steps.iter().enumerate() {
            let result = match step {
                Step::Op(op) => tree.apply(op, now),
                Step::Manage(op) => tree.manage(op, now),
            };
            match (result, &mut outcome) {
                (Ok(done), Outcome::Done(list)) => list.push(done),
                (Err((code, second)), _) => {
                    let place = if second { Place::Second } else { Place::First };
                    let path = match step {
                        Step::Op(op) => &place.of(op).path,
                        Step::Manage(op) => op.about(),
                    };
                    let path = path.iter().take(4096).copied().collect();
                    outcome = Outcome::Refused(Refusal { op: index as u32, code, path });
                    *tree = copy;
                    break;
                }
                _ => unreachable!(),
            }
        }
        session.answers.insert(number, outcome.clone());
        outcome
    }
}

/// What a session's request asks, piece by piece.
enum Step<'a> {
    Op(&'a Op),
    Manage(&'a ManageOp),
}
