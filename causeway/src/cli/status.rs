//! `causeway status` and `causeway sync wait`

use std::time::Duration;

use causeway_base::{ByteSize, Clock as _, NodeId, Seq, SystemClock, Timestamp};
use causeway_namespace::{ClusterStatus, Consistency, GroupReport, SyncTarget};
use serde::Serialize;

use super::args::{Global, SyncCommand};
use super::exit::Exit;
use super::session::Session;
use crate::output::{self, table};

pub(super) async fn status(global: &Global) -> anyhow::Result<Exit> {
    let session = Session::connect(global).await?;
    let status = session.vfs.names().status().await?;
    let volumes = session.vfs.names().volumes().await?;
    let all_up = status.nodes.iter().all(|node| node.status.is_ok());
    output::print(global.output, &status, |status| {
        let name = |volume: causeway_base::VolumeId| {
            let found = volumes.iter().find(|known| known.id == volume);
            found.map_or_else(|| "(root)".to_owned(), |volume| volume.spec.name.clone())
        };
        let mut text = format!("cluster {} epoch {}\n", status.cluster, status.epoch.get());
        text.push_str(&super::divergence::told(status, name));
        let nodes = status.nodes.iter().map(|report| {
            let node = &report.node;
            let (state, uptime) = match &report.status {
                Ok(up) => ("up".to_owned(), format!("{} s", up.uptime.as_secs())),
                Err(why) => (format!("unreachable: {why}"), String::new()),
            };
            let stores = report.status.iter().flat_map(|up| &up.stores);
            let stores: Vec<_> = stores
                .map(|store| format!("{} {} ({})", store.name, ByteSize(store.stored_bytes), store.state))
                .collect();
            vec![node.id.get().to_string(), node.site.to_string(), state, uptime, stores.join("; ")]
        });
        text.push_str(&table(&["node", "site", "state", "up for", "stores"], &[0, 3], nodes));
        let mut groups = Vec::new();
        for report in &status.nodes {
            let Ok(up) = &report.status else { continue };
            for group in &up.groups {
                let watermark = up.watermark(group.volume).map_or_else(String::new, |mark| match &mark.stalled {
                    None if mark.seq >= group.applied => format!("in sync up to {}", mark.seq),
                    None => format!("{} ({} chunks owed)", mark.seq, mark.missing_chunks),
                    Some(why) => format!("{} stalled: {why}", mark.seq),
                });
                let archive = up.archives.iter().find(|archive| archive.volume == group.volume);
                let archived = archive.map_or_else(String::new, |archive| match &archive.stalled {
                    None => archive.seq.to_string(),
                    Some(why) => format!("{} stalled: {why}", archive.seq),
                });
                groups.push(vec![
                    name(group.volume),
                    report.node.site.to_string(),
                    role(report.node.id, group).to_owned(),
                    group.term.to_string(),
                    group.applied.to_string(),
                    group.digest.chars().take(12).collect(),
                    watermark,
                    archived,
                    group.stopped.clone().unwrap_or_default(),
                ]);
            }
        }
        groups.sort();
        text.push('\n');
        let header = ["volume", "site", "role", "term", "seq", "digest", "data", "archived", "stopped"];
        text.push_str(&table(&header, &[3, 4], groups));
        text.push('\n');
        text.push_str(&upkeep(status));
        text.push_str(&deltas(status));
        text
    })?;
    let diverged = status.groups().any(|(_, group)| group.digests.divergence.is_some());
    Ok(match (diverged, all_up) {
        (true, _) => Exit::Damaged,
        (false, true) => Exit::Done,
        (false, false) => Exit::Partial,
    })
}

/// What a node is to a group.
fn role(node: NodeId, group: &GroupReport) -> &'static str {
    if group.leader == Some(node) {
        "leader"
    } else if group.voters.contains(&node) {
        "voter"
    } else if group.learners.contains(&node) {
        "learner"
    } else {
        ""
    }
}

