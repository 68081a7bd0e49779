//! Sessions: opening, evicting, and applying each request at most once.

use causeway_base::{ClientId, Ino, Timestamp};

use super::names::Tree;
use super::transaction::{Fault, Transaction};
use crate::command::{OPS_MAX, Op, OpDone, Outcome, SESSION_ANSWER_BYTES_MAX, SESSION_WINDOW, SESSIONS_MAX, SessionId};
use crate::encode;
use crate::key;
use crate::manage::OwnerRecord;
use crate::meta::{GroupKind, blank_top};
use crate::records::ReadError;
use crate::session::{Answer, Seen, Session, USE_GRAIN, Work};

/// The bounds on sessions.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Most open sessions.
    pub(crate) sessions: u64,
    /// Most bytes of a session's kept answers.
    pub(crate) answer_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { sessions: SESSIONS_MAX as u64, answer_bytes: SESSION_ANSWER_BYTES_MAX }
    }
}

/// A request's place in its session.
#[derive(Clone, Copy, Debug)]
pub(super) struct Numbered {
    pub(super) session: SessionId,
    pub(super) number: u64,
    pub(super) acked_below: u64,
}

/// Opens a session; where there are too many, the one unused longest makes room.
pub(super) fn open(
    transaction: &mut Transaction<'_>,
    client: ClientId,
    at: Timestamp,
    limits: Limits,
) -> Result<Outcome, ReadError> {
    if transaction.meta.kind == GroupKind::Blank {
        become_volume(transaction, at)?;
    }
    while transaction.meta.sessions >= limits.sessions {
        evict(transaction)?;
    }
    let id = SessionId(transaction.meta.next_session);
    let Some(next) = id.0.checked_add(1).filter(|next| *next < CHOSEN) else {
        return Ok(Outcome::Invalid("session ids are used up".to_owned()));
    };
    transaction.meta.next_session = next;
    insert(transaction, id, client, at)?;
    Ok(Outcome::Session(id))
}

fn insert(transaction: &mut Transaction<'_>, id: SessionId, client: ClientId, at: Timestamp) -> Result<(), ReadError> {
    let (base, used) = (transaction.base, transaction.seq);
    transaction.meta.sessions += 1;
    let session = Session { client, opened: at, used, acked_below: 1, answers: Vec::new() };
    *transaction.sessions.edit(base, &id)? = Some(session);
    transaction.uses.set(base, key::session_by_use(used, id), Some(&()))
}

/// Session ids from here on are made of ids that clients chose; those below are numbered by the volume.
const CHOSEN: u64 = 1 << 63;

/// A batch under an id that the client chose.
#[derive(Clone, Copy, Debug)]
pub(super) struct Once {
    pub(super) id: u128,
    pub(super) print: u128,
}

/// Applies a batch unless its id is known: a session of its own, with the one request, that is opened on sight.
pub(super) fn once(
    transaction: &mut Transaction<'_>,
    once: Once,
    ops: &[Op],
    at: Timestamp,
    limits: Limits,
) -> Result<Outcome, ReadError> {
    // 63 bits of it, mixed: two clients' random ids meet as rarely as they would in a table of that size.
    #[allow(clippy::cast_possible_truncation)]
    let folded = ((once.id >> 64) as u64).rotate_left(32) ^ once.id as u64;
    let id = SessionId(folded | CHOSEN);
    if transaction.meta.kind == GroupKind::Blank {
        become_volume(transaction, at)?;
    }
    match transaction.sessions.get(transaction.base, &id)? {
        Some(session) if session.client != ClientId(once.print) => {
            return Ok(Outcome::Invalid("this request id was used for another batch; take a new one".to_owned()));
        }
        Some(_) => {}
        None => {
            while transaction.meta.sessions >= limits.sessions {
                evict(transaction)?;
            }
            insert(transaction, id, ClientId(once.print), at)?;
        }
    }
    let numbered = Numbered { session: id, number: 1, acked_below: 1 };
    perform_once(transaction, numbered, Work::Batch(ops), at, limits)
}

pub(super) fn become_volume(transaction: &mut Transaction<'_>, at: Timestamp) -> Result<(), ReadError> {
    let mut top = blank_top();
    (top.attr.mtime, top.attr.ctime, top.version) = (at, at, transaction.seq);
    transaction.meta.kind = GroupKind::Volume;
    transaction.count(&top);
    let owner = OwnerRecord { files: 1, ..OwnerRecord::default() };
    transaction.others.set(transaction.base, key::owner(top.attr.uid), Some(&owner))?;
    *transaction.inodes.edit(transaction.base, &Ino::ROOT)? = Some(top);
    Ok(())
}

