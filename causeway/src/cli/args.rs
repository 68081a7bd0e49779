//! The command line: names, flags and their help.

use std::path::PathBuf;

use causeway_base::SiteName;
use causeway_topology::{Jurisdiction, RegionName};
use clap::{Args, Parser, Subcommand, ValueEnum};

pub use super::args_manage::*;

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

/// `demo`
#[derive(Debug, Args)]
pub struct DemoArgs {
    /// The folder to import (default: the cargo registry's unpacked sources).
    pub dir: Option<PathBuf>,
    /// Repository to archive to and restore from (default: a folder).
    #[arg(long, value_name = "URL")]
    pub repository: Option<String>,
    /// Leave the sites running at the end, and print how to talk to them.
    #[arg(long)]
    pub keep: bool,
    /// The same as `--output json`.
    #[arg(long)]
    pub json: bool,
    /// Folder for the sites' data (default: a temporary one, removed at the end).
    #[arg(long, value_name = "DIR")]
    pub workdir: Option<PathBuf>,
}

/// `dev`
#[derive(Debug, Args)]
pub struct DevArgs {
    /// The cluster's folder; made if it does not exist.
    #[arg(default_value = "./causeway-dev")]
    pub dir: PathBuf,
}

/// `init`
#[derive(Debug, Args)]
pub struct InitArgs {
    /// The folder to write; must not exist, or be empty.
    pub dir: PathBuf,
    /// Sites, one node each; an odd number. The first is where the demo's and dev's volumes are at home.
    #[arg(long, value_delimiter = ',', default_value = "zurich,westeurope,eastus")]
    pub sites: Vec<SiteName>,
    /// Where packs and metadata images are archived.
    #[arg(long, default_value = "repository", value_name = "URL")]
    pub repository: String,
    /// Address on which all nodes listen at first; edit the file to spread them over machines.
    #[arg(long, default_value = "127.0.0.1")]
    pub host: String,
    /// First of the ports (gRPC from here, QUIC 100 above); 0 picks free ones.
    #[arg(long, default_value_t = 7400)]
    pub base_port: u16,
    /// How long the certificates are valid.
    #[arg(long, default_value = "30d", value_parser = humantime::parse_duration, value_name = "TIME")]
    pub certificate_life: std::time::Duration,
}

/// `topology …`
#[derive(Debug, Subcommand)]
pub enum TopologyCommand {
    /// Prints the topology that holds now, in the form that `apply` takes.
    Show,
    /// Shows what a topology would change: what is declared, where volumes go, which bytes move over which link and what
    /// that costs. Changes nothing. Exit code 5 if a volume could not hold what it should survive.
    Plan {
        /// The topology.
        file: PathBuf,
    },
    /// Replaces the topology, if nobody else changed it since; volumes then move to where it wants them.
    Apply {
        /// The topology.
        file: PathBuf,
        /// The version that it replaces, as `show` and `plan` print it.
        #[arg(long)]
        version: u64,
        /// Also if some volumes cannot be placed with it: these stay where they are.
        #[arg(long)]
        even_if_unplaceable: bool,
    },
}

/// A node to add.
#[derive(Debug, Args)]
pub struct NewNodeArgs {
    /// Its site, which the topology has.
    #[arg(long = "at")]
    pub site: SiteName,
    /// `host:port` of gRPC, as others reach it.
    #[arg(long)]
    pub grpc: String,
    /// `host:port` of QUIC, as others reach it.
    #[arg(long)]
    pub quic: String,
    /// It only votes, and holds no file data.
    #[arg(long)]
    pub witness: bool,
    /// How long its certificate is valid.
    #[arg(long, default_value = "30d", value_parser = humantime::parse_duration, value_name = "TIME")]
    pub certificate_life: std::time::Duration,
}

/// `node …`
#[derive(Debug, Subcommand)]
pub enum NodeCommand {
    /// Adds a node: an id that was never used, its certificate, and a token for its machine. Run it where `init` was run.
    Add(NewNodeArgs),
    /// Writes the folder of an added node on its machine.
    Join {
        /// What `node add` printed; `-` reads it from standard input.
        token: String,
        /// The folder; must not exist, or be empty.
        dir: PathBuf,
    },
    /// Moves leadership and replicas off a node, and waits until it is empty.
    Drain {
        /// Its id.
        id: u64,
        /// End the draining; it takes part again.
        #[arg(long)]
        cancel: bool,
        /// Give up waiting after this long (exit code 6); it goes on draining.
        #[arg(long, default_value = "10m", value_parser = humantime::parse_duration, value_name = "TIME")]
        deadline: std::time::Duration,
    },
    /// Takes a drained node out, for ever.
    Remove {
        /// Its id.
        id: u64,
    },
    /// Adds a node, waits until it has started, then drains and removes another: also one that is dead.
    Replace {
        /// The node that goes.
        id: u64,
        /// The node that comes.
        #[command(flatten)]
        new: NewNodeArgs,
        /// Give up after this long (exit code 6).
        #[arg(long, default_value = "10m", value_parser = humantime::parse_duration, value_name = "TIME")]
        deadline: std::time::Duration,
    },
}

