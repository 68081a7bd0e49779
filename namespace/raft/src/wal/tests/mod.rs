mod faults;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use futures::executor::block_on;
use proptest::prelude::*;

use causeway_base::VolumeId;
use causeway_storage::disk::{Disk, RealDisk};

use super::{Done, GroupLog, Wal, WalError, WalOptions, WalState};

fn options() -> WalOptions {
    WalOptions { segment_bytes: 64 << 10, cache_bytes: 4 << 10, queue_bytes: 1 << 20, seed: 1, threaded: false }
}

fn open(dir: &Path) -> Wal {
    Wal::open(Arc::new(RealDisk), dir, options()).unwrap().0
}

fn append(log: &GroupLog, first: u64, payloads: &[Bytes]) -> Result<(), WalError> {
    let (sender, receiver) = std::sync::mpsc::channel();
    let done: Done = Box::new(move |result| sender.send(result).unwrap());
    let entries = payloads.iter().cloned().zip(first..).map(|(payload, index)| (index, payload)).collect();
    block_on(log.append(entries, done))?;
    receiver.recv().unwrap()
}

fn payload(index: u64, len: usize) -> Bytes {
    Bytes::from(vec![u8::try_from(index % 251).unwrap(); len])
}

#[derive(Clone, Debug, Default, PartialEq)]
struct Model {
    entries: BTreeMap<u64, Bytes>,
    vote: Option<Bytes>,
    purged: Option<(u64, Bytes)>,
}

impl Model {
    fn of(log: &GroupLog) -> Self {
        Self {
            entries: log.read(log.range(), usize::MAX).unwrap().into_iter().collect(),
            vote: log.vote(),
            purged: log.purged(),
        }
    }

    fn next(&self) -> u64 {
        let purged = self.purged.as_ref().map_or(1, |(index, _)| index + 1);
        self.entries.keys().next_back().map_or(purged, |last| last + 1)
    }
}

#[derive(Clone, Debug)]
enum Step {
    Append { group: u64, count: u64, len: usize },
    Truncate { group: u64, keep: prop::sample::Index },
    Purge { group: u64, upto: prop::sample::Index },
    PurgeBeyond { group: u64 },
    Vote { group: u64, value: u8 },
    Remove { group: u64 },
    Reopen,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let group = 0..3_u64;
    let step = prop_oneof![
        8 => (group.clone(), 1..6_u64, 0..6000_usize).prop_map(|(group, count, len)| Step::Append { group, count, len }),
        1 => (group.clone(), any::<prop::sample::Index>()).prop_map(|(group, keep)| Step::Truncate { group, keep }),
        2 => (group.clone(), any::<prop::sample::Index>()).prop_map(|(group, upto)| Step::Purge { group, upto }),
        1 => group.clone().prop_map(|group| Step::PurgeBeyond { group }),
        1 => (group.clone(), any::<u8>()).prop_map(|(group, value)| Step::Vote { group, value }),
        1 => group.prop_map(|group| Step::Remove { group }),
        1 => Just(Step::Reopen),
    ];
    proptest::collection::vec(step, 1..80)
}

fn run(wal: &mut Wal, dir: &Path, models: &mut BTreeMap<u64, Model>, step: Step) {
    match step {
        Step::Append { group, count, len } => {
            let model = models.entry(group).or_default();
            let first = model.next();
            let payloads: Vec<Bytes> = (first..first + count).map(|index| payload(index, len)).collect();
            append(&wal.group(VolumeId(group)), first, &payloads).unwrap();
            model.entries.extend((first..).zip(payloads));
        }
        Step::Truncate { group, keep } => {
            let model = models.entry(group).or_default();
            let Some(first) = model.entries.keys().next().copied() else { return };
            let at = first + keep.index(model.entries.len()) as u64;
            wal.group(VolumeId(group)).truncate_from(at).unwrap();
            drop(model.entries.split_off(&at));
        }
        Step::Purge { group, upto } => {
            let model = models.entry(group).or_default();
            let Some(first) = model.entries.keys().next().copied() else { return };
            purge(wal, group, first + upto.index(model.entries.len()) as u64, model);
        }
        Step::PurgeBeyond { group } => {
            let model = models.entry(group).or_default();
            purge(wal, group, model.next() + 7, model);
        }
        Step::Vote { group, value } => {
            let vote = Bytes::from(vec![value; 9]);
            block_on(wal.group(VolumeId(group)).save_vote(vote.clone())).unwrap();
            models.entry(group).or_default().vote = Some(vote);
        }
        Step::Remove { group } => {
            block_on(wal.group(VolumeId(group)).remove()).unwrap();
            models.insert(group, Model::default());
        }
        Step::Reopen => {
            wal.close();
            *wal = open(dir);
        }
    }
}

