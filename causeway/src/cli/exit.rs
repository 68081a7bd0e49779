//! Exit codes, and what a person is told when something fails.

use std::process::ExitCode;

use causeway_base::RetryClass;

/// How a command ended. The numbers are documented in `causeway --help` and are not changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Done.
    Done = 0,
    /// Failed.
    Failed = 1,
    /// Bad usage or configuration.
    Usage = 2,
    /// Some items failed; each is listed.
    Partial = 3,
    /// Not found.
    NotFound = 4,
    /// A precondition or a rule stands against it.
    Refused = 5,
    /// Nothing happened; the same may succeed later.
    Unavailable = 6,
    /// It may or may not have happened.
    Unknown = 7,
    /// Stored data or a disk is bad.
    Damaged = 8,
    /// Ctrl-C.
    Interrupted = 130,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// A failure that knows its exit code.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// The exit code.
    pub exit: Exit,
    /// What happened, to what, why and what to do.
    pub message: String,
}

impl Failure {
    /// A failure as an error.
    pub fn error(exit: Exit, message: impl Into<String>) -> anyhow::Error {
        Self { exit, message: message.into() }.into()
    }
}

/// The exit code that a retry class stands for.
#[must_use]
pub fn exit_of(class: RetryClass) -> Exit {
    match class {
        RetryClass::Refused => Exit::Refused,
        RetryClass::Transient => Exit::Unavailable,
        RetryClass::Unknown => Exit::Unknown,
        RetryClass::Damaged => Exit::Damaged,
    }
}
