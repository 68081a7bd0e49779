//! The command line of what concerns a volume as a whole, and of attributes.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};

/// How fresh a read must be, or which past state it is of.
#[derive(Debug, Clone, Default, Args)]
pub struct ReadArgs {
    /// Accept what this site knows, without asking the leader; the answer says how old it is.
    // `get` has a local path beside it.
    #[arg(id = "local_state", long = "local", conflicts_with_all = ["max_age", "at"])]
    pub local: bool,
    /// Accept what is at most this old; the leader is asked only if this site does not know that it is.
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration, conflicts_with = "at")]
    pub max_age: Option<Duration>,
    /// A past state: a snapshot's NAME, `seq:N`, a time ago (`10m`), or a time (`2026-11-24T12:00:00Z`).
    #[arg(long, value_name = "STATE")]
    pub at: Option<String>,
}

pub(super) const SNAPSHOT_HELP: &str = "\
Examples:
  causeway snapshot create data@before-upgrade
  causeway ls /data --at before-upgrade
  causeway cat /data/file --at 10m
  causeway diff data before-upgrade now
  causeway snapshot retention data --time 7d --seqs 100000";

pub(super) const FEED_HELP: &str = "\
One JSON document a line (CloudEvents 1.0); its id is the place in the feed, so that a repeated one is known.
A reader that fell off (what it wants to go on from is not kept any more) is told so and ends with exit code 5.
Examples:
  causeway feed data --follow --prefix projects/a
  causeway feed data --from 1200
  causeway feed data --follow --post https://example.org/hook --cursor ./data.cursor";

