//! The command line of what makes up a cluster: nodes, topology, volumes.

use std::path::PathBuf;

use causeway_base::SiteName;
use causeway_topology::{Jurisdiction, RegionName};
use clap::{Args, Subcommand, ValueEnum};

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

/// `audit`
#[derive(Debug, Args)]
pub struct AuditArgs {
    /// At most so many records; 10,000 are kept.
    #[arg(long, default_value_t = 50)]
    pub limit: u32,
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
    /// Break glass: goes on with what a site has of a volume whose majority is gone. Acknowledged writes may be lost; they are
    /// listed as far as they are known. Refused while a majority of the voters answers.
    #[command(after_help = "\
Example:
  causeway volume promote data --at westeurope --confirm data --root --reason 'zurich burnt down'

Make sure that the other side is down: as long as it does not hear of the promotion it may go on acknowledging writes, which
are then only kept aside. Afterwards it is fenced for ever; its nodes follow the promoted volume when they come back.")]
    Promote {
        /// Its name.
        name: String,
        /// The site that goes on.
        #[arg(long = "at")]
        site: SiteName,
        /// The volume's name once more; asked for at a terminal.
        #[arg(long, value_name = "NAME")]
        confirm: Option<String>,
        /// Promote the root group (topology, nodes, volumes) before it, if it has lost its majority too.
        #[arg(long)]
        root: bool,
        /// Why, for the audit.
        #[arg(long, default_value = "")]
        reason: String,
    },
    /// What nodes keep of a volume from before it was promoted: the seqs behind the fork, each with its time and paths.
    #[command(after_help = "\
Examples:
  causeway volume aside data
  causeway volume aside data --node 1 --export ./before      the tree as that node had it, with every file whose bytes are left
  causeway volume aside data --node 1 --forget 0.0.0.0       gives it up on that node; asks for the volume's name")]
    Aside {
        /// Its name; empty for the root group.
        name: String,
        /// Only this node.
        #[arg(long, value_name = "ID")]
        node: Option<u64>,
        /// Of the lines that were left, this one (default: all of a list, the newest of an export).
        #[arg(long)]
        line: Option<String>,
        /// Copy the tree of that state to a new folder.
        #[arg(long, value_name = "DIR", requires = "node")]
        export: Option<PathBuf>,
        /// Give up what that node has of this line, for good: what only that named is garbage there afterwards.
        #[arg(long, value_name = "LINE", requires = "node", conflicts_with_all = ["line", "export"])]
        forget: Option<String>,
        /// With `--forget`: the volume's name once more; without it, it is asked for.
        #[arg(long, value_name = "NAME", requires = "forget")]
        confirm: Option<String>,
        /// With `--forget`: for the audit.
        #[arg(long, default_value = "", requires = "forget", hide_default_value = true)]
        reason: String,
    },
    /// Creates a volume.
    #[command(after_help = "\
Example:
  causeway volume create data --home zurich --replicas zurich,westeurope --caches eastus
  causeway volume create job-7 --mount /data/jobs/7/out --home westeurope")]
    Create {
        /// Its name: 1 to 63 of a-z, 0-9 and '-'.
        name: String,
        /// Where it is mounted (default: /NAME). In another volume it takes the place of an empty folder, or of nothing.
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
    /// Adds up the records of a volume's replicas of the metadata: finds what was damaged at rest, and names it. Exit code 8
    /// if a replica is wrong or differs, 3 if one could not be checked.
    Verify {
        /// Its name.
        name: String,
        /// Only on this node (default: on all that have a replica).
        #[arg(long)]
        node: Option<u64>,
    },
    /// Declares a node's replica of a volume's metadata wrong, and replaces it by another's. Of use where `status` says that
    /// replicas differ and that it is not known which is wrong; else they are repaired without a person.
    Repair {
        /// Its name.
        name: String,
        /// The node whose replica is wrong.
        #[arg(long)]
        node: u64,
    },
    /// Takes the mark of a wrong replica back: for when a person knows that the replica is right, and the others are not, or
    /// are gone. It is read again, and stays what it is until it was once the same as all others.
    Trust {
        /// The volume's name.
        name: String,
        /// The node whose replica is right.
        #[arg(long)]
        node: u64,
        /// Why, for the audit.
        #[arg(long)]
        reason: String,
        /// The volume's name once more; without it, it is asked for.
        #[arg(long, value_name = "NAME")]
        confirm: Option<String>,
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
