//! `causeway write | append | truncate`

use std::io::IsTerminal as _;

use causeway_base::{ByteSize, Clock as _, Seq, SystemClock};
use causeway_vfs::edit::{Change, EditReport, NewBytes};
use serde::Serialize;

use super::args::{AppendArgs, Global, TruncateArgs, WriteArgs};
use super::exit::{Exit, Failure};
use super::session::Session;
use crate::output;

#[derive(Serialize)]
struct Edited {
    path: String,
    size_before: u64,
    size: u64,
    /// Bytes of the old file that were read.
    bytes_read: u64,
    chunks_read: u64,
    /// Bytes of its manifest that were read.
    manifest_bytes_read: u64,
    bytes_cut: u64,
    new_chunks: u64,
    new_bytes: u64,
    bytes_uploaded: u64,
    attempts: u32,
    version: u64,
    seq: u64,
    seconds: f64,
}

pub(super) async fn write(global: &Global, args: WriteArgs) -> anyhow::Result<Exit> {
    let offset = args.offset;
    let change = if args.insert { Change::Insert { offset } } else { Change::Write { offset } };
    edit(global, &args.path, change, standard_input().await?, args.if_version).await
}

pub(super) async fn append(global: &Global, args: AppendArgs) -> anyhow::Result<Exit> {
    edit(global, &args.path, Change::Append, standard_input().await?, args.if_version).await
}

pub(super) async fn truncate(global: &Global, args: TruncateArgs) -> anyhow::Result<Exit> {
    let change = Change::Truncate { size: args.size.bytes() };
    edit(global, &args.path, change, NewBytes::default(), args.if_version).await
}

/// All of standard input: it may be needed more than once.
async fn standard_input() -> anyhow::Result<NewBytes> {
    if std::io::stdin().is_terminal() {
        return Err(Failure::error(Exit::Usage, "the new bytes are read from standard input: give a file by `< FILE`"));
    }
    let read = tokio::task::spawn_blocking(|| NewBytes::read(std::io::stdin().lock())).await?;
    read.map_err(|error| Failure::error(Exit::Failed, format!("standard input cannot be read: {error}")))
}

async fn edit(
    global: &Global,
    path: &str,
    change: Change,
    new: NewBytes,
    if_version: Option<u64>,
) -> anyhow::Result<Exit> {
    let session = Session::connect(global).await?;
    let place = session.locate(path).await?;
    let report = session.vfs.edit(&place, change, new, SystemClock.now(), if_version.map(Seq)).await?;
    output::print(global.output, &shown(&place.shown, &report), |edited| {
        format!(
            "{}: {} bytes, {} before; {} read, {} uploaded in {} chunks; version {} ({:.2} s)",
            edited.path,
            edited.size,
            edited.size_before,
            ByteSize(edited.bytes_read + edited.manifest_bytes_read),
            ByteSize(edited.bytes_uploaded),
            edited.new_chunks,
            edited.version,
            edited.seconds
        )
    })?;
    Ok(Exit::Done)
}

fn shown(path: &str, report: &EditReport) -> Edited {
    Edited {
        path: path.to_owned(),
        size_before: report.size_before,
        size: report.size,
        bytes_read: report.rechunk.bytes_read,
        chunks_read: report.rechunk.chunks_read,
        manifest_bytes_read: report.rechunk.node_bytes_read,
        bytes_cut: report.rechunk.bytes_cut,
        new_chunks: report.chunks_new,
        new_bytes: report.new_bytes,
        bytes_uploaded: report.uploaded_bytes,
        attempts: report.attempts,
        version: report.version.get(),
        seq: report.seq.get(),
        seconds: report.elapsed.as_secs_f64(),
    }
}
