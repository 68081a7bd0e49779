//! `causeway ls | cat | stat | mkdir | mv | rm`

use std::collections::VecDeque;
use std::io::Write as _;

use bytes::Bytes;
use causeway_base::{Clock as _, SystemClock};
use causeway_namespace::client::ListPage;
use causeway_namespace::{Consistency, Freshness, Place, ReadState};
use causeway_namespace_core::command::{Errno, Expect, Op};
use causeway_namespace_core::inode::{Attr, Body, Content, FileKind, Inode};
use causeway_vfs::fetch::{Entry, Range, Sink};
use causeway_vfs::{Located, VfsError, join};
use serde::Serialize;

use super::args::{CatArgs, Global, LsArgs, MkdirArgs, MvArgs, RmArgs, StatArgs};
use super::exit::{Exit, Failure};
use super::session::{Session, last_name, remote_path};
use super::show::{ListRow, listing};
use crate::output::{self, show_name};

#[derive(Serialize)]
struct Listing {
    #[serde(skip_serializing_if = "Option::is_none")]
    seq: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    age_millis: Option<u128>,
    entries: Vec<ListRow>,
}

impl Listing {
    fn of(state: Option<ReadState>, entries: Vec<ListRow>) -> Self {
        let age_millis = state.and_then(|state| state.age).map(|age| age.as_millis());
        Self { seq: state.map(|state| state.seq.get()), age_millis, entries }
    }
}

pub(super) async fn ls(global: &Global, args: LsArgs) -> anyhow::Result<Exit> {
    let session = Session::connect(global).await?;
    let path = remote_path(&args.path)?;
    let listed = match session.vfs.names().resolve(&path).await? {
        Place::Above { names } => {
            let row = |name: Bytes| ListRow::mount(&name);
            Listing::of(None, names.into_iter().map(row).collect())
        }
        Place::Nowhere => return Err(VfsError::NoVolume { path: args.path }.into()),
        Place::InVolume { volume, path } => {
            let place = Located { volume: *volume, path, shown: args.path.clone() };
            let freshness = session.freshness(&args.read, &place).await?;
            if args.recursive {
                walk(&session, &place, freshness).await?
            } else {
                page(&session, &place, freshness).await?
            }
        }
    };
    let long = args.long;
    output::print(global.output, &listed, |listed| listing(&listed.entries, long))?;
    Ok(Exit::Done)
}

async fn page(session: &Session, place: &Located, freshness: Freshness) -> anyhow::Result<Listing> {
    let names = session.vfs.names();
    let (mut after, mut rows) = (Bytes::new(), Vec::new());
    loop {
        let page = ListPage { after: after.clone(), limit: 0, plus: true };
        let read = names.list_page(place.volume.id, place.at(), page, freshness).await?;
        let state = read.state;
        let found = match read.value {
            Ok(found) => found,
            Err(Errno::NotDirectory) => {
                let read = session.vfs.stat(place, freshness).await?;
                let name = last_name(&place.path).unwrap_or_default();
                return Ok(Listing::of(Some(read.state), vec![ListRow::new(name, &read.value.1)]));
            }
            Err(code) => return Err(place.error(code).into()),
        };
        rows.extend(found.entries.iter().filter_map(|entry| Some(ListRow::new(&entry.name, entry.inode.as_ref()?))));
        match found.entries.last() {
            Some(last) if found.more => after = last.name.clone(),
            _ => return Ok(Listing::of(Some(state), rows)),
        }
    }
}

