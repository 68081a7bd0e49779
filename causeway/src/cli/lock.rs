//! `causeway lock`

use std::time::{Duration, Instant};

use bytes::Bytes;
use causeway_namespace::Consistency;
use causeway_namespace_core::command::Errno;
use causeway_namespace_core::manage::{LockKind, ManageOp};
use causeway_vfs::Located;
use serde::Serialize;

use super::args::{Global, LockCommand};
use super::exit::{Exit, Failure};
use super::session::Session;
use super::show::when;
use crate::output::{self, show_name, table};

/// Between two attempts to take a lock that another holds.
const AGAIN: Duration = Duration::from_millis(200);

#[derive(Serialize)]
struct Taken {
    path: String,
    token: u64,
    lease_millis: u64,
    seq: u64,
}

#[derive(Serialize)]
struct Row {
    ino: u64,
    path: Option<String>,
    token: u64,
    kind: &'static str,
    start: u64,
    end: Option<u64>,
    holder: String,
    since: String,
    ends: String,
}

pub(super) async fn run(global: &Global, command: LockCommand) -> anyhow::Result<Exit> {
    let session = Session::connect(global).await?;
    match command {
        LockCommand::Acquire { path, shared, start, len, lease, wait, holder, run } => {
            let place = session.locate(&path).await?;
            let kind = if shared { LockKind::Shared } else { LockKind::Exclusive };
            let holder = Bytes::from(holder.unwrap_or_else(own_name));
            let op = ManageOp::AcquireLock { at: place.at(), kind, start, len, holder, lease_millis: millis(lease)? };
            let taken = acquire(&session, &place, op, wait).await?;
            if run.is_empty() {
                output::print(global.output, &taken, |taken| format!("{}\n", taken.token))?;
                return Ok(Exit::Done);
            }
            let held = Held { session: &session, place, token: taken.token, lease };
            return held.run(&run).await;
        }
        LockCommand::Renew { path, token, lease } => {
            let place = session.locate(&path).await?;
            let op = ManageOp::RenewLock { at: place.at(), token, lease_millis: millis(lease)? };
            session.vfs.names().manage(place.volume.id, op).await?;
        }
        LockCommand::Release { path, token } => {
            let place = session.locate(&path).await?;
            session.vfs.names().manage(place.volume.id, ManageOp::ReleaseLock { at: place.at(), token }).await?;
        }
        LockCommand::List { volume } => list(global, &session, &volume).await?,
    }
    Ok(Exit::Done)
}

fn millis(lease: Duration) -> anyhow::Result<u64> {
    u64::try_from(lease.as_millis()).map_err(|_| Failure::error(Exit::Usage, "--lease: a day at most"))
}

fn own_name() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let user = rustix::process::geteuid().as_raw();
    format!("{user}@{}:{}", host.trim(), std::process::id())
}

async fn acquire(session: &Session, place: &Located, op: ManageOp, wait: Duration) -> anyhow::Result<Taken> {
    let started = Instant::now();
    let ManageOp::AcquireLock { lease_millis, .. } = &op else { return Err(anyhow::anyhow!("not a lock")) };
    let lease_millis = *lease_millis;
    loop {
        let error = match session.vfs.names().manage(place.volume.id, op.clone()).await {
            Ok(mutated) => {
                session.note(place.volume.id, mutated.seq)?;
                let token = mutated.done.first().map_or(0, |done| done.version.get());
                return Ok(Taken { path: place.shown.clone(), token, lease_millis, seq: mutated.seq.get() });
            }
            Err(error) => error,
        };
        let locked = error.refusal().is_some_and(|refusal| refusal.code == Errno::Locked);
        if !locked || started.elapsed() + AGAIN >= wait {
            return Err(error.into());
        }
        tokio::time::sleep(AGAIN).await;
    }
}

/// A lock that is held while a command runs.
struct Held<'a> {
    session: &'a Session,
    place: Located,
    token: u64,
    lease: Duration,
}

