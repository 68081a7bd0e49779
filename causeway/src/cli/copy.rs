//! `causeway put | get | cp`

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use causeway_base::ByteSize;
use causeway_namespace_core::inode::FileKind;
use causeway_vfs::Progress;
use causeway_vfs::local::scan::LeftOut;
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use super::args::{CpArgs, GetArgs, Global, PutArgs, ReadArgs};
use super::exit::{Exit, Failure};
use super::session::{REMOTE, Session, last_name, local_name, remote_path};
use crate::output::{self, show_name};

#[derive(Serialize)]
struct Copied {
    from: String,
    to: String,
    files: u64,
    folders: u64,
    symlinks: u64,
    links: u64,
    logical_bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    sent: Option<Sent>,
    /// What was read is not older.
    #[serde(skip_serializing_if = "Option::is_none")]
    seq: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    age_millis: Option<u128>,
    seconds: f64,
    left_out: Vec<Left>,
}

#[derive(Serialize)]
struct Sent {
    inline_bytes: u64,
    new_chunks: u64,
    new_bytes: u64,
    stored_bytes: u64,
    seq: u64,
}

#[derive(Serialize)]
struct Left {
    path: String,
    reason: String,
}

fn left_out(items: &[LeftOut]) -> Vec<Left> {
    items.iter().map(|item| Left { path: show_name(&item.path), reason: item.reason.clone() }).collect()
}

pub(super) async fn put(global: &Global, args: PutArgs) -> anyhow::Result<Exit> {
    if args.local.is_dir() {
        let message = format!("{} is a folder: use `causeway cp -r`", args.local.display());
        return Err(Failure::error(Exit::Usage, message));
    }
    upload(global, &args.local, &args.path, true).await
}

pub(super) async fn get(global: &Global, args: GetArgs) -> anyhow::Result<Exit> {
    download(global, &args.path, &args.local, false, &args.read).await
}

pub(super) async fn cp(global: &Global, args: CpArgs) -> anyhow::Result<Exit> {
    match (args.from.strip_prefix(REMOTE), args.to.strip_prefix(REMOTE)) {
        (None, Some(_)) => {
            let local = PathBuf::from(&args.from);
            if local.is_dir() && !args.recursive {
                return Err(Failure::error(Exit::Usage, format!("{} is a folder: use -r", args.from)));
            }
            upload(global, &local, &args.to, !args.from.ends_with('/')).await
        }
        (Some(_), None) => download(global, &args.from, Path::new(&args.to), args.recursive, &args.read).await,
        (Some(_), Some(_)) => Err(Failure::error(
            Exit::Usage,
            "both ends are in the namespace: copy out and in again (the data is not sent twice), or use `causeway mv`",
        )),
        (None, None) => {
            Err(Failure::error(Exit::Usage, "neither end is in the namespace: write cw:/path for the one that is"))
        }
    }
}

async fn upload(global: &Global, local: &Path, to: &str, under_own_name: bool) -> anyhow::Result<Exit> {
    let session = Session::connect(global).await?;
    let name = if under_own_name { local_name(local) } else { None };
    let target = session.destination(to, name.as_deref()).await?;
    let progress = Arc::new(Progress::default());
    let shown = ShownProgress::start("copying in", progress.clone());
    let report = session.vfs.import(local, &target, progress).await;
    shown.finish().await;
    let report = report?;
    session.note(target.volume.id, report.seq)?;
    let copied = Copied {
        from: local.display().to_string(),
        to: target.shown.clone(),
        files: report.files,
        folders: report.directories,
        symlinks: report.symlinks,
        links: report.links,
        logical_bytes: report.logical_bytes,
        sent: Some(Sent {
            inline_bytes: report.inline_bytes,
            new_chunks: report.chunks_new,
            new_bytes: report.new_bytes,
            stored_bytes: report.stored_bytes,
            seq: report.seq.get(),
        }),
        seq: None,
        age_millis: None,
        seconds: report.elapsed.as_secs_f64(),
        left_out: left_out(&report.left_out),
    };
    print(global, &copied)
}

