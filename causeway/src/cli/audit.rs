//! `causeway audit`

use causeway_namespace_core::audit::{AuditAction, AuditRecord};
use causeway_namespace_core::promotion::PromotionRecord;
use serde::Serialize;

use super::args::{AuditArgs, Global};
use super::exit::Exit;
use super::session::Session;
use super::show::when;
use crate::output::{self, table};

#[derive(Serialize)]
struct Shown {
    number: u64,
    #[serde(flatten)]
    record: AuditRecord,
    time: String,
}

pub(super) async fn run(global: &Global, args: AuditArgs) -> anyhow::Result<Exit> {
    let session = Session::connect(global).await?;
    let mut shown: Vec<Shown> = Vec::new();
    let mut before = None;
    loop {
        let left = args.limit.saturating_sub(u32::try_from(shown.len()).unwrap_or(u32::MAX));
        let page = if left == 0 { Vec::new() } else { session.vfs.names().audit(before, left).await? };
        let Some((last, _)) = page.last() else { break };
        before = Some(*last);
        shown.extend(page.into_iter().map(|(number, record)| Shown { number, time: when(record.at), record }));
    }
    output::print(global.output, &shown, |shown| {
        let rows = shown.iter().map(|shown| {
            let by = &shown.record.by;
            let node = if by.node.get() == 0 { "-".to_owned() } else { by.node.get().to_string() };
            vec![shown.time.clone(), by.who.clone(), node, told(&shown.record.action), by.reason.clone()]
        });
        table(&["time", "who", "node", "what", "reason"], &[], rows)
    })?;
    Ok(Exit::Done)
}

fn told(action: &AuditAction) -> String {
    match action {
        AuditAction::TopologySet { version } => format!("topology apply: version {version}"),
        AuditAction::VolumeCreated { id, name, home } => format!("volume create {name} ({id}) at {home}"),
        AuditAction::VolumeSet { name, revision, home_before, home, .. } if home_before == home => {
            format!("volume set {name}: revision {revision}")
        }
        AuditAction::VolumeSet { name, revision, home_before, home, .. } => {
            format!("volume move {name}: {home_before} -> {home}, revision {revision}")
        }
        AuditAction::NodeAdded { id, site } => format!("node add {} at {site}", id.get()),
        AuditAction::NodeDrained { id, draining: true } => format!("node drain {}", id.get()),
        AuditAction::NodeDrained { id, draining: false } => format!("node drain {} --cancel", id.get()),
        AuditAction::NodeRemoved { id } => format!("node remove {}", id.get()),
        AuditAction::VolumePromoted { name, promotion, .. } => {
            format!("volume promote {name}: {}", promoted(promotion))
        }
        AuditAction::RootPromoted { promotion } => format!("promotion of the root group: {}", promoted(promotion)),
        AuditAction::AsideForgotten { name, node, line, .. } => {
            format!("volume aside {name} --node {} --forget {line}", node.get())
        }
        AuditAction::ReplicaTrusted { name, node, .. } => format!("volume trust {name} --node {}", node.get()),
        AuditAction::Restored { epoch } => format!("dr restore: epoch {}", epoch.get()),
    }
}

fn promoted(promotion: &PromotionRecord) -> String {
    let PromotionRecord { lineage, fork, last, seq, site, .. } = promotion;
    let (epoch, founder) = (lineage.epoch.get(), lineage.founder.get());
    format!("epoch {epoch} at {site}, node {founder}, from seq {fork} (last in a log: {last}), begins at {seq}")
}
