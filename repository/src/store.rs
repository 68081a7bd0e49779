//! Requests to the object store: each with a deadline, bounded retries and a count.
//!
//! Every object of a repository is written once and never changed, so a write can be repeated safely. A conditional put
//! can still meet its own first attempt: the store's client retries inside, and a put may be applied although its reply
//! was lost. [`Put::Exists`] therefore never says whose object it is; names drawn at random are ours by construction, and
//! heads carry a writer token to read back.

use std::future::Future;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{GetOptions, ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload};

use causeway_base::Timestamp;

use crate::backend::Backend;
use crate::error::{Error, is_transient};
use crate::names::Names;
use crate::options::{BYTES_PER_SECOND_MIN, RepositoryOptions};

/// What a create-only put found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Put {
    /// The object is new, and it is this put's.
    Created,
    /// An object with the name is there: somebody's, or our own whose reply was lost.
    Exists,
}

/// An object in a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Listed {
    /// The last part of its path.
    pub(crate) name: String,
    pub(crate) bytes: u64,
    pub(crate) modified: Timestamp,
}

/// Requests sent and bytes carried since the repository was opened, repeated attempts included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RequestStats {
    /// Puts.
    pub puts: u64,
    /// Gets, of whole objects and of ranges.
    pub gets: u64,
    /// Listings (one for each call; a backend may need several pages).
    pub lists: u64,
    /// Deletes.
    pub deletes: u64,
    /// Bytes sent as objects.
    pub bytes_put: u64,
    /// Bytes received from objects.
    pub bytes_got: u64,
    /// Attempts that were repeated.
    pub retries: u64,
}

impl RequestStats {
    /// All requests together.
    #[must_use]
    pub const fn requests(&self) -> u64 {
        self.puts + self.gets + self.lists + self.deletes
    }
}

#[derive(Debug, Default)]
struct Counters {
    puts: AtomicU64,
    gets: AtomicU64,
    lists: AtomicU64,
    deletes: AtomicU64,
    bytes_put: AtomicU64,
    bytes_got: AtomicU64,
    retries: AtomicU64,
}

/// A cheap handle on the object store.
#[derive(Clone, Debug)]
pub(crate) struct Store {
    object: Arc<dyn ObjectStore>,
    counters: Arc<Counters>,
    names: Arc<Names>,
    request_timeout: Duration,
    backoff: Duration,
    attempts: u32,
    pub(crate) lists_in_order: bool,
}

const BACKOFF_MAX: Duration = Duration::from_secs(5);

impl Store {
    pub(crate) fn new(backend: Backend, names: Arc<Names>, options: &RepositoryOptions) -> Self {
        Self {
            object: backend.object,
            lists_in_order: backend.lists_in_order,
            counters: Arc::default(),
            names,
            request_timeout: options.request_timeout,
            backoff: options.backoff,
            attempts: options.attempts.max(1),
        }
    }

    pub(crate) fn names(&self) -> &Names {
        &self.names
    }

    pub(crate) fn stats(&self) -> RequestStats {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        RequestStats {
            puts: read(&self.counters.puts),
            gets: read(&self.counters.gets),
            lists: read(&self.counters.lists),
            deletes: read(&self.counters.deletes),
            bytes_put: read(&self.counters.bytes_put),
            bytes_got: read(&self.counters.bytes_got),
            retries: read(&self.counters.retries),
        }
    }

    /// Creates an object; see [`Put`].
    ///
    /// After a failure of class `Unknown` the object may be there, now or a little later.
    pub(crate) async fn create(&self, path: &str, bytes: Bytes) -> Result<Put, Error> {
        let outcome = self
            .attempt("put", path, bytes.len() as u64, || {
                count(&self.counters.puts, 1);
                count(&self.counters.bytes_put, bytes.len() as u64);
                let payload = PutPayload::from_bytes(bytes.clone());
                async move {
                    let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
                    match self.object.put_opts(&Path::from(path), payload, options).await {
                        Ok(_) => Ok(Put::Created),
                        Err(object_store::Error::AlreadyExists { .. } | object_store::Error::Precondition { .. }) => {
                            Ok(Put::Exists)
                        }
                        Err(error) => Err(error),
                    }
                }
            })
            .await?;
        Ok(outcome)
    }

    /// Creates an object whose name was drawn at random: one that exists is our own, and only its length is checked.
    pub(crate) async fn create_unique(&self, path: &str, bytes: Bytes) -> Result<(), Error> {
        let len = bytes.len() as u64;
        if self.create(path, bytes).await? == Put::Exists {
            match self.size(path).await? {
                Some(found) if found == len => {}
                Some(found) => {
                    let reason = format!("{found} bytes are there of the {len} that were put");
                    return Err(Error::Corrupt { path: path.to_owned(), reason });
                }
                None => return Err(Error::Missing { path: path.to_owned() }),
            }
        }
        Ok(())
    }

    /// The length of an object; `None` if there is none.
    pub(crate) async fn size(&self, path: &str) -> Result<Option<u64>, Error> {
        self.attempt("get", path, 0, || async move {
            count(&self.counters.gets, 1);
            found(self.object.head(&Path::from(path)).await.map(|meta| meta.size))
        })
        .await
    }

