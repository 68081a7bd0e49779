//! `causeway volume aside`

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use causeway_base::{NodeId, Seq};
use causeway_namespace::client::NamespaceClient;
use causeway_namespace::{AsideLine, AsideSeq, Consistency};
use causeway_namespace_core::lineage::Lineage;
use causeway_namespace_core::root::VolumeRecord;
use causeway_vfs::{Located, Progress};
use serde::Serialize;

use super::args::Global;
use super::confirm::confirmed;
use super::exit::{Exit, Failure};
use super::session::Session;
use super::show::when;
use crate::output;

/// Giving up a state costs its size.
const FORGET_MIN: Duration = Duration::from_secs(120);

/// What one node keeps of one line.
#[derive(Serialize)]
struct Kept {
    node: u64,
    line: String,
    /// Everything up to here is also in what followed.
    fork: Option<Seq>,
    /// Known to be committed up to here.
    applied: Seq,
    /// The newest in the log.
    last: Seq,
    seqs: Vec<ShownSeq>,
}

#[derive(Serialize)]
struct Shown {
    volume: String,
    kept: Vec<Kept>,
    /// Nodes that could not be asked, and why.
    unasked: Vec<(u64, String)>,
}

/// A seq behind a fork.
#[derive(Serialize)]
pub(super) struct ShownSeq {
    seq: Seq,
    time: Option<String>,
    /// Whether the node knew it to be committed.
    committed: bool,
    changes: Vec<String>,
}

impl From<AsideSeq> for ShownSeq {
    fn from(seq: AsideSeq) -> Self {
        Self { seq: seq.seq, time: seq.at.map(when), committed: seq.applied, changes: seq.changes }
    }
}

impl ShownSeq {
    /// In lines.
    pub(super) fn told(&self) -> String {
        let time = self.time.as_deref().unwrap_or("-");
        let state = if self.committed { "" } else { "  (not known to be committed)" };
        let first = self.changes.first().map_or("nothing but the group's own", String::as_str);
        let mut text = format!("  {}  {time}  {first}{state}\n", self.seq);
        for change in self.changes.iter().skip(1) {
            text += &format!("      {change}\n");
        }
        text
    }
}

/// Everything behind the fork of a line at a node.
pub(super) async fn seqs(
    names: &NamespaceClient,
    name: &str,
    node: NodeId,
    line: Lineage,
) -> anyhow::Result<Vec<ShownSeq>> {
    let mut found = Vec::new();
    let mut after = Seq::ZERO;
    loop {
        let (page, end) = names.aside_seqs(name, node, line, after).await?;
        after = page.last().map_or(after, |last| last.seq);
        let is_last = end || page.is_empty();
        found.extend(page.into_iter().map(ShownSeq::from));
        if is_last {
            return Ok(found);
        }
    }
}

pub(super) async fn run(
    global: &Global,
    name: &str,
    node: Option<u64>,
    line: Option<&str>,
    export: Option<&Path>,
) -> anyhow::Result<Exit> {
    let session = Session::connect(global).await?;
    let line: Option<Lineage> = line
        .map(|line| line.parse().map_err(|error| Failure::error(Exit::Usage, format!("--line: {error}"))))
        .transpose()?;
    let names = session.vfs.names();
    let wanted = |lines: Vec<AsideLine>| -> Vec<AsideLine> {
        lines.into_iter().filter(|known| line.is_none_or(|line| known.lineage == line)).collect()
    };
    if let (Some(node), Some(target)) = (node, export) {
        let lines = wanted(names.aside_lines(name, Some(NodeId(node))).await?);
        let Some(newest) = lines.last() else {
            return Err(Failure::error(Exit::NotFound, format!("node {node} keeps nothing of volume {name} aside")));
        };
        let Some(of) = newest.of.clone() else {
            return Err(Failure::error(Exit::Usage, "the root group has no files".to_owned()));
        };
        let volume = VolumeRecord { id: newest.volume, ..of };
        return copy(global, &session, NodeId(node), volume, target).await;
    }
    let nodes: Vec<u64> = match node {
        Some(node) => vec![node],
        None => names.status().await?.nodes.into_iter().map(|report| report.node.id.get()).collect(),
    };
    let mut shown = Shown { volume: name.to_owned(), kept: Vec::new(), unasked: Vec::new() };
    for node in nodes {
        let lines = match names.aside_lines(name, Some(NodeId(node))).await {
            Ok(lines) => wanted(lines),
            Err(error) => {
                shown.unasked.push((node, error.to_string()));
                continue;
            }
        };
        for line in lines {
            let seqs = seqs(names, name, NodeId(node), line.lineage).await?;
            let AsideLine { lineage, fork, applied, last, .. } = line;
            shown.kept.push(Kept { node, line: lineage.to_string(), fork, applied, last, seqs });
        }
    }
    let partial = !shown.unasked.is_empty();
    output::print(global.output, &shown, told)?;
    Ok(if partial { Exit::Partial } else { Exit::Done })
}

