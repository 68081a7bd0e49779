//! What must hold after every command.

use std::collections::BTreeMap;

use bytes::Bytes;
use proptest::prelude::*;

use causeway_base::{ClientId, Epoch, Ino, Seq, Timestamp};

use super::sessions::Model;
use super::strategy::{Acked, Number, Step, commands, moves};
use crate::apply::{Change, Limits, Named, apply_within};
use crate::command::{Command, ListEntry, Outcome, Request, RequestBody, SessionId};
use crate::digest::Digest;
use crate::inode::{Body, FileKind};
use crate::memory::MemoryRecords;
use crate::query::ChangeKind;
use crate::{key, query};

const LIMITS: Limits = Limits { sessions: 3, answer_bytes: usize::MAX };

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    #[test]
    fn random_commands_agree_with_the_model(commands in commands()) {
        run(commands);
    }

    #[test]
    fn moves_between_quotas_agree_with_the_model(commands in moves()) {
        run(commands);
    }
}

fn run(commands: Vec<(u64, Vec<Step>)>) {
    let mut model = Model::new(LIMITS.sessions as usize);
    let mut records = MemoryRecords::new();
    let mut last_number = BTreeMap::new();
    let mut sent = BTreeMap::new();
    let mut seq = Seq(0);
    let mut at = Timestamp(1_000);
    for (after, steps) in commands {
        seq = Seq(seq.0 + after);
        let mut next_session = model.next_session;
        let requests = steps
            .into_iter()
            .map(|step| {
                next_session += u64::from(matches!(step, Step::Open));
                at = Timestamp(at.0 + 1);
                Request { at, body: body(step, next_session, &mut last_number, &mut sent) }
            })
            .collect();
        let command = Command { requests };
        assert_eq!(Command::decode(&command.encode()).as_ref(), Ok(&command));
        let expected: Vec<Outcome> = command.requests.iter().map(|request| model.apply(request, seq)).collect();
        let applied = apply_within(&records, seq, &command, LIMITS).unwrap();
        let before = records.clone();
        assert_eq!(apply_within(&records, seq, &command, LIMITS).unwrap(), applied);
        assert!(applied.changes.is_sorted_by(|a, b| a.key < b.key));
        records.take(&applied.changes);
        let plain = |outcome: Outcome| match outcome {
            Outcome::Invalid(_) => Outcome::Invalid(String::new()),
            other => other,
        };
        let outcomes: Vec<Outcome> = applied.outcomes.into_iter().map(plain).collect();
        assert_eq!(outcomes, expected);
        compare(&model, &records);
        follow(&before, &records, &applied.changes, &applied.named);
    }
}

/// Whoever knew all paths before and hears of the changes knows all paths, contents and attributes after.
fn follow(before: &MemoryRecords, after: &MemoryRecords, changes: &[Change], named: &[Named]) {
    let whole = |records: &MemoryRecords| -> BTreeMap<Bytes, Ino> {
        query::Walk::new(records, Ino::ROOT)
            .map(|entry| entry.unwrap())
            .map(|entry| (entry.path, entry.entry.ino))
            .collect()
    };
    let (mut paths, mut told) = (whole(before), BTreeMap::new());
    let used: BTreeMap<Bytes, (Ino, Bytes)> =
        named.iter().map(|named| (key::inode(named.ino), (named.dir, named.name.clone()))).collect();
    let keys = changes.iter().map(|change| (&change.key, used.get(&change.key)));
    let found = query::tree_changes(before, after, keys).unwrap();
    // What is renamed leaves its old place with all that is below it before anything comes to its new one.
    let mut moved = Vec::new();
    for change in &found {
        let path = change.path.clone();
        match change.kind {
            ChangeKind::Removed | ChangeKind::Unlinked => assert_eq!(paths.remove(&path.unwrap()), Some(change.ino)),
            ChangeKind::Renamed => {
                let (from, to) = (change.path_before.clone().unwrap(), path.unwrap());
                assert_eq!(paths.remove(&from), Some(change.ino), "{from:?}");
                moved.push((from, to, change.ino, change.file == FileKind::Directory));
            }
            ChangeKind::Created | ChangeKind::Linked => {
                told.insert(path.unwrap(), change.ino);
            }
            ChangeKind::Replaced | ChangeKind::Attributes => {
                if let Some(path) = path {
                    let known = if path.is_empty() { Ok(Ino::ROOT) } else { query::resolve(after, &path).unwrap() };
                    assert_eq!(known, Ok(change.ino));
                }
            }
        }
    }
    // The longest old path below which a name lies says where it is now.
    moved.sort_by_key(|(from, ..)| std::cmp::Reverse(from.len()));
    let under = |path: &Bytes, above: &Bytes| {
        path.strip_prefix(&above[..]).and_then(|rest| rest.strip_prefix(b"/")).map(<[u8]>::to_vec)
    };
    let mut now: BTreeMap<Bytes, Ino> = moved.iter().map(|(_, to, ino, _)| (to.clone(), *ino)).chain(told).collect();
    for (path, ino) in paths {
        let place = moved
            .iter()
            .filter(|(.., dir)| *dir)
            .find_map(|(from, to, ..)| Some([&to[..], b"/", &under(&path, from)?].concat()));
        now.insert(place.map_or(path, Bytes::from), ino);
    }
    assert_eq!(now, whole(after), "{found:?}");
    let telling = |ino: Ino| found.iter().any(|change| change.ino == ino);
    for (path, ino) in whole(after) {
        let (old, new) = (query::stat_ino(before, ino).unwrap(), query::stat_ino(after, ino).unwrap().unwrap());
        let same = old.is_some_and(|old| match new.body {
            Body::Directory { .. } => {
                (old.attr.mode, old.attr.uid, &old.xattrs) == (new.attr.mode, new.attr.uid, &new.xattrs)
            }
            _ => {
                (old.attr.mode, old.attr.mtime, &old.body, &old.xattrs)
                    == (new.attr.mode, new.attr.mtime, &new.body, &new.xattrs)
            }
        });
        assert!(same || telling(ino), "{path:?}");
    }
}

