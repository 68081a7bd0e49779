//! Pruning against a model that keeps every state, whole.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;
use proptest::prelude::*;

use causeway_base::{ClientId, Ino, Seq, Timestamp, VolumeId};
use causeway_namespace_core::command::{At, Command, Expect, Op, Request, RequestBody, SessionId};
use causeway_namespace_core::inode::{Attr, Content};
use causeway_namespace_core::manage::{ManageOp, RetentionRecord};
use causeway_namespace_core::memory::MemoryRecords;
use causeway_namespace_core::query;
use causeway_namespace_core::records::Records;
use causeway_storage::disk::RealDisk;
use causeway_storage::kv::{Kv, MemoryKv};

use super::{
    CHANGES, Entry, GroupStore, KEPT, OLD, Payload, Position, STATE_SPACES, SnapshotBlocks, StateStore, ViewError,
};

const GROUP: VolumeId = VolumeId(3);

#[derive(Clone, Debug)]
enum Step {
    Put(u8),
    Remove(u8),
    Rename(u8, u8),
    Snapshot(u8),
    Delete(u8),
    /// Up to so many seqs behind the newest, so many seqs at once.
    Prune(u64, usize),
    /// To another replica, as a Raft snapshot.
    Move,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        8 => (0..6_u8).prop_map(Step::Put),
        4 => (0..6_u8).prop_map(Step::Remove),
        3 => (0..6_u8, 0..6_u8).prop_map(|(from, to)| Step::Rename(from, to)),
        4 => (0..5_u8).prop_map(Step::Snapshot),
        3 => (0..5_u8).prop_map(Step::Delete),
        4 => (0..6_u64, 1..4_usize).prop_map(|(behind, at_once)| Step::Prune(behind, at_once)),
        1 => Just(Step::Move),
    ];
    proptest::collection::vec(step, 1..60)
}

fn at(name: u8) -> At {
    At { dir: Ino::ROOT, path: Bytes::from(vec![b'a' + name]) }
}

fn body(step: &Step, number: u64) -> Option<RequestBody> {
    let attr = Attr { mode: 0o644, uid: 0, gid: 0, mtime: Timestamp(1), ctime: Timestamp(1) };
    let (session, name) = (SessionId(1), |name: u8| Bytes::from(vec![b's', name]));
    let mutate = |op| RequestBody::Mutate { session, number, acked_below: number, ops: vec![op] };
    let manage = |op| RequestBody::Manage { session, number, acked_below: number, op };
    Some(match step {
        Step::Put(file) => {
            let content = Content::Inline(Bytes::from(number.to_string()));
            mutate(Op::PutFile { at: at(*file), attr, content, expect: Expect::Any })
        }
        Step::Remove(file) => mutate(Op::Unlink { at: at(*file), expect: Expect::Any }),
        Step::Rename(from, to) => mutate(Op::Rename { from: at(*from), to: at(*to), no_replace: false }),
        Step::Snapshot(snapshot) => manage(ManageOp::CreateSnapshot { name: name(*snapshot) }),
        Step::Delete(snapshot) => manage(ManageOp::DeleteSnapshot { name: name(*snapshot) }),
        Step::Prune(..) | Step::Move => return None,
    })
}

struct Replica {
    kv: Arc<MemoryKv>,
    group: Arc<GroupStore>,
    _dir: tempfile::TempDir,
}

impl Replica {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let kv = Arc::new(MemoryKv::new(STATE_SPACES));
        let store = StateStore::open(Arc::clone(&kv) as Arc<dyn Kv>, Arc::new(RealDisk), dir.path()).unwrap();
        Self { kv, group: store.group(GROUP).unwrap(), _dir: dir }
    }

    fn apply(&self, seq: Seq, command: &Command) {
        let position = Position { term: 1, index: seq.0 };
        self.group.apply(&[Entry { position, payload: Payload::Command(command.encode()) }]).unwrap();
    }

    fn moved(&self) -> Self {
        let to = Self::new();
        let mut receiver = to.group.receive_snapshot().unwrap();
        for block in SnapshotBlocks::of(&self.group.view().unwrap()).unwrap().unwrap() {
            receiver.push(&block.unwrap()).unwrap();
        }
        to.group.install(&receiver.finish().unwrap()).unwrap();
        to
    }

    fn count(&self, space: causeway_storage::kv::Space) -> usize {
        self.kv.snapshot().scan(space, (Bound::Unbounded, Bound::Unbounded), false).count()
    }
}