impl Held<'_> {
    async fn run(self, command: &[String]) -> anyhow::Result<Exit> {
        let Some((program, args)) = command.split_first() else { return Ok(Exit::Usage) };
        let child = tokio::process::Command::new(program)
            .args(args)
            .env("CAUSEWAY_LOCK_TOKEN", self.token.to_string())
            .kill_on_drop(true)
            .spawn();
        let mut child = match child {
            Ok(child) => child,
            Err(error) => {
                self.release().await;
                return Err(Failure::error(Exit::Usage, format!("run {program}: {error}")));
            }
        };
        let ended = tokio::select! {
            ended = child.wait() => ended,
            lost = self.renew() => {
                child.kill().await?;
                return Err(lost.context(format!("the lock on {} was lost; {program} was ended", self.place.shown)));
            }
        };
        self.release().await;
        Ok(if ended?.success() { Exit::Done } else { Exit::Failed })
    }

    /// Renews until that fails for so long that the lease is over.
    async fn renew(&self) -> anyhow::Error {
        let mut renewed = Instant::now();
        let lease_millis = u64::try_from(self.lease.as_millis()).unwrap_or(u64::MAX);
        loop {
            tokio::time::sleep(self.lease / 3).await;
            let asked = Instant::now();
            // An answer after the end of the lease is none.
            let left = self.lease.saturating_sub(renewed.elapsed());
            let names = self.session.vfs.names().with_deadline(left);
            let op = ManageOp::RenewLock { at: self.place.at(), token: self.token, lease_millis };
            match names.manage(self.place.volume.id, op).await {
                Ok(_) => renewed = asked,
                Err(error) if error.refusal().is_some() || renewed.elapsed() >= self.lease => return error.into(),
                Err(error) => tracing::warn!(%error, "the lock was not renewed, trying again"),
            }
        }
    }

    async fn release(&self) {
        let op = ManageOp::ReleaseLock { at: self.place.at(), token: self.token };
        if let Err(error) = self.session.vfs.names().manage(self.place.volume.id, op).await {
            eprintln!("the lock ends by itself with its lease: {error}");
        }
    }
}

async fn list(global: &Global, session: &Session, volume: &str) -> anyhow::Result<()> {
    let record = session.volume(volume).await?;
    let read = session.vfs.names().locks(record.id, Consistency::Linearizable).await?;
    let mut rows = Vec::new();
    for lock in read.value {
        let kind = match lock.record.kind {
            LockKind::Shared => "shared",
            LockKind::Exclusive => "exclusive",
            LockKind::Hold => "open",
        };
        rows.push(Row {
            ino: lock.ino.get(),
            path: lock.path.map(|path| shown_path(&record.spec.mount, &path)),
            token: lock.token,
            kind,
            start: lock.record.start,
            end: (lock.record.end != u64::MAX).then_some(lock.record.end),
            holder: show_name(&lock.record.holder),
            since: when(lock.record.since),
            ends: when(lock.record.ends),
        });
    }
    output::print(global.output, &rows, |rows| {
        let shown = rows.iter().map(|row| {
            let end = row.end.map_or_else(|| "end".to_owned(), |end| end.to_string());
            let range = format!("{}-{end}", row.start);
            let what = row.path.clone().unwrap_or_else(|| format!("inode {}", row.ino));
            vec![what, row.token.to_string(), row.kind.to_owned(), range, row.holder.clone(), row.ends.clone()]
        });
        table(&["on", "token", "kind", "bytes", "holder", "ends"], &[1], shown)
    })
}

/// A path of a volume from the top of the namespace.
fn shown_path(mount: &[u8], path: &[u8]) -> String {
    if path.is_empty() {
        return show_name(mount);
    }
    let above = mount.strip_suffix(b"/").unwrap_or(mount);
    show_name(&[above, path].join(&b'/'))
}
