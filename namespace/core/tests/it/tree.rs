//! Cases of the tree that a random walk seldom meets, or that are worth reading.

use bytes::Bytes;

use causeway_base::{Epoch, Ino, Seq, Timestamp};
use causeway_namespace_core::command::{At, Errno, Expect, Op, Outcome, RequestBody};
use causeway_namespace_core::inode::{Body, Content, Inode, LINKS_MAX};
use causeway_namespace_core::{encode, key, query};

use crate::support::{ATTR, Volume, at, mkdir, put, rename};

#[test]
fn a_blank_volume_has_an_empty_top() {
    let records = causeway_namespace_core::memory::MemoryRecords::new();
    let (ino, top) = query::stat(&records, b"/").unwrap().unwrap();
    assert_eq!((ino, top.attr.mode), (Ino::ROOT, 0o755));
    assert_eq!(query::list(&records, Ino::ROOT, None, 10).unwrap(), vec![]);
    assert_eq!(query::stat(&records, b"x").unwrap(), Err(Errno::NotFound));
    assert_eq!(query::totals(&records).unwrap().dirs, 1);
}

#[test]
fn a_refused_batch_leaves_nothing_and_names_the_operation() {
    let mut volume = Volume::new();
    volume.done(vec![mkdir("a")]);
    let before: Vec<_> = query::Walk::new(&volume.records, Ino::ROOT).map(Result::unwrap).collect();
    let totals = query::totals(&volume.records).unwrap();
    let ops = vec![put("a/x", b"1"), rename("a/x", "a/y"), rename("a/y", "gone/z")];
    let Outcome::Refused(refusal) = volume.batch(ops) else { panic!() };
    assert_eq!((refusal.op, refusal.code, &refusal.path[..]), (2, Errno::NotFound, &b"gone/z"[..]));
    let after: Vec<_> = query::Walk::new(&volume.records, Ino::ROOT).map(Result::unwrap).collect();
    assert_eq!(before, after);
    assert_eq!(query::totals(&volume.records).unwrap(), totals);
}

#[test]
fn five_hundred_creates_write_each_record_once() {
    let mut volume = Volume::new();
    volume.done(vec![mkdir("d")]);
    let creates: Vec<Op> = (0..500).map(|n| put(&format!("d/{n}"), b"x")).collect();
    let halves: Vec<Vec<Op>> = creates.chunks(250).map(<[Op]>::to_vec).collect();
    let bodies = halves.into_iter().map(|ops| volume.next(ops)).collect();
    let applied = volume.command(bodies);
    // Inode and entry of each file; the directory, the totals, the owner and the session once each.
    assert_eq!(applied.changes.len(), 2 * 500 + 4);
    let (_, dir) = query::stat(&volume.records, b"d").unwrap().unwrap();
    assert!(matches!(dir.body, Body::Directory { entries: 500, .. }));
}

#[test]
fn what_comes_and_goes_within_a_command_is_no_change() {
    let mut volume = Volume::new();
    volume.done(vec![mkdir("d")]);
    let ops = vec![put("d/x", b"1"), Op::Unlink { at: at("d/x"), expect: Expect::Any }];
    let body = volume.next(ops);
    let applied = volume.command(vec![body]);
    assert!(applied.changes.iter().all(|change| key::dirent_of(&change.key).is_none()));
    assert_eq!(query::totals(&volume.records).unwrap().files, 0);
}

#[test]
fn a_version_guards_against_a_lost_update() {
    let mut volume = Volume::new();
    let seen = volume.done(vec![put("f", b"1")])[0].version;
    let guarded = |bytes: &'static [u8]| Op::PutFile {
        at: at("f"),
        attr: ATTR,
        content: Content::Inline(Bytes::from_static(bytes)),
        expect: Expect::Version(seen),
    };
    // New names leave the version, new content does not.
    volume.done(vec![Op::Link { from: at("f"), to: at("g") }, rename("g", "h")]);
    assert_eq!(query::stat(&volume.records, b"h").unwrap().unwrap().1.version, seen);
    volume.done(vec![guarded(b"2")]);
    assert_eq!(volume.refused(guarded(b"3")), Errno::Conflict);
}