/// Makes a request of a step; the same session and number bring the same operations again.
fn body(
    step: Step,
    next_session: u64,
    last_number: &mut BTreeMap<u64, u64>,
    sent: &mut BTreeMap<(u64, u64), RequestBody>,
) -> RequestBody {
    match step {
        Step::Open => RequestBody::OpenSession { client: ClientId(9) },
        Step::RaiseEpoch(epoch) => RequestBody::RaiseEpoch { epoch: Epoch(epoch) },
        Step::Mutate { pick, number, acked, ops } => {
            let (session, number) = numbered(pick, number, next_session, last_number);
            let acked_below = match acked {
                Acked::AllBut(newest) => number.saturating_sub(newest),
                Acked::Nothing => 0,
                Acked::Nonsense => number + 1,
            };
            let fresh = RequestBody::Mutate { session: SessionId(session), number, acked_below, ops };
            again(sent.entry((session, number)).or_insert_with(|| fresh.clone()), acked_below)
        }
        Step::Manage { pick, number, op } => {
            let (session, number) = numbered(pick, number, next_session, last_number);
            let fresh = RequestBody::Manage { session: SessionId(session), number, acked_below: 0, op };
            again(sent.entry((session, number)).or_insert_with(|| fresh.clone()), 0)
        }
    }
}

/// What was sent under a number before, acknowledging something else.
fn again(sent: &RequestBody, acknowledge: u64) -> RequestBody {
    let mut body = sent.clone();
    if let RequestBody::Mutate { acked_below, .. } | RequestBody::Manage { acked_below, .. } = &mut body {
        *acked_below = acknowledge;
    }
    body
}

/// Mostly one of the newest sessions, at times one that is evicted or never was; and a number in it.
fn numbered(pick: u64, number: Number, next_session: u64, last_number: &mut BTreeMap<u64, u64>) -> (u64, u64) {
    let session = if pick == u64::MAX { 999 } else { (next_session - 1).saturating_sub(pick).max(1) };
    let last = last_number.entry(session).or_insert(0);
    let number = match number {
        Number::Next => *last + 1,
        Number::Again(back) => last.saturating_sub(back).max(1),
        Number::Skip(ahead) => *last + ahead,
        Number::Zero => 0,
    };
    *last = number.max(*last);
    (session, number)
}