fn all(records: &dyn Records) -> Vec<(Bytes, Bytes)> {
    records.scan(&[0], &[0xff], usize::MAX).unwrap()
}

/// Every version that a state from `oldest` on or a snapshot sees and that is not a newest one, by its interval.
fn needed(history: &BTreeMap<u64, MemoryRecords>, oldest: Seq, snapshots: &BTreeSet<u64>) -> usize {
    let newest = *history.keys().next_back().unwrap();
    let keys: BTreeSet<Bytes> =
        history.values().flat_map(|records| records.iter().map(|(key, _)| key.clone())).collect();
    let mut count = 0;
    for key in keys {
        // Runs of states with the same value; a change writes another one.
        let mut runs: Vec<(u64, u64)> = Vec::new();
        let mut last = None;
        for (seq, records) in history {
            let value = records.get(&key).unwrap();
            match (runs.last_mut(), &value) {
                (Some(run), Some(_)) if last == value && run.1 + 1 == *seq => run.1 = *seq,
                (_, Some(_)) => runs.push((*seq, *seq)),
                (_, None) => {}
            }
            last = value;
        }
        let seen = |run: &&(u64, u64)| run.1 >= oldest.0 || snapshots.range(run.0..=run.1).next().is_some();
        count += runs.iter().filter(|run| run.1 < newest).filter(seen).count();
    }
    count
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn exactly_what_snapshots_and_the_newest_seqs_see_is_kept(steps in steps()) {
        let mut replica = Replica::new();
        let mut model = MemoryRecords::new();
        let mut history = BTreeMap::from([(0, model.clone())]);
        let mut seq = Seq(0);
        let mut number = 0;
        let open = RequestBody::OpenSession { client: ClientId(1) };
        let bodies = std::iter::once(Some(open)).chain(std::iter::repeat(None));
        for (step, open) in std::iter::once(Step::Put(0)).chain(steps).zip(bodies) {
            let opens = open.is_some();
            let body = open.or_else(|| {
                let body = body(&step, number + 1)?;
                number += 1;
                Some(body)
            });
            match (&step, body) {
                (_, Some(body)) => {
                    seq = seq.next().unwrap();
                    // Times stand still now and then, and go back.
                    let at = Timestamp((seq.0 as i64 / 2) * 10 - i64::from(seq.0.is_multiple_of(5)) * 100);
                    let command = Command { requests: vec![Request { at, body }] };
                    model.apply(seq, &command).unwrap();
                    replica.apply(seq, &command);
                    history.insert(seq.0, model.clone());
                }
                (Step::Prune(behind, at_once), None) => {
                    let floor = Seq(seq.0.saturating_sub(*behind));
                    while replica.group.prune(floor, *at_once).unwrap() {}
                }
                (Step::Move, None) => replica = replica.moved(),
                _ => unreachable!(),
            }
            prop_assert!(opens || seq.0 > 0);
            check(&replica, &history)?;
        }
        // Without snapshots nothing old stays, nor what was kept for them.
        let names = query::snapshots(&model).unwrap();
        for (name, _) in names {
            number += 1;
            seq = seq.next().unwrap();
            let op = ManageOp::DeleteSnapshot { name };
            let body = RequestBody::Manage { session: SessionId(1), number, acked_below: number, op };
            let command = Command { requests: vec![Request { at: Timestamp(0), body }] };
            replica.apply(seq, &command);
        }
        while replica.group.prune(seq, 1).unwrap() {}
        prop_assert_eq!((replica.count(OLD), replica.count(KEPT), replica.count(CHANGES)), (0, 0, 0));
    }
}

