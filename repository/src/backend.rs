//! From an address to an object store.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use object_store::aws::AmazonS3Builder;
use object_store::azure::MicrosoftAzureBuilder;
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::local::LocalFileSystem;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::prefix::PrefixStore;
use object_store::{ObjectStore, RetryConfig};
use url::Url;

use crate::error::Error;
use crate::options::RepositoryOptions;

/// An object store, narrowed to the repository's prefix.
#[derive(Debug)]
pub(crate) struct Backend {
    pub(crate) object: Arc<dyn ObjectStore>,
    /// Whether a listing comes in the order of names, so that its first page is enough to know the first name.
    pub(crate) lists_in_order: bool,
}

/// Connects nothing yet; only a directory is touched (made, if `options.create`).
pub(crate) fn open(url: &str, options: &RepositoryOptions) -> Result<Backend, Error> {
    let fail = |reason: String| Error::Address { url: url.to_owned(), reason };
    if let Some(directory) = directory_of(url).map_err(&fail)? {
        return local(directory, url, options);
    }
    let parsed = Url::parse(url).map_err(|error| fail(error.to_string()))?;
    let prefix = Path::from_url_path(parsed.path()).map_err(|error| fail(error.to_string()))?;
    let store_fail = |error: object_store::Error| fail(error.to_string());
    // Settings are matched in lower case against the backend's names; those of other backends are skipped.
    macro_rules! build {
        ($builder:ty) => {{
            let base = if options.environment { <$builder>::from_env() } else { <$builder>::new() };
            let limits = client_settings(options);
            let given = options.backend.iter().map(|(key, value)| (key.as_str(), value));
            let settings = limits.iter().map(|(key, value)| (*key, value)).chain(given);
            let set = settings.fold(base.with_retry(retry(options)), |builder, (key, value)| {
                match key.to_ascii_lowercase().parse() {
                    Ok(key) => builder.with_config(key, value),
                    Err(_) => builder,
                }
            });
            Arc::new(set.with_url(bucket_url(&parsed)).build().map_err(store_fail)?)
        }};
    }
    let object: Arc<dyn ObjectStore> = match parsed.scheme() {
        "azure" | "az" | "abfs" | "abfss" => build!(MicrosoftAzureBuilder),
        "s3" | "s3a" => build!(AmazonS3Builder),
        "gs" => build!(GoogleCloudStorageBuilder),
        "memory" => Arc::new(InMemory::new()),
        other => return Err(fail(format!("scheme {other:?}; known are file, azure, s3 and gs"))),
    };
    let object = if prefix.as_ref().is_empty() { object } else { Arc::new(PrefixStore::new(object, prefix)) };
    Ok(Backend { object, lists_in_order: true })
}

/// The directory that a `file:` address or a plain path means; `None` for any other address.
fn directory_of(url: &str) -> Result<Option<PathBuf>, String> {
    if url.is_empty() {
        return Err("it is empty".to_owned());
    }
    if !url.contains("://") {
        return Ok(Some(PathBuf::from(url)));
    }
    if !url.starts_with("file://") {
        return Ok(None);
    }
    let parsed = Url::parse(url).map_err(|error| error.to_string())?;
    parsed.to_file_path().map(Some).map_err(|()| "a file address needs an absolute path, file:///dir".to_owned())
}

fn local(directory: PathBuf, url: &str, options: &RepositoryOptions) -> Result<Backend, Error> {
    if options.create {
        std::fs::create_dir_all(&directory).map_err(|source| Error::Local { path: directory.clone(), source })?;
    } else if !directory.is_dir() {
        return Err(Error::NoRepository { url: url.to_owned() });
    }
    let object = LocalFileSystem::new_with_prefix(&directory)
        .map_err(|error| Error::Address { url: url.to_owned(), reason: error.to_string() })?
        .with_fsync(true);
    Ok(Backend { object: Arc::new(object), lists_in_order: false })
}

/// The address without the prefix: the builders take the container only.
fn bucket_url(url: &Url) -> String {
    url[..url::Position::BeforePath].to_owned()
}

/// Limits of the HTTP client. The limit of a whole request is ours, by its size (see `Store`); the client's only has to be
/// above it. Given as settings, since `with_client_options` would drop those that came from the environment.
fn client_settings(options: &RepositoryOptions) -> [(&'static str, String); 3] {
    let seconds = options.request_timeout.as_secs().max(1);
    [
        ("timeout", "600s".to_owned()),
        ("connect_timeout", format!("{}s", seconds.min(5))),
        ("read_timeout", format!("{seconds}s")),
    ]
}

fn retry(options: &RepositoryOptions) -> RetryConfig {
    RetryConfig {
        max_retries: 3,
        retry_timeout: options.request_timeout.min(Duration::from_secs(60)),
        ..Default::default()
    }
}
