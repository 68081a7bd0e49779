//! A repository: an object-store prefix with a marker.

use std::sync::Arc;

use bytes::Bytes;
use object_store::ObjectStore;
use serde::{Deserialize, Serialize};

use causeway_base::envelope::{self, Kind};
use causeway_base::{Clock, Timestamp};

use crate::backend::{self, Backend};
use crate::error::Error;
use crate::names::{MARKER, Names};
use crate::options::RepositoryOptions;
use crate::run::BlockCache;
use crate::store::{Put, RequestStats, Store};

const MARKER_KIND: Kind = Kind { magic: *b"CWRP", version: 1, payload_bytes_max: 4096 };

/// What the marker object says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Marker {
    id: u128,
    created: Timestamp,
}

/// An open repository; a cheap handle.
#[derive(Clone, Debug)]
pub struct Repository {
    pub(crate) store: Store,
    pub(crate) cache: Arc<BlockCache>,
    pub(crate) options: Arc<RepositoryOptions>,
    url: Arc<str>,
    id: u128,
    created: Timestamp,
}

impl Repository {
    /// Opens the repository at `url`: `file:///dir` or a plain path, `azure://container/prefix`, `s3://bucket/prefix`,
    /// `gs://bucket/prefix`. With [`RepositoryOptions::create`] an empty place becomes a repository.
    ///
    /// Cancel safe.
    ///
    /// # Errors
    /// [`Error::Address`], [`Error::NoRepository`], [`Error::NotEmpty`], [`Error::Marker`], or the store's.
    pub async fn open(url: &str, options: RepositoryOptions) -> Result<Self, Error> {
        let backend = backend::open(url, &options)?;
        Self::on(backend, url, options).await
    }

    /// Opens a repository on an object store made elsewhere: one in memory, or one that fails on purpose.
    ///
    /// # Errors
    /// As [`Repository::open`].
    pub async fn with_store(
        object: Arc<dyn ObjectStore>,
        url: &str,
        options: RepositoryOptions,
    ) -> Result<Self, Error> {
        Self::on(Backend { object, lists_in_order: false }, url, options).await
    }

    async fn on(backend: Backend, url: &str, options: RepositoryOptions) -> Result<Self, Error> {
        let store = Store::new(backend, Arc::new(Names::new(options.seed)), &options);
        let marker = match read_marker(&store, url).await? {
            Some(marker) => marker,
            None if !options.create => return Err(Error::NoRepository { url: url.to_owned() }),
            None => create_marker(&store, url, &options).await?,
        };
        let cache = Arc::new(BlockCache::new(options.cache_bytes.bytes()));
        let (id, created) = (marker.id, marker.created);
        Ok(Self { store, cache, options: Arc::new(options), url: url.into(), id, created })
    }

    /// The random number drawn when the repository was made.
    #[must_use]
    pub const fn id(&self) -> u128 {
        self.id
    }

    /// When it was made.
    #[must_use]
    pub const fn created(&self) -> Timestamp {
        self.created
    }

    /// The address it was opened with; without credentials unless the caller put them there.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Requests sent since it was opened, by this handle and its clones.
    #[must_use]
    pub fn requests(&self) -> RequestStats {
        self.store.stats()
    }

    pub(crate) fn clock(&self) -> &dyn Clock {
        &*self.options.clock
    }
}

async fn read_marker(store: &Store, url: &str) -> Result<Option<Marker>, Error> {
    let Some(sealed) = store.get(MARKER, 1 << 16).await? else { return Ok(None) };
    let marker =
        envelope::open_value(MARKER_KIND, &sealed).map_err(|source| Error::Marker { url: url.to_owned(), source })?;
    Ok(Some(marker))
}

async fn create_marker(store: &Store, url: &str, options: &RepositoryOptions) -> Result<Marker, Error> {
    if let Some(found) = store.any().await? {
        // Another process may have made the repository between our two looks.
        return match read_marker(store, url).await? {
            Some(marker) => Ok(marker),
            None => Err(Error::NotEmpty { url: url.to_owned(), found }),
        };
    }
    let marker = Marker { id: store.names().draw(), created: options.clock.now() };
    let sealed =
        envelope::seal_value(MARKER_KIND, &marker).map_err(|source| Error::Marker { url: url.to_owned(), source })?;
    match store.create(MARKER, Bytes::from(sealed)).await? {
        Put::Created => Ok(marker),
        // Ours with a lost reply, or another process's: whichever is there is the repository.
        Put::Exists => read_marker(store, url).await?.ok_or_else(|| Error::Missing { path: MARKER.to_owned() }),
    }
}
