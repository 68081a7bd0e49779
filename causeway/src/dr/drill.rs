//! A restore, rehearsed: everything that `dr restore` does with the metadata, into a folder that goes away again.
//!
//! No node of it is started: a cluster with the old one's id and a raised epoch that publishes into the same repository would
//! fence the live one. So the state store is opened and asked by itself, and bytes come from the repository as `dr cat` reads
//! them.

use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use bytes::Bytes;
use causeway_base::{Clock as _, Ino, SystemClock, Timestamp, VolumeId};
use causeway_namespace_core::digest::Digest;
use causeway_namespace_core::inode::{Body, Content, Inode};
use causeway_namespace_core::records::Records as _;
use causeway_namespace_core::{encode, key, query};
use causeway_namespace_raft::StateView;
use causeway_repository::archive::IndexMode;
use causeway_repository::dr::ReadData;
use causeway_repository::{DrillRecord, DrilledVolume};

use super::image::{Image, VolumeImage, blocking};
use super::restore::{Restored, RestoredVolume, SeedTarget, new_record, restore_image, sites_of};
use crate::cli::args::RestoreArgs;
use crate::config::Config;
use crate::node::folder::DataFolder;

/// Records read at once.
const PAGE: usize = 4096;
/// Entries of the first listing.
const ENTRIES: usize = 1000;
/// Bytes of the first read.
const FIRST_BYTES: usize = 64 << 10;
/// Problems of a volume that are named.
const PROBLEMS: usize = 10;
/// For the certificates that nobody uses.
const CERTIFICATE_LIFE: Duration = Duration::from_secs(24 * 3600);

/// What is rehearsed.
pub(crate) struct Drill {
    /// Where the scratch folder is made.
    pub(crate) scratch: Option<PathBuf>,
    /// The share of the chunks that is read, 0 to 1.
    pub(crate) sample: f64,
    /// An older image is a gap.
    pub(crate) max_age: Option<Duration>,
}

/// What was read of a volume out of the restored store.
struct Read {
    records: u64,
    digest: Digest,
    /// A file whose bytes are in chunks, if there is any.
    file: Option<Inode>,
}

/// Rehearses a restore from the repository at `url`.
///
/// # Errors
/// There is no image of a cluster, or no place for the scratch folder. What is wrong with images is in the record.
pub(crate) async fn drill(url: &str, options: Drill) -> anyhow::Result<(Image, DrillRecord)> {
    let (at, started) = (SystemClock.now(), Instant::now());
    let image = Image::open(url).await?;
    let held = image.volumes().await?;
    let gaps = gaps_of(&image, &held, options.max_age);

    // All metadata, and the realm keys: for nobody else's eyes.
    let mut prefix = tempfile::Builder::new();
    prefix.prefix("causeway-drill-").permissions(std::fs::Permissions::from_mode(0o700));
    let scratch = match &options.scratch {
        Some(dir) => prefix.tempdir_in(dir).with_context(|| format!("make a folder in {}", dir.display()))?,
        None => prefix.tempdir().context("make a folder for temporary files")?,
    };
    let args = RestoreArgs {
        dir: scratch.path().join("restored"),
        // All nodes get the same: one shows it.
        sites: sites_of(&image).into_iter().take(1).collect(),
        host: "127.0.0.1".to_owned(),
        base_port: 0,
        certificate_life: CERTIFICATE_LIFE,
    };
    let mut times = Times { started, metadata_ms: 0, list_ms: None, byte_ms: None };
    let volumes = match restore_image(&image, url, args).await {
        Ok(restored) => look_at_all(&image, &held, &restored, &options, &mut times, at).await?,
        // A restore that fails is what a drill is there to find.
        Err(error) => held.iter().filter(|volume| is_archived(&image, volume)).map(|it| lost(it, &error)).collect(),
    };
    let close = tokio::task::spawn_blocking(move || scratch.close());
    if let Err(error) = close.await.context("a worker stopped")? {
        tracing::warn!(%error, "the scratch folder of the drill could not be removed");
    }
    let record = DrillRecord {
        cluster: image.root.cluster,
        at,
        took_ms: millis(started.elapsed()),
        metadata_ms: times.metadata_ms,
        list_ms: times.list_ms.unwrap_or(times.metadata_ms),
        byte_ms: times.byte_ms,
        volumes,
        gaps,
    };
    Ok((image, record))
}

