//! `causeway store rebuild` and `causeway store stats`: the chunk store of a node that does not run.

use std::cell::Cell;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use causeway_base::ByteSize;
use causeway_dedup::store::RecoveryReport;
use causeway_storage::disk::{Disk, RealDisk};
use indicatif::{ProgressBar, ProgressStyle};
use rand::Rng as _;
use serde::Serialize;

use super::args::{Global, StoreFolder};
use super::exit::{Exit, Failure};
use crate::config::Config;
use crate::node::folder::DataFolder;
use crate::node::stores::{open_chunks, rebuild_chunks};
use crate::output;

/// How often progress is told where there is no terminal.
const TOLD_EVERY: Duration = Duration::from_secs(10);

/// What `rebuild` did.
#[derive(Serialize)]
struct Rebuilt {
    data: String,
    packs: u64,
    chunks: u64,
    stored_bytes: u64,
    seconds: f64,
    chunks_per_second: f64,
    #[serde(flatten)]
    found: Found,
}

/// Trouble that opening found.
#[derive(Serialize)]
struct Found {
    tails_cut: usize,
    damaged: Vec<Range>,
    missing_packs: Vec<u32>,
    corrupt_chunks: u64,
}

#[derive(Serialize)]
struct Range {
    pack: u32,
    from: u64,
    to: u64,
    acknowledged: bool,
}

impl Found {
    fn of(report: &RecoveryReport, corrupt_chunks: u64) -> Self {
        let damaged = report.damaged.iter();
        let range = |range: &causeway_dedup::store::DamagedRange| Range {
            pack: range.pack,
            from: range.from,
            to: range.to,
            acknowledged: range.acknowledged,
        };
        Self {
            tails_cut: report.tails_cut.len(),
            damaged: damaged.map(range).collect(),
            missing_packs: report.missing_packs.clone(),
            corrupt_chunks,
        }
    }

    fn exit(&self) -> Exit {
        let good = self.damaged.is_empty() && self.missing_packs.is_empty() && self.corrupt_chunks == 0;
        if good { Exit::Done } else { Exit::Damaged }
    }

    fn text(&self) -> String {
        let mut text = String::new();
        if self.tails_cut > 0 {
            text.push_str(&format!("\n{} torn tails were cut: what a crash left, never acknowledged", self.tails_cut));
        }
        for Range { pack, from, to, acknowledged } in &self.damaged {
            let what = if *acknowledged { "acknowledged chunks may be lost" } else { "what a crash may leave" };
            text.push_str(&format!("\npack {pack:08x}: bytes {from} to {to} are bad; {what}"));
        }
        for pack in &self.missing_packs {
            text.push_str(&format!("\npack {pack:08x} is missing"));
        }
        if self.corrupt_chunks > 0 {
            text.push_str(&format!("\n{} chunks are corrupt and count as missing", self.corrupt_chunks));
        }
        text
    }
}

/// Which folder a command is about; claims it.
fn claim(global: &Global, folder: &StoreFolder) -> anyhow::Result<(DataFolder, PathBuf, crate::config::LimitsSection)> {
    let config = Config::load(&global.config);
    let (path, limits) = match (&folder.data, folder.node) {
        (Some(data), _) => (data.clone(), config.map(|config| config.limits).unwrap_or_default()),
        (None, node) => {
            let config = config?;
            let section = match (node, config.nodes.as_slice()) {
                (None, [only]) => only,
                (Some(id), nodes) => nodes.iter().find(|section| section.get_ref().id == id).ok_or_else(|| {
                    Failure::error(Exit::NotFound, format!("{} has no node {id}", config.path.display()))
                })?,
                (None, _) => return Err(Failure::error(Exit::Usage, "which node? Name it with --node or --data")),
            };
            (config.resolve(&section.get_ref().data), config.limits)
        }
    };
    Ok((DataFolder::claim_existing(path.clone())?, path, limits))
}

/// How far a rebuild is: a bar on a terminal, a line every ten seconds elsewhere; both on stderr.
struct ShownRebuild {
    bar: ProgressBar,
    start: Instant,
    told: Cell<Instant>,
}

impl ShownRebuild {
    fn start() -> Self {
        let bar = ProgressBar::new(0);
        if let Ok(style) = ProgressStyle::with_template("{pos}/{len} packs [{bar:28}] {msg} {elapsed_precise}") {
            bar.set_style(style.progress_chars("=> "));
        }
        Self { bar, start: Instant::now(), told: Cell::new(Instant::now()) }
    }

