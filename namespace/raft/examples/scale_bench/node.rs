//! One node: the real log, the real store, one voter.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use causeway_base::{ClientId, Ino, NodeId, SystemClock, Timestamp, VolumeId};
use causeway_namespace_core::command::{At, Op, Outcome, Request, RequestBody, SessionId};
use causeway_namespace_core::inode::Attr;
use causeway_namespace_raft::memory_link::MemoryNet;
use causeway_namespace_raft::{Group, GroupSpec, Groups, GroupsConfig, Retention, STATE_SPACES};
use causeway_storage::disk::RealDisk;
use causeway_storage::kv::{FjallKv, FjallOptions};

pub(crate) const GROUP: VolumeId = VolumeId(1);
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);

pub(crate) fn block_on(work: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap().block_on(work);
}

/// Opens the node whose data is in `dir` and starts its replica; a first node begins the group.
pub(crate) async fn open(dir: &Path, node: NodeId, net: &MemoryNet, retention: Retention) -> (Arc<Groups>, Arc<Group>) {
    let kv = FjallKv::open(&dir.join("kv"), STATE_SPACES, &FjallOptions::default()).unwrap();
    let (disk, clock, link) = (Arc::new(RealDisk), Arc::new(SystemClock), net.link(node));
    let site = "bench".parse().unwrap();
    let config = GroupsConfig::new(node, site, disk, dir.to_owned(), Arc::new(kv), link, clock, node.0);
    let groups = Groups::open(GroupsConfig { retention, rest_after: None, ..config }).await.unwrap();
    net.attach(&groups);
    let voters = BTreeMap::from([(NodeId(1), ())]);
    let bootstrap = node == NodeId(1);
    let group = groups.start(GROUP, GroupSpec { voters, bootstrap, ..GroupSpec::default() }).await.unwrap();
    (groups, group)
}

/// Waits until the group answers linearizable reads.
pub(crate) async fn serving(group: &Group) {
    loop {
        if let Ok(seq) = group.read_index(DEADLINE).await {
            group.wait_applied(seq, DEADLINE).await.unwrap();
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// A session of requests one after the other.
pub(crate) struct Session {
    group: Arc<Group>,
    session: SessionId,
    number: u64,
}

impl Session {
    pub(crate) async fn open(group: &Arc<Group>) -> Self {
        let body = RequestBody::OpenSession { client: ClientId(1) };
        let opened = group.propose(Request { at: Timestamp(1), body }, DEADLINE).await.unwrap();
        let Outcome::Session(session) = opened.outcome else { panic!("no session: {:?}", opened.outcome) };
        Self { group: Arc::clone(group), session, number: 0 }
    }

    pub(crate) async fn batch(&mut self, ops: Vec<Op>) {
        self.number += 1;
        let number = self.number;
        let body = RequestBody::Mutate { session: self.session, number, acked_below: number, ops };
        let at = Timestamp(i64::try_from(number).unwrap());
        let done = self.group.propose(Request { at, body }, DEADLINE).await.unwrap();
        assert!(matches!(done.outcome, Outcome::Done(_)), "{:?}", done.outcome);
    }
}

pub(crate) fn at(path: impl Into<bytes::Bytes>) -> At {
    At { dir: Ino::ROOT, path: path.into() }
}

pub(crate) fn attr() -> Attr {
    Attr { mode: 0o644, uid: 1000, gid: 1000, mtime: Timestamp(1_800_000_000_000_000_000), ctime: Timestamp(0) }
}

/// Bytes that do not compress, the same for the same number (SplitMix64).
pub(crate) fn noise(number: u64, len: usize) -> bytes::Bytes {
    let mut state = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mut out = Vec::with_capacity(len + 8);
    while out.len() < len {
        out.extend_from_slice(&random(&mut state).to_le_bytes());
    }
    out.truncate(len);
    out.into()
}

pub(crate) fn random(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut mixed = *state;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// A line of this process's `/proc/self/status` that is in kB, in MiB.
pub(crate) fn memory(line: &str) -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let found = status.lines().find_map(|text| text.strip_prefix(line)).unwrap();
    found.trim_matches([':', '\t', ' ', 'k', 'B']).parse::<f64>().unwrap() / 1024.0
}

/// Bytes that the files below a folder take on the disk.
pub(crate) fn disk(dir: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    // A file may go while it is looked at: compaction.
    let entries = std::fs::read_dir(dir).unwrap().filter_map(Result::ok);
    let size = |entry: std::fs::DirEntry| match entry.metadata() {
        Ok(meta) if meta.is_dir() => disk(&entry.path()),
        Ok(meta) => meta.blocks() * 512,
        Err(_) => 0,
    };
    entries.map(size).sum()
}

/// CPU time of this process so far, in seconds, to a hundredth.
pub(crate) fn process_cpu() -> f64 {
    let text = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = text.rsplit(')').next().unwrap().split_whitespace().collect();
    fields[11..13].iter().map(|ticks| ticks.parse::<f64>().unwrap()).sum::<f64>() / 100.0
}

/// CPU time of this thread so far.
pub(crate) fn thread_cpu() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(u64::try_from(time.tv_sec).unwrap(), u32::try_from(time.tv_nsec).unwrap())
}

pub(crate) fn load_average() -> String {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap();
    format!("load average {}", text.split(' ').take(3).collect::<Vec<_>>().join(" "))
}

/// A number of three or four digits that count.
pub(crate) fn short(value: f64) -> String {
    match value {
        _ if value >= 100.0 => format!("{value:.0}"),
        _ if value >= 1.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

pub(crate) fn percentile(sorted: &[Duration], part: f64) -> f64 {
    sorted[((sorted.len() - 1) as f64 * part) as usize].as_secs_f64() * 1e3
}