    /// A whole small object of at most `bytes_max`; `None` if there is none. The deadline knows nothing of its size: large
    /// objects, whose size is known, are read by [`Store::get_range`].
    pub(crate) async fn get(&self, path: &str, bytes_max: u64) -> Result<Option<Bytes>, Error> {
        let got = self
            .attempt("get", path, 0, || async move {
                count(&self.counters.gets, 1);
                let Some(result) = found(self.object.get(&Path::from(path)).await)? else { return Ok(None) };
                let size = result.meta.size;
                if size > bytes_max {
                    return Ok(Some((size, Bytes::new())));
                }
                let bytes = whole(result.bytes().await?, size)?;
                Ok(Some((size, bytes)))
            })
            .await?;
        match got {
            None => Ok(None),
            Some((size, _)) if size > bytes_max => Err(Error::Corrupt {
                path: path.to_owned(),
                reason: format!("{size} bytes, at most {bytes_max} are expected"),
            }),
            Some((_, bytes)) => {
                count(&self.counters.bytes_got, bytes.len() as u64);
                Ok(Some(bytes))
            }
        }
    }

    /// Exactly the bytes of a range; `None` if there is no such object.
    pub(crate) async fn get_range(&self, path: &str, range: Range<u64>) -> Result<Option<Bytes>, Error> {
        let len = range.end.saturating_sub(range.start);
        let got = self
            .attempt("get", path, len, || {
                let range = range.clone();
                async move {
                    count(&self.counters.gets, 1);
                    let options = GetOptions::new().with_range(Some(range));
                    let result = self.object.get_opts(&Path::from(path), options).await;
                    let Some(result) = found(result)? else { return Ok(None) };
                    let bytes = result.bytes().await?;
                    count(&self.counters.bytes_got, bytes.len() as u64);
                    Ok(Some(whole(bytes, len)?))
                }
            })
            .await?;
        Ok(got)
    }

    /// The objects directly or indirectly below `prefix`, in the order of their names; only the first `limit` of them,
    /// where the backend lists in order.
    pub(crate) async fn list(&self, prefix: &str, limit: usize) -> Result<Vec<Listed>, Error> {
        let take = if self.lists_in_order { limit } else { usize::MAX };
        let mut listed = self
            .attempt("list", prefix, 0, || async move {
                count(&self.counters.lists, 1);
                let stream = self.object.list(Some(&Path::from(prefix)));
                let objects: Vec<_> = stream.take(take).try_collect().await?;
                Ok(objects)
            })
            .await?
            .into_iter()
            .map(|meta| Listed {
                name: meta.location.filename().unwrap_or_default().to_owned(),
                bytes: meta.size,
                modified: Timestamp(meta.last_modified.timestamp_nanos_opt().unwrap_or(0)),
            })
            .collect::<Vec<_>>();
        listed.sort_by(|a, b| a.name.cmp(&b.name));
        listed.truncate(limit);
        Ok(listed)
    }

    /// Whether any object is there at all; its path.
    pub(crate) async fn any(&self) -> Result<Option<String>, Error> {
        self.attempt("list", "", 0, || async move {
            count(&self.counters.lists, 1);
            let first = self.object.list(None).next().await.transpose()?;
            Ok(first.map(|meta| meta.location.to_string()))
        })
        .await
    }

    /// The names of the folders directly below `prefix`, sorted.
    pub(crate) async fn folders(&self, prefix: &str) -> Result<Vec<String>, Error> {
        let listed = self
            .attempt("list", prefix, 0, || async move {
                count(&self.counters.lists, 1);
                let result = found(self.object.list_with_delimiter(Some(&Path::from(prefix))).await)?;
                Ok(result.map(|result| result.common_prefixes).unwrap_or_default())
            })
            .await?;
        let mut names: Vec<_> = listed.iter().filter_map(|path| path.filename().map(ToOwned::to_owned)).collect();
        names.sort();
        Ok(names)
    }

    /// Deletes an object; one that is not there is fine.
    pub(crate) async fn delete(&self, path: &str) -> Result<(), Error> {
        self.attempt("delete", path, 0, || async move {
            count(&self.counters.deletes, 1);
            found(self.object.delete(&Path::from(path)).await).map(|_| ())
        })
        .await
    }

    /// Runs `request` with a deadline for each attempt, again while the failure may pass.
    async fn attempt<T, F, R>(&self, op: &'static str, path: &str, len: u64, mut request: R) -> Result<T, Error>
    where
        F: Future<Output = object_store::Result<T>>,
        R: FnMut() -> F,
    {
        let limit = self.request_timeout + Duration::from_millis(len.saturating_mul(1000) / BYTES_PER_SECOND_MIN);
        let mut wait = self.backoff;
        let mut attempt = 0;
        loop {
            attempt += 1;
            let error = match tokio::time::timeout(limit, request()).await {
                Ok(Ok(value)) => return Ok(value),
                Ok(Err(source)) => {
                    let retry = is_transient(&source);
                    let error = Error::Store { op, path: path.to_owned(), source };
                    if !retry {
                        return Err(error);
                    }
                    error
                }
                Err(_) => Error::Deadline { op, path: path.to_owned(), after: limit },
            };
            if attempt >= self.attempts {
                return Err(error);
            }
            count(&self.counters.retries, 1);
            tracing::debug!(op, path, attempt, %error, "request to the repository is repeated");
            tokio::time::sleep(wait.mul_f64(self.names.jitter())).await;
            wait = (wait * 2).min(BACKOFF_MAX);
        }
    }
}

fn count(counter: &AtomicU64, by: u64) {
    counter.fetch_add(by, Ordering::Relaxed);
}

/// `NotFound` as `None`.
fn found<T>(result: object_store::Result<T>) -> object_store::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(object_store::Error::NotFound { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// A body that was cut short is a failure of the transfer, to be repeated.
fn whole(bytes: Bytes, len: u64) -> object_store::Result<Bytes> {
    if bytes.len() as u64 == len {
        return Ok(bytes);
    }
    let source = format!("{} bytes came of {len}", bytes.len()).into();
    Err(object_store::Error::Generic { store: "repository", source })
}