/// `node`
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct NodeArgs {
    /// Another thing than to run one.
    #[command(subcommand)]
    pub command: Option<NodeCommand>,
    /// Which node of the configuration this is.
    #[arg(long)]
    pub id: Option<u64>,
    /// End when standard input ends: for a parent that wants no orphan, even when it is killed.
    #[arg(long)]
    pub exit_with_parent: bool,
}

/// `config …`
#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Checks the configuration and names file and line of what is wrong.
    Check,
}

/// `volume …`
#[derive(Debug, Subcommand)]
pub enum VolumeCommand {
    /// Creates a volume.
    #[command(after_help = "\
Example:
  causeway volume create data --home zurich --replicas zurich,westeurope --caches eastus")]
    Create {
        /// Its name: 1 to 63 of a-z, 0-9 and '-'.
        name: String,
        /// Where it is mounted (default: /NAME).
        #[arg(long)]
        mount: Option<String>,
        /// The site where its leader should be.
        #[arg(long)]
        home: SiteName,
        /// Sites that hold every byte (default: home).
        #[arg(long, value_delimiter = ',')]
        replicas: Vec<SiteName>,
        /// Sites that keep what was read there (default: all others).
        #[arg(long, value_delimiter = ',')]
        caches: Vec<SiteName>,
        /// What it survives with no acknowledged write lost and no person needed (default: a site, else a node, else
        /// nothing, as the topology can hold).
        #[arg(long, value_enum)]
        survive: Option<SurviveArg>,
        /// Keep it to regions of these jurisdictions.
        #[arg(long, value_delimiter = ',', conflicts_with = "regions")]
        jurisdictions: Vec<Jurisdiction>,
        /// Keep it to these regions.
        #[arg(long, value_delimiter = ',')]
        regions: Vec<RegionName>,
        /// Keep it out of the repository: no disaster recovery.
        #[arg(long)]
        no_archive: bool,
        /// Average chunk size: 16KiB to 256KiB, a power of two.
        #[arg(long, default_value = "64KiB")]
        chunk_size: causeway_base::ByteSize,
    },
    /// Changes what is declared of a volume; its placement follows.
    #[command(after_help = "\
Example:
  causeway volume set data --survive region --replicas zurich,westeurope")]
    Set {
        /// Its name.
        name: String,
        /// What to change.
        #[command(flatten)]
        changes: VolumeChanges,
    },
    /// Shows where a change would place a volume, what would move and what that would cost. Changes nothing.
    Plan {
        /// Its name.
        name: String,
        /// What to change.
        #[command(flatten)]
        changes: VolumeChanges,
    },
    /// Moves a volume's home to another site while it is in use, and measures the longest time without a write.
    Move {
        /// Its name.
        name: String,
        /// Where its leader should be.
        #[arg(long)]
        home: SiteName,
        /// Give up waiting after this long (exit code 6); the move goes on.
        #[arg(long, default_value = "10m", value_parser = humantime::parse_duration, value_name = "TIME")]
        deadline: std::time::Duration,
    },
    /// Lists the volumes.
    List,
    /// Shows one volume.
    Show {
        /// Its name.
        name: String,
    },
}

/// What a volume survives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum SurviveArg {
    /// Any one node.
    Node,
    /// Any one site.
    Site,
    /// Any one region.
    Region,
}

/// What changes of a volume; what is not given stays.
#[derive(Debug, Args)]
pub struct VolumeChanges {
    /// The site where its leader should be.
    #[arg(long)]
    pub home: Option<SiteName>,
    /// What it survives.
    #[arg(long, value_enum)]
    pub survive: Option<SurviveArg>,
    /// Sites that hold every byte.
    #[arg(long, value_delimiter = ',')]
    pub replicas: Vec<SiteName>,
    /// Sites that keep what was read there.
    #[arg(long, value_delimiter = ',')]
    pub caches: Vec<SiteName>,
    /// Keep it to regions of these jurisdictions.
    #[arg(long, value_delimiter = ',', conflicts_with = "regions")]
    pub jurisdictions: Vec<Jurisdiction>,
    /// Keep it to these regions.
    #[arg(long, value_delimiter = ',')]
    pub regions: Vec<RegionName>,
}

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

/// `sync …`
#[derive(Debug, Subcommand)]
pub enum SyncCommand {
    /// Waits until a site holds every byte of a volume, verified, up to a seq.
    Wait {
        /// The volume.
        volume: String,
        /// The site.
        #[arg(long = "at")]
        at: SiteName,
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

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