async fn download(global: &Global, from: &str, local: &Path, recursive: bool, read: &ReadArgs) -> anyhow::Result<Exit> {
    let session = Session::connect(global).await?;
    let place = session.locate(from).await?;
    let freshness = session.freshness(read, &place).await?;
    let stat = session.vfs.stat(&place, freshness).await?;
    let inode = stat.value.1;
    if inode.kind() == FileKind::Directory && !recursive {
        return Err(Failure::error(Exit::Usage, format!("{from} is a folder: use `causeway cp -r`")));
    }
    let mut target = local.to_path_buf();
    let path = remote_path(from)?;
    if local.is_dir()
        && !from.ends_with('/')
        && let Some(name) = last_name(&path)
    {
        target.push(std::ffi::OsStr::new(<std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(name)));
    }
    let progress = Arc::new(Progress::default());
    let shown = ShownProgress::start("copying out", progress.clone());
    let report = session.vfs.export_at(&place, freshness.after(stat.state.seq), &target, progress).await;
    shown.finish().await;
    let report = report?;
    let copied = Copied {
        from: place.shown.clone(),
        to: target.display().to_string(),
        files: report.files,
        folders: report.directories,
        symlinks: report.symlinks,
        links: report.links,
        logical_bytes: report.logical_bytes,
        sent: None,
        seq: Some(stat.state.seq.get()),
        age_millis: stat.state.age.map(|age| age.as_millis()),
        seconds: report.elapsed.as_secs_f64(),
        left_out: left_out(&report.left_out),
    };
    print(global, &copied)
}

fn print(global: &Global, copied: &Copied) -> anyhow::Result<Exit> {
    output::print(global.output, copied, |copied| {
        let seconds = copied.seconds.max(1e-3);
        #[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        // a rate for people
        let rate = ByteSize((copied.logical_bytes as f64 / seconds) as u64);
        let mut text = format!(
            "{} -> {}: {} files, {} folders, {} symlinks, {} further names; {} in {seconds:.1} s ({rate}/s)\n",
            copied.from,
            copied.to,
            copied.files,
            copied.folders,
            copied.symlinks,
            copied.links,
            ByteSize(copied.logical_bytes),
        );
        if let Some(sent) = &copied.sent {
            text.push_str(&format!(
                "{} in the metadata; {} new chunks of {}, {} stored; at seq {}\n",
                ByteSize(sent.inline_bytes),
                sent.new_chunks,
                ByteSize(sent.new_bytes),
                ByteSize(sent.stored_bytes),
                sent.seq
            ));
        }
        text
    })?;
    for item in &copied.left_out {
        eprintln!("left out: {}: {}", item.path, item.reason);
    }
    Ok(if copied.left_out.is_empty() { Exit::Done } else { Exit::Partial })
}

/// A progress bar over the counters of a copy; only on a terminal.
#[derive(Debug)]
pub(crate) struct ShownProgress {
    bar: ProgressBar,
    task: tokio::task::JoinHandle<()>,
}

impl ShownProgress {
    /// Shows `progress` until [`ShownProgress::finish`].
    pub(crate) fn start(what: &'static str, progress: Arc<Progress>) -> Self {
        let bar = ProgressBar::new(0);
        let style = ProgressStyle::with_template(
            "{msg} [{bar:28}] {bytes}/{total_bytes} {binary_bytes_per_sec} {elapsed_precise}",
        );
        if let Ok(style) = style {
            bar.set_style(style.progress_chars("=> "));
        }
        let shown = bar.clone();
        let task = tokio::spawn(async move {
            let mut tick = tokio::time::interval(Duration::from_millis(100));
            loop {
                tick.tick().await;
                shown.set_length(progress.bytes_found());
                shown.set_position(progress.bytes());
                shown.set_message(format!("{what} {}/{} items", progress.items(), progress.items_found()));
            }
        });
        Self { bar, task }
    }

    /// Takes the bar away.
    pub(crate) async fn finish(self) {
        self.task.abort();
        let _ = self.task.await;
        self.bar.finish_and_clear();
    }
}
