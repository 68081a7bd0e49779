//! The command line: names, flags and their help.

mod cluster;
mod data;
mod files;
mod manage;

use std::path::PathBuf;

use causeway_base::SiteName;
use clap::{Args, Parser, Subcommand, ValueEnum};

pub use cluster::*;
pub use data::*;
pub use files::*;
pub use manage::*;

const EXIT_CODES: &str = "\
Exit codes:
  0  done                              5  refused: a precondition or a rule stands against it
  1  failed                            6  unavailable: nothing happened, the same may succeed later
  2  bad usage or configuration        7  unknown: it may or may not have happened
  3  partial: some items failed,       8  damaged: stored data or a disk is bad
     each is listed                  130  interrupted
  4  not found";

/// One namespace over on-prem and cloud clusters; only the bytes a place does not have cross the water.
#[derive(Debug, Parser)]
#[command(name = "causeway", version, after_help = EXIT_CODES, max_term_width = 110)]
pub struct Cli {
    /// Flags of every command.
    #[command(flatten)]
    pub global: Global,
    /// The command.
    #[command(subcommand)]
    pub command: Command,
}

/// Flags of every command.
#[derive(Debug, Clone, Args)]
pub struct Global {
    /// The cluster's configuration file.
    #[arg(long, short, global = true, env = "CAUSEWAY_CONFIG", default_value = "causeway.toml", value_name = "FILE")]
    pub config: PathBuf,
    /// How results are printed: for people, or as data (one JSON document on standard output).
    #[arg(long, short, global = true, value_enum, default_value_t = Output::Table)]
    pub output: Output,
    /// Talk to the nodes of this site first (default: in the order of the configuration).
    #[arg(long, global = true, env = "CAUSEWAY_SITE", value_name = "SITE")]
    pub site: Option<SiteName>,
    /// How long a single request may take before its outcome is called unknown.
    #[arg(long, global = true, default_value = "30s", value_parser = humantime::parse_duration, value_name = "TIME")]
    pub timeout: std::time::Duration,
    /// Read your own writes: writes note the seq of each volume in this file, reads show nothing older, at any site.
    #[arg(long, global = true, env = "CAUSEWAY_SESSION", value_name = "FILE")]
    pub session: Option<PathBuf>,
    /// Log more to standard error (-v info, -vv debug, -vvv trace); CAUSEWAY_LOG takes a filter such as `causeway=debug`.
    #[arg(long, short, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,
}

/// How results are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people.
    Table,
    /// As data.
    Json,
}

