//! Places where other volumes are mounted.

use bytes::Bytes;

use causeway_base::Ino;
use causeway_namespace_core::command::{At, Errno, Expect, Op, Outcome, RequestBody};
use causeway_namespace_core::inode::{Body, FileKind};
use causeway_namespace_core::manage::{ManageOp, MountOp, QuotaLimit};
use causeway_namespace_core::query;

use crate::manage::code;
use crate::support::{ATTR, Volume, at, mkdir, put, rename};

fn mount(path: &str, volume: &str) -> RequestBody {
    RequestBody::Mount(MountOp { path: at(path).path, volume: volume.to_owned(), mounted: true })
}

fn unmount(path: &str, volume: &str) -> RequestBody {
    RequestBody::Mount(MountOp { path: at(path).path, volume: volume.to_owned(), mounted: false })
}

#[test]
fn paths_end_where_another_volume_is_mounted() {
    let mut volume = Volume::new();
    assert!(matches!(volume.one(mount("jobs/7/out", "out")), Outcome::Done(_)));
    let listed = query::list(&volume.records, query::resolve(&volume.records, b"jobs/7").unwrap().unwrap(), None, 9);
    let listed = listed.unwrap();
    assert_eq!((listed.len(), &listed[0].name[..], listed[0].kind), (1, &b"out"[..], FileKind::Mount));
    let inside = listed[0].ino;
    for op in [
        mkdir("jobs/7/out/x"),
        put("jobs/7/out/x", b"1"),
        put("jobs/7/out", b"1"),
        Op::Mkdir { at: at("jobs/7/out/a/b"), attr: ATTR, parents: true },
        Op::Unlink { at: at("jobs/7/out/x"), expect: Expect::Any },
        Op::SetAttr { at: at("jobs/7/out"), mode: Some(0), uid: None, gid: None, mtime: None, expect: Expect::Any },
        Op::Check { at: at("jobs/7/out"), expect: Expect::Any },
        Op::Mkdir { at: At { dir: inside, path: "x".into() }, attr: ATTR, parents: false },
        Op::Mkdir { at: At { dir: inside, path: "x".into() }, attr: ATTR, parents: true },
    ] {
        assert_eq!(volume.refused(op.clone()), Errno::CrossesVolume, "{op:?}");
    }
    assert_eq!(query::resolve(&volume.records, b"jobs/7/out/x").unwrap(), Err(Errno::CrossesVolume));
    assert_eq!(query::path_of(&volume.records, inside).unwrap().unwrap(), "jobs/7/out");
    assert_eq!(volume.refused(Op::Link { from: at("jobs/7/out"), to: at("l") }), Errno::CrossesVolume);
    assert_eq!(volume.refused(mkdir("jobs/7/out")), Errno::Exists);
}

#[test]
fn a_mount_and_what_is_above_it_keep_their_path() {
    let mut volume = Volume::new();
    volume.done(vec![mkdir("jobs"), mkdir("jobs/8"), mkdir("else")]);
    volume.one(mount("jobs/7/out", "out"));
    volume.one(mount("jobs/9/out", "nine"));
    for op in [
        rename("jobs", "work"),
        rename("jobs/7", "jobs/6"),
        rename("jobs/7", "else/7"),
        rename("jobs/7/out", "jobs/7/in"),
        rename("else", "jobs/7/out"),
        Op::Rmdir { at: at("jobs/7/out") },
        Op::Unlink { at: at("jobs/7/out"), expect: Expect::Any },
    ] {
        assert_eq!(volume.refused(op.clone()), Errno::Busy, "{op:?}");
    }
    assert_eq!(volume.refused(Op::Rmdir { at: at("jobs/7") }), Errno::NotEmpty);
    let mounts: Vec<_> = query::mounts(&volume.records).unwrap().into_iter().map(|m| (m.path, m.volume)).collect();
    assert_eq!(mounts, [("jobs/7/out".into(), "out".to_owned()), ("jobs/9/out".into(), "nine".to_owned())]);
    // What is beside them moves, also to below them and onto itself.
    volume.done(vec![rename("jobs/8", "jobs/7/eight"), rename("else", "jobs/else"), rename("jobs", "jobs")]);
    // Without the mounts they are ordinary directories again.
    assert_eq!(code(volume.one(unmount("jobs/7/out", "other"))), Errno::Conflict);
    assert_eq!(code(volume.one(unmount("jobs/7", "out"))), Errno::NotFound);
    assert!(matches!(volume.one(unmount("jobs/7/out", "out")), Outcome::Done(_)));
    volume.done(vec![rename("jobs/7", "jobs/6"), put("jobs/6/out", b"1")]);
    assert_eq!(volume.refused(rename("jobs", "work")), Errno::Busy);
}

#[test]
fn only_what_is_free_becomes_a_mount() {
    let mut volume = Volume::new();
    volume.done(vec![mkdir("full"), put("full/f", b"1"), mkdir("empty"), put("file", b"1")]);
    let before = query::totals(&volume.records).unwrap();
    assert_eq!(code(volume.one(mount("full", "v"))), Errno::NotEmpty);
    assert_eq!(code(volume.one(mount("file", "v"))), Errno::Exists);
    assert_eq!(code(volume.one(mount("file/x", "v"))), Errno::Exists);
    assert_eq!(code(volume.one(mount("", "v"))), Errno::Busy);
    assert_eq!(code(volume.one(mount("new/x", "Not A Name"))), Errno::Invalid);
    assert_eq!(query::totals(&volume.records).unwrap(), before);
    volume.manage(ManageOp::SetQuota { at: at("empty"), limit: Some(QuotaLimit { bytes: Some(9), files: None }) });
    assert!(matches!(volume.one(mount("empty", "v")), Outcome::Done(_)));
    // The same again is the same; another is not.
    let seq = volume.seq;
    let Outcome::Done(again) = volume.one(mount("empty", "v")) else { panic!() };
    assert_eq!(again[0].version, seq);
    assert_eq!(code(volume.one(mount("empty", "w"))), Errno::Exists);
    let inode = query::stat_ino(&volume.records, again[0].ino).unwrap().unwrap();
    assert_eq!(inode.body, Body::Mount { parent: Ino::ROOT, name: Bytes::from_static(b"empty"), volume: "v".into() });
    assert_eq!(query::totals(&volume.records).unwrap().dirs, before.dirs);
    assert!(query::quotas(&volume.records).unwrap().is_empty());
    assert!(matches!(volume.one(unmount("empty", "v")), Outcome::Done(_)));
    assert_eq!(query::totals(&volume.records).unwrap().dirs, before.dirs - 1);
}
