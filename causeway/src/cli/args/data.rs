//! The command line of stored bytes: replicas, chunk stores, repositories.

use std::path::PathBuf;
use std::time::Duration;

use causeway_base::{ByteSize, SiteName};
use clap::{Args, Subcommand, ValueEnum};

/// `sync …`
#[derive(Debug, Subcommand)]
pub enum SyncCommand {
    /// Waits until a site, or the repository, holds every byte of a volume, verified, up to a seq.
    Wait {
        /// The volume.
        volume: String,
        /// The site.
        #[arg(long = "at", required_unless_present = "archive")]
        at: Option<SiteName>,
        /// The repository instead of a site.
        #[arg(long, conflicts_with = "at")]
        archive: bool,
        /// The seq (default: the newest one when the command starts).
        #[arg(long)]
        seq: Option<u64>,
        /// Give up after this long (exit code 6).
        #[arg(long, default_value = "10m", value_parser = humantime::parse_duration, value_name = "TIME")]
        deadline: std::time::Duration,
    },
}

/// `store …`
#[derive(Debug, Subcommand)]
pub enum StoreCommand {
    /// Builds the chunk index of a stopped node anew from its packs, and shows the rate and what is damaged.
    #[command(after_help = "\
Exit code 0: all is good; 5: the node runs; 8: packs are damaged or missing, each is listed.")]
    Rebuild(StoreFolder),
    /// Shows what the chunk store of a stopped node holds.
    Stats(StoreFolder),
    /// Collects the chunks that no file, kept version, snapshot, upload or transfer names. Nodes do so by themselves too.
    #[command(after_help = "\
A chunk goes in two steps: one run condemns it, a later run removes it, if it was condemned for the grace and nothing has
named it meanwhile.")]
    Gc {
        /// Change nothing; show what would be freed.
        #[arg(long)]
        dry_run: bool,
        /// The node (default: the one that answers).
        #[arg(long, value_name = "ID")]
        node: Option<u64>,
        /// How long a chunk must have been condemned (default: the configuration's gc_grace).
        #[arg(long, value_parser = humantime::parse_duration, value_name = "TIME")]
        grace: Option<std::time::Duration>,
    },
    /// Names the files whose chunks are damaged or missing on a node, and heals them from other sites or the repository.
    #[command(after_help = "\
Exit code 0: all is good or healed; 3: some volumes could not be checked; 8: something could not be healed.")]
    Scrub {
        /// The node (default: the one that answers).
        #[arg(long, value_name = "ID")]
        node: Option<u64>,
        /// Read every pack now; otherwise only what is known to be damaged, or is missing, is looked at.
        #[arg(long)]
        now: bool,
        /// With --now: also decode each chunk and compare it with its name (BLAKE3), as the scheduled scrub does.
        #[arg(long, requires = "now")]
        deep: bool,
    },
}

/// Which node's data folder.
#[derive(Debug, Args)]
pub struct StoreFolder {
    /// The node (default: the only one of the configuration).
    #[arg(long, value_name = "ID")]
    pub node: Option<u64>,
    /// Its data folder (default: the configuration's).
    #[arg(long, value_name = "DIR", conflicts_with = "node")]
    pub data: Option<PathBuf>,
}

/// Where the repository is.
#[derive(Debug, Clone, Args)]
pub struct RepositoryArg {
    /// `azure://container/prefix`, `s3://…`, `gs://…` or a folder (default: the configuration's).
    #[arg(long, env = "CAUSEWAY_REPOSITORY", value_name = "URL")]
    pub repository: Option<String>,
}

