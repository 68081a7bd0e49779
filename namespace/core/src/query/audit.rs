//! Questions to the audit.

use super::cluster::get;
use crate::audit::{AuditRange, AuditRecord};
use crate::key;
use crate::records::{ReadError, Records};

/// At most `limit` audit records with their numbers, newest first, of those below `before` (`None`: of all).
///
/// # Errors
/// The store's.
pub fn audit(records: &dyn Records, before: Option<u64>, limit: usize) -> Result<Vec<(u64, AuditRecord)>, ReadError> {
    let range: AuditRange = get(records, &key::audit_range())?.unwrap_or_default();
    let end = before.unwrap_or(range.next).min(range.next);
    let mut found = Vec::new();
    for number in (range.first..end).rev().take(limit) {
        found.extend(get(records, &key::audit(number))?.map(|record| (number, record)));
    }
    Ok(found)
}
