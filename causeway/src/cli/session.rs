//! The connection of one command to its cluster.

use std::path::Path;

use causeway_base::SiteName;
use causeway_vfs::{Located, Vfs};

use super::args::Global;
use super::exit::{Exit, Failure};
use crate::config::Config;
use crate::connect::connect;
use crate::output::parse_name;

/// How paths of the namespace are told from local ones where both can stand.
pub(crate) const REMOTE: &str = "cw:";

/// A configuration and a client of its cluster.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) config: Config,
    pub(crate) vfs: Vfs,
}

impl Session {
    /// Connects as the configuration's client.
    pub(crate) async fn connect(global: &Global) -> anyhow::Result<Self> {
        let config = Config::load(&global.config)?;
        Self::with(config, global.site.as_ref(), global.timeout).await
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
        Ok(Self { vfs, config })
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
