//! What versions cost: a snapshot of a volume, a difference, a past read, by the number of files in the volume.
//!
//! `cargo run --release -p causeway-namespace-raft --example versions_bench [FILES …]`; prints one line for each number.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use causeway_base::{ClientId, Ino, Seq, Timestamp, VolumeId};
use causeway_namespace_core::command::{At, Command, Expect, Op, Request, RequestBody, SessionId};
use causeway_namespace_core::inode::{Attr, Content};
use causeway_namespace_core::manage::ManageOp;
use causeway_namespace_core::query;
use causeway_namespace_raft::STATE_SPACES;
use causeway_namespace_raft::store::{Entry, GroupStore, Payload, Position, StateStore};
use causeway_storage::disk::RealDisk;
use causeway_storage::kv::{FjallKv, FjallOptions, Kv};

/// Files changed between the two states that are compared.
const CHANGED: u64 = 100;
/// Files of a folder, and of a batch.
const FOLDER: u64 = 1000;

type Failed = Box<dyn std::error::Error>;

struct Volume {
    group: Arc<GroupStore>,
    seq: u64,
    number: u64,
}

impl Volume {
    fn open(dir: &Path) -> Result<Self, Failed> {
        let kv = Arc::new(FjallKv::open(&dir.join("kv"), STATE_SPACES, &FjallOptions::default())?);
        let store = StateStore::open(kv as Arc<dyn Kv>, Arc::new(RealDisk), dir)?;
        let mut volume = Self { group: store.group(VolumeId(1))?, seq: 0, number: 0 };
        volume.apply(RequestBody::OpenSession { client: ClientId(1) })?;
        Ok(volume)
    }

    fn apply(&mut self, body: RequestBody) -> Result<Duration, Failed> {
        self.seq += 1;
        let command = Command { requests: vec![Request { at: Timestamp(i64::try_from(self.seq)? * 1_000_000), body }] };
        let entry =
            Entry { position: Position { term: 1, index: self.seq }, payload: Payload::Command(command.encode()) };
        let started = Instant::now();
        self.group.apply(&[entry])?;
        Ok(started.elapsed())
    }

    fn batch(&mut self, ops: Vec<Op>) -> Result<Duration, Failed> {
        self.number += 1;
        let number = self.number;
        self.apply(RequestBody::Mutate { session: SessionId(1), number, acked_below: number, ops })
    }

    fn snapshot(&mut self, name: &'static str) -> Result<Duration, Failed> {
        self.number += 1;
        let number = self.number;
        let op = ManageOp::CreateSnapshot { name: Bytes::from_static(name.as_bytes()) };
        self.apply(RequestBody::Manage { session: SessionId(1), number, acked_below: number, op })
    }
}

fn attr() -> Attr {
    Attr { mode: 0o644, uid: 1, gid: 1, mtime: Timestamp(1), ctime: Timestamp(1) }
}

fn at(path: String) -> At {
    At { dir: Ino::ROOT, path: path.into() }
}

fn put(file: u64, content: &'static [u8]) -> Op {
    let (content, expect) = (Content::Inline(Bytes::from_static(content)), Expect::Any);
    Op::PutFile { at: at(format!("{}/{file}", file / FOLDER)), attr: attr(), content, expect }
}

fn measure(files: u64) -> Result<(), Failed> {
    let dir = tempfile::tempdir()?;
    let mut volume = Volume::open(dir.path())?;
    for folder in 0..files.div_ceil(FOLDER) {
        let mkdir = Op::Mkdir { at: at(folder.to_string()), attr: attr(), parents: false };
        volume.batch(vec![mkdir])?;
        let last = ((folder + 1) * FOLDER).min(files);
        volume.batch((folder * FOLDER..last).map(|file| put(file, b"before")).collect())?;
    }
    let made = volume.snapshot("a")?;
    let first = Seq(volume.seq);
    let step = (files / CHANGED).max(1);
    for file in (0..files).step_by(usize::try_from(step)?).take(usize::try_from(CHANGED)?) {
        volume.batch(vec![put(file, b"after")])?;
    }
    volume.snapshot("b")?;
    let second = Seq(volume.seq);
    let diff = |volume: &Volume| -> Result<(Duration, usize), Failed> {
        let started = Instant::now();
        let view = volume.group.view()?;
        let keys = view.changed_between(first, second, usize::MAX)?.unwrap_or_default();
        let (before, after) = (view.at(first)?, view.at(second)?);
        let changes = query::tree_changes(&before, &after, keys.iter().map(|(key, name)| (key, name.as_ref())))?;
        Ok((started.elapsed(), changes.len()))
    };
    let (listed, found) = diff(&volume)?;
    let started = Instant::now();
    while volume.group.prune(second, 64)? {}
    let pruned = started.elapsed();
    let (kept, found_kept) = diff(&volume)?;
    assert_eq!((found, found_kept), (usize::try_from(CHANGED.min(files))?, found), "not every change was told");
    let started = Instant::now();
    let view = volume.group.view_at(first)?;
    for file in 0..1000 {
        let file = file * 7919 % files;
        let (_, inode) = query::stat(&view, format!("{}/{file}", file / FOLDER).as_bytes())??;
        assert_eq!(inode.size(), 6, "not the file of the snapshot");
    }
    let past = started.elapsed() / 1000;
    let micros = |time: Duration| format!("{:.0} µs", time.as_secs_f64() * 1e6);
    println!(
        "{files:>9} files: snapshot {:>8}, diff of {CHANGED} changes {:>9}, of two pruned snapshots {:>9}, stat in a \
         snapshot {:>7}, pruning {:.2} s",
        micros(made),
        micros(listed),
        micros(kept),
        micros(past),
        pruned.as_secs_f64(),
    );
    Ok(())
}

fn main() -> Result<(), Failed> {
    let asked: Vec<u64> = std::env::args().skip(1).filter_map(|arg| arg.parse().ok()).collect();
    let sizes = if asked.is_empty() { vec![10_000, 100_000, 1_000_000] } else { asked };
    sizes.into_iter().try_for_each(measure)
}
