//! `causeway volume`

use bytes::Bytes;
use causeway_base::{ByteSize, SiteName};
use causeway_namespace::{Consistency, VolumeTotals};
use causeway_namespace_core::inode::INLINE_BYTES_MAX;
use causeway_namespace_core::root::{VolumeRecord, VolumeSpec};
use serde::Serialize;

use super::args::{Global, VolumeCommand};
use super::exit::{Exit, Failure};
use super::session::{Session, remote_path};
use crate::config::Config;
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
    voters: Vec<u64>,
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
            voters: spec.voters.iter().map(|node| node.get()).collect(),
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

/// What a volume is made of when nothing else is said: every node votes, home is a replica, the other sites are caches.
pub(crate) fn spec(config: &Config, name: &str, home: &SiteName) -> VolumeSpec {
    VolumeSpec {
        name: name.to_owned(),
        mount: Bytes::from(format!("/{name}")),
        home: home.clone(),
        voters: config.nodes().map(|node| node.node_id()).collect(),
        replicas: vec![home.clone()],
        caches: Vec::new(),
        archive: config.repository.is_some(),
        chunk_bytes_avg: 64 << 10,
        inline_bytes_max: INLINE_BYTES_MAX as u32,
        realm: "default".to_owned(),
    }
}

/// Every site that is not a replica.
pub(crate) fn other_sites(config: &Config, replicas: &[SiteName]) -> Vec<SiteName> {
    config.sites().map(|site| site.name.clone()).filter(|site| !replicas.contains(site)).collect()
}

pub(super) async fn run(global: &Global, command: VolumeCommand) -> anyhow::Result<Exit> {
    let session = Session::connect(global).await?;
    match command {
        VolumeCommand::Create { name, mount, home, replicas, caches, no_archive, chunk_size } => {
            let mut spec = spec(&session.config, &name, &home);
            if let Some(mount) = mount {
                spec.mount = remote_path(&mount)?.into();
            }
            if !replicas.is_empty() {
                spec.replicas = replicas;
            }
            spec.caches = if caches.is_empty() { other_sites(&session.config, &spec.replicas) } else { caches };
            spec.archive &= !no_archive;
            spec.chunk_bytes_avg = u32::try_from(chunk_size.bytes())
                .map_err(|_| Failure::error(Exit::Usage, "--chunk-size: 16KiB to 256KiB, a power of two"))?;
            let created = session.vfs.names().create_volume(spec).await?;
            print(global, created.into())?;
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
            ("voters", shown.voters.iter().map(u64::to_string).collect::<Vec<_>>().join(", ")),
            ("archived", if shown.archive { "yes" } else { "no" }.to_owned()),
            ("chunks", format!("{} on average, realm {}", ByteSize(u64::from(shown.chunk_bytes_avg)), shown.realm)),
        ];
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

fn join(sites: &[SiteName]) -> String {
    let names: Vec<_> = sites.iter().map(SiteName::as_str).collect();
    names.join(", ")
}
