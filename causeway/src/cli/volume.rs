//! `causeway volume`

use bytes::Bytes;
use causeway_base::{ByteSize, SiteName};
use causeway_namespace::{Consistency, VolumeTotals};
use causeway_namespace_core::inode::INLINE_BYTES_MAX;
use causeway_namespace_core::root::{VolumeRecord, VolumeSpec};
use causeway_topology::{Jurisdiction, RegionName, Residency, Survive};
use serde::Serialize;

use super::args::{Global, SurviveArg, VolumeCommand};
use super::exit::{Exit, Failure};
use super::session::{Session, remote_path};
use crate::config::{Config, Role};
use crate::output::{self, show_name, table};

#[derive(Serialize)]
struct Shown {
    name: String,
    id: u64,
    epoch: u64,
    mount: String,
    home: SiteName,
    replicas: Vec<SiteName>,
    caches: Vec<SiteName>,
    survive: Option<Survive>,
    residency: Residency,
    revision: u64,
    voters: Vec<u64>,
    learners: Vec<u64>,
    /// Nodes that it still has to leave.
    leaving: Vec<u64>,
    archive: bool,
    realm: String,
    chunk_bytes_avg: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    state: Option<State>,
}

#[derive(Serialize)]
struct State {
    seq: u64,
    leader: Option<u64>,
    digest: String,
    totals: VolumeTotals,
}

impl From<VolumeRecord> for Shown {
    fn from(volume: VolumeRecord) -> Self {
        let spec = volume.spec;
        Self {
            id: volume.id.get(),
            epoch: volume.epoch.get(),
            mount: show_name(&spec.mount),
            survive: spec.survive,
            residency: spec.residency.clone(),
            revision: volume.revision,
            voters: spec.voters.iter().map(|node| node.get()).collect(),
            learners: spec.learners.iter().map(|node| node.get()).collect(),
            leaving: {
                let placed: Vec<_> = spec.placed().collect();
                volume.members.iter().filter(|node| !placed.contains(node)).map(|node| node.get()).collect()
            },
            name: spec.name,
            home: spec.home,
            replicas: spec.replicas,
            caches: spec.caches,
            archive: spec.archive,
            realm: spec.realm,
            chunk_bytes_avg: spec.chunk_bytes_avg,
            state: None,
        }
    }
}

/// What a volume is made of when nothing else is said: the cluster places it, home is a replica, the other sites are caches.
pub(crate) fn spec(config: &Config, name: &str, home: &SiteName) -> VolumeSpec {
    VolumeSpec {
        name: name.to_owned(),
        mount: Bytes::from(format!("/{name}")),
        home: home.clone(),
        survive: None,
        residency: Default::default(),
        learners: Vec::new(),
        // The cluster places them.
        voters: Vec::new(),
        replicas: vec![home.clone()],
        caches: Vec::new(),
        archive: config.repository.is_some(),
        chunk_bytes_avg: 64 << 10,
        inline_bytes_max: INLINE_BYTES_MAX as u32,
        realm: "default".to_owned(),
    }
}

/// Every site that can hold file data and is not a replica.
pub(crate) fn other_sites(config: &Config, replicas: &[SiteName]) -> Vec<SiteName> {
    let holds_data = |site: &SiteName| config.nodes().any(|node| node.site == *site && node.role == Role::Full);
    let sites = config.sites().map(|site| site.name.clone());
    sites.filter(|site| !replicas.contains(site) && holds_data(site)).collect()
}

