//! `causeway store …`: the upkeep of a node's chunk store.

use causeway_base::{ByteSize, GcReport, NodeId, ScrubReport};
use causeway_namespace::Run;
use serde::Serialize;

use super::args::{Global, StoreCommand};
use super::exit::{Exit, Failure};
use super::session::Session;
use crate::output;

pub(super) async fn run(global: &Global, command: StoreCommand) -> anyhow::Result<Exit> {
    let session = Session::connect(global).await?;
    match command {
        StoreCommand::Gc { dry_run, node, grace } => {
            let run = session.vfs.names().store_gc(node.map(NodeId), dry_run, grace).await?;
            let (node, report) = done(run, "no chunks were collected")?;
            output::print(global.output, &Shown { node, report }, show_gc)?;
            Ok(Exit::Done)
        }
        StoreCommand::Scrub { node, now, deep } => {
            let run = session.vfs.names().store_scrub(node.map(NodeId), now, deep).await?;
            let (node, report) = done(run, "the scrub did not end")?;
            let bad = report.unhealed() > 0;
            let whole = report.unchecked.is_empty();
            output::print(global.output, &Shown { node, report }, show_scrub)?;
            Ok(match (bad, whole) {
                (true, _) => Exit::Damaged,
                (false, false) => Exit::Partial,
                (false, true) => Exit::Done,
            })
        }
        // Those work on a folder, and are run without a cluster.
        StoreCommand::Rebuild(_) | StoreCommand::Stats(_) => Err(Failure::error(Exit::Usage, "not a client command")),
    }
}

#[derive(Serialize)]
struct Shown<T> {
    node: u64,
    #[serde(flatten)]
    report: T,
}

fn done<T>(run: Run<T>, what: &str) -> anyhow::Result<(u64, T)> {
    let node = run.node;
    match run.outcome {
        Some(Ok(report)) => Ok((node.get(), report)),
        Some(Err(why)) => Err(Failure::error(Exit::Unavailable, format!("{what} on {node}: {why}"))),
        None => Err(Failure::error(Exit::Unknown, format!("{what} on {node}: it is still under way"))),
    }
}

fn show_gc(shown: &Shown<GcReport>) -> String {
    let GcReport {
        dry_run,
        epoch,
        chunks,
        bytes,
        condemned,
        condemned_bytes,
        waiting,
        leased,
        removed,
        removed_bytes,
        ..
    } = shown.report;
    let GcReport { packs, freed_bytes, moved_bytes, packs_full, packs_damaged, took, .. } = shown.report;
    let would = if dry_run { "would be " } else { "" };
    let mut text = format!(
        "node {}, epoch {epoch}: {chunks} chunks, {}; {:.1} s\n",
        shown.node,
        ByteSize(bytes),
        took.as_secs_f64()
    );
    text += &format!("{would}removed    {removed} chunks, {}\n", ByteSize(removed_bytes));
    text += &format!("{would}condemned  {condemned} chunks, {}: a later run removes them\n", ByteSize(condemned_bytes));
    text += &format!("waiting    {waiting} chunks condemned before, {leased} of them for an upload or a transfer\n");
    text += &format!(
        "{would}rewritten  {packs} packs: {} given back, {} written for it\n",
        ByteSize(freed_bytes),
        ByteSize(moved_bytes)
    );
    if packs_full > 0 {
        text += &format!("left       {packs_full} packs: the disk is too full to copy what lives in them\n");
    }
    if packs_damaged > 0 {
        text += &format!(
            "left       {packs_damaged} packs with damaged records: `causeway store scrub` names and heals them\n"
        );
    }
    text
}

fn show_scrub(shown: &Shown<ScrubReport>) -> String {
    let report = &shown.report;
    let mut text = format!(
        "node {}: {} packs, {}, {} records read; {:.1} s\n",
        shown.node,
        report.packs,
        ByteSize(report.bytes),
        report.chunks,
        report.took.as_secs_f64()
    );
    if report.verified > 0 {
        text += &format!("{} chunks compared with their names\n", report.verified);
    }
    for bad in &report.named {
        let what = if bad.corrupt { "corrupt" } else { "missing" };
        let state = bad.unhealed.as_ref().map_or_else(|| "healed".to_owned(), |why| format!("NOT healed: {why}"));
        text += &format!("{what} {}  {state}\n", bad.id);
        for file in &bad.files {
            text += &format!("  {file}\n");
        }
    }
    for volume in &report.unchecked {
        text += &format!("not checked: {volume}\n");
    }
    text += &match (report.bad, report.bad_packs) {
        (0, 0) => "all good\n".to_owned(),
        (bad, packs) => format!(
            "{bad} bad chunks, {} healed; {packs} packs with damage, {} rewritten\n",
            report.healed, report.rewritten
        ),
    };
    if report.unused > 0 {
        text += &format!("{} corrupt chunks belong to no file\n", report.unused);
    }
    text
}
