//! What a caller of this crate is told.

use std::io;
use std::path::PathBuf;

use causeway_base::RetryClass;
use causeway_dedup::ManifestError;
use causeway_dedup::rechunk::PlanError;
use causeway_namespace::client::ClientError;
use causeway_namespace_core::command::Errno;

use crate::transfer::TransferError;

/// Why something was not read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VfsError {
    /// The namespace says no.
    #[error("{path}: {code}")]
    Posix {
        /// Path in the namespace, as text.
        path: String,
        /// Why.
        code: Errno,
    },
    /// The path lies in no volume.
    #[error("{path}: in no volume; `causeway volume list` shows where they are mounted")]
    NoVolume {
        /// Path in the namespace, as text.
        path: String,
    },
    /// Both ends of a rename or link must lie in one volume.
    #[error("{from} and {to} lie in different volumes: copy, then remove")]
    CrossVolume {
        /// From.
        from: String,
        /// To.
        to: String,
    },
    /// The metadata call failed.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// Chunks did not come or go.
    #[error(transparent)]
    Transfer(#[from] TransferError),
    /// The manifest of a file is not one.
    #[error("{path}: its manifest is damaged")]
    Manifest {
        /// Path in the namespace, as text.
        path: String,
        /// What is wrong with it.
        source: ManifestError,
    },
    /// The change does not fit the file.
    #[error("{path}")]
    Plan {
        /// Path in the namespace, as text.
        path: String,
        /// Why.
        source: PlanError,
    },
    /// Another writer was faster, too often or where that matters.
    #[error(
        "{path}: was changed by others while this was written ({attempts} times); nothing was written: look at it, then try again"
    )]
    Changed {
        /// Path in the namespace, as text.
        path: String,
        /// How often it was tried.
        attempts: u32,
    },
    /// A local file or folder.
    #[error("{what} {path}", path = path.display())]
    Local {
        /// What was done: `read`, `write`, `create`, ...
        what: &'static str,
        /// The local path.
        path: PathBuf,
        /// What the operating system says.
        source: io::Error,
    },
    /// A task of ours ended by a panic: a fault of the program.
    #[error("internal fault: {0}")]
    Internal(String),
}

impl VfsError {
    /// A local failure.
    pub(crate) fn local(what: &'static str, path: impl Into<PathBuf>, source: io::Error) -> Self {
        Self::Local { what, path: path.into(), source }
    }

    /// What the caller may do next.
    #[must_use]
    pub fn retry_class(&self) -> RetryClass {
        match self {
            Self::Posix { .. }
            | Self::NoVolume { .. }
            | Self::CrossVolume { .. }
            | Self::Plan { .. }
            | Self::Local { .. } => RetryClass::Refused,
            Self::Changed { .. } => RetryClass::Transient,
            Self::Client(error) => error.retry_class(),
            Self::Transfer(error) => error.retry_class(),
            Self::Manifest { .. } => RetryClass::Damaged,
            Self::Internal(_) => RetryClass::Unknown,
        }
    }

    /// The POSIX error in it, if that is what it is.
    #[must_use]
    pub fn errno(&self) -> Option<Errno> {
        match self {
            Self::Posix { code, .. } => Some(*code),
            Self::Client(error) => error.refusal().map(|refusal| refusal.code),
            _ => None,
        }
    }
}

/// A path of the namespace for a message.
pub(crate) fn show(path: &[u8]) -> String {
    let text = String::from_utf8_lossy(path);
    if text.starts_with('/') { text.into_owned() } else { format!("/{text}") }
}
