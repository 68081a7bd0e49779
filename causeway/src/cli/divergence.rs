//! Replicas that differ: what `status` says of them, `causeway volume verify` and `causeway volume repair`.

use std::time::Duration;

use causeway_base::{NodeId, Seq, VolumeId};
use causeway_namespace::{ClusterStatus, Divergence, RecordDiffers, Repaired, Run, Verdict, VerifyReport};
use serde::Serialize;

use super::args::Global;
use super::confirm::confirmed;
use super::exit::{Exit, Failure};
use super::session::Session;
use crate::output;

/// Trusting a replica adds up its records first.
const TRUST_MIN: Duration = Duration::from_secs(120);

/// Differing records that are listed; `--output json` has all that are known.
const LISTED: usize = 10;

/// What a person must know of replicas that are not, or lately were not, the same.
pub(super) fn told(status: &ClusterStatus, name: impl Fn(VolumeId) -> String) -> String {
    let mut text = String::new();
    for (node, group) in status.groups() {
        let volume = name(group.volume);
        if let Some(divergence) = &group.digests.divergence {
            text += &format!("DIVERGENCE: volume {volume} on node {}, {}", node.get(), shown(divergence));
        } else if let Some(Repaired { seq, from, was, .. }) = &group.digests.repaired {
            text += &format!(
                "repaired: volume {volume} on node {}, with the state of node {} at seq {seq}; it was {}",
                node.get(),
                from.get(),
                shown(was)
            );
        }
    }
    text
}

/// A difference, in lines.
fn shown(divergence: &Divergence) -> String {
    let from: Vec<_> = divergence.from.iter().map(|node| node.get().to_string()).collect();
    let from = if from.is_empty() { "others".to_owned() } else { format!("node {}", from.join(", ")) };
    let verdict = match divergence.verdict {
        Verdict::Damaged => "wrong: its records do not come to its own digest".to_owned(),
        Verdict::Minority => format!("wrong: most replicas are the same, and not as this one (differs from {from})"),
        Verdict::Declared => "wrong, as a person said or a mark on its disk says".to_owned(),
        Verdict::Others => format!("right: {from} differs, and most are as this one"),
        Verdict::Undecided => format!(
            "not as {from}, and which is wrong is not known: look at the records and decide with `causeway volume repair \
             --node`"
        ),
        Verdict::Forked => {
            format!("not as {from}: they have applied other entries, so one of them belongs to another history")
        }
    };
    let mut text = format!("found at seq {}: {verdict}\n", divergence.seq);
    if let Some(records) = &divergence.records {
        for record in records.named.iter().take(LISTED) {
            let how = match record.how {
                RecordDiffers::Changed => "differs",
                RecordDiffers::Surplus => "only here",
                RecordDiffers::Missing => "missing here",
            };
            text += &format!("  {how:<12} {}\n", record.name);
        }
        let least = if records.more { "at least " } else { "" };
        text += &match &records.unknown {
            Some(why) => format!("  the records are not known: {why}\n"),
            None if records.count == 0 => {
                "  no record differs: what was wrong was overwritten since; the sum remembers it\n".to_owned()
            }
            None => format!("  {least}{} records in all\n", records.count),
        };
    }
    if let Some(repair) = &divergence.repair {
        text += &format!("  repair: {repair}\n");
    }
    text
}

#[derive(Serialize)]
struct Checked {
    node: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    report: Option<VerifyReport>,
    #[serde(skip_serializing_if = "Option::is_none")]
    failed: Option<String>,
}

pub(super) async fn verify(global: &Global, session: &Session, name: &str, node: Option<u64>) -> anyhow::Result<Exit> {
    let names = session.vfs.names();
    let volume = session.volume(name).await?;
    let nodes = node.map_or_else(|| volume.members.iter().copied().collect(), |node| vec![NodeId(node)]);
    let mut checked = Vec::new();
    for node in nodes {
        let outcome = match names.volume_verify(volume.id, Some(node)).await {
            Ok(Run { outcome: Some(outcome), .. }) => outcome,
            Ok(Run { outcome: None, .. }) => Err("it is still under way".to_owned()),
            Err(error) => Err(format!("{:#}", anyhow::Error::from(error))),
        };
        let (report, failed) = outcome.map_or_else(|why| (None, Some(why)), |report| (Some(report), None));
        checked.push(Checked { node: node.get(), report, failed });
    }
    output::print(global.output, &checked, |checked| checked.iter().map(line).collect())?;
    let reports = || checked.iter().filter_map(|checked| checked.report.as_ref());
    Ok(if reports().any(|report| !report.right || report.divergence.is_some()) {
        Exit::Damaged
    } else if checked.iter().any(|checked| checked.failed.is_some()) {
        Exit::Partial
    } else {
        Exit::Done
    })
}

fn line(checked: &Checked) -> String {
    let node = checked.node;
    let Some(report) = &checked.report else {
        return format!("node {node}: not checked: {}\n", checked.failed.as_deref().unwrap_or_default());
    };
    let VerifyReport { seq, records, took, .. } = report;
    let verdict = if report.right { "right" } else { "WRONG" };
    let mut text = format!("node {node}: {verdict} at seq {seq}, {records} records; {:.1} s\n", took.as_secs_f64());
    if let Some(divergence) = &report.divergence {
        text += &format!("node {node}, {}", shown(divergence));
    }
    text
}

pub(super) async fn repair(global: &Global, session: &Session, name: &str, node: u64) -> anyhow::Result<Exit> {
    let volume = session.volume(name).await?;
    let run = session.vfs.names().volume_repair(volume.id, NodeId(node)).await?;
    let repaired = match run.outcome {
        Some(Ok(repaired)) => repaired,
        Some(Err(why)) => {
            let message = format!("the replica of {name} on node {node} was not repaired: {why}");
            return Err(Failure::error(Exit::Unavailable, message));
        }
        None => return Err(Failure::error(Exit::Unknown, "the repair is still under way".to_owned())),
    };
    output::print(global.output, &repaired, |repaired| {
        format!(
            "{name} on node {node} is as on node {} at seq {} ({:.1} s); it was {}",
            repaired.from.get(),
            repaired.seq,
            repaired.took.as_secs_f64(),
            shown(&repaired.was)
        )
    })?;
    Ok(Exit::Done)
}

#[derive(Serialize)]
struct Trusted {
    node: u64,
    seq: Seq,
    records: u64,
    /// They came to the replica's own digest.
    right: bool,
}

/// Takes the mark of a wrong replica back.
pub(super) async fn trust(
    global: &Global,
    name: &str,
    node: u64,
    reason: &str,
    confirm: Option<&str>,
) -> anyhow::Result<Exit> {
    confirmed(name, confirm, || {
        format!(
            "The replica of volume {name} on node {node} is marked as wrong. It will be read again as it is, and others may be \
             repaired from it:\nwhat is wrong in it is then wrong for good."
        )
    })?;
    let session = Session::connect(global).await?;
    let names = session.vfs.names().with_deadline(global.timeout.max(TRUST_MIN));
    let (seq, records, right) = names.trust_replica(name, NodeId(node), reason).await?;
    let trusted = Trusted { node, seq, records, right };
    output::print(global.output, &trusted, |trusted| {
        let digest = match trusted.right {
            true => "they come to its digest",
            false => "they did not come to its digest, which is made theirs",
        };
        format!(
            "the replica of {name} on node {node} is read again: {} records at seq {}, {digest}\nOthers that differ: `causeway \
             volume repair {name} --node ID`, one after the other",
            trusted.records, trusted.seq
        )
    })?;
    Ok(Exit::Done)
}
