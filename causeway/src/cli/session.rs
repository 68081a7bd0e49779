//! The connection of one command to its cluster.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use causeway_base::{Clock as _, Seq, SiteName, SystemClock, Timestamp, VolumeId};
use causeway_namespace::client::ClientError;
use causeway_namespace::manage::Version;
use causeway_namespace::{Consistency, Freshness, Mutated};
use causeway_namespace_core::command::Op;
use causeway_namespace_core::root::VolumeRecord;
use causeway_vfs::{Located, Vfs};

use super::args::{Global, ReadArgs};
use super::exit::{Exit, Failure};
use crate::config::Config;
use crate::connect::connect;
use crate::output::parse_name;

/// How paths of the namespace are told from local ones where both can stand.
pub(crate) const REMOTE: &str = "cw:";

/// How long a leader is asked what a past state's name stands for, before what this site knows must do.
const ASK_LEADER_MAX: Duration = Duration::from_secs(3);

/// A configuration and a client of its cluster.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) config: Config,
    pub(crate) vfs: Vfs,
    token: Option<Token>,
}

/// The seqs that reads must not be older than, by volume, and the file that keeps them.
#[derive(Debug)]
struct Token {
    file: PathBuf,
    seqs: Mutex<BTreeMap<u64, u64>>,
}

impl Session {
    /// Connects as the configuration's client.
    pub(crate) async fn connect(global: &Global) -> anyhow::Result<Self> {
        let config = Config::load(&global.config)?;
        let token = global.session.as_deref().map(Token::load).transpose()?;
        let session = Self::with(config, global.site.as_ref(), global.timeout).await?;
        Ok(Self { token, ..session })
    }

    /// Connects with a configuration at hand; nodes of `site` are asked first.
    pub(crate) async fn with(
        config: Config,
        site: Option<&SiteName>,
        deadline: std::time::Duration,
    ) -> anyhow::Result<Self> {
        if let Some(site) = site
            && !config.nodes().any(|node| node.site == *site)
        {
            let known: Vec<_> = config.sites().map(|site| site.name.as_str()).collect();
            let message = format!("no node of site {site} in {}; sites: {}", config.path.display(), known.join(", "));
            return Err(Failure::error(Exit::Usage, message));
        }
        let vfs = connect(&config, site, deadline).await?;
        Ok(Self { vfs, config, token: None })
    }

    /// A freshness that also shows the session's own writes.
    pub(crate) fn fresh(&self, place: &Located, freshness: impl Into<Freshness>) -> Freshness {
        let own = self.token.as_ref().map_or(Seq::ZERO, |token| token.seq(place.volume.id));
        freshness.into().after(own)
    }

    /// What the flags of a read ask for.
    pub(crate) async fn freshness(&self, read: &ReadArgs, place: &Located) -> anyhow::Result<Freshness> {
        if let Some(state) = &read.at {
            return Ok(Freshness::at(self.version(&place.volume, state).await?));
        }
        let kind = match (read.local, read.max_age) {
            (true, _) => Consistency::Local,
            (false, Some(age)) => Consistency::Bounded(age),
            (false, None) => Consistency::Linearizable,
        };
        Ok(self.fresh(place, kind))
    }

    /// The seq of a state: `now`, a snapshot's name, `seq:N`, a time ago, or a time.
    pub(crate) async fn version(&self, volume: &VolumeRecord, state: &str) -> anyhow::Result<Seq> {
        if let Some(seq) = state.strip_prefix("seq:") {
            let seq =
                seq.parse().map_err(|_| Failure::error(Exit::Usage, format!("{state:?}: a number after `seq:`")))?;
            return Ok(Seq(seq));
        }
        if state == "now" {
            return Ok(self.vfs.seq(volume).await?);
        }
        let name = state.strip_prefix("name:");
        let version = match parse_time(state).filter(|_| name.is_none()) {
            Some(time) => Version::Time(time),
            None => Version::Snapshot(bytes::Bytes::copy_from_slice(name.unwrap_or(state).as_bytes())),
        };
        let names = self.vfs.names();
        // What a name stands for may have changed elsewhere; without a leader, what this site knows must do.
        let briefly = names.with_deadline(ASK_LEADER_MAX);
        let asked = briefly.find_version(volume.id, version.clone(), Consistency::Linearizable);
        let found = match asked.await {
            Err(ClientError::Unavailable { .. } | ClientError::Unknown { .. }) => {
                names.find_version(volume.id, version, Consistency::Local).await
            }
            found => found,
        };
        let missing = || {
            let name = &volume.spec.name;
            let message = format!(
                "volume {name} has no snapshot {state:?}; `causeway snapshot list {name}` lists them. Other states are \
                 `seq:N`, a time ago (`10m`), a time (`2026-11-24T12:00:00Z`)"
            );
            Failure::error(Exit::NotFound, message)
        };
        found?.ok_or_else(missing)
    }

    /// A volume by its name.
    pub(crate) async fn volume(&self, name: &str) -> anyhow::Result<VolumeRecord> {
        Ok(self.vfs.names().volume(name, Consistency::Local).await?.volume)
    }

    /// Applies operations, and notes their seq for reads to come.
    pub(crate) async fn mutate(&self, place: &Located, ops: Vec<Op>) -> anyhow::Result<Mutated> {
        let mutated = self.vfs.mutate(place, ops).await?;
        self.note(place.volume.id, mutated.seq)?;
        Ok(mutated)
    }

