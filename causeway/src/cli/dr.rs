//! `causeway dr`

use std::io::Write as _;
use std::path::PathBuf;

use causeway_base::{ByteSize, Clock as _, SystemClock, Timestamp};
use causeway_namespace::Place;
use causeway_namespace_core::inode::FileKind;
use causeway_repository::archive::IndexMode;
use causeway_repository::dr::ReadData;
use serde::Serialize;

use super::args::{DrCommand, Global, RepositoryArg};
use super::dr_drill::{self, LastDrill};
use super::dr_find::{Wanted, find};
use super::exit::{Exit, Failure};
use super::session::remote_path;
use super::show::{ListRow, listing};
use crate::config::Config;
use crate::dr::{Drill, Image, VolumeImage, restore};
use crate::output::{self, show_name, table};

/// Bytes of a file that `cat` holds at once.
const CAT_BYTES: usize = 4 << 20;

/// The repository named, or the configuration's.
fn url(global: &Global, at: &RepositoryArg) -> anyhow::Result<String> {
    if let Some(url) = &at.repository {
        return Ok(url.clone());
    }
    let hint = "name the repository with --repository or CAUSEWAY_REPOSITORY";
    let config =
        Config::load(&global.config).map_err(|error| Failure::error(Exit::Usage, format!("{hint}\n  ({error})")))?;
    config.repository_url().ok_or_else(|| Failure::error(Exit::Usage, hint))
}

pub(super) async fn run(global: &Global, command: DrCommand) -> anyhow::Result<Exit> {
    match command {
        DrCommand::Status { at } => status(global, &url(global, &at)?).await,
        DrCommand::Ls { at, path, long, recursive } => ls(global, &url(global, &at)?, &path, long, recursive).await,
        DrCommand::Cat { at, path, offset, length } => cat(&url(global, &at)?, &path, offset, length).await,
        DrCommand::Verify { at, read_data, read_data_subset } => {
            let read = match read_data_subset {
                _ if read_data => ReadData::All,
                Some(share) => ReadData::Share { share, salt: today() },
                None => ReadData::No,
            };
            verify(global, &url(global, &at)?, read).await
        }
        DrCommand::Find { at, path, name, kind, at_least, newer, long } => {
            let ago = |age: std::time::Duration| i64::try_from(age.as_nanos()).unwrap_or(i64::MAX);
            let since = newer.map(|age| Timestamp(SystemClock.now().0.saturating_sub(ago(age))));
            let wanted = Wanted { name, kind, at_least: at_least.map(ByteSize::bytes), since };
            find(global, &url(global, &at)?, &path, wanted, long).await
        }
        DrCommand::Drill { at, scratch, sample, max_age, no_record } => {
            let options = Drill { scratch, sample, max_age };
            dr_drill::run(global, &url(global, &at)?, options, !no_record).await
        }
        DrCommand::Export { at, path, local } => export(global, &url(global, &at)?, &path, local).await,
        DrCommand::Restore { at, init } => {
            let restored = restore(&url(global, &at)?, init).await?;
            output::print(global.output, &restored, |restored| {
                format!(
                    "restored {} volumes, {} records, in {:.1} s: epoch {}\n\nstart it:\n  causeway dev {}\n  export CAUSEWAY_CONFIG={}\n",
                    restored.volumes.len(),
                    restored.volumes.iter().map(|volume| volume.records).sum::<u64>(),
                    restored.seconds,
                    restored.epoch,
                    restored.dir,
                    restored.config,
                )
            })?;
            Ok(Exit::Done)
        }
    }
}

#[derive(Serialize)]
struct Status {
    repository: String,
    cluster: String,
    epoch: u64,
    volumes: Vec<VolumeImage>,
    /// The last rehearsed restore, if there was one.
    last_drill: Option<LastDrill>,
    /// Why a restore may not bring everything back; nothing if it would.
    not_ready: Vec<String>,
}

async fn status(global: &Global, url: &str) -> anyhow::Result<Exit> {
    let image = Image::open(url).await?;
    let status = Status {
        repository: url.to_owned(),
        cluster: image.root.cluster.to_string(),
        epoch: image.root.epoch.get(),
        volumes: image.volumes().await?,
        last_drill: None,
        not_ready: Vec::new(),
    };
    let whole = status.volumes.iter().all(|volume| volume.damaged.is_none());
    let last_drill = dr_drill::last(&image).await;
    let not_ready = dr_drill::not_ready(&status.volumes, &last_drill);
    let status = Status { last_drill: last_drill.ok().flatten(), not_ready, ..status };
    output::print(global.output, &status, |status| {
        let rows = status.volumes.iter().map(|volume| {
            vec![
                volume.volume.clone(),
                volume.mount.clone(),
                volume.seq.to_string(),
                format!("{}/{}", volume.epoch, volume.term),
                format!("{:.0} s", volume.age_seconds),
                volume.files.to_string(),
                ByteSize(volume.logical_bytes).to_string(),
                ByteSize(volume.image_bytes).to_string(),
                volume.digest.chars().take(12).collect(),
                volume.damaged.clone().unwrap_or_else(|| "readable".to_owned()),
            ]
        });
        let header = [
            "volume",
            "mounted at",
            "seq",
            "epoch/term",
            "age",
            "files",
            "logical",
            "metadata image",
            "digest",
            "state",
        ];
        let table = table(&header, &[2, 4, 5, 6, 7], rows);
        let drill = status.last_drill.as_ref().map_or_else(|| "never".to_owned(), LastDrill::line);
        let ready = match status.not_ready.as_slice() {
            [] => "ready to be restored\n".to_owned(),
            reasons => reasons.iter().map(|reason| format!("not ready: {reason}\n")).collect(),
        };
        format!(
            "cluster {} epoch {} in {}\n{table}\nlast drill: {drill}\n{ready}",
            status.cluster, status.epoch, status.repository
        )
    })?;
    Ok(if whole { Exit::Done } else { Exit::Partial })
}

