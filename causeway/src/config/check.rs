//! What a configuration must hold beyond its syntax, and errors that name file and line.

use std::collections::BTreeSet;
use std::ops::Range;
use std::path::{Path, PathBuf};

use super::Config;

/// A configuration that cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read configuration {path}: {source}\n  hint: {hint}", path = path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
        /// What to do.
        hint: &'static str,
    },
    /// Something in it is wrong.
    #[error("{path}:{line}: {message}\n  | {text}", path = path.display())]
    At {
        /// Which file.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// What is wrong and what is expected.
        message: String,
        /// The line itself.
        text: String,
    },
}

impl ConfigError {
    pub(super) fn read(path: &Path, source: std::io::Error) -> Self {
        let hint = if source.kind() == std::io::ErrorKind::NotFound {
            "`causeway init DIR` writes one; name it with --config or CAUSEWAY_CONFIG"
        } else {
            "check the file's permissions"
        };
        Self::Read { path: path.to_owned(), source, hint }
    }

    pub(super) fn syntax(path: &Path, text: &str, error: &toml::de::Error) -> Self {
        Self::at(path, text, error.span().unwrap_or(0..0), error.message())
    }

    pub(super) fn at(path: &Path, text: &str, span: Range<usize>, message: impl Into<String>) -> Self {
        let start = span.start.min(text.len());
        let line = text.as_bytes()[..start].iter().filter(|byte| **byte == b'\n').count();
        let text = text.lines().nth(line).unwrap_or_default().trim_end().to_owned();
        Self::At { path: path.to_owned(), line: line + 1, message: message.into(), text }
    }
}

pub(super) fn check(config: &Config, text: &str) -> Result<(), ConfigError> {
    let fail = |span: Range<usize>, message: String| Err(ConfigError::at(&config.path, text, span, message));
    // A key's own span is gone after parsing; its first mention after the start of its section stands for it.
    let key_after = |start: usize, key: &str| text[start..].find(key).map_or(start..start, |at| start + at..start + at);
    let mention = |key: &str| key_after(0, key);

    let upkeep = &config.upkeep;
    if upkeep.versions == 0 {
        return fail(mention("versions"), "versions must be at least 1".into());
    }
    if upkeep.rate.bytes() < 1 << 20 {
        return fail(key_after(mention("[upkeep]").start, "rate"), "rate must be at least 1MiB".into());
    }
    if upkeep.gc_every.0.as_secs() > 0 && upkeep.gc_every.0 < upkeep.gc_grace.0 {
        return fail(mention("gc_every"), "gc_every must be at least gc_grace (or 0s)".into());
    }

    if (1..16 << 20).contains(&config.limits.chunk_capacity.bytes()) {
        return fail(mention("chunk_capacity"), "chunk_capacity must be at least 16MiB (or 0B)".into());
    }
    let every = upkeep.compare_every.0;
    if !every.is_zero() && every.as_millis() < 100 {
        return fail(mention("compare_every"), "compare_every must be at least 100ms (or 0s)".into());
    }

    let timing = &config.timing;
    if timing.heartbeat.0.as_millis() < 10 || timing.heartbeat.0 * 2 > timing.election_min.0 {
        return fail(mention("heartbeat"), "heartbeat must be at least 10ms and at most half of election_min".into());
    }
    if timing.election_min.0 >= timing.election_max.0 || timing.election_max.0.as_secs() > 60 {
        return fail(mention("election_m"), "election_min must be below election_max, and that at most 60s".into());
    }
    if config.sites.is_empty() {
        return fail(0..0, "no [[site]]: at least one is needed".into());
    }
    if config.nodes.is_empty() {
        return fail(0..0, "no [[node]]: at least one is needed".into());
    }
    let mut sites = BTreeSet::new();
    for site in &config.sites {
        if !sites.insert(&site.get_ref().name) {
            return fail(site.span(), format!("site {} stands twice", site.get_ref().name));
        }
    }
    let (mut ids, mut addresses, mut folders) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    for spanned in &config.nodes {
        let node = spanned.get_ref();
        let key = |key: &str| key_after(spanned.span().start, key);
        if node.id == 0 {
            return fail(key("id"), "node ids start at 1".into());
        }
        if !ids.insert(node.id) {
            return fail(key("id"), format!("node id {} stands twice; ids are never reused", node.id));
        }
        if !sites.contains(&node.site) {
            return fail(
                key("site ="),
                format!("node {}: there is no [[site]] named {:?}", node.id, node.site.as_str()),
            );
        }
        let metrics = node.metrics.as_ref().map(|address| ("metrics", address));
        for (protocol, address) in [("grpc", &node.grpc), ("quic", &node.quic)].into_iter().chain(metrics) {
            if !is_address(address) {
                return fail(key(protocol), format!("node {}: {protocol} = {address:?} is not host:port", node.id));
            }
            if !addresses.insert((protocol, address)) {
                return fail(key(protocol), format!("node {}: {protocol} address {address} stands twice", node.id));
            }
        }
        if !folders.insert(&node.data) {
            return fail(key("data"), format!("node {}: data folder {} stands twice", node.id, node.data.display()));
        }
    }
    if let Some(repository) = &config.repository {
        let url = repository.url.get_ref();
        let known = ["azure://", "az://", "abfss://", "s3://", "gs://", "file://"];
        if url.is_empty() || (url.contains("://") && !known.iter().any(|scheme| url.starts_with(scheme))) {
            let message = format!("repository url {url:?}: use azure://, s3://, gs://, file:// or a folder");
            return fail(repository.url.span(), message);
        }
    }
    Ok(())
}

fn is_address(text: &str) -> bool {
    text.rsplit_once(':').is_some_and(|(host, port)| {
        !host.is_empty() && !host.contains(char::is_whitespace) && port.parse::<u16>().is_ok_and(|port| port > 0)
    })
}