async fn walk(session: &Session, place: &Located, freshness: Freshness) -> anyhow::Result<Listing> {
    let names = session.vfs.names();
    let (mut state, mut rows) = (None, Vec::new());
    // Volumes that are mounted below are walked after what they are mounted in.
    let mut left = VecDeque::from([(Bytes::new(), place.clone(), freshness)]);
    while let Some((prefix, place, freshness)) = left.pop_front() {
        let mut walk = names.walk(place.volume.id, place.at(), true, freshness);
        let mut mounted = Vec::new();
        while let Some(batch) = walk.next().await? {
            let batch = batch.map_err(|code| place.error(code))?;
            state.get_or_insert(batch.state);
            for entry in batch.entries.iter().filter(|entry| !entry.name.is_empty()) {
                let Some(inode) = &entry.inode else { continue };
                let shown = join(&prefix, &entry.name);
                rows.push(ListRow::new(&shown, inode));
                // The past of a mounted volume has seqs of its own.
                if inode.kind() == FileKind::Mount && freshness.at.is_none() {
                    mounted.push((shown, place.join(&entry.name)));
                }
            }
        }
        for (prefix, below) in mounted {
            if let Place::InVolume { volume, path } = names.resolve(&below.absolute()).await?
                && path.is_empty()
            {
                let place = Located { volume: *volume, path, shown: below.shown };
                left.push_back((prefix, place, freshness.consistency.into()));
            }
        }
    }
    Ok(Listing::of(state, rows))
}

/// Writes what it gets to standard output.
struct Stdout(std::io::BufWriter<std::io::Stdout>);

impl Stdout {
    fn failed(source: std::io::Error) -> VfsError {
        VfsError::Local { what: "write to", path: "standard output".into(), source }
    }
}

impl Sink for Stdout {
    fn start(&mut self, _: &Entry) -> Result<bool, VfsError> {
        Ok(true)
    }

    fn data(&mut self, bytes: &[u8]) -> Result<(), VfsError> {
        self.0.write_all(bytes).map_err(Self::failed)
    }

    fn hole(&mut self, len: u64) -> Result<(), VfsError> {
        let copied = std::io::copy(&mut std::io::Read::take(std::io::repeat(0), len), &mut self.0);
        copied.map(|_| ()).map_err(Self::failed)
    }

    fn end(&mut self, _: &Entry) -> Result<(), VfsError> {
        self.0.flush().map_err(Self::failed)
    }
}

pub(super) async fn cat(global: &Global, args: CatArgs) -> anyhow::Result<Exit> {
    let session = Session::connect(global).await?;
    let place = session.locate(&args.path).await?;
    let freshness = session.freshness(&args.read, &place).await?;
    let (ino, inode) = session.vfs.stat(&place, freshness).await?.value;
    match inode.kind() {
        FileKind::File => {}
        FileKind::Directory => return Err(place.error(Errno::IsDirectory).into()),
        FileKind::Mount => return Err(place.error(Errno::CrossesVolume).into()),
        FileKind::Symlink => {
            return Err(Failure::error(
                Exit::Refused,
                format!("{} is a symlink; `causeway stat` shows its target", args.path),
            ));
        }
    }
    let range = Range { offset: args.offset, len: args.length.unwrap_or(u64::MAX) };
    let entry = Entry { path: Bytes::new(), ino, inode };
    let sink = Stdout(std::io::BufWriter::with_capacity(1 << 16, std::io::stdout()));
    session.vfs.fetch_file(&place, entry, range, sink).await?;
    Ok(Exit::Done)
}

#[derive(Serialize)]
struct Stat {
    path: String,
    kind: &'static str,
    size: u64,
    ino: u64,
    nlink: u32,
    mode: String,
    uid: u32,
    gid: u32,
    mtime: String,
    version: u64,
    stored: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    target: Option<String>,
    xattrs: Vec<String>,
    volume: String,
    seq: u64,
    age_millis: Option<u128>,
}

