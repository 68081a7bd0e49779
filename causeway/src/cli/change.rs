//! `causeway volume set|plan|move`: changes of what is declared of a volume.

use std::time::{Duration, Instant};

use causeway_base::{Ino, SiteName, VolumeId};
use causeway_namespace::client::NamespaceClient;
use causeway_namespace::{Consistency, placement};
use causeway_namespace_core::command::{At, Expect, Op};
use causeway_namespace_core::root::{VolumeRecord, VolumeSpec};
use rand::Rng as _;
use serde::Serialize;

use super::args::{Global, VolumeChanges};
use super::exit::{Exit, Failure};
use super::moves::{Move, moves, shown};
use super::session::Session;
use super::topology::ids;
use super::volume::{residency_of, survive_of};
use crate::output;

/// Between two probes of a move: what is measured is that much more than what a writer sees, at most.
const PROBE: Duration = Duration::from_millis(2);

fn changed(spec: &VolumeSpec, changes: &VolumeChanges) -> VolumeSpec {
    let mut spec = spec.clone();
    if let Some(home) = &changes.home {
        move_home(&mut spec, home);
    }
    if !changes.replicas.is_empty() {
        spec.replicas = changes.replicas.clone();
        spec.caches.retain(|site| !changes.replicas.contains(site));
    }
    if !changes.caches.is_empty() {
        spec.caches = changes.caches.clone();
        spec.replicas.retain(|site| !changes.caches.contains(site));
    }
    if let Some(survive) = changes.survive {
        spec.survive = Some(survive_of(survive));
    }
    if let Some(residency) = residency_of(&changes.jurisdictions, &changes.regions) {
        spec.residency = residency;
    }
    spec
}

/// Home holds every byte; the old home goes on to do so.
fn move_home(spec: &mut VolumeSpec, home: &SiteName) {
    spec.home = home.clone();
    spec.caches.retain(|site| site != home);
    if !spec.replicas.contains(home) {
        spec.replicas.push(home.clone());
    }
}

async fn find(names: &NamespaceClient, name: &str) -> anyhow::Result<VolumeRecord> {
    Ok(names.volume(name, Consistency::Linearizable).await?.volume)
}

pub(super) async fn set(session: &Session, name: &str, changes: &VolumeChanges) -> anyhow::Result<VolumeRecord> {
    let names = session.vfs.names();
    // As the root group has it: the report may come from a node that has not seen the newest change.
    let id = find(names, name).await?.id;
    let volumes = names.volumes().await?;
    let Some(volume) = volumes.into_iter().find(|volume| volume.id == id) else {
        return Err(Failure::error(Exit::NotFound, format!("there is no volume {name:?}")));
    };
    Ok(names.set_volume(volume.id, volume.revision, changed(&volume.spec, changes)).await?)
}

#[derive(Debug, Serialize)]
struct Plan {
    volume: String,
    voters: Vec<u64>,
    witnesses: Vec<u64>,
    learners: Vec<u64>,
    commit_micros: u64,
    commit_micros_after_failure: u64,
    moves: Vec<Move>,
}

pub(super) async fn plan(
    global: &Global,
    session: &Session,
    name: &str,
    changes: &VolumeChanges,
) -> anyhow::Result<Exit> {
    let names = session.vfs.names();
    let report = names.volume(name, Consistency::Linearizable).await?;
    let (before, after) = (&report.volume.spec, changed(&report.volume.spec, changes));
    let Some(survive) = after.survive else {
        let message =
            format!("volume {name} does not say what it survives: its voters stay as they are; add --survive");
        return Err(Failure::error(Exit::Usage, message));
    };
    let (record, nodes) = names.topology().await?;
    let refused = |error: placement::PlaceError| Failure::error(Exit::Refused, error.to_string());
    let topology = placement::topology(&record, &nodes).map_err(refused)?;
    let found = placement::plan(&topology, &after, survive).map_err(refused)?;
    let after = placement::placed(&after, &found);
    let list = |nodes: &[causeway_base::NodeId]| nodes.iter().map(|node| node.get()).collect();
    let micros = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
    let plan = Plan {
        volume: name.to_owned(),
        voters: list(&found.voters),
        witnesses: list(&found.witnesses),
        learners: list(&found.learners),
        commit_micros: micros(found.commit_latency),
        commit_micros_after_failure: micros(found.commit_latency_degraded),
        moves: moves(&topology, &nodes, before, &after, &report.totals.value),
    };
    output::print(global.output, &plan, |plan| {
        format!(
            "voters      {} (now {})\nwitnesses   {}\nlearners    {} (now {})\na commit    waits {:?} at home, {:?} after \
             the loss of a {survive}\n\n{}",
            ids(&found.voters),
            ids(&before.voters),
            ids(&found.witnesses),
            ids(&found.learners),
            ids(&before.learners),
            found.commit_latency,
            found.commit_latency_degraded,
            shown(&plan.moves)
        )
    })?;
    Ok(Exit::Done)
}

