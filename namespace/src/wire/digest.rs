//! Whether replicas are the same.

use std::time::Duration;

use causeway_base::{NodeId, Seq, Timestamp};
use causeway_proto::v1;

use super::{Wire, WireError, all, all_into, millis, required, runs, text_or_none};
use crate::digest::{
    DifferingRecord, DifferingRecords, DigestReport, Divergence, RecordDiffers, Repaired, Verdict, VerifyReport,
};
use crate::upkeep::Run;

impl Wire for DigestReport {
    type Message = v1::DigestStatus;

    fn into_wire(self) -> v1::DigestStatus {
        v1::DigestStatus {
            equal_at: self.equal_at.0,
            verified: self.verified.0,
            verified_at: self.verified_at.0,
            divergence: self.divergence.map(Wire::into_wire),
            repaired: self.repaired.map(Wire::into_wire),
        }
    }

    fn from_wire(message: v1::DigestStatus) -> Result<Self, WireError> {
        Ok(Self {
            equal_at: Seq(message.equal_at),
            verified: Seq(message.verified),
            verified_at: Timestamp(message.verified_at),
            divergence: message.divergence.map(Divergence::from_wire).transpose()?,
            repaired: message.repaired.map(Repaired::from_wire).transpose()?,
        })
    }
}

impl Wire for Divergence {
    type Message = v1::Divergence;

    fn into_wire(self) -> v1::Divergence {
        v1::Divergence {
            seq: self.seq.0,
            found_at: self.found_at.0,
            verdict: number(&VERDICTS, self.verdict),
            from: self.from.into_iter().map(|node| node.0).collect(),
            records: self.records.map(Wire::into_wire),
            repair: self.repair.unwrap_or_default(),
        }
    }

    fn from_wire(message: v1::Divergence) -> Result<Self, WireError> {
        Ok(Self {
            seq: Seq(message.seq),
            found_at: Timestamp(message.found_at),
            verdict: numbered(&VERDICTS, message.verdict, "divergence.verdict")?,
            from: message.from.into_iter().map(NodeId).collect(),
            records: message.records.map(DifferingRecords::from_wire).transpose()?,
            repair: text_or_none(message.repair),
        })
    }
}

impl Wire for DifferingRecords {
    type Message = v1::DifferingRecords;

    fn into_wire(self) -> v1::DifferingRecords {
        let Self { count, more, named, unknown } = self;
        v1::DifferingRecords { count, more, named: all_into(named), unknown: unknown.unwrap_or_default() }
    }

    fn from_wire(message: v1::DifferingRecords) -> Result<Self, WireError> {
        let v1::DifferingRecords { count, more, named, unknown } = message;
        Ok(Self { count, more, named: all(named)?, unknown: text_or_none(unknown) })
    }
}

impl Wire for DifferingRecord {
    type Message = v1::DifferingRecord;

    fn into_wire(self) -> v1::DifferingRecord {
        v1::DifferingRecord { name: self.name, how: number(&HOWS, self.how) }
    }

    fn from_wire(message: v1::DifferingRecord) -> Result<Self, WireError> {
        Ok(Self { name: message.name, how: numbered(&HOWS, message.how, "record.how")? })
    }
}

impl Wire for Repaired {
    type Message = v1::Repaired;

    fn into_wire(self) -> v1::Repaired {
        v1::Repaired {
            seq: self.seq.0,
            from: self.from.0,
            at: self.at.0,
            took_millis: millis(self.took),
            was: Some(self.was.into_wire()),
        }
    }

    fn from_wire(message: v1::Repaired) -> Result<Self, WireError> {
        Ok(Self {
            seq: Seq(message.seq),
            from: NodeId(message.from),
            at: Timestamp(message.at),
            took: Duration::from_millis(message.took_millis),
            was: required(message.was, "repaired.was")?,
        })
    }
}

impl Wire for VerifyReport {
    type Message = v1::VerifyReport;

    fn into_wire(self) -> v1::VerifyReport {
        let Self { seq, records, bytes, right, took, divergence } = self;
        let divergence = divergence.map(Wire::into_wire);
        v1::VerifyReport { seq: seq.0, records, bytes, right, took_millis: millis(took), divergence }
    }

    fn from_wire(message: v1::VerifyReport) -> Result<Self, WireError> {
        let v1::VerifyReport { seq, records, bytes, right, took_millis, divergence } = message;
        let divergence = divergence.map(Divergence::from_wire).transpose()?;
        Ok(Self { seq: Seq(seq), records, bytes, right, took: Duration::from_millis(took_millis), divergence })
    }
}

runs! {
    VerifyReport in VolumeVerifyResponse, volume_verify_response;
    Repaired in VolumeRepairResponse, volume_repair_response;
}

/// By their numbers from 1 on.
const VERDICTS: [Verdict; 6] =
    [Verdict::Minority, Verdict::Others, Verdict::Undecided, Verdict::Forked, Verdict::Damaged, Verdict::Declared];
/// By their numbers from 1 on.
const HOWS: [RecordDiffers; 3] = [RecordDiffers::Changed, RecordDiffers::Surplus, RecordDiffers::Missing];

fn number<T: PartialEq>(all: &[T], one: T) -> u32 {
    let at = all.iter().position(|known| *known == one).map_or(0, |at| at + 1);
    u32::try_from(at).unwrap_or(0) // a handful
}

fn numbered<T: Copy>(all: &[T], number: u32, field: &'static str) -> Result<T, WireError> {
    let at = usize::try_from(number).ok().and_then(|number| number.checked_sub(1));
    at.and_then(|at| all.get(at)).copied().ok_or_else(|| WireError::bad(field, format!("{number} is none")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn survives<T: Wire + Clone + PartialEq + std::fmt::Debug>(value: &T) {
        assert_eq!(T::from_wire(value.clone().into_wire()).as_ref(), Ok(value));
    }

    #[test]
    fn reports_survive() {
        for verdict in VERDICTS {
            let named = HOWS.map(|how| DifferingRecord { name: "a/b".to_owned(), how }).to_vec();
            let records = DifferingRecords { count: 7, more: true, named, unknown: Some("why".to_owned()) };
            let divergence = Divergence {
                seq: Seq(7),
                found_at: Timestamp(-5),
                verdict,
                from: vec![NodeId(2), NodeId(9)],
                records: Some(records),
                repair: Some("under way".to_owned()),
            };
            let repaired = Repaired {
                seq: Seq(8),
                from: NodeId(2),
                at: Timestamp(4),
                took: Duration::from_millis(9),
                was: Divergence { records: None, repair: None, ..divergence.clone() },
            };
            let report = VerifyReport { right: true, divergence: Some(divergence.clone()), ..VerifyReport::default() };
            for outcome in [None, Some(Ok(report)), Some(Err("why".to_owned()))] {
                survives(&Run { node: NodeId(1), ticket: 3, outcome });
            }
            for outcome in [None, Some(Ok(repaired.clone())), Some(Err("why".to_owned()))] {
                survives(&Run { node: NodeId(1), ticket: 3, outcome });
            }
            survives(&DigestReport {
                equal_at: Seq(3),
                verified: Seq(2),
                verified_at: Timestamp(1),
                divergence: Some(divergence),
                repaired: Some(repaired),
            });
        }
        assert!(Divergence::from_wire(v1::Divergence::default()).is_err());
        assert!(Run::<VerifyReport>::from_wire(v1::VolumeVerifyResponse::default()).is_err());
        assert!(Run::<Repaired>::from_wire(v1::VolumeRepairResponse::default()).is_err());
    }
}