#[test]
fn an_inode_is_changed_by_its_number_wherever_its_name_went() {
    let mut volume = Volume::new();
    let ino = volume.done(vec![put("f", b"1"), mkdir("d")])[0].ino;
    volume.done(vec![rename("f", "d/g")]);
    let itself = At { dir: ino, path: Bytes::new() };
    let content = Content::Inline(Bytes::from_static(b"longer"));
    volume.done(vec![Op::PutFile { at: itself.clone(), attr: ATTR, content, expect: Expect::Any }]);
    assert_eq!(query::stat(&volume.records, b"d/g").unwrap().unwrap().1.size(), 6);
    assert_eq!(volume.refused(Op::Rmdir { at: itself.clone() }), Errno::Invalid);
    volume.done(vec![Op::Unlink { at: at("d/g"), expect: Expect::Any }]);
    let set = Op::SetAttr { at: itself, mode: Some(0), uid: None, gid: None, mtime: None, expect: Expect::Any };
    assert_eq!(volume.refused(set), Errno::NotFound);
}

#[test]
fn times_come_from_the_request() {
    let mut volume = Volume::new();
    volume.done(vec![mkdir("d")]);
    volume.done(vec![put("d/f", b"1")]);
    let now = Timestamp(volume.seq.0 as i64 * 1000);
    let file = query::stat(&volume.records, b"d/f").unwrap().unwrap().1;
    assert_eq!((file.attr.mtime, file.attr.ctime), (ATTR.mtime, now));
    let dir = query::stat(&volume.records, b"d").unwrap().unwrap().1;
    assert_eq!((dir.attr.mtime, dir.attr.ctime, dir.version), (now, now, volume.seq));
}

#[test]
fn links_end_at_their_bound() {
    let mut volume = Volume::new();
    let ino = volume.done(vec![put("f", b"1")])[0].ino;
    let mut inode = query::stat_ino(&volume.records, ino).unwrap().unwrap();
    inode.nlink = LINKS_MAX;
    volume.records.put(key::inode(ino), encode::to_bytes::<Inode>(&inode));
    assert_eq!(volume.refused(Op::Link { from: at("f"), to: at("g") }), Errno::TooManyLinks);
}

#[test]
fn a_tree_deeper_than_a_path_is_walked_and_not_moved_into() {
    let mut volume = Volume::new();
    let mut dir = Ino::ROOT;
    for _ in 0..5 {
        let step = |dir, name: &'static [u8]| At { dir, path: Bytes::from_static(name) };
        let deep = At { dir, path: vec![&b"d"[..]; 1000].join(&b"/"[..]).into() };
        dir = volume.done(vec![Op::Mkdir { at: deep, attr: ATTR, parents: true }])[0].ino;
        volume.done(vec![Op::Mkdir { at: step(dir, b"side"), attr: ATTR, parents: false }]);
    }
    assert_eq!(query::Walk::new(&volume.records, Ino::ROOT).filter(Result::is_ok).count(), 5005);
    assert_eq!(query::path_of(&volume.records, dir).unwrap().unwrap().len(), 2 * 5000 - 1);
    volume.done(vec![mkdir("other")]);
    let into = |dir| Op::Rename { from: at("other"), to: At { dir, path: "in".into() }, no_replace: false };
    assert_eq!(volume.refused(into(dir)), Errno::NameTooLong);
    let top = query::resolve(&volume.records, b"d/d/d").unwrap().unwrap();
    volume.done(vec![into(top)]);
}

