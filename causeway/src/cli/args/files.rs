//! The command line of files and folders.

use std::path::PathBuf;

use clap::Args;

use super::ReadArgs;

/// `put`
#[derive(Debug, Args)]
pub struct PutArgs {
    /// The local file.
    pub local: PathBuf,
    /// Path in the namespace; a folder that exists takes the file under its own name.
    pub path: String,
}

/// `get`
#[derive(Debug, Args)]
pub struct GetArgs {
    /// Path in the namespace.
    pub path: String,
    /// The local file or folder (default: the current folder).
    #[arg(default_value = ".")]
    pub local: PathBuf,
    /// How fresh.
    #[command(flatten)]
    pub read: ReadArgs,
}

/// `cp`
#[derive(Debug, Args)]
pub struct CpArgs {
    /// From: a local path, or `cw:/path` in the namespace.
    pub from: String,
    /// To: a local path, or `cw:/path`; exactly one of the two is in the namespace.
    pub to: String,
    /// Copy folders with all that is in them.
    #[arg(long, short)]
    pub recursive: bool,
    /// How fresh, when copying out.
    #[command(flatten)]
    pub read: ReadArgs,
}

/// `ls`
#[derive(Debug, Args)]
pub struct LsArgs {
    /// Path in the namespace.
    #[arg(default_value = "/")]
    pub path: String,
    /// Show mode, size and time.
    #[arg(long, short)]
    pub long: bool,
    /// List what is below as well.
    #[arg(long, short = 'R')]
    pub recursive: bool,
    /// How fresh.
    #[command(flatten)]
    pub read: ReadArgs,
}

/// `cat`
#[derive(Debug, Args)]
pub struct CatArgs {
    /// Path in the namespace.
    pub path: String,
    /// First byte.
    #[arg(long, default_value_t = 0)]
    pub offset: u64,
    /// Number of bytes (default: to the end).
    #[arg(long)]
    pub length: Option<u64>,
    /// How fresh.
    #[command(flatten)]
    pub read: ReadArgs,
}

/// `write`
#[derive(Debug, Args)]
pub struct WriteArgs {
    /// Path in the namespace; the file must exist.
    pub path: String,
    /// First byte that is written.
    #[arg(long)]
    pub offset: u64,
    /// Put the new bytes before what is there, instead of over it.
    #[arg(long)]
    pub insert: bool,
    /// Refuse (exit code 5) unless the file has exactly this version, as `causeway stat` shows it.
    #[arg(long, value_name = "VERSION")]
    pub if_version: Option<u64>,
}

/// `append`
#[derive(Debug, Args)]
pub struct AppendArgs {
    /// Path in the namespace; the file must exist.
    pub path: String,
    /// Refuse (exit code 5) unless the file has exactly this version, as `causeway stat` shows it.
    #[arg(long, value_name = "VERSION")]
    pub if_version: Option<u64>,
}

/// `truncate`
#[derive(Debug, Args)]
pub struct TruncateArgs {
    /// Path in the namespace; the file must exist.
    pub path: String,
    /// Its length then: bytes, or with a unit as in 10GiB.
    pub size: causeway_base::ByteSize,
    /// Refuse (exit code 5) unless the file has exactly this version, as `causeway stat` shows it.
    #[arg(long, value_name = "VERSION")]
    pub if_version: Option<u64>,
}

/// `stat`
#[derive(Debug, Args)]
pub struct StatArgs {
    /// Path in the namespace.
    pub path: String,
    /// How fresh.
    #[command(flatten)]
    pub read: ReadArgs,
}

/// `mkdir`
#[derive(Debug, Args)]
pub struct MkdirArgs {
    /// Path in the namespace.
    pub path: String,
    /// Make missing parents, and accept that it exists.
    #[arg(long, short)]
    pub parents: bool,
}

/// `mv`
#[derive(Debug, Args)]
pub struct MvArgs {
    /// From.
    pub from: String,
    /// To; a folder that exists takes it under its own name.
    pub to: String,
    /// Refuse to replace a file that exists.
    #[arg(long, short)]
    pub no_clobber: bool,
}

/// `rm`
#[derive(Debug, Args)]
pub struct RmArgs {
    /// Paths in the namespace.
    #[arg(required = true)]
    pub paths: Vec<String>,
    /// Remove folders with all that is in them.
    #[arg(long, short)]
    pub recursive: bool,
}