/// `dr …`
#[derive(Debug, Subcommand)]
pub enum DrCommand {
    /// Shows what the repository holds: volumes, the exact commit each image stands for, its age.
    Status {
        /// The repository.
        #[command(flatten)]
        at: RepositoryArg,
    },
    /// Lists a folder of the image.
    Ls {
        /// The repository.
        #[command(flatten)]
        at: RepositoryArg,
        /// Path in the namespace.
        #[arg(default_value = "/")]
        path: String,
        /// Show mode, size and time.
        #[arg(long, short)]
        long: bool,
        /// List what is below as well.
        #[arg(long, short = 'R')]
        recursive: bool,
    },
    /// Prints a file of the image, or a range of it.
    Cat {
        /// The repository.
        #[command(flatten)]
        at: RepositoryArg,
        /// Path in the namespace.
        path: String,
        /// First byte.
        #[arg(long, default_value_t = 0)]
        offset: u64,
        /// Number of bytes (default: to the end).
        #[arg(long)]
        length: Option<u64>,
    },
    /// Checks the image: its digest, and that every chunk is there.
    Verify {
        /// The repository.
        #[command(flatten)]
        at: RepositoryArg,
        /// Also read every chunk and check its bytes.
        #[arg(long)]
        read_data: bool,
        /// Read this share of the chunks, as `5%`: another one each day.
        #[arg(long, value_name = "PERCENT", value_parser = percent, conflicts_with = "read_data")]
        read_data_subset: Option<f64>,
    },
    /// Finds files and folders of the image by name, kind and size; mounted volumes are searched too.
    Find {
        /// The repository.
        #[command(flatten)]
        at: RepositoryArg,
        /// Where to begin.
        #[arg(default_value = "/")]
        path: String,
        /// Only names like this; `*` is any text, `?` any character.
        #[arg(long, value_name = "PATTERN")]
        name: Option<String>,
        /// Only these.
        #[arg(long, value_enum)]
        kind: Option<FoundKind>,
        /// Only files of at least so many bytes, as `10MiB`.
        #[arg(long, value_name = "SIZE")]
        at_least: Option<ByteSize>,
        /// Only what was changed at most so long ago, as `2h`.
        #[arg(long, value_parser = humantime::parse_duration, value_name = "TIME")]
        newer: Option<Duration>,
        /// Show mode, size and time.
        #[arg(long, short)]
        long: bool,
    },
    /// Rehearses a restore: brings all metadata back into a scratch folder, compares it, reads some bytes, and says how long that
    /// took, what would be missing, and whether it went well. Nothing of the cluster or its images is touched; the result is kept
    /// in the repository and shown by `dr status`.
    #[command(after_help = "\
Example (each night, from cron or a timer):
  causeway dr drill --repository azure://backup/causeway --sample 2%")]
    Drill {
        /// The repository.
        #[command(flatten)]
        at: RepositoryArg,
        /// Where the scratch folder is made (default: the system's for temporary files).
        #[arg(long, value_name = "DIR")]
        scratch: Option<PathBuf>,
        /// The share of the chunks that is read and checked, another one each day.
        #[arg(long, default_value = "1%", value_name = "PERCENT", value_parser = percent)]
        sample: f64,
        /// An image that is older than this is a gap, as `15m`: for clusters that are written to all the time. The image of a volume at
        /// rest only gets older, and lacks nothing.
        #[arg(long, value_parser = humantime::parse_duration, value_name = "TIME")]
        max_age: Option<Duration>,
        /// Do not keep the result in the repository.
        #[arg(long)]
        no_record: bool,
    },
    /// Copies a folder of the image to a local one.
    Export {
        /// The repository.
        #[command(flatten)]
        at: RepositoryArg,
        /// Path in the namespace.
        path: String,
        /// The local folder; must not exist, or be empty.
        local: PathBuf,
    },
    /// Writes a new cluster at exactly the image's commit; its nodes fetch bytes only when read.
    #[command(after_help = "\
Example:
  causeway dr restore --repository azure://backup/causeway ./restored
  causeway dev ./restored")]
    Restore {
        /// The repository.
        #[command(flatten)]
        at: RepositoryArg,
        /// The new cluster's folder; as `init`.
        #[command(flatten)]
        init: RestoreArgs,
    },
}

/// What `dr find` looks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum FoundKind {
    /// Regular files.
    File,
    /// Folders.
    Folder,
    /// Symbolic links.
    Symlink,
}

/// A share from 0 to 1, written as `5%`, `0.5 %` or `100%`.
fn percent(text: &str) -> Result<f64, String> {
    let number = text.trim().trim_end_matches('%').trim_end();
    match number.parse::<f64>() {
        Ok(percent) if (0.0..=100.0).contains(&percent) => Ok(percent / 100.0),
        _ => Err("a percentage from 0% to 100% is expected, as 5%".to_owned()),
    }
}

/// `dr restore`
#[derive(Debug, Args)]
pub struct RestoreArgs {
    /// The folder to write; must not exist, or be empty.
    pub dir: PathBuf,
    /// Sites of the new cluster, one node each (default: those of the image).
    #[arg(long, value_delimiter = ',')]
    pub sites: Vec<SiteName>,
    /// Address on which all nodes listen at first.
    #[arg(long, default_value = "127.0.0.1")]
    pub host: String,
    /// First of the ports (gRPC from here, QUIC 100 above); 0 picks free ones.
    #[arg(long, default_value_t = 7400)]
    pub base_port: u16,
    /// How long the certificates are valid.
    #[arg(long, default_value = "30d", value_parser = humantime::parse_duration, value_name = "TIME")]
    pub certificate_life: std::time::Duration,
}