#[test]
fn a_raised_epoch_only_rises() {
    let mut volume = Volume::new();
    assert_eq!(volume.one(RequestBody::RaiseEpoch { epoch: Epoch(3) }), Outcome::EpochRaised);
    for epoch in [Epoch(3), Epoch(2)] {
        assert!(matches!(volume.one(RequestBody::RaiseEpoch { epoch }), Outcome::Invalid(_)));
    }
    assert_eq!(query::totals(&volume.records).unwrap().epoch, Epoch(3));
}

#[test]
fn a_record_that_does_not_decode_stops_the_replica_and_is_named() {
    let mut volume = Volume::new();
    let ino = volume.done(vec![put("f", b"1")])[0].ino;
    volume.records.put(key::inode(ino), Bytes::from_static(b"\x01\xff"));
    let error = query::stat(&volume.records, b"f").unwrap_err().to_string();
    assert!(error.contains("010000000000000002"), "{error}");
    let body = volume.next(vec![Op::Unlink { at: at("f"), expect: Expect::Any }]);
    let request = causeway_namespace_core::command::Request { at: Timestamp(0), body };
    let command = causeway_namespace_core::command::Command { requests: vec![request] };
    assert!(causeway_namespace_core::apply::apply(&volume.records, Seq(99), &command).is_err());
}

#[test]
fn records_are_named_for_people() {
    let mut volume = Volume::new();
    volume.done(vec![mkdir("a"), mkdir("a/b"), put("a/b/file", b"x")]);
    let other = Op::Rename {
        from: at("a/b/file"),
        to: At { dir: Ino::ROOT, path: Bytes::from_static(b"a/\xff\n") },
        no_replace: false,
    };
    let find = |volume: &Volume, path: &'static [u8]| query::resolve(&volume.records, path).unwrap().unwrap();
    let (dir, file) = (find(&volume, b"a/b"), find(&volume, b"a/b/file"));
    let keys = [
        key::inode(file),
        key::inode(dir),
        key::dirent(dir, b"file"),
        key::inode(Ino::ROOT),
        key::meta(),
        key::inode(Ino(99)),
        key::dirent(Ino(98), b"lost"),
        key::session(causeway_namespace_core::command::SessionId(1)),
        key::quota(dir),
        Bytes::new(),
    ];
    let names = query::names_of(&volume.records, &keys).unwrap();
    assert_eq!(
        names,
        [
            "a/b/file",
            "a/b",
            "a/b/file (its name)",
            "the top directory",
            "the counters and totals",
            "inode 99",
            "lost in directory 98 (its name)",
            "session 0000000000000001",
            "a/b (its quota)",
            "record ",
        ]
    );
    volume.done(vec![other]);
    assert_eq!(query::names_of(&volume.records, &[key::inode(file)]).unwrap(), ["a/\\xff\\n"]);
}

#[test]
fn inodes_are_found_by_their_names() {
    let mut volume = Volume::new();
    volume.done(vec![mkdir("a"), mkdir("a/b"), put("a/b/file", b"x"), put("top", b"y")]);
    volume.done(vec![Op::Link { from: at("a/b/file"), to: at("further") }]);
    let ino = |path: &str| query::resolve(&volume.records, path.as_bytes()).unwrap().unwrap();
    let paths = |inodes: &[Ino], entries_max: usize| -> Vec<(Ino, String)> {
        let found = query::paths_of(&volume.records, inodes.iter().copied().collect(), entries_max).unwrap();
        found.into_iter().map(|(ino, path)| (ino, String::from_utf8(path.to_vec()).unwrap())).collect()
    };
    assert_eq!(paths(&[Ino::ROOT, ino("a/b")], 0), [(Ino::ROOT, String::new()), (ino("a/b"), "a/b".to_owned())]);
    assert_eq!(paths(&[ino("top")], 100), [(ino("top"), "top".to_owned())]);
    assert_eq!(paths(&[ino("top")], 0), [], "more than it may look at");
    let [(_, linked)] = paths(&[ino("a/b/file")], 100).try_into().unwrap();
    assert!(linked == "further" || linked == "a/b/file", "{linked}");
    assert_eq!(paths(&[Ino(999)], 100), []);
}
