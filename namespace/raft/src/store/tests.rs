use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use proptest::prelude::*;

use causeway_base::{ClientId, Ino, Seq, Timestamp, VolumeId};
use causeway_namespace_core::command::{At, Command, Expect, Op, Request, RequestBody, SessionId};
use causeway_namespace_core::inode::{Attr, Content};
use causeway_namespace_core::memory::MemoryRecords;
use causeway_namespace_core::records::Records;
use causeway_storage::disk::sim::{Fault, Operation};
use causeway_storage::disk::{Disk, RealDisk, SimDisk};
use causeway_storage::kv::{Kv, MemoryKv};

use super::{
    DivergedMark, Entry, GroupStore, Payload, Position, STATE_SPACES, SnapshotBlocks, StateStore, StoreError, ViewError,
};

const GROUP: VolumeId = VolumeId(3);

fn open(kv: &Arc<MemoryKv>, dir: &Path) -> Arc<StateStore> {
    StateStore::open(Arc::clone(kv) as Arc<dyn Kv>, Arc::new(RealDisk), dir).unwrap()
}

fn at(name: u8) -> At {
    // Names that are prefixes of each other, with bytes that the layout treats specially.
    let names: [&[u8]; 6] = [b"a", b"a\x01", b"a\x01\xff\xff\xff\xff\xff\xff\xff\xff", b"ab", b"\xff", b"\x01"];
    At { dir: Ino::ROOT, path: Bytes::from_static(names[usize::from(name) % names.len()]) }
}

fn op() -> impl Strategy<Value = Op> {
    let attr = Attr { mode: 0o644, uid: 0, gid: 0, mtime: Timestamp(1), ctime: Timestamp(1) };
    prop_oneof![
        4 => (0..6_u8, 0..40_usize).prop_map(move |(name, len)| Op::PutFile {
            at: at(name), attr, content: Content::Inline(vec![name; len].into()), expect: Expect::Any,
        }),
        2 => (0..6_u8).prop_map(|name| Op::Unlink { at: at(name), expect: Expect::Any }),
        2 => (0..6_u8, 0..6_u8).prop_map(|(from, to)| Op::Rename { from: at(from), to: at(to), no_replace: false }),
    ]
}

fn entries() -> impl Strategy<Value = Vec<Vec<Op>>> {
    proptest::collection::vec(proptest::collection::vec(op(), 0..3), 1..30)
}

fn command(bodies: Vec<RequestBody>) -> Command {
    Command { requests: bodies.into_iter().map(|body| Request { at: Timestamp(5), body }).collect() }
}

/// The first opens a session, the others use it; one without operations is a blank entry.
fn commands(entries: Vec<Vec<Op>>) -> Vec<Option<Command>> {
    let open = command(vec![RequestBody::OpenSession { client: ClientId(1) }]);
    let mut numbers = 1..;
    let others = entries.into_iter().map(|ops| {
        let number = numbers.next()?;
        let mutate = |ops| RequestBody::Mutate { session: SessionId(1), number, acked_below: number, ops };
        (!ops.is_empty()).then(|| command(vec![mutate(ops)]))
    });
    std::iter::once(Some(open)).chain(others).collect()
}

fn entry(index: u64, command: Option<&Command>) -> Entry {
    let payload = command.map_or(Payload::Blank, |command| Payload::Command(command.encode()));
    Entry { position: Position { term: 1, index }, payload }
}

/// The records at each seq, as the model has them.
fn history(commands: &[Option<Command>]) -> BTreeMap<u64, MemoryRecords> {
    let mut model = MemoryRecords::new();
    let mut history = BTreeMap::from([(0, model.clone())]);
    for (index, command) in (1..).zip(commands) {
        if let Some(command) = command {
            model.apply(Seq(index), command).unwrap();
        }
        history.insert(index, model.clone());
    }
    history
}

fn apply(group: &GroupStore, commands: &[Option<Command>], batch: usize) {
    let entries: Vec<Entry> = (1..).zip(commands).map(|(index, command)| entry(index, command.as_ref())).collect();
    for chunk in entries.chunks(batch) {
        assert_eq!(group.apply(chunk).unwrap().len(), chunk.len());
    }
}

