//! Random requests that meet each other: few names, few inodes, few sessions.

use bytes::Bytes;
use proptest::prelude::*;

use causeway_base::{Ino, Seq, SiteName, Timestamp};

use crate::command::{At, Expect, Op};
use crate::inode::{Attr, Content, ManifestRef};
use crate::manage::{ManageOp, QuotaLimit};

/// A request whose numbers are chosen when the sessions are known.
#[derive(Clone, Debug)]
pub(super) enum Step {
    Open,
    Mutate { pick: u64, number: Number, acked: Acked, ops: Vec<Op> },
    Manage { pick: u64, number: Number, op: ManageOp },
    RaiseEpoch(u64),
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Number {
    Next,
    /// The same again, so many back.
    Again(u64),
    Skip(u64),
    Zero,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Acked {
    /// Everything but the newest so many.
    AllBut(u64),
    Nothing,
    /// More than the request's own number.
    Nonsense,
}

/// Requests grouped into commands, each so many seqs after the one before.
pub(super) fn commands() -> impl Strategy<Value = Vec<(u64, Vec<Step>)>> {
    let later = prop::collection::vec((1..40_u64, prop::collection::vec(step(), 1..6)), 1..40);
    // Something to meet: a few directories, a file with two names, a symlink.
    later.prop_map(|later| std::iter::once((1, vec![Step::Open, start()])).chain(later).collect())
}

/// Many moves between a few trees with quotas that are seldom exceeded.
pub(super) fn moves() -> impl Strategy<Value = Vec<(u64, Vec<Step>)>> {
    let name = || prop_oneof![Just("a"), Just("b")];
    let path = move || {
        let names = prop::collection::vec(name(), 1..4);
        names.prop_map(|names| At { dir: Ino::ROOT, path: Bytes::from(names.join("/")) })
    };
    let attr = Attr { mode: 0o644, uid: 1, gid: 2, mtime: Timestamp(5), ctime: Timestamp(6) };
    let file = move |at: At, bytes: usize| {
        let content = Content::Inline(vec![0; bytes].into());
        Op::PutFile { at, attr, content, expect: Expect::Any }
    };
    let op = prop_oneof![
        3 => path().prop_map(move |at| Op::Mkdir { at, attr, parents: false }),
        4 => (path(), 0..30_usize).prop_map(move |(at, bytes)| file(at, bytes)),
        3 => (path(), path()).prop_map(|(from, to)| Op::Link { from, to }),
        8 => (path(), path()).prop_map(|(from, to)| Op::Rename { from, to, no_replace: false }),
        1 => path().prop_map(|at| Op::Unlink { at, expect: Expect::Any }),
        1 => path().prop_map(|at| Op::Rmdir { at }),
        1 => (2..20_u64, 0..30_usize).prop_map(move |(ino, bytes)| file(At { dir: Ino(ino), path: Bytes::new() }, bytes)),
    ];
    let limit = (prop::option::of(4..20_u64), prop::option::of(50..200_u64))
        .prop_map(|(files, bytes)| QuotaLimit { files, bytes });
    let set = (path(), prop::option::weighted(0.9, limit)).prop_map(|(at, limit)| ManageOp::SetQuota { at, limit });
    let step = prop_oneof![
        10 => op.prop_map(|op| Step::Mutate { pick: 0, number: Number::Next, acked: Acked::AllBut(0), ops: vec![op] }),
        1 => set.prop_map(|op| Step::Manage { pick: 0, number: Number::Next, op }),
    ];
    prop::collection::vec((1..3_u64, prop::collection::vec(step, 1..9)), 1..25).prop_map(move |later| {
        let at = |path: &'static str| At { dir: Ino::ROOT, path: path.into() };
        let mkdir = |path| Op::Mkdir { at: at(path), attr, parents: true };
        let ops = vec![mkdir("a/a"), mkdir("b"), mkdir("a/b")];
        let make = Step::Mutate { pick: 0, number: Number::Next, acked: Acked::Nothing, ops };
        let quota = |path| {
            let limit = Some(QuotaLimit { files: Some(12), bytes: None });
            Step::Manage { pick: 0, number: Number::Next, op: ManageOp::SetQuota { at: at(path), limit } }
        };
        let start = vec![Step::Open, make, quota("a/a"), quota("b")];
        std::iter::once((1, start)).chain(later).collect()
    })
}

fn start() -> Step {
    let attr = Attr { mode: 0o644, uid: 1, gid: 2, mtime: Timestamp(5), ctime: Timestamp(6) };
    let at = |path: &'static [u8]| At { dir: Ino::ROOT, path: Bytes::from_static(path) };
    let content = Content::Inline(Bytes::from_static(b"start"));
    let ops = vec![
        Op::Mkdir { at: at(b"a/b/a"), attr, parents: true },
        Op::Mkdir { at: at(b"b"), attr, parents: false },
        Op::PutFile { at: at(b"b/a"), attr, content, expect: Expect::Absent },
        Op::Link { from: at(b"b/a"), to: at(b"a/a") },
        Op::Symlink { at: at(b"b/b"), attr, target: Bytes::from_static(b"a") },
    ];
    Step::Mutate { pick: 0, number: Number::Next, acked: Acked::Nothing, ops }
}

fn step() -> BoxedStrategy<Step> {
    let number = prop_oneof![
        20 => Just(Number::Next),
        4 => (0..4_u64).prop_map(Number::Again),
        1 => (1..300_u64).prop_map(Number::Skip),
        1 => Just(Number::Zero),
    ];
    let acked = prop_oneof![
        6 => (0..5_u64).prop_map(Acked::AllBut),
        20 => Just(Acked::Nothing),
        1 => Just(Acked::Nonsense),
    ];
    let pick = prop_oneof![12 => Just(0), 4 => Just(1), 2 => Just(2), 1 => 3..6_u64, 1 => Just(u64::MAX)];
    let ops = prop_oneof![6 => prop::collection::vec(op(), 1..2), 1 => prop::collection::vec(op(), 0..7)];
    prop_oneof![
        1 => Just(Step::Open),
        30 => (pick, number, acked, ops)
            .prop_map(|(pick, number, acked, ops)| Step::Mutate { pick, number, acked, ops }),
        5 => (0..2_u64, manage()).prop_map(|(pick, op)| Step::Manage { pick, number: Number::Next, op }),
        1 => (0..9_u64).prop_map(Step::RaiseEpoch),
    ]
    .boxed()
}

fn manage() -> BoxedStrategy<ManageOp> {
    let files = prop::option::of(0..6_u64);
    let bytes = prop::option::of(prop_oneof![0..60_u64, Just(1_000_000)]);
    let limit = (files, bytes).prop_map(|(files, bytes)| QuotaLimit { files, bytes });
    let limit = prop::option::weighted(0.8, limit);
    prop_oneof![
        3 => (at(), limit.clone()).prop_map(|(at, limit)| ManageOp::SetQuota { at, limit }),
        1 => (0..3_u32, limit).prop_map(|(uid, limit)| ManageOp::SetOwnerQuota { uid, limit }),
    ]
    .boxed()
}

fn name() -> BoxedStrategy<Vec<u8>> {
    prop_oneof![
        16 => Just(b"a".to_vec()),
        16 => Just(b"b".to_vec()),
        4 => Just(b"\xff\xfe\x80".to_vec()),
        1 => Just(b"a\x01".to_vec()),
        1 => Just(vec![b'n'; 255]),
        1 => Just(b".".to_vec()),
        1 => Just(b"".to_vec()),
    ]
    .boxed()
}

fn path() -> BoxedStrategy<Bytes> {
    let odd = prop_oneof![Just(b"..".to_vec()), Just(vec![b'n'; 256]), Just(b"a\0".to_vec()), Just(b"a/".repeat(2049))];
    let joined = |names: Vec<Vec<u8>>| Bytes::from(names.join(&b"/"[..]));
    prop_oneof![
        100 => prop::collection::vec(name(), 1..4).prop_map(joined),
        3 => prop::collection::vec(name(), 1..12).prop_map(joined),
        1 => (name(), odd).prop_map(move |(name, odd)| joined(vec![name, odd])),
        1 => Just(Bytes::new()),
    ]
    .boxed()
}

fn at() -> BoxedStrategy<At> {
    let dir = prop_oneof![16 => Just(1), 3 => 1..9_u64];
    (dir, path(), 0..40)
        .prop_map(|(dir, path, empty)| {
            // Now and then an inode itself.
            let path = if empty == 0 { Bytes::new() } else { path };
            At { dir: Ino(dir), path }
        })
        .boxed()
}

fn attr() -> BoxedStrategy<Attr> {
    let mode = prop_oneof![30 => 0..=0o7777_u32, 1 => Just(0o100_644)];
    (mode, 0..3_u32, any::<i64>())
        .prop_map(|(mode, uid, mtime)| Attr { mode, uid, gid: 7, mtime: Timestamp(mtime), ctime: Timestamp(-1) })
        .boxed()
}

fn content() -> BoxedStrategy<Content> {
    let site: SiteName = "zurich".parse().unwrap();
    let manifest = move |(size, root): (u64, usize)| {
        Content::Manifest(ManifestRef { size, root: vec![1; root].into(), origin: site.clone() })
    };
    let size = prop_oneof![10 => 0..1_000_000_u64, 2 => Just(i64::MAX as u64), 1 => Just(u64::MAX)];
    prop_oneof![
        10 => prop::collection::vec(any::<u8>(), 0..20).prop_map(|bytes| Content::Inline(bytes.into())),
        1 => (4096..4098_usize).prop_map(|len| Content::Inline(vec![0; len].into())),
        5 => (size, prop_oneof![20 => 1..40_usize, 1 => 8192..8194_usize]).prop_map(manifest),
    ]
    .boxed()
}

fn expect() -> BoxedStrategy<Expect> {
    prop_oneof![
        8 => Just(Expect::Any),
        1 => Just(Expect::Absent),
        3 => (1..400_u64).prop_map(|seq| Expect::Version(Seq(seq))),
    ]
    .boxed()
}

fn op() -> BoxedStrategy<Op> {
    let bit = prop::option::of(0..=0o7777_u32);
    let id = prop::option::of(0..3_u32);
    let target = prop_oneof![
        20 => Just(Bytes::from_static(b"../target")),
        1 => Just(Bytes::new()),
        1 => Just(Bytes::from_static(b"a\0b")),
        1 => (4095..4097_usize).prop_map(|len| vec![b't'; len].into()),
    ];
    let xattr_name = prop_oneof![
        20 => (0..30_u8).prop_map(|n| Bytes::from(format!("user.{n}"))),
        1 => Just(Bytes::new()),
        1 => (255..257_usize).prop_map(|len| vec![b'x'; len].into()),
    ];
    let xattr_value = prop_oneof![4 => Just(4000), 1 => Just(4096), 1 => Just(4097), 4 => 0..9_usize];
    let xattr_value = prop::option::weighted(0.8, xattr_value.prop_map(|len| Bytes::from(vec![b'v'; len])));
    // Boxed: by value, the strategies of all operations together overflow a test thread's stack.
    prop_oneof![
        6 => (at(), attr(), any::<bool>()).prop_map(|(at, attr, parents)| Op::Mkdir { at, attr, parents }),
        8 => (at(), attr(), content(), expect())
            .prop_map(|(at, attr, content, expect)| Op::PutFile { at, attr, content, expect }),
        2 => (at(), attr(), target).prop_map(|(at, attr, target)| Op::Symlink { at, attr, target }),
        4 => (at(), at()).prop_map(|(from, to)| Op::Link { from, to }),
        3 => (at(), expect()).prop_map(|(at, expect)| Op::Unlink { at, expect }),
        3 => at().prop_map(|at| Op::Rmdir { at }),
        8 => (at(), at(), prop::bool::weighted(0.2))
            .prop_map(|(from, to, no_replace)| Op::Rename { from, to, no_replace }),
        2 => (at(), bit, id.clone(), id, prop::option::of(any::<i64>()), expect()).prop_map(
            |(at, mode, uid, gid, mtime, expect)| {
                Op::SetAttr { at, mode, uid, gid, mtime: mtime.map(Timestamp), expect }
            }
        ),
        2 => (at(), expect()).prop_map(|(at, expect)| Op::Check { at, expect }),
        2 => (at(), xattr_name, xattr_value).prop_map(|(at, name, value)| Op::SetXattr { at, name, value }),
    ]
    .boxed()
}
