//! Operations of the root group that people asked for, recorded with what they did.

use causeway_base::{Timestamp, VolumeId};

use super::cluster;
use super::transaction::Transaction;
use crate::audit::{AuditAction, AuditRange, AuditRecord, By, REASON_BYTES_MAX, RECORDS_MAX, WHO_BYTES_MAX};
use crate::command::Outcome;
use crate::key;
use crate::promotion::PromotionRecord;
use crate::records::ReadError;
use crate::root::{Note, RootOp, RootOutcome, VolumeRecord};

/// Applies an operation, and records it if it changed something.
pub(super) fn apply(
    transaction: &mut Transaction<'_>,
    op: &RootOp,
    by: &By,
    at: Timestamp,
) -> Result<Outcome, ReadError> {
    if by.who.len() > WHO_BYTES_MAX || by.reason.len() > REASON_BYTES_MAX {
        let message = format!("the caller's name has at most {WHO_BYTES_MAX} bytes, the reason {REASON_BYTES_MAX}");
        return Ok(Outcome::Invalid(message));
    }
    let before = match op {
        RootOp::SetVolume { id, .. } | RootOp::PromoteVolume { id, .. } => {
            transaction.others.get::<VolumeRecord>(transaction.base, &key::volume(*id))?
        }
        _ => None,
    };
    let outcome = cluster::apply(transaction, op)?;
    // A note changes nothing itself; the same request twice in a row is one of which the answer was lost.
    let noted = matches!((op, &outcome), (RootOp::Note(_), RootOutcome::Done));
    if (transaction.others.has_changed() || noted)
        && let Some(action) = action(transaction, op, &outcome, before.as_ref())?
    {
        let new = AuditRecord { at, seq: transaction.seq, by: by.clone(), action };
        if !noted || !is_repeated(transaction, &new)? {
            record(transaction, &new)?;
        }
    }
    Ok(Outcome::Root(outcome))
}

fn action(
    transaction: &Transaction<'_>,
    op: &RootOp,
    outcome: &RootOutcome,
    before: Option<&VolumeRecord>,
) -> Result<Option<AuditAction>, ReadError> {
    let promoted = |group| transaction.others.get::<PromotionRecord>(transaction.base, &key::promotion(group));
    Ok(Some(match (op, outcome) {
        (RootOp::SetTopology { .. }, RootOutcome::Topology(version)) => AuditAction::TopologySet { version: *version },
        (RootOp::CreateVolume { spec }, RootOutcome::Volume(id)) => {
            AuditAction::VolumeCreated { id: *id, name: spec.name.clone(), home: spec.home.clone() }
        }
        (RootOp::SetVolume { spec, .. }, RootOutcome::Volume(id)) => {
            let Some(before) = before else { return Ok(None) };
            AuditAction::VolumeSet {
                id: *id,
                name: spec.name.clone(),
                revision: before.revision + 1,
                home_before: before.spec.home.clone(),
                home: spec.home.clone(),
            }
        }
        (RootOp::AddNode { site, .. }, RootOutcome::Node(id)) => AuditAction::NodeAdded { id: *id, site: site.clone() },
        (RootOp::DrainNode { id, draining }, RootOutcome::Done) => {
            AuditAction::NodeDrained { id: *id, draining: *draining }
        }
        (RootOp::RemoveNode { id }, RootOutcome::Done) => AuditAction::NodeRemoved { id: *id },
        (RootOp::Reseed { cluster, .. }, RootOutcome::Done) => AuditAction::Restored { epoch: cluster.epoch },
        (RootOp::PromoteVolume { id, .. }, RootOutcome::Promoted(_)) => match (before, promoted(*id)?) {
            (Some(before), Some(promotion)) => {
                AuditAction::VolumePromoted { id: *id, name: before.spec.name.clone(), promotion }
            }
            _ => return Ok(None),
        },
        (RootOp::PromoteRoot { .. }, RootOutcome::Promoted(_)) => match promoted(VolumeId::ROOT)? {
            Some(promotion) => AuditAction::RootPromoted { promotion },
            None => return Ok(None),
        },
        (RootOp::Note(Note::ForgetAside { id, name, node, line }), RootOutcome::Done) => {
            AuditAction::AsideForgotten { id: *id, name: name.clone(), node: *node, line: *line }
        }
        (RootOp::Note(Note::TrustReplica { id, name, node }), RootOutcome::Done) => {
            AuditAction::ReplicaTrusted { id: *id, name: name.clone(), node: *node }
        }
        _ => return Ok(None),
    }))
}

/// Whether the newest record says the same.
fn is_repeated(transaction: &Transaction<'_>, new: &AuditRecord) -> Result<bool, ReadError> {
    let base = transaction.base;
    let range: AuditRange = transaction.others.get(base, &key::audit_range())?.unwrap_or_default();
    let newest: Option<AuditRecord> = transaction.others.get(base, &key::audit(range.next.saturating_sub(1)))?;
    Ok(newest.is_some_and(|newest| (newest.at, &newest.by, &newest.action) == (new.at, &new.by, &new.action)))
}

fn record(transaction: &mut Transaction<'_>, record: &AuditRecord) -> Result<(), ReadError> {
    let base = transaction.base;
    let others = &mut transaction.others;
    let mut range: AuditRange = others.get(base, &key::audit_range())?.unwrap_or_default();
    if range.next - range.first >= RECORDS_MAX {
        others.set::<AuditRecord>(base, key::audit(range.first), None)?;
        range.first += 1;
    }
    others.set(base, key::audit(range.next), Some(record))?;
    range.next += 1;
    others.set(base, key::audit_range(), Some(&range))
}