fn purge(wal: &Wal, group: u64, index: u64, model: &mut Model) {
    let name = Bytes::from(index.to_string());
    wal.group(VolumeId(group)).purge(index, name.clone()).unwrap();
    model.entries = model.entries.split_off(&(index + 1));
    model.purged = Some((index, name));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn the_log_holds_what_a_map_would(steps in steps()) {
        let dir = tempfile::tempdir().unwrap();
        let mut wal = open(dir.path());
        let mut models = BTreeMap::new();
        for step in steps {
            run(&mut wal, dir.path(), &mut models, step);
            for (group, model) in &models {
                prop_assert_eq!(&Model::of(&wal.group(VolumeId(*group))), model);
            }
        }
        wal.close();
        let wal = open(dir.path());
        for (group, model) in &models {
            prop_assert_eq!(&Model::of(&wal.group(VolumeId(*group))), model);
        }
    }
}

fn only_segment(dir: &Path) -> std::path::PathBuf {
    let names = RealDisk.list(dir).unwrap();
    let logs: Vec<_> = names.iter().filter(|name| name.extension().is_some_and(|end| end == "log")).collect();
    assert_eq!(logs.len(), 1, "{names:?}");
    dir.join(logs[0])
}

#[test]
fn a_torn_last_write_is_cut_and_the_log_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let wal = open(dir.path());
    append(&wal.group(VolumeId(1)), 1, &[payload(1, 100)]).unwrap();
    let end = usize::try_from(wal.stats().written_bytes).unwrap() + 40;
    append(&wal.group(VolumeId(1)), 2, &[payload(2, 100)]).unwrap();
    wal.close();
    let path = only_segment(dir.path());
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[end + 60] ^= 1;
    std::fs::write(&path, bytes).unwrap();

    let (wal, report) = Wal::open(Arc::new(RealDisk), dir.path(), options()).unwrap();
    assert!(report.cut_bytes > 0);
    let log = wal.group(VolumeId(1));
    assert_eq!(log.range(), 1..2);
    append(&log, 2, &[payload(9, 10)]).unwrap();
    wal.close();
    let (wal, report) = Wal::open(Arc::new(RealDisk), dir.path(), options()).unwrap();
    assert_eq!(report.cut_bytes, 0);
    assert_eq!(wal.group(VolumeId(1)).last().unwrap(), Some((2, payload(9, 10))));
}

#[test]
fn damage_before_a_valid_frame_is_named_and_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let wal = open(dir.path());
    for index in 1..5 {
        append(&wal.group(VolumeId(1)), index, &[payload(index, 100)]).unwrap();
    }
    wal.close();
    let path = only_segment(dir.path());
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[200] ^= 1;
    std::fs::write(&path, &bytes).unwrap();
    let error = Wal::open(Arc::new(RealDisk), dir.path(), options()).unwrap_err();
    let WalError::Damaged { file, offset, .. } = &error else { panic!("{error}") };
    assert_eq!(*file, path.file_name().unwrap().to_str().unwrap());
    assert_eq!(*offset, 40 + 20 + 25 + 100);
    assert_eq!(std::fs::read(&path).unwrap(), bytes);
}