/// The commands.
#[derive(Debug, Subcommand)]
#[allow(clippy::large_enum_variant)] // parsed once
pub enum Command {
    /// Shows the whole path on real input: three sites, replication, an outage, loss of everything, a restore.
    #[command(after_help = "\
Examples:
  causeway demo                 the cargo registry's unpacked sources as input
  causeway demo ~/src --keep    another folder; the sites stay up afterwards
  causeway demo --repository azure://container/prefix")]
    Demo(DemoArgs),
    /// Runs a cluster of three sites in the foreground, for development.
    Dev(DevArgs),
    /// Writes a new cluster: a commented configuration, certificates, one folder a node.
    #[command(after_help = "\
Examples:
  causeway init ./cluster
  causeway init ./cluster --sites zurich,westeurope,eastus --repository azure://backup/causeway")]
    Init(InitArgs),
    /// Runs one node of the cluster; adds, drains, removes and replaces nodes.
    #[command(after_help = "\
Examples:
  causeway node --id 1
  causeway node add --at eastus --grpc 10.1.0.4:7400 --quic 10.1.0.4:7500
  causeway node drain 2 && causeway node remove 2")]
    Node(NodeArgs),
    /// Regions, sites and links: what is declared, what a change would move, and the change.
    #[command(subcommand)]
    Topology(TopologyCommand),
    /// The configuration file.
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Volumes: subtrees with a home and a policy of their own.
    #[command(subcommand)]
    Volume(VolumeCommand),
    /// Copies a local file into the namespace.
    Put(PutArgs),
    /// Copies a file of the namespace to a local one.
    Get(GetArgs),
    /// Copies files or folders into (`cp -r ./dir cw:/data`) or out of (`cp -r cw:/data ./dir`) the namespace.
    #[command(after_help = "\
Examples:
  causeway cp -r ./project cw:/data/project
  causeway cp -r cw:/data/project ./copy
A source that ends in `/` means its contents, not itself. What cannot be read is listed and the rest goes on (exit code 3).")]
    Cp(CpArgs),
    /// Lists a folder.
    Ls(LsArgs),
    /// Prints a file, or a range of it.
    Cat(CatArgs),
    /// Writes standard input over a part of a file, or into it; only the edges of the change are read.
    #[command(after_help = "\
Examples:
  printf new | causeway write /data/file --offset 4096            over what is there
  causeway write /data/file --offset 0 --insert < header          before what is there
  causeway write /data/image --offset 1073741824 < part -o json   bytes read and uploaded
A gap behind the end becomes a hole. If somebody else changes the file meanwhile, the change is made again to what they left
(an insertion is refused). Readers see the file as it was or as it is then, never half of it.")]
    Write(WriteArgs),
    /// Writes standard input behind the end of a file; two appends at once never overwrite each other.
    #[command(after_help = "\
Example:
  causeway append /data/log < today.log")]
    Append(AppendArgs),
    /// Cuts a file, or lengthens it by a hole.
    #[command(after_help = "\
Examples:
  causeway truncate /data/file 0
  causeway truncate /data/image 10GiB")]
    Truncate(TruncateArgs),
    /// Shows what is known of a file or folder.
    Stat(StatArgs),
    /// Makes a folder.
    Mkdir(MkdirArgs),
    /// Renames a file or folder within a volume; no data moves.
    Mv(MvArgs),
    /// Removes files, or folders with -r.
    Rm(RmArgs),
    /// Changes permission bits.
    Chmod(ChmodArgs),
    /// Changes owner and group.
    Chown(ChownArgs),
    /// Sets the time of the last change of the content; makes an empty file if there is none.
    Touch(TouchArgs),
    /// Makes a symlink (`-s`), or a further name of a file.
    Ln(LnArgs),
    /// Extended attributes.
    #[command(subcommand)]
    Xattr(XattrCommand),
    /// Applies operations from a file of JSON lines, all or none.
    #[command(after_help = BATCH_HELP)]
    Batch(BatchArgs),
    /// Snapshots of a volume: made at once, whatever its size, and readable at every site.
    #[command(subcommand, after_help = SNAPSHOT_HELP)]
    Snapshot(SnapshotCommand),
    /// Shows what differs between two states of a volume.
    Diff(DiffArgs),
    /// The ordered changes of a volume, as CloudEvents.
    #[command(after_help = FEED_HELP)]
    Feed(FeedArgs),
    /// Quotas of volumes, folders and users.
    #[command(subcommand)]
    Quota(QuotaCommand),
    /// Advisory locks with leases and fencing tokens.
    #[command(subcommand)]
    Lock(LockCommand),
    /// Shows what people changed about the cluster: topology, volumes, nodes, promotions, restores; the newest first.
    Audit(AuditArgs),
    /// Shows sites, leaders, seqs, watermarks and stores.
    Status,
    /// Replication: wait for it.
    #[command(subcommand)]
    Sync(SyncCommand),
    /// The chunk store of a node: collect garbage, scrub and heal; rebuild its index.
    #[command(subcommand)]
    Store(StoreCommand),
    /// Disaster recovery: works with the repository alone, no cluster needed.
    #[command(subcommand)]
    Dr(DrCommand),
    /// Prints a completion script for a shell.
    Completions {
        /// Which shell.
        shell: clap_complete::Shell,
    },
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