/// The whole state, asked for in every way there is.
fn compare(model: &Model, records: &MemoryRecords) {
    let digest = Digest::of(records.iter().map(|(key, value)| (&key[..], &value[..])));
    assert_eq!(records.digest(), digest);
    let count = |table| records.iter().filter(|(key, _)| key[0] == table).count();
    assert_eq!(count(key::SESSION), model.sessions.len());
    assert_eq!(count(key::SESSION_BY_USE), model.sessions.len());
    let totals = query::totals(records).unwrap();
    assert_eq!((totals.sessions, totals.epoch), (model.sessions.len() as u64, model.epoch));
    let Some(tree) = &model.tree else {
        assert_eq!((totals.dirs, count(key::INODE)), (1, 0));
        return;
    };
    assert_eq!(count(key::INODE), tree.nodes.len());
    assert_eq!(count(key::DIRENT), tree.paths.len() - 1);
    let inodes: Vec<_> = tree.nodes.keys().map(|ino| (Ino(*ino), tree.inode(*ino))).collect();
    let (mut files, mut dirs, mut symlinks, mut bytes) = (0, 0, 0, 0_u128);
    for (ino, inode) in &inodes {
        assert_eq!(query::stat_ino(records, *ino).unwrap().as_ref(), Some(inode));
        match inode.body {
            Body::File(_) => (files, bytes) = (files + 1, bytes + u128::from(inode.size())),
            Body::Directory { .. } | Body::Mount { .. } => dirs += 1,
            Body::Symlink(_) => symlinks += 1,
        }
    }
    assert_eq!((totals.files, totals.dirs, totals.symlinks, totals.next_ino.0), (files, dirs, symlinks, tree.next_ino));
    assert_eq!(totals.logical_bytes, u64::try_from(bytes).unwrap_or(u64::MAX));
    let quotas: Vec<_> = query::quotas(records).unwrap();
    let used = quotas.iter().map(|(dir, quota)| (dir.0, (quota.files, quota.bytes))).collect();
    assert_eq!(tree.used(), used);
    assert_eq!(tree.quotas, quotas.iter().map(|(dir, quota)| (dir.0, quota.limit)).collect());
    let owners: BTreeMap<_, _> = query::owners(records).unwrap().into_iter().collect();
    assert_eq!(tree.owned(), owners.iter().map(|(uid, owner)| (*uid, (owner.files, owner.bytes))).collect());
    let limits = owners.iter().filter_map(|(uid, owner)| Some((*uid, owner.limit?))).collect();
    assert_eq!(tree.owner_quotas, limits);
    let join = |path: &[Vec<u8>]| Bytes::from(path.join(&b"/"[..]));
    let walked: Vec<_> = query::Walk::new(records, Ino::ROOT).map(|entry| entry.unwrap()).collect();
    let seen: Vec<_> = walked.iter().map(|entry| (entry.path.clone(), entry.entry.ino.0)).collect();
    let expected: Vec<_> = tree.paths.iter().skip(1).map(|(path, ino)| (join(path), *ino)).collect();
    assert_eq!(seen, expected);
    for (index, entry) in walked.iter().enumerate().step_by(3) {
        let rest = query::Walk::resume(records, Ino::ROOT, &entry.path).unwrap();
        let rest: Vec<_> = rest.map(|entry| entry.unwrap()).collect();
        assert_eq!(rest, walked[index + 1..], "after {:?}", entry.path);
    }
    let paths: Vec<Bytes> = tree.paths.keys().map(|path| join(path)).filter(|path| path.len() <= 4096).collect();
    let looked_up = query::lookup_many(records, &paths).unwrap();
    for (path, found) in paths.iter().zip(looked_up) {
        assert_eq!(query::stat(records, path).unwrap(), found);
        let (ino, inode) = found.unwrap();
        assert_eq!(inode, tree.inode(ino.0));
        if matches!(inode.body, Body::Directory { .. }) {
            assert_eq!(query::path_of(records, ino).unwrap().as_ref(), Ok(path));
            list_in_pages(records, ino, &walked);
        }
    }
}

fn list_in_pages(records: &MemoryRecords, dir: Ino, walked: &[query::WalkEntry]) {
    let mut listed: Vec<ListEntry> = Vec::new();
    loop {
        let after = listed.last().map(|entry| entry.name.clone());
        let page = query::readdir_plus(records, dir, after.as_deref(), 2).unwrap();
        if page.is_empty() {
            break;
        }
        listed.extend(page.into_iter().map(|(entry, _)| entry));
    }
    let expected: Vec<ListEntry> =
        walked.iter().filter(|entry| entry.dir == dir).map(|entry| entry.entry.clone()).collect();
    assert_eq!(listed, expected);
}