pub(super) const BATCH_HELP: &str = "\
One operation a line, all in one volume; the paths are those of the namespace. `expect` is optional:
  {\"op\":\"mkdir\",\"path\":\"/data/d\",\"parents\":true,\"mode\":\"0755\"}
  {\"op\":\"put\",\"path\":\"/data/d/f\",\"text\":\"hello\",\"expect\":\"absent\"}
  {\"op\":\"put\",\"path\":\"/data/d/f\",\"hex\":\"00ff\",\"expect\":{\"version\":17}}
  {\"op\":\"check\",\"path\":\"/data/lock\",\"expect\":{\"token\":3}}
  {\"op\":\"rename\",\"from\":\"/data/a\",\"to\":\"/data/b\",\"no_replace\":true}
  {\"op\":\"symlink\",\"path\":\"/data/s\",\"target\":\"d/f\"}   {\"op\":\"link\",\"from\":\"/data/d/f\",\"to\":\"/data/g\"}
  {\"op\":\"unlink\",\"path\":\"/data/g\"}   {\"op\":\"rmdir\",\"path\":\"/data/e\"}
  {\"op\":\"setattr\",\"path\":\"/data/d/f\",\"mode\":\"0600\",\"uid\":1000,\"gid\":1000}
  {\"op\":\"xattr\",\"path\":\"/data/d/f\",\"name\":\"user.k\",\"value\":\"v\"}   (no value: remove it)
Contents of up to the volume's inline limit (4 KiB) only; larger files go in with `causeway put`.
An unknown outcome ends with exit code 7; the same batch with the same --request-id is then applied at most once.";

/// `snapshot …`
#[derive(Debug, Subcommand)]
pub enum SnapshotCommand {
    /// Names the state of a volume now.
    Create {
        /// VOLUME@NAME.
        #[arg(value_name = "VOLUME@NAME")]
        snapshot: String,
    },
    /// Lists the snapshots of a volume, and how far back every state can be read.
    List {
        /// The volume.
        volume: String,
    },
    /// Forgets a snapshot; what only it needed is given up.
    Delete {
        /// VOLUME@NAME.
        #[arg(value_name = "VOLUME@NAME")]
        snapshot: String,
    },
    /// Shows or sets how long every state of a volume can be read; what either flag asks for is kept.
    Retention {
        /// The volume.
        volume: String,
        /// The newest so many seqs.
        #[arg(long)]
        seqs: Option<u64>,
        /// Those of the last so long.
        #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
        time: Option<Duration>,
        /// Leave it to the nodes again.
        #[arg(long, conflicts_with_all = ["seqs", "time"])]
        default: bool,
    },
}

/// `diff`
#[derive(Debug, Args)]
pub struct DiffArgs {
    /// The volume.
    pub volume: String,
    /// The earlier state, as in `--at`; `name:NAME` for a snapshot that is called like a time.
    pub from: String,
    /// The later one; `now` is the newest.
    #[arg(default_value = "now")]
    pub to: String,
    /// Only what is at or below this path in the volume.
    #[arg(long, default_value = "")]
    pub prefix: String,
}

/// `feed`
#[derive(Debug, Args)]
pub struct FeedArgs {
    /// The volume.
    pub volume: String,
    /// Go on after this seq (`oldest`: from as far back as is kept; default: the cursor's place, else what comes from now on).
    #[arg(long, value_name = "SEQ")]
    pub from: Option<String>,
    /// Only what is at or below this path in the volume.
    #[arg(long, default_value = "")]
    pub prefix: String,
    /// Wait for what comes.
    #[arg(long)]
    pub follow: bool,
    /// Send the events here, as JSON arrays (`application/cloudevents-batch+json`), instead of printing them. Anything but
    /// 2xx is tried again with growing pauses; each event arrives at least once and in order.
    #[arg(long, value_name = "URL")]
    pub post: Option<url::Url>,
    /// File that remembers how far the feed has come, so that the next run goes on there.
    #[arg(long, value_name = "FILE")]
    pub cursor: Option<PathBuf>,
    /// Give up sending after this long without success (exit code 6; the cursor stays).
    #[arg(long, default_value = "10m", value_parser = humantime::parse_duration, value_name = "TIME", requires = "post")]
    pub give_up: Duration,
}

/// What a quota is on.
#[derive(Debug, Clone, Args)]
#[group(required = true, multiple = false)]
pub struct QuotaOn {
    /// A folder and what is below it; a volume's top stands for the volume.
    #[arg(value_name = "PATH")]
    pub path: Option<String>,
    /// What this user owns in a volume: VOLUME:UID.
    #[arg(long, value_name = "VOLUME:UID")]
    pub user: Option<String>,
}

/// `quota …`
#[derive(Debug, Subcommand)]
pub enum QuotaCommand {
    /// Sets or changes a quota. A folder must be empty when it gets its first one; a volume's top and users need not.
    Set {
        /// On what.
        #[command(flatten)]
        on: QuotaOn,
        /// Bytes of all files.
        #[arg(long, required_unless_present = "files")]
        bytes: Option<causeway_base::ByteSize>,
        /// Number of files, folders and symlinks.
        #[arg(long)]
        files: Option<u64>,
    },
    /// Shows the quotas of a volume, and what everybody owns.
    Show {
        /// The volume.
        volume: String,
    },
    /// Removes a quota (of a folder that is not empty: its limits).
    Clear {
        /// On what.
        #[command(flatten)]
        on: QuotaOn,
    },
}

/// `lock …`
#[derive(Debug, Subcommand)]
pub enum LockCommand {
    /// Takes a lock on a file, folder or symlink, and prints its token.
    #[command(after_help = "\
Examples:
  causeway lock acquire /data/leader --lease 1m
  causeway lock acquire /data/leader --wait 5m --run ./job.sh    (CAUSEWAY_LOCK_TOKEN is in its environment)
A write that names the token in `expect` of `causeway batch` is refused once the lock has ended, whoever has it then.")]
    Acquire {
        /// Path in the namespace.
        path: String,
        /// Others may have shared locks too.
        #[arg(long)]
        shared: bool,
        /// First byte.
        #[arg(long, default_value_t = 0)]
        start: u64,
        /// Number of bytes (default: to the end).
        #[arg(long, default_value_t = 0)]
        len: u64,
        /// It ends after this long unless it is renewed.
        #[arg(long, default_value = "30s", value_parser = humantime::parse_duration, value_name = "TIME")]
        lease: Duration,
        /// Wait so long for others to give it back.
        #[arg(long, default_value = "0s", value_parser = humantime::parse_duration, value_name = "TIME")]
        wait: Duration,
        /// Who holds it, for people (default: USER@HOST:PID).
        #[arg(long)]
        holder: Option<String>,
        /// Hold it, and renew it, while this command runs; ends with the command's exit code, 1 if the lock was lost.
        #[arg(long, num_args = 1.., allow_hyphen_values = true, value_name = "COMMAND")]
        run: Vec<String>,
    },
    /// Lets a lock last longer.
    Renew {
        /// Path in the namespace.
        path: String,
        /// As printed by `acquire`.
        token: u64,
        /// From now on.
        #[arg(long, default_value = "30s", value_parser = humantime::parse_duration, value_name = "TIME")]
        lease: Duration,
    },
    /// Gives a lock back.
    Release {
        /// Path in the namespace.
        path: String,
        /// As printed by `acquire`.
        token: u64,
    },
    /// Lists the locks of a volume and who holds them.
    List {
        /// The volume.
        volume: String,
    },
}

/// `batch`
#[derive(Debug, Args)]
pub struct BatchArgs {
    /// The file; `-` is standard input.
    pub file: PathBuf,
    /// A name for this batch that is never used for another: however often it is sent, it is applied once.
    #[arg(long, value_name = "ID")]
    pub request_id: Option<String>,
}

/// `chmod`
#[derive(Debug, Args)]
pub struct ChmodArgs {
    /// Octal, as in 0644.
    pub mode: String,
    /// Path in the namespace.
    pub path: String,
}

/// `chown`
#[derive(Debug, Args)]
pub struct ChownArgs {
    /// UID, UID:GID or :GID.
    pub owner: String,
    /// Path in the namespace.
    pub path: String,
}

/// `touch`
#[derive(Debug, Args)]
pub struct TouchArgs {
    /// Path in the namespace.
    pub path: String,
    /// The time (default: now).
    #[arg(long, value_name = "TIME")]
    pub time: Option<String>,
}

/// `ln`
#[derive(Debug, Args)]
pub struct LnArgs {
    /// What it points to: with `-s` any text, else a path in the namespace.
    pub target: String,
    /// The new path.
    pub path: String,
    /// Make a symlink.
    #[arg(long, short)]
    pub symbolic: bool,
}

/// `xattr …`
#[derive(Debug, Subcommand)]
pub enum XattrCommand {
    /// Prints an attribute's value.
    Get {
        /// Path in the namespace.
        path: String,
        /// The attribute.
        name: String,
    },
    /// Sets an attribute.
    Set {
        /// Path in the namespace.
        path: String,
        /// The attribute.
        name: String,
        /// Its value; `\\xNN` for bytes that are not text.
        value: String,
    },
    /// Lists the attributes.
    List {
        /// Path in the namespace.
        path: String,
    },
    /// Removes an attribute.
    Rm {
        /// Path in the namespace.
        path: String,
        /// The attribute.
        name: String,
    },
}