fn check(replica: &Replica, history: &BTreeMap<u64, MemoryRecords>) -> Result<(), TestCaseError> {
    let view = replica.group.view().unwrap();
    let oldest = view.meta().oldest;
    let newest = *history.keys().next_back().unwrap();
    let named: BTreeSet<u64> =
        query::snapshots(&history[&newest]).unwrap().into_iter().map(|(_, snapshot)| snapshot.seq.0).collect();
    let mut readable = Vec::new();
    for (seq, model) in history {
        match view.at(Seq(*seq)) {
            Ok(at) => {
                prop_assert_eq!(all(&at), all(model), "at {}", seq);
                for (key, value) in model.iter() {
                    prop_assert_eq!(at.get(key).unwrap(), Some(value.clone()));
                }
                readable.push(*seq);
            }
            Err(ViewError::TooOld { .. }) => {
                prop_assert!(*seq < oldest.0 && !named.contains(seq), "{seq} is not readable");
            }
            Err(error) => return Err(TestCaseError::fail(error.to_string())),
        }
    }
    // What differs between any two of them is told.
    for pair in readable
        .windows(2)
        .chain(readable.first().zip(readable.last()).map(|(a, b)| [*a, *b]).iter().map(|pair| &pair[..]))
    {
        let (from, to) = (pair[0], pair[1]);
        let changed = view.changed_between(Seq(from), Seq(to), usize::MAX).unwrap().unwrap();
        let (before, after) = (&history[&from], &history[&to]);
        for (key, value) in before.iter() {
            prop_assert!(
                after.get(key).unwrap().as_ref() == Some(value) || changed.contains_key(key),
                "{from} {to} {key:?}"
            );
        }
        for (key, _) in after.iter() {
            prop_assert!(before.get(key).unwrap().is_some() || changed.contains_key(key), "{from} {to} {key:?}");
        }
    }
    // Deleted snapshots are given up by the next pruning; until then there is more.
    let kept = super::layout::read_kept(replica.kv.as_ref(), GROUP).unwrap();
    if kept.iter().all(|kept| named.contains(&kept.seq.0)) {
        prop_assert_eq!(replica.count(OLD), needed(history, oldest, &named));
    }
    Ok(())
}

#[test]
fn times_find_their_seqs_and_what_is_kept_by_time() {
    let replica = Replica::new();
    let open = |at| Command {
        requests: vec![Request { at: Timestamp(at), body: RequestBody::OpenSession { client: ClientId(1) } }],
    };
    let second = 1_000_000_000;
    // Seqs 1, 3, 5 … at 1 s, 2 s, 3 s …; even ones change nothing.
    for step in 0..50 {
        replica.apply(Seq(2 * step + 1), &open((step as i64 + 1) * second));
        let position = Position { term: 1, index: 2 * step + 2 };
        replica.group.apply(&[Entry { position, payload: Payload::Blank }]).unwrap();
    }
    let at = |seconds: i64| replica.group.view().unwrap().seq_at(Timestamp(seconds * second));
    for (seconds, seq) in [(1, 2), (2, 4), (25, 50), (49, 98), (50, 100), (1000, 100)] {
        assert_eq!(at(seconds).unwrap(), Seq(seq), "{seconds}");
    }
    assert_eq!(replica.group.view().unwrap().seq_at(Timestamp(25 * second + 1)).unwrap(), Seq(50));
    assert_eq!(at(0).unwrap(), Seq(0));
    let keep = |seqs, seconds| {
        let now = Timestamp(60 * second);
        replica.group.retained_from(RetentionRecord { seqs, seconds }, now).unwrap()
    };
    assert_eq!(keep(10, 0), Seq(90));
    assert_eq!(keep(10, 20), Seq(80));
    assert_eq!(keep(90, 20), Seq(10));
    while replica.group.prune(Seq(80), 3).unwrap() {}
    assert!(matches!(at(39), Err(ViewError::TooEarly { oldest: Seq(80), .. })));
    assert_eq!(at(40).unwrap(), Seq(80));
    assert_eq!(keep(10, 30), Seq(80));
}