pub(super) async fn stat(global: &Global, args: StatArgs) -> anyhow::Result<Exit> {
    let session = Session::connect(global).await?;
    let place = session.locate(&args.path).await?;
    let freshness = session.freshness(&args.read, &place).await?;
    let read = session.vfs.stat(&place, freshness).await?;
    let (ino, inode) = read.value;
    let stored = match &inode.body {
        Body::File(Content::Inline(_)) => "in the metadata".to_owned(),
        Body::File(Content::Manifest(manifest)) => format!("in chunks, written at {}", manifest.origin),
        Body::Directory { entries, .. } => format!("{entries} entries"),
        Body::Mount { volume, .. } => format!("volume {volume} is mounted there"),
        Body::Symlink(_) => "in the metadata".to_owned(),
    };
    let target = match &inode.body {
        Body::Symlink(target) => Some(show_name(target)),
        _ => None,
    };
    let row = ListRow::new(b"", &inode);
    let stat = Stat {
        path: place.shown.clone(),
        kind: row.kind,
        size: inode.size(),
        ino: ino.get(),
        nlink: inode.nlink,
        mode: row.mode,
        uid: inode.attr.uid,
        gid: inode.attr.gid,
        mtime: row.mtime,
        version: inode.version.get(),
        stored,
        target,
        xattrs: inode.xattrs.iter().map(|(name, _)| show_name(name)).collect(),
        volume: place.volume.spec.name.clone(),
        seq: read.state.seq.get(),
        age_millis: read.state.age.map(|age| age.as_millis()),
    };
    output::print(global.output, &stat, |stat| {
        let age = stat.age_millis.map_or_else(|| "unknown".to_owned(), |age| format!("{age} ms"));
        let mut text = format!(
            "{}: {}, {} bytes, {}\nmode {} owner {}:{} links {} inode {}\nmodified {}\nversion {} in volume {}; read at seq {}, age {age}\n",
            stat.path,
            stat.kind,
            stat.size,
            stat.stored,
            stat.mode,
            stat.uid,
            stat.gid,
            stat.nlink,
            stat.ino,
            stat.mtime,
            stat.version,
            stat.volume,
            stat.seq,
        );
        if let Some(target) = &stat.target {
            text.push_str(&format!("points to {target}\n"));
        }
        if !stat.xattrs.is_empty() {
            text.push_str(&format!("extended attributes: {}\n", stat.xattrs.join(", ")));
        }
        text
    })?;
    Ok(Exit::Done)
}

/// Attributes of what this user makes now.
pub(crate) fn new_attr(mode: u32) -> Attr {
    let now = SystemClock.now();
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    Attr { mode, uid, gid, mtime: now, ctime: now }
}

pub(super) async fn mkdir(global: &Global, args: MkdirArgs) -> anyhow::Result<Exit> {
    let session = Session::connect(global).await?;
    let place = session.locate(&args.path).await?;
    let op = Op::Mkdir { at: place.at(), attr: new_attr(0o755), parents: args.parents };
    session.mutate(&place, vec![op]).await?;
    Ok(Exit::Done)
}

pub(super) async fn mv(global: &Global, args: MvArgs) -> anyhow::Result<Exit> {
    let session = Session::connect(global).await?;
    let from = session.locate(&args.from).await?;
    let to = session.destination(&args.to, last_name(&from.path)).await?;
    if from.volume.id != to.volume.id {
        return Err(VfsError::CrossVolume { from: from.shown, to: to.shown }.into());
    }
    let op = Op::Rename { from: from.at(), to: to.at(), no_replace: args.no_clobber };
    session.mutate(&from, vec![op]).await?;
    Ok(Exit::Done)
}

pub(super) async fn rm(global: &Global, args: RmArgs) -> anyhow::Result<Exit> {
    let session = Session::connect(global).await?;
    let mut exit = Exit::Done;
    for path in &args.paths {
        if let Err(error) = remove(&session, path, args.recursive).await {
            eprintln!("error: {error:#}");
            exit = if args.paths.len() == 1 { super::exit_of_error(&error) } else { Exit::Partial };
        }
    }
    Ok(exit)
}

async fn remove(session: &Session, path: &str, recursive: bool) -> anyhow::Result<()> {
    let place = session.locate(path).await?;
    let inode: Inode = session.vfs.stat(&place, Consistency::Linearizable).await?.value.1;
    if inode.kind() != FileKind::Directory {
        session.mutate(&place, vec![Op::Unlink { at: place.at(), expect: Expect::Any }]).await?;
    } else if recursive {
        session.vfs.remove_tree(&place).await?;
        session.note(place.volume.id, session.vfs.seq(&place.volume).await?)?;
    } else {
        return Err(Failure::error(
            Exit::Refused,
            format!("{path} is a folder: use -r to remove it with all that is in it"),
        ));
    }
    Ok(())
}
