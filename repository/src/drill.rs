//! What rehearsed restores found: an object for each, so that whoever has the repository sees when one last went well.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use causeway_base::envelope::{self, Kind};
use causeway_base::{ClusterId, Timestamp};

use crate::error::Error;
use crate::names;
use crate::repository::Repository;

const KIND: Kind = Kind { magic: *b"CWDR", version: 1, payload_bytes_max: 4 << 20 };
/// Newest drills that are looked at for one of the cluster's own: a repository may have several clusters.
const LISTED_MAX: usize = 64;
/// A record of a time that lies further ahead is of a wrong clock.
const AHEAD_MAX: Duration = Duration::from_secs(3600);

/// A rehearsed restore.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DrillRecord {
    /// Whose images were restored.
    pub cluster: ClusterId,
    /// When it began.
    pub at: Timestamp,
    /// How long all of it took, in milliseconds.
    pub took_ms: u64,
    /// From its start until the metadata of all volumes stood in a node's store, in milliseconds.
    pub metadata_ms: u64,
    /// From its start until a folder was listed out of that store, in milliseconds.
    pub list_ms: u64,
    /// From its start until the first bytes of a file were there; `None` if no file has any.
    pub byte_ms: Option<u64>,
    /// The volumes that have an image.
    pub volumes: Vec<DrilledVolume>,
    /// What a restore would not bring back, or could not be looked at: for people.
    pub gaps: Vec<String>,
}

/// What a drill found of a volume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DrilledVolume {
    /// Its name.
    pub name: String,
    /// The commit that came back.
    pub seq: u64,
    /// How long before the drill that commit was the newest, in milliseconds, by the publisher's clock. What was written since is
    /// lost with the cluster; of a volume at rest, nothing was.
    pub age_ms: u64,
    /// Records that came back, read again from the node's store.
    pub records: u64,
    /// Whether they add up to the digest of the image.
    pub digest_held: bool,
    /// Regular files.
    pub files: u64,
    /// Chunks that they name: each is in the archive, but for those in `problem_count`.
    pub chunks: u64,
    /// Chunks that were read and compared with their names.
    pub chunks_read: u64,
    /// Their plain bytes.
    pub bytes_read: u64,
    /// What is wrong with chunks.
    pub problem_count: u64,
    /// The first few.
    pub problems: Vec<String>,
}

impl DrillRecord {
    /// Whether everything that has an image came back whole. There may be gaps all the same.
    #[must_use]
    pub fn passed(&self) -> bool {
        !self.volumes.is_empty() && self.volumes.iter().all(|volume| volume.digest_held && volume.problem_count == 0)
    }
}

impl Repository {
    /// Keeps what a drill found. Durable on return.
    ///
    /// # Errors
    /// The store's, such as a credential that may only read.
    pub async fn keep_drill(&self, record: &DrillRecord) -> Result<(), Error> {
        let sealed = envelope::seal_value(KIND, record).map_err(|error| Error::Source(error.to_string()))?;
        let path = names::drill(record.at, self.store.names().draw());
        self.store.create_unique(&path, sealed.into()).await
    }

    /// The newest drill of a cluster; `now` bounds what is believed: a record of a clock that was far ahead would stay the newest.
    /// One that does not decode is skipped.
    ///
    /// Cancel safe.
    ///
    /// # Errors
    /// The store's; [`Error::Corrupt`] if none decodes.
    pub async fn last_drill(&self, cluster: ClusterId, now: Timestamp) -> Result<Option<DrillRecord>, Error> {
        let mut damaged = None;
        let max = u64::from(KIND.payload_bytes_max) + envelope::OVERHEAD as u64;
        for listed in self.store.list(names::DRILLS, LISTED_MAX).await? {
            let path = format!("{}/{}", names::DRILLS, listed.name);
            let Some(sealed) = self.store.get(&path, max).await? else { continue };
            match envelope::open_value::<DrillRecord>(KIND, &sealed) {
                Ok(record) if record.cluster == cluster && record.at.since(now) < AHEAD_MAX => return Ok(Some(record)),
                Ok(_) => {}
                Err(error) => {
                    tracing::warn!(path, %error, "the result of a drill cannot be read");
                    damaged = Some(Error::Corrupt { path, reason: error.to_string() });
                }
            }
        }
        damaged.map_or(Ok(None), Err)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use object_store::ObjectStoreExt as _;
    use object_store::memory::InMemory;

    use super::*;
    use crate::options::RepositoryOptions;

    fn record(cluster: u128, at: i64) -> DrillRecord {
        let volume = DrilledVolume {
            name: "data".to_owned(),
            seq: 7,
            age_ms: 900,
            records: 3,
            digest_held: true,
            files: 1,
            chunks: 2,
            chunks_read: 1,
            bytes_read: 50,
            problem_count: 0,
            problems: Vec::new(),
        };
        DrillRecord {
            cluster: ClusterId(cluster),
            at: Timestamp(at),
            took_ms: 5,
            metadata_ms: 1,
            list_ms: 2,
            byte_ms: None,
            volumes: vec![volume],
            gaps: Vec::new(),
        }
    }

    #[tokio::test]
    async fn the_newest_drill_of_a_cluster_is_found_and_a_damaged_one_is_told() {
        let store = Arc::new(InMemory::new());
        let options = RepositoryOptions { create: true, ..RepositoryOptions::default() };
        let repository = Repository::with_store(store.clone(), "memory", options).await.unwrap();
        let second = 1_000_000_000;
        let now = Timestamp(100 * second);
        assert_eq!(repository.last_drill(ClusterId(1), now).await.unwrap(), None);
        for at in [5, 90, 40] {
            repository.keep_drill(&record(1, at * second)).await.unwrap();
            repository.keep_drill(&record(2, (at + 1) * second)).await.unwrap();
        }
        repository.keep_drill(&record(1, 90_000 * second)).await.unwrap();
        let last = repository.last_drill(ClusterId(1), now).await.unwrap().unwrap();
        assert_eq!(last, record(1, 90 * second));
        assert!(last.passed());
        let mut bad = record(1, 100 * second);
        bad.volumes[0].digest_held = false;
        assert!(!bad.passed() && !DrillRecord { volumes: Vec::new(), ..last }.passed());

        let path = names::drill(Timestamp(200 * second), 9);
        store.put(&path.as_str().into(), vec![1, 2, 3].into()).await.unwrap();
        assert_eq!(repository.last_drill(ClusterId(1), now).await.unwrap(), Some(record(1, 90 * second)));
        let error = repository.last_drill(ClusterId(3), now).await.unwrap_err();
        assert!(error.to_string().contains(&path), "{error}");
    }
}