async fn ls(global: &Global, url: &str, path: &str, long: bool, recursive: bool) -> anyhow::Result<Exit> {
    let image = Image::open(url).await?;
    let path = remote_path(path)?;
    let rows: Vec<ListRow> = match image.resolve(&path)? {
        Place::Above { names } => names.iter().map(|name| ListRow::mount(name)).collect(),
        _ => {
            let found = image.locate(&path).await?;
            found.list(recursive).await?.iter().map(|(name, inode)| ListRow::new(name, inode)).collect()
        }
    };
    output::print(global.output, &rows, |rows| listing(rows, long))?;
    Ok(Exit::Done)
}

async fn cat(url: &str, path: &str, offset: u64, length: Option<u64>) -> anyhow::Result<Exit> {
    let image = Image::open(url).await?;
    let found = image.locate(&remote_path(path)?).await?;
    let inode = found.stat().await?;
    if inode.kind() != FileKind::File {
        return Err(Failure::error(Exit::Refused, format!("{path} is no file")));
    }
    let contents = image.contents(&found.volume, IndexMode::Lazy).await?;
    let end = offset.saturating_add(length.unwrap_or(u64::MAX)).min(inode.size());
    let mut at = offset;
    let mut stdout = std::io::stdout().lock();
    while at < end {
        let part = usize::try_from(end - at).unwrap_or(CAT_BYTES).min(CAT_BYTES);
        let bytes = contents.read(&inode, at, part).await?;
        stdout.write_all(&bytes)?;
        at += bytes.len() as u64;
    }
    stdout.flush()?;
    Ok(Exit::Done)
}

#[derive(Serialize)]
struct Verified {
    volume: String,
    seq: u64,
    records: u64,
    files: u64,
    chunks: u64,
    chunks_read: u64,
    bytes_read: u64,
    problem_count: u64,
    problems: Vec<String>,
}

/// The day, so that shares of the chunks differ from day to day.
fn today() -> u64 {
    u64::try_from(SystemClock.now().0 / (86_400 * 1_000_000_000)).unwrap_or(0)
}

async fn verify(global: &Global, url: &str, read: ReadData) -> anyhow::Result<Exit> {
    let image = Image::open(url).await?;
    let mut all = Vec::new();
    for record in image.catalog.volumes.values().filter(|record| record.spec.archive) {
        let volume = image.reader.volume_of(image.root.cluster, record.id).await?;
        let contents = image.contents(&volume, IndexMode::Loaded).await?;
        let seq = volume.head().seq.get();
        let report = crate::dr::blocking(move || Ok(volume.verify(&contents, read)?)).await?;
        all.push(Verified {
            volume: record.spec.name.clone(),
            seq,
            records: report.records,
            files: report.files,
            chunks: report.chunks,
            chunks_read: report.chunks_read,
            bytes_read: report.bytes_read,
            problem_count: report.problem_count,
            problems: report.problems.iter().map(|(ino, what)| format!("inode {}: {what}", ino.get())).collect(),
        });
    }
    let whole = all.iter().all(|volume| volume.problem_count == 0);
    output::print(global.output, &all, |all| {
        all.iter()
            .map(|volume| {
                let verdict = if volume.problem_count == 0 {
                    "whole".to_owned()
                } else {
                    format!("{} PROBLEMS", volume.problem_count)
                };
                let mut text = format!(
                    "{} at seq {}: {verdict}; {} records, {} files, {} chunks there, {} of them read ({})\n",
                    volume.volume,
                    volume.seq,
                    volume.records,
                    volume.files,
                    volume.chunks,
                    volume.chunks_read,
                    ByteSize(volume.bytes_read)
                );
                for problem in &volume.problems {
                    text.push_str(&format!("  {problem}\n"));
                }
                text
            })
            .collect()
    })?;
    Ok(if whole { Exit::Done } else { Exit::Damaged })
}

#[derive(Serialize)]
struct Exported {
    files: u64,
    folders: u64,
    symlinks: u64,
    bytes: u64,
    left_out: Vec<String>,
}

async fn export(global: &Global, url: &str, path: &str, local: PathBuf) -> anyhow::Result<Exit> {
    let image = Image::open(url).await?;
    let found = image.locate(&remote_path(path)?).await?;
    let contents = image.contents(&found.volume, IndexMode::Loaded).await?;
    let report =
        crate::dr::blocking(move || Ok(found.volume.export(&contents, &found.path, &local, |_, _| {})?)).await?;
    let exported = Exported {
        files: report.files,
        folders: report.directories,
        symlinks: report.symlinks,
        bytes: report.bytes,
        left_out: report.failed.iter().map(|item| format!("{}: {}", show_name(&item.path), item.error)).collect(),
    };
    output::print(global.output, &exported, |exported| {
        format!(
            "{} files, {} folders, {} symlinks, {}\n",
            exported.files,
            exported.folders,
            exported.symlinks,
            ByteSize(exported.bytes)
        )
    })?;
    for item in &exported.left_out {
        eprintln!("left out: {item}");
    }
    Ok(if exported.left_out.is_empty() { Exit::Done } else { Exit::Partial })
}