fn all(records: &dyn Records) -> Vec<(Bytes, Bytes)> {
    records.scan(&[0], &[0xff], usize::MAX).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn every_seq_can_be_read_until_it_is_pruned(entries in entries(), batch in 1..9_usize, floor in any::<prop::sample::Index>(), step in 1..5_usize) {
        let dir = tempfile::tempdir().unwrap();
        let kv = Arc::new(MemoryKv::new(STATE_SPACES));
        let group = open(&kv, dir.path()).group(GROUP).unwrap();
        let commands = commands(entries);
        let history = history(&commands);
        apply(&group, &commands, batch);
        let newest = group.view().unwrap();
        prop_assert_eq!(newest.digest().unwrap(), history[&newest.seq().0].digest());
        prop_assert_eq!(newest.meta().records, all(&newest).len() as u64);

        let floor = floor.index(history.len()) as u64;
        while group.prune(Seq(floor), step).unwrap() {}
        for (seq, model) in &history {
            let view = group.view_at(Seq(*seq));
            if *seq < floor {
                let too_old = matches!(view, Err(ViewError::TooOld { .. }));
                prop_assert!(too_old);
                prop_assert!(group.changes(Seq(*seq), Seq(u64::MAX)).is_err());
                continue;
            }
            let view = view.unwrap();
            let expected = all(model);
            prop_assert_eq!(&all(&view), &expected, "at {}", seq);
            for (key, value) in &expected {
                prop_assert_eq!(view.get(key).unwrap(), Some(value.clone()));
            }
            // Any part of a range, in any steps.
            for limit in 1..4 {
                if let [_, from, .., to] = expected.as_slice() {
                    let want = model.scan(&from.0, &to.0, limit).unwrap();
                    prop_assert_eq!(view.scan(&from.0, &to.0, limit).unwrap(), want);
                }
            }
        }
        // The changes after a seq are the keys that differ then, and more.
        let newest = all(&history[history.keys().next_back().unwrap()]);
        let changed: Vec<Bytes> = group.changes(Seq(floor), Seq(u64::MAX)).unwrap().flat_map(|one| one.unwrap().keys).collect();
        for (key, value) in all(&history[&floor]).iter().chain(&newest) {
            let same = newest.contains(&(key.clone(), value.clone())) && all(&history[&floor]).contains(&(key.clone(), value.clone()));
            prop_assert!(same || changed.contains(key), "{:?}", key);
        }
        // Pruned to the end nothing old is left.
        while group.prune(group.applied(), step).unwrap() {}
        prop_assert_eq!(kv.snapshot().scan(super::OLD, (std::ops::Bound::Unbounded, std::ops::Bound::Unbounded), false).count(), 0);
    }

    #[test]
    fn a_snapshot_carries_the_state_and_a_damaged_one_changes_nothing(entries in entries(), at in any::<prop::sample::Index>(), bit in 0..8_u32) {
        let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let stores = dirs.each_ref().map(|dir| open(&Arc::new(MemoryKv::new(STATE_SPACES)), dir.path()));
        let [from, to] = stores.each_ref().map(|store| store.group(GROUP).unwrap());
        let commands = commands(entries);
        apply(&from, &commands, 4);
        apply(&to, &commands[..1], 1);
        let before = all(&to.view().unwrap());
        let blocks: Vec<Bytes> = SnapshotBlocks::of(&from.view().unwrap()).unwrap().unwrap().map(Result::unwrap).collect();

        let mut damaged: Vec<Vec<u8>> = blocks.iter().map(|block| block.to_vec()).collect();
        let block = at.index(damaged.len());
        let byte = at.index(damaged[block].len());
        // Bytes 6 and 7 of an envelope are reserved: its checksum alone guards them.
        damaged[block][byte] ^= 1 << bit;
        let mut receiver = to.receive_snapshot().unwrap();
        let taken = damaged.iter().try_for_each(|block| receiver.push(block));
        prop_assert!(taken.is_err());
        drop(receiver);
        prop_assert_eq!(&all(&to.view().unwrap()), &before);

        let mut receiver = to.receive_snapshot().unwrap();
        blocks.iter().try_for_each(|block| receiver.push(block)).unwrap();
        let old = to.view().unwrap();
        to.install(&receiver.finish().unwrap()).unwrap();
        prop_assert_eq!(all(&old), before);
        prop_assert_eq!(all(&to.view().unwrap()), all(&from.view().unwrap()));
        prop_assert_eq!(to.digest(), from.digest());
        prop_assert_eq!(to.meta().applied, from.meta().applied);
        prop_assert!(RealDisk.list(dirs[1].path()).unwrap().is_empty());
    }
}

fn many() -> Vec<Option<Command>> {
    let attr = Attr { mode: 0o644, uid: 0, gid: 0, mtime: Timestamp(1), ctime: Timestamp(1) };
    let ops = (0..6_u8).map(|name| {
        vec![Op::PutFile { at: at(name), attr, content: Content::Inline(vec![name; 30].into()), expect: Expect::Any }]
    });
    commands(ops.collect())
}

fn mark() -> DivergedMark {
    DivergedMark { seq: Seq(2), at: Timestamp(7), why: "it differs".to_owned() }
}

