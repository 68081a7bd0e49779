//! `causeway quota`

use causeway_base::ByteSize;
use causeway_namespace::Consistency;
use causeway_namespace_core::manage::{ManageOp, QuotaLimit};
use serde::Serialize;

use super::args::{Global, QuotaCommand, QuotaOn};
use super::exit::{Exit, Failure};
use super::session::Session;
use crate::output::{self, show_name, table};

#[derive(Serialize)]
struct Row {
    /// A path in the namespace, or a user.
    on: String,
    files: u64,
    files_max: Option<u64>,
    bytes: u64,
    bytes_max: Option<u64>,
}

#[derive(Serialize)]
struct Shown {
    volume: String,
    quotas: Vec<Row>,
    seq: u64,
    age_millis: Option<u128>,
}

pub(super) async fn run(global: &Global, command: QuotaCommand) -> anyhow::Result<Exit> {
    let session = Session::connect(global).await?;
    match command {
        QuotaCommand::Set { on, bytes, files } => {
            let limit = QuotaLimit { bytes: bytes.map(|bytes| bytes.bytes()), files };
            set(&session, &on, Some(limit)).await?;
        }
        QuotaCommand::Clear { on } => set(&session, &on, None).await?,
        QuotaCommand::Show { volume } => show(global, &session, &volume).await?,
    }
    Ok(Exit::Done)
}

async fn set(session: &Session, on: &QuotaOn, limit: Option<QuotaLimit>) -> anyhow::Result<()> {
    let (volume, op) = match (&on.path, &on.user) {
        (Some(path), _) => {
            let place = session.locate(path).await?;
            (place.volume.id, ManageOp::SetQuota { at: place.at(), limit })
        }
        (None, Some(user)) => {
            let bad = || Failure::error(Exit::Usage, format!("{user:?} is no user of a volume: as in data:1000"));
            let (volume, uid) = user.rsplit_once(':').ok_or_else(bad)?;
            let uid = uid.parse().map_err(|_| bad())?;
            (session.volume(volume).await?.id, ManageOp::SetOwnerQuota { uid, limit })
        }
        (None, None) => return Err(Failure::error(Exit::Usage, "on what: a path, or --user VOLUME:UID")),
    };
    let mutated = session.vfs.names().manage(volume, op).await?;
    session.note(volume, mutated.seq)
}

async fn show(global: &Global, session: &Session, volume: &str) -> anyhow::Result<()> {
    let record = session.volume(volume).await?;
    let read = session.vfs.names().quotas(record.id, Consistency::Linearizable).await?;
    let mount = record.spec.mount.strip_suffix(b"/").unwrap_or(&record.spec.mount);
    let narrow = |bytes: u128| u64::try_from(bytes).unwrap_or(u64::MAX);
    let directories = read.value.directories.iter().map(|quota| Row {
        on: show_name(&if quota.path.is_empty() { mount.to_vec() } else { [mount, b"/", &quota.path].concat() }),
        files: quota.record.files,
        files_max: quota.record.limit.files,
        bytes: narrow(quota.record.bytes),
        bytes_max: quota.record.limit.bytes,
    });
    let owners = read.value.owners.iter().map(|(uid, owner)| Row {
        on: format!("user {uid}"),
        files: owner.files,
        files_max: owner.limit.and_then(|limit| limit.files),
        bytes: narrow(owner.bytes),
        bytes_max: owner.limit.and_then(|limit| limit.bytes),
    });
    let shown = Shown {
        volume: record.spec.name.clone(),
        quotas: directories.chain(owners).collect(),
        seq: read.state.seq.get(),
        age_millis: read.state.age.map(|age| age.as_millis()),
    };
    output::print(global.output, &shown, |shown| {
        let or_none = |limit: Option<String>| limit.unwrap_or_else(|| "-".to_owned());
        let rows = shown.quotas.iter().map(|row| {
            vec![
                row.on.clone(),
                row.files.to_string(),
                or_none(row.files_max.map(|max| max.to_string())),
                ByteSize(row.bytes).to_string(),
                or_none(row.bytes_max.map(|max| ByteSize(max).to_string())),
            ]
        });
        table(&["on", "files", "of", "bytes", "of"], &[1, 2, 3, 4], rows)
    })
}
