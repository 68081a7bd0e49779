//! How fast the state machine itself is, on records in memory: `cargo run --release --example apply_bench [FILES]`.
#![allow(clippy::disallowed_types, clippy::disallowed_methods)] // it measures; the crate itself has no clock

use std::time::Instant;

use bytes::Bytes;

use causeway_base::{ClientId, Ino, Seq, Timestamp};
use causeway_namespace_core::command::{At, Command, Expect, Op, Outcome, Request, RequestBody, SessionId};
use causeway_namespace_core::inode::{Attr, Content, ManifestRef};
use causeway_namespace_core::memory::MemoryRecords;
use causeway_namespace_core::query;

const ATTR: Attr = Attr { mode: 0o644, uid: 0, gid: 0, mtime: Timestamp(0), ctime: Timestamp(0) };

struct Bench {
    records: MemoryRecords,
    seq: Seq,
    numbers: Vec<u64>,
}

impl Bench {
    /// Applies one command with a request of each batch, one session a request.
    fn command(&mut self, batches: Vec<Vec<Op>>) -> Vec<Outcome> {
        self.seq = Seq(self.seq.0 + 1);
        let request = |(session, ops): (usize, Vec<Op>)| {
            self.numbers[session] += 1;
            let number = self.numbers[session];
            let body = RequestBody::Mutate { session: SessionId(session as u64 + 1), number, acked_below: number, ops };
            Request { at: Timestamp(self.seq.0 as i64), body }
        };
        let requests = batches.into_iter().enumerate().map(request).collect();
        self.records.apply(self.seq, &Command { requests }).expect("records in memory decode").outcomes
    }
}

fn at(path: String) -> At {
    At { dir: Ino::ROOT, path: path.into() }
}

fn put(path: String) -> Op {
    let origin = "zurich".parse().expect("a site name");
    let content = Content::Manifest(ManifestRef { size: 100_000, root: Bytes::from_static(&[7; 80]), origin });
    Op::PutFile { at: at(path), attr: ATTR, content, expect: Expect::Any }
}

fn rate(what: &str, count: usize, started: Instant) {
    let seconds = started.elapsed().as_secs_f64();
    println!("{what:<52} {:>10.0}/s  {:>7.2} µs each", count as f64 / seconds, seconds / count as f64 * 1e6);
}

fn main() {
    let files: usize = std::env::args().nth(1).and_then(|text| text.parse().ok()).unwrap_or(200_000);
    let mut bench = Bench { records: MemoryRecords::new(), seq: Seq(1), numbers: vec![0; 500] };
    let open = Request { at: Timestamp(0), body: RequestBody::OpenSession { client: ClientId(1) } };
    let opens = Command { requests: vec![open; 500] };
    bench.records.apply(bench.seq, &opens).expect("records in memory decode");
    let dirs = files / 1000 + 1;
    bench.command(
        (0..500.min(dirs)).map(|n| vec![Op::Mkdir { at: at(format!("d{n}")), attr: ATTR, parents: false }]).collect(),
    );

    let started = Instant::now();
    for batch in 0..files / 500 {
        let dir = batch % dirs.min(500);
        bench.command(vec![(0..500).map(|n| put(format!("d{dir}/file-{batch}-{n}"))).collect()]);
    }
    rate("creates, batches of 500 in one directory", files / 500 * 500, started);

    let started = Instant::now();
    for batch in 0..files / 500 {
        bench.command((0..500).map(|n| vec![put(format!("d{}/one-{batch}-{n}", n % dirs.min(500)))]).collect());
    }
    rate("creates, 500 requests of one coalesced", files / 500 * 500, started);

    let started = Instant::now();
    for n in 0..files / 10 {
        bench.command(vec![vec![put(format!("d0/alone-{n}"))]]);
    }
    rate("creates, one a command", files / 10, started);

    let paths: Vec<String> = (0..files)
        .map(|n| format!("d{}/file-{}-{}", (n / 500) % dirs.min(500), n / 500, n % 500))
        .take(files / 500 * 500)
        .collect();
    let started = Instant::now();
    let found = paths.iter().filter(|path| matches!(query::stat(&bench.records, path.as_bytes()), Ok(Ok(_)))).count();
    assert_eq!(found, paths.len(), "every file is there");
    rate("stats by path", paths.len(), started);

    let started = Instant::now();
    for page in paths.chunks(1000) {
        assert!(
            query::lookup_many(&bench.records, page).expect("records decode").iter().all(Result::is_ok),
            "all are there"
        );
    }
    rate("stats by path, 1000 at once", paths.len(), started);

    let started = Instant::now();
    let walked = query::Walk::new(&bench.records, Ino::ROOT).filter(Result::is_ok).count();
    rate("walk with inodes", walked, started);

    let (count, bytes) =
        bench.records.iter().fold((0, 0), |(count, bytes), (key, value)| (count + 1, bytes + key.len() + value.len()));
    let totals = query::totals(&bench.records).expect("records decode");
    println!(
        "{count} records, {:.0} bytes a file in keys and values; digest {}",
        bytes as f64 / totals.files as f64,
        bench.records.digest()
    );
}