#[test]
fn an_installation_that_failed_is_finished_before_anything_else() {
    let source_dir = tempfile::tempdir().unwrap();
    let source = open(&Arc::new(MemoryKv::new(STATE_SPACES)), source_dir.path()).group(GROUP).unwrap();
    let commands = many();
    apply(&source, &commands, 4);
    let disk = SimDisk::new(3);
    let kv = Arc::new(MemoryKv::new(STATE_SPACES));
    let store = StateStore::open(kv, Arc::new(disk.clone()), Path::new("snapshots")).unwrap();
    let group = store.group(GROUP).unwrap();
    apply(&group, &commands[..2], 1);
    group.mark_diverged(group.generation(), mark()).unwrap();
    let (generation, before) = (group.generation(), all(&group.fresh_view().unwrap()));
    let (mut receiver, mut blocks) = (group.receive_snapshot().unwrap(), 0);
    for block in SnapshotBlocks::of(&source.view().unwrap()).unwrap().unwrap() {
        receiver.push(&block.unwrap()).unwrap();
        blocks += 1;
    }
    let file = receiver.finish().unwrap();
    // Nothing goes before the file was read whole.
    disk.inject(Fault::next(&[Operation::Read]));
    assert!(group.install(&file).is_err());
    assert_eq!(all(&group.fresh_view().unwrap()), before);
    // It was; now it fails while it is taken in. What is there then is no state, neither to be read nor to be judged.
    disk.inject(Fault::next(&[Operation::Read]).after(2 * blocks));
    assert!(group.install(&file).is_err());
    assert!(group.fresh_view().is_err());
    assert!(group.diverged().is_some());
    group.resume_install().unwrap();
    assert_eq!(all(&group.view().unwrap()), all(&source.view().unwrap()));
    assert_eq!((group.diverged(), group.applied()), (None, source.applied()));
    assert!(group.generation() > generation);
    // Nothing is left to do; and what was judged of the state before says nothing of this one.
    group.resume_install().unwrap();
    assert!(!group.mark_diverged(generation, mark()).unwrap());
    assert_eq!(group.diverged(), None);
    assert_eq!(group.marks(), [source.mark_at(source.applied()).unwrap()]);
}

/// A file that cannot be read at the start keeps its group from starting, not the node, and is not thrown away.
#[test]
fn a_state_that_cannot_be_finished_at_the_start_waits() {
    let source_dir = tempfile::tempdir().unwrap();
    let source = open(&Arc::new(MemoryKv::new(STATE_SPACES)), source_dir.path()).group(GROUP).unwrap();
    apply(&source, &many(), 4);
    let (disk, kv) = (SimDisk::new(3), Arc::new(MemoryKv::new(STATE_SPACES)));
    let start = || StateStore::open(Arc::clone(&kv) as Arc<dyn Kv>, Arc::new(disk.clone()), Path::new("snapshots"));
    {
        let group = start().unwrap().group(GROUP).unwrap();
        let (mut receiver, mut blocks) = (group.receive_snapshot().unwrap(), 0);
        for block in SnapshotBlocks::of(&source.view().unwrap()).unwrap().unwrap() {
            receiver.push(&block.unwrap()).unwrap();
            blocks += 1;
        }
        disk.inject(Fault::next(&[Operation::Read]).after(2 * blocks));
        assert!(group.install(&receiver.finish().unwrap()).is_err());
    }
    disk.inject(Fault::next(&[Operation::Read]));
    let store = start().unwrap();
    assert_eq!(store.group(VolumeId(9)).unwrap().applied(), Seq(0));
    let group = store.group(GROUP).unwrap();
    assert!(group.fresh_view().is_err());
    group.resume_install().unwrap();
    assert_eq!(all(&group.view().unwrap()), all(&source.view().unwrap()));
}

#[test]
fn whoever_worked_on_the_state_before_is_out() {
    let dir = tempfile::tempdir().unwrap();
    let group = open(&Arc::new(MemoryKv::new(STATE_SPACES)), dir.path()).group(GROUP).unwrap();
    let commands = many();
    let before = group.enter();
    group.apply_in(before, &[entry(1, commands[0].as_ref())]).unwrap();
    let now = group.enter();
    let late = group.apply_in(before, &[entry(2, commands[1].as_ref())]);
    assert!(matches!(late, Err(StoreError::Replaced(_))), "{late:?}");
    assert_eq!(group.applied(), Seq(1));
    group.apply_in(now, &[entry(2, commands[1].as_ref())]).unwrap();
}