/// The upkeep of the chunk stores.
fn upkeep(status: &ClusterStatus) -> String {
    let ago = |at: Timestamp| match at {
        Timestamp(0) => "never".to_owned(),
        at => format!("{} ago", humantime::format_duration(Duration::from_secs(SystemClock.now().since(at).as_secs()))),
    };
    let rows = status.nodes.iter().filter_map(|report| {
        let upkeep = report.status.as_ref().ok()?.upkeep.as_ref()?;
        let gc = match (&upkeep.gc_error, &upkeep.gc_last) {
            (Some(why), _) => format!("stopped: {why}"),
            (None, Some(last)) => format!("epoch {}, {}", last.epoch, ago(upkeep.gc_last_at)),
            (None, None) => "none since the start".to_owned(),
        };
        let running = if upkeep.gc_running { " (running)" } else { "" };
        let scrub = match &upkeep.scrub_error {
            Some(why) => format!("held up: {why}"),
            None => format!("{} passes, last {}", upkeep.scrub_passes, ago(upkeep.scrub_completed_at)),
        };
        Some(vec![
            report.node.id.get().to_string(),
            format!("{gc}{running}"),
            upkeep.condemned.to_string(),
            ByteSize(upkeep.freed_bytes).to_string(),
            scrub,
            format!("{} found, {} healed, {} not", upkeep.scrub_found, upkeep.scrub_healed, upkeep.unhealed),
        ])
    });
    table(&["node", "gc", "condemned", "freed", "scrub", "bad chunks"], &[0, 2, 3], rows)
}

/// What crossed as differences, and what that saved; nothing if nothing did.
fn deltas(status: &ClusterStatus) -> String {
    let up = status.nodes.iter().filter_map(|report| Some((report.node.id, report.status.as_ref().ok()?)));
    let rows: Vec<_> = up
        .flat_map(|(node, up)| up.transfers.iter().map(move |transfer| (node, transfer)))
        .filter(|(_, transfer)| transfer.sent_deltas.count + transfer.received_deltas.count > 0)
        .map(|(node, transfer)| {
            let (sent, received) = (transfer.sent_deltas, transfer.received_deltas);
            vec![
                node.get().to_string(),
                transfer.place.clone(),
                transfer.cause.clone(),
                format!("{}, {}", sent.count, ByteSize(sent.bytes)),
                ByteSize(sent.saved()).to_string(),
                format!("{}, {}", received.count, ByteSize(received.bytes)),
                ByteSize(received.saved()).to_string(),
            ]
        })
        .collect();
    if rows.is_empty() {
        return String::new();
    }
    let header = ["node", "with", "for", "deltas sent", "saved", "deltas received", "saved"];
    format!("\n{}", table(&header, &[0, 3, 4, 5, 6], rows))
}

#[derive(Serialize)]
struct Waited {
    volume: String,
    site: String,
    reached: bool,
    watermark: u64,
    seq: u64,
    seconds: f64,
}

pub(super) async fn sync(global: &Global, command: SyncCommand) -> anyhow::Result<Exit> {
    let SyncCommand::Wait { volume, at, archive: _, seq, deadline } = command;
    let session = Session::connect(global).await?;
    let names = session.vfs.names();
    let id = names.volume(&volume, Consistency::Linearizable).await?.volume.id;
    let started = std::time::Instant::now();
    let site = at.as_ref().map_or_else(|| "the repository".to_owned(), ToString::to_string);
    let target = at.map_or(SyncTarget::Archive, SyncTarget::Site);
    let waited = names.sync_wait(id, target, seq.map(Seq), deadline).await?;
    let waited = Waited {
        volume,
        site,
        reached: waited.reached,
        watermark: waited.watermark.get(),
        seq: waited.seq.get(),
        seconds: started.elapsed().as_secs_f64(),
    };
    output::print(global.output, &waited, |waited| {
        if waited.reached {
            format!(
                "{}: {} is verified in sync up to seq {} ({:.1} s)",
                waited.volume, waited.site, waited.watermark, waited.seconds
            )
        } else {
            format!(
                "{}: {} holds everything up to seq {} only, {} was asked for; `causeway status` shows what is owed",
                waited.volume, waited.site, waited.watermark, waited.seq
            )
        }
    })?;
    Ok(if waited.reached { Exit::Done } else { Exit::Unavailable })
}
