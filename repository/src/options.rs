//! How a repository is opened.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use causeway_base::{ByteSize, Clock, SystemClock};

/// Settings of a [`crate::Repository`]; [`Default`] suits production.
#[derive(Clone, Debug)]
pub struct RepositoryOptions {
    /// Make the repository if nothing is there. Default: false, so that a wrong address is noticed.
    pub create: bool,
    /// Settings of the backend by the names that `object_store` knows (`azure_storage_account_name`,
    /// `azure_storage_use_emulator`, `aws_endpoint`, `allow_http`, …); they win over the environment.
    pub backend: BTreeMap<String, String>,
    /// Also take the backend's settings from the environment (`AZURE_*`, `AWS_*`, `GOOGLE_*`). Default: true.
    pub environment: bool,
    /// Time allowed for one attempt of a request, plus one second for each [`BYTES_PER_SECOND_MIN`] it carries.
    /// Default: 30 s.
    pub request_timeout: Duration,
    /// Attempts of one request, at least 1, on top of those of the store's own client. Default: 4.
    pub attempts: u32,
    /// First wait between attempts; doubles, with jitter, up to 5 s. Default: 100 ms.
    pub backoff: Duration,
    /// Requests under way at once for one operation. Memory: each may hold one object or range. Default: 4.
    pub concurrency: usize,
    /// Size at which a pack is closed: 16 MiB to 64 MiB. Default: 32 MiB.
    pub pack_bytes: ByteSize,
    /// Size at which a segment of a run is closed. Memory: `concurrency` + 2 of them while publishing, two for each run merged. Default: 16 MiB.
    pub segment_bytes: ByteSize,
    /// Decoded blocks kept in memory by readers. Default: 64 MiB.
    pub cache_bytes: ByteSize,
    /// Chunk index entries kept in memory (64 bytes each); what is beyond is read from the store. Default: 256 MiB.
    pub index_bytes: ByteSize,
    /// Seed of names and jitter; `None` (the default) draws one from the operating system.
    pub seed: Option<u64>,
    /// Wall clock.
    pub clock: Arc<dyn Clock>,
}

/// The slowest store that a deadline allows for.
pub const BYTES_PER_SECOND_MIN: u64 = 256 << 10;

impl Default for RepositoryOptions {
    fn default() -> Self {
        Self {
            create: false,
            backend: BTreeMap::new(),
            environment: true,
            request_timeout: Duration::from_secs(30),
            attempts: 4,
            backoff: Duration::from_millis(100),
            concurrency: 4,
            pack_bytes: ByteSize::mib(32),
            segment_bytes: ByteSize::mib(16),
            cache_bytes: ByteSize::mib(64),
            index_bytes: ByteSize::mib(256),
            seed: None,
            clock: Arc::new(SystemClock),
        }
    }
}

impl RepositoryOptions {
    /// The defaults, creating the repository if nothing is there.
    #[must_use]
    pub fn creating() -> Self {
        Self { create: true, ..Self::default() }
    }
}