#[test]
fn records_are_added_up_and_what_was_changed_at_rest_is_seen() {
    let dir = tempfile::tempdir().unwrap();
    let kv = Arc::new(MemoryKv::new(STATE_SPACES));
    let group = open(&kv, dir.path()).group(GROUP).unwrap();
    apply(&group, &many(), 3);
    let sum = group.view().unwrap().add_up(|_| true).unwrap().unwrap();
    assert!(sum.right && sum.seq == Seq(7) && sum.records == group.meta().records, "{sum:?}");
    let all_keys = (std::ops::Bound::Unbounded, std::ops::Bound::Unbounded);
    let stored: Vec<_> = kv.snapshot().scan(super::CURRENT, all_keys, false).map(Result::unwrap).collect();
    for (key, value) in stored {
        let put = |value: Option<Bytes>| {
            let mut batch = causeway_storage::kv::Batch::new();
            match value {
                Some(value) => batch.put(super::CURRENT, key.clone(), value),
                None => batch.delete(super::CURRENT, key.clone()),
            }
            kv.write(batch).unwrap();
            group.fresh_view().unwrap().add_up(|_| true)
        };
        let mut flipped = value.to_vec();
        *flipped.last_mut().unwrap() ^= 1;
        assert!(!put(Some(flipped.into())).unwrap().unwrap().right);
        assert!(!put(None).unwrap().unwrap().right);
        assert!(put(Some(value.slice(..3))).is_err());
        assert!(put(Some(value)).unwrap().unwrap().right);
    }
}

/// A power cut at any moment of an installation: the next start has the old state or the new one, whole.
#[test]
fn an_interrupted_installation_is_finished_or_never_was() {
    let source_dir = tempfile::tempdir().unwrap();
    let source = open(&Arc::new(MemoryKv::new(STATE_SPACES)), source_dir.path()).group(GROUP).unwrap();
    let commands = many();
    apply(&source, &commands, 4);
    let wanted = all(&source.view().unwrap());
    let (mut old_seen, mut new_seen) = (0, 0);
    for cut in 0..14 {
        let disk = SimDisk::new(cut);
        let kv = Arc::new(MemoryKv::new(STATE_SPACES));
        let dir = Path::new("snapshots");
        let store = StateStore::open(Arc::clone(&kv) as Arc<dyn Kv>, Arc::new(disk.clone()), dir).unwrap();
        let group = store.group(GROUP).unwrap();
        apply(&group, &commands[..2], 1);
        store.persist().unwrap();
        let before = all(&group.view().unwrap());
        // As in a repair: the old state is marked as wrong, the new one is not.
        group.mark_diverged(group.generation(), mark()).unwrap();
        disk.cut_power_at(cut);
        let installed = (|| -> Result<(), StoreError> {
            let mut receiver = group.receive_snapshot()?;
            for block in SnapshotBlocks::of(&source.view()?).unwrap().unwrap() {
                receiver.push(&block?)?;
            }
            group.install(&receiver.finish()?)
        })();
        disk.crash();
        // The store lost what it had not persisted at the same moment.
        let kv = Arc::new(kv.after_power_cut());
        let store = StateStore::open(kv, Arc::new(disk), dir).unwrap();
        let group = store.group(GROUP).unwrap();
        let after = all(&group.view().unwrap());
        assert_eq!(group.diverged(), (after == before).then(mark), "cut at {cut}");
        assert!(after == before || after == wanted, "cut at {cut}");
        assert!(installed.is_err() || after == wanted, "cut at {cut}: it was installed");
        if after == wanted { new_seen += 1 } else { old_seen += 1 }
    }
    assert!(old_seen > 0 && new_seen > 0, "{old_seen} old, {new_seen} new");
}

#[test]
fn a_full_disk_while_receiving_leaves_the_state_alone() {
    let disk = SimDisk::new(1);
    let kv = Arc::new(MemoryKv::new(STATE_SPACES));
    let store = StateStore::open(kv, Arc::new(disk.clone()), Path::new("snapshots")).unwrap();
    let group = store.group(GROUP).unwrap();
    apply(&group, &many(), 4);
    disk.inject(Fault::next(&[Operation::Write]));
    let mut receiver = group.receive_snapshot().unwrap();
    let block = SnapshotBlocks::of(&group.view().unwrap()).unwrap().unwrap().next().unwrap().unwrap();
    assert!(matches!(receiver.push(&block), Err(StoreError::Io { .. })));
    drop(receiver);
    // The name is free again.
    group.receive_snapshot().unwrap().push(&block).unwrap();
}

#[test]
fn entries_that_were_applied_or_do_not_decode_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let group = open(&Arc::new(MemoryKv::new(STATE_SPACES)), dir.path()).group(GROUP).unwrap();
    apply(&group, &many(), 3);
    let digest = group.digest();
    assert!(matches!(group.apply(&[entry(3, None)]), Err(StoreError::Damaged { .. })));
    let rubbish = Entry { position: Position { term: 1, index: 99 }, payload: Payload::Command("rubbish".into()) };
    assert!(matches!(group.apply(&[rubbish]), Err(StoreError::Damaged { .. })));
    assert_eq!((group.applied(), group.digest()), (Seq(7), digest));
}