/// Reads the restored store, and the archive beside it.
async fn look_at_all(
    image: &Image,
    held: &[VolumeImage],
    restored: &Restored,
    options: &Drill,
    times: &mut Times,
    at: Timestamp,
) -> anyhow::Result<Vec<DrilledVolume>> {
    times.metadata_ms = millis(times.started.elapsed());
    let store = open(&restored.load()?).await?;
    let mut volumes = Vec::new();
    for volume in held.iter().filter(|volume| is_archived(image, volume)) {
        let found = match &volume.damaged {
            None => look_at(image, &store, volume, &restored.volumes, options, times, at).await,
            Some(why) => Err(anyhow::anyhow!("{why}")),
        };
        volumes.push(found.unwrap_or_else(|error| lost(volume, &error)));
    }
    store.abandon().await;
    Ok(volumes)
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// Whether the volume's policy says that it is to have an image.
fn is_archived(image: &Image, volume: &VolumeImage) -> bool {
    let record = image.catalog.volumes.get(&VolumeId(volume.id));
    record.is_some_and(|record| record.spec.archive)
}

/// A volume whose image does not come back, or cannot be looked at.
fn lost(volume: &VolumeImage, error: &anyhow::Error) -> DrilledVolume {
    DrilledVolume {
        name: volume.volume.clone(),
        seq: volume.seq,
        age_ms: age_ms(volume),
        records: 0,
        digest_held: false,
        files: 0,
        chunks: 0,
        chunks_read: 0,
        bytes_read: 0,
        problem_count: 1,
        problems: vec![format!("{error:#}")],
    }
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // an age, in bounds
fn age_ms(volume: &VolumeImage) -> u64 {
    (volume.age_seconds.max(0.0) * 1000.0) as u64
}

/// What a restore would not bring back by the policies, or is older than it should be.
fn gaps_of(image: &Image, held: &[VolumeImage], max_age: Option<Duration>) -> Vec<String> {
    let mut gaps = Vec::new();
    for volume in held {
        match &volume.damaged {
            Some(why) if !is_archived(image, volume) => gaps.push(format!("volume {}: {why}", volume.volume)),
            None if max_age.is_some_and(|max| volume.age_seconds > max.as_secs_f64()) => {
                gaps.push(format!("volume {}: its image is {:.0} s old", volume.volume, volume.age_seconds));
            }
            Some(_) | None => {}
        }
    }
    gaps
}

async fn open(config: &Config) -> anyhow::Result<SeedTarget> {
    let section = config.nodes().next().context("the restored cluster has no node")?;
    let folder = DataFolder::claim(config.resolve(&section.data))?;
    SeedTarget::open(&new_record(section), folder, config).await
}

struct Times {
    started: Instant,
    metadata_ms: u64,
    list_ms: Option<u64>,
    byte_ms: Option<u64>,
}

async fn look_at(
    image: &Image,
    store: &SeedTarget,
    held: &VolumeImage,
    restored: &[RestoredVolume],
    options: &Drill,
    times: &mut Times,
    at: Timestamp,
) -> anyhow::Result<DrilledVolume> {
    let came = restored.iter().find(|volume| volume.volume == held.volume).context("it was not restored")?;
    let id = VolumeId(held.id);
    let view = store.view(id).await?;
    if times.list_ms.is_none() {
        let view = view.clone();
        blocking(move || Ok(query::readdir_plus(&view, Ino::ROOT, None, ENTRIES)?)).await?;
        times.list_ms = Some(millis(times.started.elapsed()));
    }
    let read = blocking(move || read_all(&view)).await?;

    let volume = image.reader.volume_of(image.root.cluster, id).await?;
    let mut unread = None;
    if let Some(file) = read.file.as_ref().filter(|_| times.byte_ms.is_none()) {
        let contents = image.contents(&volume, IndexMode::Lazy).await?;
        let len = FIRST_BYTES.min(usize::try_from(file.size()).unwrap_or(FIRST_BYTES));
        match contents.read(file, 0, len).await {
            Ok(_) => times.byte_ms = Some(millis(times.started.elapsed())),
            Err(error) => unread = Some(format!("first file: {:#}", anyhow::Error::from(error))),
        }
    }
    let contents = image.contents(&volume, IndexMode::Loaded).await?;
    let salt = u64::try_from(at.0 / (86_400 * 1_000_000_000)).unwrap_or(0);
    let share = ReadData::Share { share: options.sample, salt };
    let report = blocking(move || Ok(volume.verify(&contents, share)?)).await?;
    let name = |(ino, what): &(Ino, String)| format!("inode {}: {what}", ino.get());
    Ok(DrilledVolume {
        name: held.volume.clone(),
        seq: came.seq,
        age_ms: age_ms(held),
        records: read.records,
        digest_held: read.digest.to_string() == came.digest && read.records == came.records,
        files: report.files,
        chunks: report.chunks,
        chunks_read: report.chunks_read,
        bytes_read: report.bytes_read,
        problem_count: report.problem_count + u64::from(unread.is_some()),
        problems: unread.into_iter().chain(report.problems.iter().take(PROBLEMS).map(name)).collect(),
    })
}

/// Reads everything that the store has of a volume. Blocks.
fn read_all(view: &StateView) -> anyhow::Result<Read> {
    let mut read = Read { records: 0, digest: Digest::default(), file: None };
    let mut from = Bytes::new();
    loop {
        let page = view.scan(&from, &[0xff], PAGE)?;
        let last = page.last().map(|(key, _)| key.clone());
        let full = page.len() == PAGE;
        for (key, value) in page {
            read.records += 1;
            read.digest.add(&key, &value);
            if read.file.is_none() && key::inode_of(&key).is_some() {
                let inode: Inode = encode::record(&key, &value)?;
                let in_chunks = matches!(inode.body, Body::File(Content::Manifest(_)));
                read.file = (in_chunks && inode.size() > 0).then_some(inode);
            }
        }
        match last.filter(|_| full) {
            Some(last) => from = [&last[..], &[0]].concat().into(),
            None => return Ok(read),
        }
    }
}
