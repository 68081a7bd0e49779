//! `causeway dr drill`, and what it left for `dr status`.

use causeway_base::{ByteSize, Clock as _, SystemClock};
use causeway_repository::{DrillRecord, DrilledVolume};
use serde::Serialize;

use super::args::Global;
use super::exit::Exit;
use super::show::when;
use crate::dr::{Drill, Image, VolumeImage, drill};
use crate::output::{self, table};

/// A drill that is older than this says little of today.
const DRILL_AGE_MAX_DAYS: i64 = 30;

/// A drill, for people and programs.
#[derive(Debug, Serialize)]
pub(super) struct Drilled {
    passed: bool,
    at: String,
    seconds: f64,
    metadata_seconds: f64,
    first_listing_seconds: f64,
    first_byte_seconds: Option<f64>,
    volumes: Vec<DrilledRow>,
    gaps: Vec<String>,
    /// Whether the repository has the result.
    kept: bool,
}

#[derive(Debug, Serialize)]
struct DrilledRow {
    volume: String,
    seq: u64,
    age_seconds: f64,
    records: u64,
    digest_held: bool,
    files: u64,
    chunks: u64,
    chunks_read: u64,
    bytes_read: u64,
    problem_count: u64,
    problems: Vec<String>,
}

/// The newest drill that the repository has.
#[derive(Debug, Serialize)]
pub(super) struct LastDrill {
    passed: bool,
    at: String,
    age_days: i64,
    metadata_seconds: f64,
    first_byte_seconds: Option<f64>,
    gaps: Vec<String>,
}

impl LastDrill {
    pub(super) fn line(&self) -> String {
        let verdict = match (self.passed, self.gaps.len()) {
            (true, 0) => "everything came back".to_owned(),
            (true, gaps) => format!("what has an image came back; {gaps} gaps"),
            (false, _) => "FAILED".to_owned(),
        };
        format!("{}, {verdict}; metadata in {:.1} s", self.at, self.metadata_seconds)
    }
}

#[allow(clippy::cast_precision_loss)] // for people
fn seconds(millis: u64) -> f64 {
    millis as f64 / 1000.0
}

fn row(volume: DrilledVolume) -> DrilledRow {
    DrilledRow {
        volume: volume.name,
        seq: volume.seq,
        age_seconds: seconds(volume.age_ms),
        records: volume.records,
        digest_held: volume.digest_held,
        files: volume.files,
        chunks: volume.chunks,
        chunks_read: volume.chunks_read,
        bytes_read: volume.bytes_read,
        problem_count: volume.problem_count,
        problems: volume.problems,
    }
}

pub(super) async fn run(global: &Global, url: &str, options: Drill, keep: bool) -> anyhow::Result<Exit> {
    let (image, record) = drill(url, options).await?;
    let kept = match keep.then(|| image.reader.repository().keep_drill(&record)) {
        None => false,
        Some(put) => match put.await {
            Ok(()) => true,
            Err(error) => {
                let error = anyhow::Error::from(error);
                eprintln!("the result is not kept in {url}: {error:#}");
                false
            }
        },
    };
    let drilled = shown(record, kept);
    let exit = match (drilled.passed, drilled.gaps.is_empty()) {
        (false, _) => Exit::Damaged,
        (true, false) => Exit::Partial,
        (true, true) => Exit::Done,
    };
    output::print(global.output, &drilled, human)?;
    Ok(exit)
}

fn shown(record: DrillRecord, kept: bool) -> Drilled {
    Drilled {
        passed: record.passed(),
        at: when(record.at),
        seconds: seconds(record.took_ms),
        metadata_seconds: seconds(record.metadata_ms),
        first_listing_seconds: seconds(record.list_ms),
        first_byte_seconds: record.byte_ms.map(seconds),
        volumes: record.volumes.into_iter().map(row).collect(),
        gaps: record.gaps,
        kept,
    }
}

fn human(drilled: &Drilled) -> String {
    let rows = drilled.volumes.iter().map(|volume| {
        let state = match (volume.digest_held, volume.problem_count) {
            (true, 0) => "came back whole".to_owned(),
            (true, problems) => format!("{problems} PROBLEMS"),
            (false, _) => "ANOTHER STATE CAME BACK".to_owned(),
        };
        vec![
            volume.volume.clone(),
            volume.seq.to_string(),
            format!("{:.0} s", volume.age_seconds),
            volume.records.to_string(),
            volume.files.to_string(),
            format!("{} of {}", volume.chunks_read, volume.chunks),
            ByteSize(volume.bytes_read).to_string(),
            state,
        ]
    });
    let header = ["volume", "seq", "age", "records", "files", "chunks read", "bytes read", "state"];
    let mut text = table(&header, &[1, 2, 3, 4, 5, 6], rows);
    let first_byte = drilled.first_byte_seconds.map_or_else(|| "no file has bytes".to_owned(), |s| format!("{s:.2} s"));
    text.push_str(&format!(
        "\nmetadata back in {:.2} s, a folder listed after {:.2} s, first bytes of a file after {first_byte}\n",
        drilled.metadata_seconds, drilled.first_listing_seconds,
    ));
    for volume in &drilled.volumes {
        for problem in &volume.problems {
            text.push_str(&format!("problem in {}: {problem}\n", volume.volume));
        }
    }
    for gap in &drilled.gaps {
        text.push_str(&format!("gap: {gap}\n"));
    }
    text.push_str(match (drilled.passed, drilled.gaps.is_empty()) {
        (false, _) => "FAILED: what is in the repository does not all come back\n",
        (true, false) => "what has an image comes back whole; there are gaps\n",
        (true, true) => "everything comes back\n",
    });
    text
}

/// The newest drill of the image's cluster.
pub(super) async fn last(image: &Image) -> anyhow::Result<Option<LastDrill>> {
    let now = SystemClock.now();
    let Some(record) = image.reader.repository().last_drill(image.root.cluster, now).await? else { return Ok(None) };
    let age = now.since(record.at);
    Ok(Some(LastDrill {
        passed: record.passed(),
        at: when(record.at),
        age_days: i64::try_from(age.as_secs() / 86_400).unwrap_or(i64::MAX),
        metadata_seconds: seconds(record.metadata_ms),
        first_byte_seconds: record.byte_ms.map(seconds),
        gaps: record.gaps,
    }))
}

/// Why a restore may not bring everything back.
pub(super) fn not_ready(volumes: &[VolumeImage], last: &anyhow::Result<Option<LastDrill>>) -> Vec<String> {
    let mut reasons: Vec<String> = volumes
        .iter()
        .filter_map(|volume| Some(format!("volume {}: {}", volume.volume, volume.damaged.as_ref()?)))
        .collect();
    match last {
        Err(error) => reasons.push(format!("the last drill's result cannot be read: {error:#}")),
        Ok(None) => reasons.push("no restore was ever rehearsed; run `causeway dr drill`".to_owned()),
        Ok(Some(last)) if !last.passed => reasons.push(format!("the drill of {} failed", last.at)),
        Ok(Some(last)) if last.age_days > DRILL_AGE_MAX_DAYS => {
            reasons.push(format!("the last drill is {} days old; run `causeway dr drill`", last.age_days));
        }
        Ok(Some(_)) => {}
    }
    reasons
}
