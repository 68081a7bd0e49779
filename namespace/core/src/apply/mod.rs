//! What a committed command does: records and a command in, outcomes and record changes out.
//!
//! # Which group is it?
//! A group begins blank and is decided for ever by the first command that decides: opening a session makes it a volume
//! (and writes its top directory), [`RootOp::Bootstrap`](crate::root::RootOp::Bootstrap) makes it the root group. What does
//! not fit answers [`Outcome::Invalid`] and changes nothing. Whoever proposes must therefore keep clients' sessions away
//! from the root group; it knows by the group's id, which this crate never sees.
//!
//! # At most once
//! A session keeps the answers of its newest requests until the client acknowledges them. A number that was answered is
//! answered the same again; one that was acknowledged is [`Outcome::Forgotten`]; a session that is not there is
//! [`Outcome::SessionUnknown`]. In none of these cases is anything applied.
//!
//! # Atomic
//! Every request is whole or nothing. Requests of one command see each other's effects in order; the changes handed out are
//! the net effect, so a directory that gains five hundred entries is written once.

mod attributes;
mod audit;
mod cluster;
mod locks;
mod manage;
mod mounts;
mod names;
mod owners;
mod promotion;
mod quotas;
mod rename;
mod sessions;
mod table;
mod topology;
mod transaction;
mod volumes;

use bytes::Bytes;

use causeway_base::{Ino, Seq};

use crate::command::{Command, Outcome, Request, RequestBody};
use crate::meta::GroupKind;
use crate::records::{ReadError, Records};
use crate::session::Work;

use self::transaction::Transaction;

pub(crate) use self::sessions::Limits;

/// The change of one record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Which record.
    pub key: Bytes,
    /// Its value before; `None` if it was not there.
    pub old: Option<Bytes>,
    /// Its value after; `None` if it is removed.
    pub new: Option<Bytes>,
}

/// The name by which an inode was changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named {
    /// Which inode.
    pub ino: Ino,
    /// The directory.
    pub dir: Ino,
    /// The name in it.
    pub name: Bytes,
}

/// What a command came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Applied {
    /// One outcome for each request, in order.
    pub outcomes: Vec<Outcome>,
    /// The net effect, sorted by key, each key once; none leaves its record as it was.
    pub changes: Vec<Change>,
    /// The names by which existing inodes were changed, in order: an inode does not know its names, and who follows the
    /// changes wants them. Of a file with several names the one that was used.
    pub named: Vec<Named>,
}

/// Applies a command at a seq, which must be above that of every command applied before.
///
/// Costs some microseconds an operation, and one read and one change for each record touched, however often.
///
/// # Errors
/// A record was not read or does not decode. Nothing is known of the command then: the replica must stop.
pub fn apply(records: &dyn Records, seq: Seq, command: &Command) -> Result<Applied, ReadError> {
    apply_within(records, seq, command, Limits::default())
}

/// [`apply`] with other bounds, for tests that reach them.
pub(crate) fn apply_within(
    records: &dyn Records,
    seq: Seq,
    command: &Command,
    limits: Limits,
) -> Result<Applied, ReadError> {
    let mut transaction = Transaction::open(records, seq)?;
    let mut outcomes = Vec::with_capacity(command.requests.len());
    for request in &command.requests {
        transaction.begin();
        outcomes.push(one(&mut transaction, request, limits)?);
    }
    let named = transaction.take_named();
    Ok(Applied { outcomes, changes: transaction.into_changes(), named })
}

fn one(transaction: &mut Transaction<'_>, request: &Request, limits: Limits) -> Result<Outcome, ReadError> {
    let kind = transaction.meta.kind;
    match &request.body {
        RequestBody::OpenSession { .. }
        | RequestBody::Mutate { .. }
        | RequestBody::Manage { .. }
        | RequestBody::Once { .. }
        | RequestBody::ExpireLocks
        | RequestBody::Mount(_)
            if kind == GroupKind::Root =>
        {
            Ok(Outcome::Invalid("the root group has no tree and no sessions".to_owned()))
        }
        RequestBody::Root(_) | RequestBody::Audited { .. } if kind == GroupKind::Volume => {
            Ok(Outcome::Invalid("an operation of the root group came to a volume".to_owned()))
        }
        RequestBody::OpenSession { client } => sessions::open(transaction, *client, request.at, limits),
        RequestBody::Mutate { session, number, acked_below, ops } => {
            let numbered = sessions::Numbered { session: *session, number: *number, acked_below: *acked_below };
            sessions::perform_once(transaction, numbered, Work::Batch(ops), request.at, limits)
        }
        RequestBody::Manage { session, number, acked_below, op } => {
            let numbered = sessions::Numbered { session: *session, number: *number, acked_below: *acked_below };
            sessions::perform_once(transaction, numbered, Work::Manage(op), request.at, limits)
        }
        RequestBody::Once { id, print, ops } => {
            sessions::once(transaction, sessions::Once { id: *id, print: *print }, ops, request.at, limits)
        }
        RequestBody::ExpireLocks => locks::expire(transaction, request.at),
        RequestBody::Mount(op) => mounts::apply(transaction, op, request.at),
        RequestBody::Root(op) => cluster::apply(transaction, op).map(Outcome::Root),
        RequestBody::Audited { op, by } => audit::apply(transaction, op, by, request.at),
        RequestBody::RaiseEpoch { epoch } if *epoch > transaction.meta.epoch => {
            transaction.meta.epoch = *epoch;
            Ok(Outcome::EpochRaised)
        }
        RequestBody::RaiseEpoch { epoch } => {
            Ok(Outcome::Invalid(format!("epoch {epoch} is not above the current {}", transaction.meta.epoch)))
        }
    }
}