#[test]
fn a_missing_segment_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let wal = open(dir.path());
    for index in 1..40 {
        append(&wal.group(VolumeId(1)), index, &[payload(index, 6000)]).unwrap();
    }
    wal.close();
    std::fs::remove_file(dir.path().join("00000000000000000002.log")).unwrap();
    let error = Wal::open(Arc::new(RealDisk), dir.path(), options()).unwrap_err();
    assert!(error.to_string().contains("segments 2 to 2 are missing"), "{error}");
}

#[test]
fn an_idle_group_does_not_pin_the_log() {
    let dir = tempfile::tempdir().unwrap();
    let wal = open(dir.path());
    let (idle, busy) = (wal.group(VolumeId(1)), wal.group(VolumeId(2)));
    block_on(idle.save_vote(Bytes::from_static(b"vote"))).unwrap();
    idle.save_committed(Some(Bytes::from_static(b"mark")));
    append(&idle, 1, &[payload(1, 3000), payload(2, 3000), payload(3, 20_000)]).unwrap();
    for index in 1..400 {
        append(&busy, index, &[payload(index, 6000)]).unwrap();
        busy.purge(index, Bytes::new()).unwrap();
    }
    let stats = wal.stats();
    assert!(stats.segments <= 6, "{stats:?}");
    assert!(stats.moved_bytes > 26_000, "{stats:?}");
    wal.close();
    let wal = open(dir.path());
    let idle = wal.group(VolumeId(1));
    assert_eq!(idle.vote(), Some(Bytes::from_static(b"vote")));
    assert_eq!(idle.committed(), Some(Bytes::from_static(b"mark")));
    let entries = idle.read(1..4, usize::MAX).unwrap();
    assert_eq!(entries, [(1, payload(1, 3000)), (2, payload(2, 3000)), (3, payload(3, 20_000))]);
    assert_eq!(wal.group(VolumeId(2)).purged(), Some((399, Bytes::new())));
}

#[test]
fn reads_stop_at_the_byte_bound_but_give_one() {
    let dir = tempfile::tempdir().unwrap();
    let wal = open(dir.path());
    let log = wal.group(VolumeId(1));
    append(&log, 5, &[payload(5, 1000), payload(6, 1000), payload(7, 1000)]).unwrap();
    assert_eq!(log.read(0..100, 2500).unwrap().len(), 2);
    assert_eq!(log.read(6..100, 1).unwrap(), [(6, payload(6, 1000))]);
    assert_eq!(log.read(8..100, 1).unwrap(), []);
}

#[test]
fn what_does_not_follow_or_fit_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let wal = open(dir.path());
    let log = wal.group(VolumeId(1));
    append(&log, 1, &[payload(1, 10)]).unwrap();
    assert!(matches!(append(&log, 3, &[payload(3, 10)]), Err(WalError::Usage(_))));
    assert!(matches!(append(&log, 2, &[payload(2, 70_000)]), Err(WalError::Usage(_))));
    append(&log, 2, &[payload(2, 10)]).unwrap();
    wal.close();
    assert!(matches!(append(&log, 3, &[payload(3, 10)]), Err(WalError::Closed)));
}

#[test]
fn concurrent_groups_share_syncs() {
    let dir = tempfile::tempdir().unwrap();
    let options = WalOptions { threaded: true, segment_bytes: 1 << 20, ..options() };
    let (wal, _) = Wal::open(Arc::new(RealDisk), dir.path(), options).unwrap();
    std::thread::scope(|scope| {
        for group in 0..16 {
            let log = wal.group(VolumeId(group));
            scope.spawn(move || (1..=50).for_each(|index| append(&log, index, &[payload(index, 500)]).unwrap()));
        }
    });
    let stats = wal.stats();
    assert!(stats.syncs < 16 * 50, "{stats:?}");
    assert_eq!(wal.state(), WalState::Ok);
    wal.close();
    let wal = open(dir.path());
    for group in 0..16 {
        assert_eq!(wal.group(VolumeId(group)).range(), 1..51);
    }
}