fn evict(transaction: &mut Transaction<'_>) -> Result<(), ReadError> {
    let (from, to) = key::table(key::SESSION_BY_USE);
    let first = transaction.uses.first(transaction.base, &from, &to)?;
    let (place, _) = first.ok_or_else(|| encode::corrupt(&from, "sessions are counted that are not there"))?;
    let id = key::session_by_use_of(&place).ok_or_else(|| encode::corrupt(&place, "not a session's place"))?;
    transaction.uses.set::<()>(transaction.base, place, None)?;
    *transaction.sessions.edit(transaction.base, &id)? = None;
    transaction.meta.sessions -= 1;
    Ok(())
}

/// Does a request's work, unless its number was seen.
pub(super) fn perform_once(
    transaction: &mut Transaction<'_>,
    numbered: Numbered,
    work: Work<'_>,
    at: Timestamp,
    limits: Limits,
) -> Result<Outcome, ReadError> {
    let Numbered { session: id, number, acked_below } = numbered;
    if let Some(reason) = malformed(numbered, work) {
        return Ok(Outcome::Invalid(reason));
    }
    let (base, seq) = (transaction.base, transaction.seq);
    let Some(session) = transaction.sessions.edit(base, &id)? else {
        return Ok(Outcome::SessionUnknown);
    };
    if seq.0.saturating_sub(session.used.0) >= USE_GRAIN {
        let before = std::mem::replace(&mut session.used, seq);
        transaction.uses.set::<()>(base, key::session_by_use(before, id), None)?;
        transaction.uses.set(base, key::session_by_use(seq, id), Some(&()))?;
    }
    session.acknowledge(acked_below);
    match session.seen(number) {
        Seen::Forgotten => return Ok(Outcome::Forgotten),
        Seen::Ahead => return Ok(Outcome::WindowExceeded),
        Seen::Answered(answer) => return Ok(answer.outcome(work)),
        Seen::New => {}
    }
    let answer = match perform(transaction, work, at)? {
        Ok(done) => Answer::done(seq, &done),
        Err(refused) => {
            transaction.roll_back();
            refused
        }
    };
    let outcome = answer.outcome(work);
    let Some(session) = transaction.sessions.edit(base, &id)? else {
        return Ok(Outcome::SessionUnknown);
    };
    session.keep(number, answer);
    if session.answer_bytes() > limits.answer_bytes {
        session.answers.retain(|(kept, _)| *kept != number);
        transaction.roll_back();
        return Ok(Outcome::WindowExceeded);
    }
    Ok(outcome)
}

/// What is wrong with a request whatever the state: asking again will not help.
fn malformed(numbered: Numbered, work: Work<'_>) -> Option<String> {
    if numbered.number == 0 {
        return Some("requests of a session are numbered from 1".to_owned());
    }
    if numbered.acked_below > numbered.number {
        return Some(format!("request {} acknowledges itself", numbered.number));
    }
    if numbered.number > u64::MAX - SESSION_WINDOW {
        return Some(format!("request number {} is out of range", numbered.number));
    }
    match work {
        Work::Batch(ops) if ops.len() > OPS_MAX => {
            Some(format!("{} operations, at most {OPS_MAX} are allowed", ops.len()))
        }
        Work::Batch(_) | Work::Manage(_) => None,
    }
}

/// Applies the operations in order until one is refused.
fn perform(
    transaction: &mut Transaction<'_>,
    work: Work<'_>,
    at: Timestamp,
) -> Result<Result<Vec<OpDone>, Answer>, ReadError> {
    let mut tree = Tree::new(transaction, at);
    let mut done = Vec::new();
    let result = match work {
        Work::Batch(ops) => ops.iter().try_for_each(|op| tree.apply(op).map(|touched| done.push(touched))),
        Work::Manage(op) => tree.manage(op).map(|touched| done.push(touched)),
    };
    match result {
        Ok(()) => Ok(Ok(done)),
        Err(Fault::Refused(code, place)) => {
            // As many as are done stand before it; a batch has at most OPS_MAX.
            Ok(Err(Answer::Refused { op: u32::try_from(done.len()).unwrap_or(u32::MAX), code, place }))
        }
        Err(Fault::Read(error)) => Err(error),
    }
}
