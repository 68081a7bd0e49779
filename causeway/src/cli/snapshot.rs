//! `causeway snapshot` and `causeway diff`

use bytes::Bytes;
use causeway_base::Seq;
use causeway_namespace::Consistency;
use causeway_namespace_core::inode::FileKind;
use causeway_namespace_core::manage::{ManageOp, RetentionRecord};
use causeway_namespace_core::query::{ChangeKind, TreeChange};
use serde::Serialize;

use super::args::{DiffArgs, Global, SnapshotCommand};
use super::exit::{Exit, Failure};
use super::session::Session;
use super::show::when;
use crate::output::{self, parse_name, show_name, table};

#[derive(Serialize)]
struct Listed {
    volume: String,
    snapshots: Vec<Row>,
    oldest_seq: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    oldest_time: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    retention: Option<Kept>,
    seq: u64,
    age_millis: Option<u128>,
}

#[derive(Serialize)]
struct Row {
    name: String,
    seq: u64,
    at: String,
}

#[derive(Serialize, Clone, Copy)]
struct Kept {
    seqs: u64,
    seconds: u64,
}

#[derive(Serialize)]
struct Made {
    volume: String,
    name: String,
    seq: u64,
}

pub(super) async fn run(global: &Global, command: SnapshotCommand) -> anyhow::Result<Exit> {
    let session = Session::connect(global).await?;
    match command {
        SnapshotCommand::Create { snapshot } => {
            let (volume, name) = parse(&snapshot)?;
            let volume = session.volume(volume).await?;
            let op = ManageOp::CreateSnapshot { name: name.clone() };
            let mutated = session.vfs.names().manage(volume.id, op).await?;
            session.note(volume.id, mutated.seq)?;
            // The commit that made it, also when this answer is that of an earlier attempt.
            let seq = mutated.done.first().map_or(mutated.seq, |done| done.version);
            let made = Made { volume: volume.spec.name, name: show_name(&name), seq: seq.get() };
            output::print(global.output, &made, |made| format!("{}@{} is seq {}\n", made.volume, made.name, made.seq))?;
        }
        SnapshotCommand::Delete { snapshot } => {
            let (volume, name) = parse(&snapshot)?;
            let volume = session.volume(volume).await?;
            session.vfs.names().manage(volume.id, ManageOp::DeleteSnapshot { name }).await?;
        }
        SnapshotCommand::List { volume } => list(global, &session, &volume).await?,
        SnapshotCommand::Retention { volume, seqs, time, default } => {
            if default || seqs.is_some() || time.is_some() {
                let record = session.volume(&volume).await?;
                let seconds = time.map_or(0, |time| time.as_secs());
                let keep = (!default).then_some(RetentionRecord { seqs: seqs.unwrap_or(0), seconds });
                session.vfs.names().manage(record.id, ManageOp::SetRetention { keep }).await?;
            }
            list(global, &session, &volume).await?;
        }
    }
    Ok(Exit::Done)
}

async fn list(global: &Global, session: &Session, volume: &str) -> anyhow::Result<()> {
    let record = session.volume(volume).await?;
    let read = session.vfs.names().snapshots(record.id, Consistency::Linearizable).await?;
    let found = read.value;
    let row = |(name, snapshot): &(Bytes, causeway_namespace_core::manage::SnapshotRecord)| Row {
        name: show_name(name),
        seq: snapshot.seq.get(),
        at: when(snapshot.at),
    };
    let listed = Listed {
        volume: record.spec.name,
        snapshots: found.snapshots.iter().map(row).collect(),
        oldest_seq: found.oldest.get(),
        oldest_time: found.oldest_time.map(when),
        retention: found.retention.map(|keep| Kept { seqs: keep.seqs, seconds: keep.seconds }),
        seq: read.state.seq.get(),
        age_millis: read.state.age.map(|age| age.as_millis()),
    };
    output::print(global.output, &listed, |listed| {
        let rows = listed.snapshots.iter().map(|row| vec![row.name.clone(), row.seq.to_string(), row.at.clone()]);
        let mut text = table(&["snapshot", "seq", "made"], &[1], rows);
        let since = listed.oldest_time.as_ref().map_or_else(String::new, |time| format!(" ({time})"));
        let keep = match &listed.retention {
            None => "as the nodes are set".to_owned(),
            Some(Kept { seqs, seconds }) => {
                let time = humantime::format_duration(std::time::Duration::from_secs(*seconds));
                format!("the newest {seqs} seqs and those of the last {time}")
            }
        };
        text.push_str(&format!(
            "\nevery state from seq {}{since} to {} can be read; kept: {keep}\n",
            listed.oldest_seq, listed.seq
        ));
        text
    })
}