    fn show(&self, report: &RecoveryReport) {
        let rate = report.indexed as f64 / self.start.elapsed().as_secs_f64().max(1e-9);
        let message = format!("{} chunks, {rate:.0} chunks/s", report.indexed);
        let finished = report.packs_read == report.packs;
        if self.bar.is_hidden() && (finished || self.told.get().elapsed() >= TOLD_EVERY) {
            self.told.set(Instant::now());
            eprintln!("{}/{} packs, {message}", report.packs_read, report.packs);
        }
        self.bar.set_length(report.packs);
        self.bar.set_position(report.packs_read);
        self.bar.set_message(message);
    }

    /// Takes the bar away.
    fn finish(&self) {
        self.bar.finish_and_clear();
    }
}

/// Builds the chunk index anew from the packs alone.
pub(super) fn rebuild(global: &Global, args: &StoreFolder) -> anyhow::Result<Exit> {
    let (folder, path, limits) = claim(global, args)?;
    let disk: Arc<dyn Disk> = Arc::new(RealDisk);
    let start = Instant::now();
    let shown = ShownRebuild::start();
    let (store, report) =
        rebuild_chunks(&disk, &folder, &limits, rand::rng().random(), &mut |report| shown.show(report))?;
    store.close()?;
    shown.finish();
    let seconds = start.elapsed().as_secs_f64();
    let stats = store.stats();
    let rebuilt = Rebuilt {
        data: path.display().to_string(),
        packs: stats.packs,
        chunks: report.indexed,
        stored_bytes: stats.stored_bytes,
        seconds,
        chunks_per_second: report.indexed as f64 / seconds.max(1e-9),
        found: Found::of(&report, stats.corrupt_chunks),
    };
    output::print(global.output, &rebuilt, |rebuilt| {
        format!(
            "{}: {} chunks in {} packs ({}) indexed in {:.2} s, {:.0} chunks/s{}",
            rebuilt.data,
            rebuilt.chunks,
            rebuilt.packs,
            ByteSize(rebuilt.stored_bytes),
            rebuilt.seconds,
            rebuilt.chunks_per_second,
            rebuilt.found.text()
        )
    })?;
    Ok(rebuilt.found.exit())
}

/// What `stats` shows.
#[derive(Serialize)]
struct Stats {
    data: String,
    packs: u64,
    chunks: u64,
    raw_bytes: u64,
    stored_bytes: u64,
    /// Of the chunks, those that rest as deltas, their bytes in packs, and their plain bytes.
    delta_chunks: u64,
    delta_stored_bytes: u64,
    delta_raw_bytes: u64,
    index_bytes: u64,
    #[serde(flatten)]
    found: Found,
}

/// Shows what a store holds.
pub(super) fn stats(global: &Global, args: &StoreFolder) -> anyhow::Result<Exit> {
    let (folder, path, limits) = claim(global, args)?;
    let disk: Arc<dyn Disk> = Arc::new(RealDisk);
    let (store, report) = open_chunks(&disk, &folder, &limits, rand::rng().random())?;
    store.close()?;
    let stats = store.stats();
    let shown = Stats {
        data: path.display().to_string(),
        packs: stats.packs,
        chunks: stats.chunks,
        raw_bytes: stats.raw_bytes,
        stored_bytes: stats.stored_bytes,
        delta_chunks: stats.delta_chunks,
        delta_stored_bytes: stats.delta_stored_bytes,
        delta_raw_bytes: stats.delta_raw_bytes,
        index_bytes: stats.index_bytes,
        found: Found::of(&report, stats.corrupt_chunks),
    };
    output::print(global.output, &shown, |shown| {
        let ratio = shown.raw_bytes as f64 / (shown.stored_bytes as f64).max(1.0);
        format!(
            "{}: {} chunks, {} plain, {} in {} packs ({ratio:.2} to 1); {} of them deltas, {} plain in {}; index {}{}",
            shown.data,
            shown.chunks,
            ByteSize(shown.raw_bytes),
            ByteSize(shown.stored_bytes),
            shown.packs,
            shown.delta_chunks,
            ByteSize(shown.delta_raw_bytes),
            ByteSize(shown.delta_stored_bytes),
            ByteSize(shown.index_bytes),
            shown.found.text()
        )
    })?;
    Ok(shown.found.exit())
}