pub(super) async fn run(global: &Global, command: VolumeCommand) -> anyhow::Result<Exit> {
    match command {
        VolumeCommand::Promote { name, site, confirm, root, reason } => {
            let asked = super::promote::Asked { name, site, confirm, root, reason };
            return super::promote::promote(global, asked).await;
        }
        VolumeCommand::Aside { name, node: Some(node), forget: Some(line), confirm, reason, .. } => {
            return super::aside::forget(global, &name, node, &line, confirm.as_deref(), &reason).await;
        }
        VolumeCommand::Aside { name, node, line, export, .. } => {
            return super::aside::run(global, &name, node, line.as_deref(), export.as_deref()).await;
        }
        VolumeCommand::Trust { name, node, reason, confirm } => {
            return super::divergence::trust(global, &name, node, &reason, confirm.as_deref()).await;
        }
        _ => {}
    }
    let session = Session::connect(global).await?;
    match command {
        VolumeCommand::Create {
            name,
            mount,
            home,
            replicas,
            caches,
            survive,
            jurisdictions,
            regions,
            no_archive,
            chunk_size,
        } => {
            let mut spec = spec(&session.config, &name, &home);
            if let Some(mount) = mount {
                spec.mount = remote_path(&mount)?.into();
            }
            if !replicas.is_empty() {
                spec.replicas = replicas;
            }
            spec.caches = if caches.is_empty() { other_sites(&session.config, &spec.replicas) } else { caches };
            spec.archive &= !no_archive;
            spec.survive = survive.map(survive_of);
            spec.residency = residency_of(&jurisdictions, &regions).unwrap_or_default();
            spec.chunk_bytes_avg = u32::try_from(chunk_size.bytes())
                .map_err(|_| Failure::error(Exit::Usage, "--chunk-size: 16KiB to 256KiB, a power of two"))?;
            let created = session.vfs.names().create_volume(spec).await?;
            print(global, created.into())?;
        }
        VolumeCommand::Set { name, changes } => {
            let set = super::change::set(&session, &name, &changes).await?;
            print(global, set.into())?;
        }
        VolumeCommand::Plan { name, changes } => return super::change::plan(global, &session, &name, &changes).await,
        VolumeCommand::Verify { name, node } => return super::divergence::verify(global, &session, &name, node).await,
        VolumeCommand::Repair { name, node } => return super::divergence::repair(global, &session, &name, node).await,
        VolumeCommand::Move { name, home, deadline } => {
            return super::change::go(global, &session, &name, &home, deadline).await;
        }
        VolumeCommand::Show { name } => {
            let report = session.vfs.names().volume(&name, Consistency::Linearizable).await?;
            let state = State {
                seq: report.totals.state.seq.get(),
                leader: report.leader.map(|node| node.get()),
                digest: report.digest,
                totals: report.totals.value,
            };
            print(global, Shown { state: Some(state), ..report.volume.into() })?;
        }
        // Done above.
        VolumeCommand::Promote { .. } | VolumeCommand::Aside { .. } | VolumeCommand::Trust { .. } => {}
        VolumeCommand::List => {
            let volumes: Vec<Shown> = session.vfs.names().volumes().await?.into_iter().map(Shown::from).collect();
            output::print(global.output, &volumes, |volumes| {
                let rows = volumes.iter().map(|volume| {
                    vec![
                        volume.name.clone(),
                        volume.mount.clone(),
                        volume.home.to_string(),
                        join(&volume.replicas),
                        join(&volume.caches),
                        if volume.archive { "yes" } else { "no" }.to_owned(),
                    ]
                });
                table(&["volume", "mounted at", "home", "replicas", "caches", "archived"], &[], rows)
            })?;
        }
    }
    Ok(Exit::Done)
}

fn print(global: &Global, shown: Shown) -> anyhow::Result<()> {
    output::print(global.output, &shown, |shown| {
        let mut rows = vec![
            ("volume", format!("{} (id {}, epoch {})", shown.name, shown.id, shown.epoch)),
            ("mounted at", shown.mount.clone()),
            ("home", shown.home.to_string()),
            ("replicas", join(&shown.replicas)),
            ("caches", join(&shown.caches)),
            (
                "survives",
                shown.survive.map_or_else(|| "as its voters are".to_owned(), |it| format!("the loss of any one {it}")),
            ),
            ("may lie", residency(&shown.residency)),
            ("voters", numbers(&shown.voters)),
            ("learners", numbers(&shown.learners)),
            ("archived", if shown.archive { "yes" } else { "no" }.to_owned()),
            ("chunks", format!("{} on average, realm {}", ByteSize(u64::from(shown.chunk_bytes_avg)), shown.realm)),
        ];
        if !shown.leaving.is_empty() {
            rows.push(("leaving", format!("node {}: the group is moving", numbers(&shown.leaving))));
        }
        if let Some(state) = &shown.state {
            let totals = &state.totals;
            rows.push(("seq", state.seq.to_string()));
            rows.push(("leader", state.leader.map_or_else(|| "none".to_owned(), |node| format!("node {node}"))));
            rows.push((
                "holds",
                format!(
                    "{} files, {} folders, {} symlinks, {}",
                    totals.files,
                    totals.directories,
                    totals.symlinks,
                    ByteSize(totals.logical_bytes)
                ),
            ));
            rows.push(("digest", state.digest.clone()));
        }
        rows.iter().map(|(name, value)| format!("{name:<11} {value}\n")).collect()
    })
}

fn numbers(list: &[u64]) -> String {
    list.iter().map(u64::to_string).collect::<Vec<_>>().join(", ")
}

fn residency(residency: &Residency) -> String {
    let join = |names: Vec<String>| names.join(", ");
    match residency {
        Residency::Anywhere => "anywhere".to_owned(),
        Residency::Jurisdictions(names) => {
            format!("in jurisdictions {}", join(names.iter().map(ToString::to_string).collect()))
        }
        Residency::Regions(names) => format!("in regions {}", join(names.iter().map(ToString::to_string).collect())),
    }
}

pub(super) fn residency_of(jurisdictions: &[Jurisdiction], regions: &[RegionName]) -> Option<Residency> {
    match (jurisdictions, regions) {
        ([], []) => None,
        ([], regions) => Some(Residency::Regions(regions.iter().cloned().collect())),
        (jurisdictions, _) => Some(Residency::Jurisdictions(jurisdictions.iter().cloned().collect())),
    }
}

pub(super) fn survive_of(survive: SurviveArg) -> Survive {
    match survive {
        SurviveArg::Node => Survive::Node,
        SurviveArg::Site => Survive::Site,
        SurviveArg::Region => Survive::Region,
    }
}

fn join(sites: &[SiteName]) -> String {
    let names: Vec<_> = sites.iter().map(SiteName::as_str).collect();
    names.join(", ")
}