/// `VOLUME@NAME`
fn parse(argument: &str) -> anyhow::Result<(&str, Bytes)> {
    let bad = || Failure::error(Exit::Usage, format!("{argument:?} is no snapshot: VOLUME@NAME, as in data@monday"));
    let (volume, name) = argument.split_once('@').ok_or_else(bad)?;
    let name = parse_name(name).filter(|name| !name.is_empty()).ok_or_else(bad)?;
    Ok((volume, name.into()))
}

#[derive(Serialize)]
struct Diff {
    volume: String,
    from: u64,
    to: u64,
    /// Changed records that were looked at: the cost.
    records: u64,
    changes: Vec<Change>,
}

/// A change as data.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Change {
    pub(super) change: &'static str,
    pub(super) path: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) path_before: Option<String>,
    pub(super) kind: &'static str,
    pub(super) ino: u64,
    pub(super) size: u64,
    pub(super) version: u64,
}

impl Change {
    /// With paths of the namespace, in a volume mounted at `mount`.
    pub(super) fn new(mount: &[u8], change: &TreeChange) -> Self {
        let whole = |path: &Bytes| {
            let mount = mount.strip_suffix(b"/").unwrap_or(mount);
            let slash: &[u8] = if path.is_empty() { b"" } else { b"/" };
            show_name(&[mount, slash, path].concat())
        };
        Self {
            change: word(change.kind),
            path: change.path.as_ref().map(whole),
            path_before: change.path_before.as_ref().map(whole),
            kind: match change.file {
                FileKind::File => "file",
                FileKind::Directory => "folder",
                FileKind::Symlink => "symlink",
                FileKind::Mount => "mount",
            },
            ino: change.ino.get(),
            size: change.size,
            version: change.version.get(),
        }
    }
}

/// What happened, in a word.
pub(super) fn word(kind: ChangeKind) -> &'static str {
    match kind {
        ChangeKind::Removed => "removed",
        ChangeKind::Unlinked => "unlinked",
        ChangeKind::Renamed => "renamed",
        ChangeKind::Created => "created",
        ChangeKind::Linked => "linked",
        ChangeKind::Replaced => "replaced",
        ChangeKind::Attributes => "attributes",
    }
}

/// A prefix within a volume, as the state machine has it.
pub(super) fn prefix(argument: &str) -> anyhow::Result<Vec<u8>> {
    let bad = || {
        Failure::error(Exit::Usage, format!("--prefix {argument:?}: after a \\ two digits as in \\xff are expected"))
    };
    let path = parse_name(argument.trim_matches('/')).ok_or_else(bad)?;
    Ok(path)
}

pub(super) async fn diff(global: &Global, args: DiffArgs) -> anyhow::Result<Exit> {
    let session = Session::connect(global).await?;
    let volume = session.volume(&args.volume).await?;
    let prefix = prefix(&args.prefix)?;
    let from = session.version(&volume, &args.from).await?;
    let to = session.version(&volume, &args.to).await?;
    if from > to {
        let message = format!("{} (seq {from}) is later than {} (seq {to}): turn them round", args.from, args.to);
        return Err(Failure::error(Exit::Usage, message));
    }
    let found = session.vfs.names().diff(volume.id, from, to, &prefix).await?;
    let changes = found.changes.iter().map(|change| Change::new(&volume.spec.mount, change)).collect();
    let name = volume.spec.name.clone();
    let diff = Diff { volume: name, from: Seq::get(from), to: to.get(), records: found.records, changes };
    output::print(global.output, &diff, |diff| {
        let line = |change: &Change| {
            let path = change.path.as_deref().unwrap_or("(an open file)");
            match &change.path_before {
                Some(before) => format!("{:<11}{before} -> {path}\n", change.change),
                None => format!("{:<11}{path}\n", change.change),
            }
        };
        diff.changes.iter().map(line).collect()
    })?;
    Ok(Exit::Done)
}