#[derive(Debug, Serialize)]
struct Moved {
    volume: String,
    home: SiteName,
    leader: u64,
    seconds: f64,
    probes: u64,
    median_write_ms: f64,
    longest_write_ms: f64,
}

/// Moves home, with writes going on: each probe is a removal of a name that does not exist, which goes through the log as any
/// write does and changes nothing.
pub(super) async fn go(
    global: &Global,
    session: &Session,
    name: &str,
    home: &SiteName,
    deadline: Duration,
) -> anyhow::Result<Exit> {
    let names = session.vfs.names();
    let id = find(names, name).await?.id;
    let probe_name = format!(".causeway-probe-{:016x}", rand::rng().random::<u64>());
    let mut times = vec![probe(names, id, &probe_name).await?];
    let changes = VolumeChanges {
        home: Some(home.clone()),
        survive: None,
        replicas: Vec::new(),
        caches: Vec::new(),
        jurisdictions: Vec::new(),
        regions: Vec::new(),
    };
    let started = Instant::now();
    let moving = async {
        let volume = set(session, name, &changes).await?;
        loop {
            let report = names.volume(name, Consistency::Linearizable).await?;
            let (_, nodes) = names.topology().await?;
            let leader = report.leader.filter(|leader| nodes.iter().any(|n| n.id == *leader && n.site == *home));
            if let Some(leader) = leader.filter(|_| report.volume.revision >= volume.revision) {
                return anyhow::Ok(leader);
            }
            if started.elapsed() > deadline {
                let message = format!("volume {name} is not led from {home} after {deadline:?}; the move goes on");
                return Err(Failure::error(Exit::Unavailable, message));
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::pin!(moving);
    let leader = loop {
        tokio::select! {
            leader = &mut moving => break leader?,
            time = async {
                tokio::time::sleep(PROBE).await;
                probe(names, id, &probe_name).await
            } => times.push(time?),
        }
    };
    let seconds = started.elapsed().as_secs_f64();
    times.push(probe(names, id, &probe_name).await?);
    times.sort_unstable();
    let ms = |time: Duration| time.as_secs_f64() * 1e3;
    let moved = Moved {
        volume: name.to_owned(),
        home: home.clone(),
        leader: leader.get(),
        seconds,
        probes: times.len() as u64,
        median_write_ms: ms(times[times.len() / 2]),
        longest_write_ms: times.last().copied().map_or(0.0, ms),
    };
    output::print(global.output, &moved, |moved| {
        format!(
            "volume {} is at home at {}, led by node {}, after {:.1} s\nlongest write while it moved: {:.0} ms (median {:.1} \
             ms, {} writes)",
            moved.volume,
            moved.home,
            moved.leader,
            moved.seconds,
            moved.longest_write_ms,
            moved.median_write_ms,
            moved.probes
        )
    })?;
    Ok(Exit::Done)
}

/// How long one write takes.
async fn probe(names: &NamespaceClient, volume: VolumeId, name: &str) -> anyhow::Result<Duration> {
    let at = At { dir: Ino::ROOT, path: name.to_owned().into() };
    let started = Instant::now();
    match names.mutate(volume, vec![Op::Unlink { at, expect: Expect::Any }]).await {
        Err(error) if error.refusal().is_some() => Ok(started.elapsed()),
        Ok(_) => Ok(started.elapsed()),
        Err(error) => Err(error.into()),
    }
}