    /// Notes the seq of a write for reads to come.
    pub(crate) fn note(&self, volume: VolumeId, seq: Seq) -> anyhow::Result<()> {
        self.token.as_ref().map_or(Ok(()), |token| token.note(volume, seq))
    }

    /// The place that a path argument names.
    pub(crate) async fn locate(&self, argument: &str) -> anyhow::Result<Located> {
        Ok(self.vfs.locate(&remote_path(argument)?).await?)
    }

    /// Where something called `name` goes: into the place if that is a folder, else it is the place.
    pub(crate) async fn destination(&self, argument: &str, name: Option<&[u8]>) -> anyhow::Result<Located> {
        let place = self.locate(argument).await?;
        let Some(name) = name else { return Ok(place) };
        let found = self.vfs.stat(&place, causeway_namespace::Consistency::Linearizable).await;
        match found {
            Ok(read) if read.value.1.kind() == causeway_namespace_core::inode::FileKind::Directory => {
                Ok(place.join(name))
            }
            Ok(_) => Ok(place),
            Err(error) if error.errno() == Some(causeway_namespace_core::command::Errno::NotFound) => Ok(place),
            Err(error) => Err(error.into()),
        }
    }
}

impl Token {
    fn load(file: &Path) -> anyhow::Result<Self> {
        let text = match std::fs::read(file) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => b"{}".to_vec(),
            Err(error) => return Err(Failure::error(Exit::Usage, format!("session {}: {error}", file.display()))),
        };
        let seqs = serde_json::from_slice(&text).map_err(|error| {
            Failure::error(
                Exit::Usage,
                format!("{} is no session file: {error}; take another, or remove it", file.display()),
            )
        })?;
        Ok(Self { file: file.to_owned(), seqs: Mutex::new(seqs) })
    }

    fn seq(&self, volume: VolumeId) -> Seq {
        let seqs = self.seqs.lock().unwrap_or_else(PoisonError::into_inner);
        Seq(seqs.get(&volume.get()).copied().unwrap_or(0))
    }

    fn note(&self, volume: VolumeId, seq: Seq) -> anyhow::Result<()> {
        let mut seqs = self.seqs.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = seqs.entry(volume.get()).or_insert(0);
        *kept = seq.get().max(*kept);
        let text = serde_json::to_vec(&*seqs)?;
        write_whole(&self.file, &text)
    }
}

/// Replaces a small file, so that it is the old one or the new one at any moment.
pub(crate) fn write_whole(file: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    use std::io::Write as _;
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
    let write = || {
        let mut new = tempfile::NamedTempFile::new_in(folder)?;
        new.write_all(bytes)?;
        new.as_file().sync_all()?;
        new.persist(file).map_err(|error| error.error)?;
        Ok::<_, std::io::Error>(())
    };
    write().with_context(|| format!("write {}", file.display()))
}

/// A time in the past (`10m`), or a time (RFC 3339).
pub(crate) fn parse_time(text: &str) -> Option<Timestamp> {
    if let Ok(ago) = humantime::parse_duration(text) {
        return Some(before(SystemClock.now(), ago));
    }
    let time = time::OffsetDateTime::parse(text, &time::format_description::well_known::Rfc3339).ok()?;
    i64::try_from(time.unix_timestamp_nanos()).ok().map(Timestamp)
}

fn before(now: Timestamp, ago: Duration) -> Timestamp {
    Timestamp(now.0.saturating_sub(i64::try_from(ago.as_nanos()).unwrap_or(i64::MAX)))
}

/// The bytes of a path argument: with or without `cw:`, absolute, `\xNN` for bytes that are not text.
pub(crate) fn remote_path(argument: &str) -> anyhow::Result<Vec<u8>> {
    let text = argument.strip_prefix(REMOTE).unwrap_or(argument);
    let bad = |why: &str| Failure::error(Exit::Usage, format!("{argument:?} is no path of the namespace: {why}"));
    let path = parse_name(text).ok_or_else(|| bad("after a \\ two hexadecimal digits as in \\xff are expected"))?;
    if !path.starts_with(b"/") {
        return Err(bad("it starts with / as in /data/file"));
    }
    let trimmed = path.iter().rposition(|byte| *byte != b'/').map_or(1, |last| last + 1);
    Ok(path[..trimmed].to_vec())
}

/// The last name of a path.
pub(crate) fn last_name(path: &[u8]) -> Option<&[u8]> {
    path.rsplit(|byte| *byte == b'/').find(|name| !name.is_empty())
}

/// The last name of a local path, as bytes.
pub(crate) fn local_name(path: &Path) -> Option<Vec<u8>> {
    use std::os::unix::ffi::OsStrExt as _;
    let absolute = path.canonicalize().ok()?;
    absolute.file_name().map(|name| name.as_bytes().to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn path_arguments() {
        assert_eq!(remote_path("cw:/a/b").unwrap(), b"/a/b");
        assert_eq!(remote_path("/a/b//").unwrap(), b"/a/b");
        assert_eq!(remote_path("/").unwrap(), b"/");
        assert_eq!(remote_path("/\\xff").unwrap(), b"/\xff");
        for bad in ["", "a", "cw:a", "/\\q"] {
            assert!(remote_path(bad).is_err(), "{bad}");
        }
        assert_eq!(last_name(b"/a/b/"), Some(&b"b"[..]));
        assert_eq!(last_name(b"/"), None);
    }
}