/// Gives up what a node has of a line.
pub(super) async fn forget(
    global: &Global,
    name: &str,
    node: u64,
    line: &str,
    confirm: Option<&str>,
    reason: &str,
) -> anyhow::Result<Exit> {
    let lineage: Lineage = line.parse().map_err(|error| Failure::error(Exit::Usage, format!("--forget: {error}")))?;
    confirmed(name, confirm, || {
        format!(
            "What node {node} acknowledged alone of volume {name}, line {line}, will be gone for good, and bytes that nothing \
             else names with it.\n`causeway volume aside {name} --node {node} --export DIR` copies it out first."
        )
    })?;
    let session = Session::connect(global).await?;
    let names = session.vfs.names().with_deadline(global.timeout.max(FORGET_MIN));
    names.forget_aside(name, NodeId(node), lineage, reason).await?;
    output::print(global.output, &line, |line| format!("node {node} has given up line {line} of volume {name}"))?;
    Ok(Exit::Done)
}

fn told(shown: &Shown) -> String {
    let mut text = String::new();
    for kept in &shown.kept {
        let fork = kept.fork.map_or_else(|| "an unknown seq".to_owned(), |fork| format!("seq {fork}"));
        text += &format!(
            "node {}, line {}: behind {fork}; committed up to {}, in the log up to {}\n",
            kept.node, kept.line, kept.applied, kept.last
        );
        kept.seqs.iter().for_each(|seq| text += &seq.told());
    }
    if shown.kept.is_empty() {
        text += &format!("nothing of volume {} is aside\n", shown.volume);
    }
    for (node, why) in &shown.unasked {
        text += &format!("node {node} was not asked: {why}\n");
    }
    text
}

#[derive(Serialize)]
struct Copied {
    to: String,
    files: u64,
    left_out: Vec<String>,
}

/// Copies the tree of a state that a node keeps aside.
async fn copy(
    global: &Global,
    session: &Session,
    node: NodeId,
    volume: VolumeRecord,
    target: &Path,
) -> anyhow::Result<Exit> {
    // Only that node has it.
    let mut config = session.config.clone();
    config.nodes.retain(|known| known.get_ref().node_id() == node);
    if config.nodes.is_empty() {
        let message = format!("node {} is not in {}: run this where it is", node.get(), config.path.display());
        return Err(Failure::error(Exit::Usage, message));
    }
    let alone = Session::with(config, None, global.timeout).await?;
    let shown = format!("{} (aside)", volume.spec.name);
    let place = Located { volume, path: bytes::Bytes::new(), shown };
    let report = alone.vfs.export_at(&place, Consistency::Local, target, Arc::new(Progress::default())).await?;
    let left_out: Vec<String> = report.left_out.iter().map(|left| format!("{left:?}")).collect();
    let copied = Copied { to: target.display().to_string(), files: report.files, left_out };
    output::print(global.output, &copied, |copied| {
        let mut text = format!("{} files copied to {}\n", copied.files, copied.to);
        copied.left_out.iter().for_each(|left| text += &format!("left out: {left}\n"));
        text
    })?;
    Ok(if copied.left_out.is_empty() { Exit::Done } else { Exit::Partial })
}
