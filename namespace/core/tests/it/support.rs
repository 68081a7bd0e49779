//! A volume in memory with one client.

use bytes::Bytes;

use causeway_base::{ClientId, Ino, Seq, Timestamp};
use causeway_namespace_core::apply::Applied;
use causeway_namespace_core::command::{
    At, Command, Errno, Expect, Op, OpDone, Outcome, Request, RequestBody, SessionId,
};
use causeway_namespace_core::inode::{Attr, Content};
use causeway_namespace_core::manage::ManageOp;
use causeway_namespace_core::memory::MemoryRecords;

pub(crate) const ATTR: Attr = Attr { mode: 0o644, uid: 1, gid: 2, mtime: Timestamp(5), ctime: Timestamp(0) };

pub(crate) fn at(path: &str) -> At {
    At { dir: Ino::ROOT, path: Bytes::copy_from_slice(path.as_bytes()) }
}

pub(crate) fn mkdir(path: &str) -> Op {
    Op::Mkdir { at: at(path), attr: ATTR, parents: false }
}

pub(crate) fn put(path: &str, bytes: &'static [u8]) -> Op {
    Op::PutFile { at: at(path), attr: ATTR, content: Content::Inline(Bytes::from_static(bytes)), expect: Expect::Any }
}

pub(crate) fn rename(from: &str, to: &str) -> Op {
    Op::Rename { from: at(from), to: at(to), no_replace: false }
}

pub(crate) struct Volume {
    pub(crate) records: MemoryRecords,
    pub(crate) seq: Seq,
    session: SessionId,
    number: u64,
}

impl Volume {
    pub(crate) fn new() -> Self {
        let mut volume = Self { records: MemoryRecords::new(), seq: Seq(0), session: SessionId(0), number: 0 };
        volume.session = volume.open();
        volume
    }

    /// Applies requests as one command at the next seq.
    pub(crate) fn command(&mut self, bodies: Vec<RequestBody>) -> Applied {
        self.seq = self.seq.next().unwrap();
        let at = Timestamp(self.seq.0 as i64 * 1000);
        let requests = bodies.into_iter().map(|body| Request { at, body }).collect();
        self.records.apply(self.seq, &Command { requests }).unwrap()
    }

    pub(crate) fn one(&mut self, body: RequestBody) -> Outcome {
        self.command(vec![body]).outcomes.remove(0)
    }

    pub(crate) fn open(&mut self) -> SessionId {
        match self.one(RequestBody::OpenSession { client: ClientId(1) }) {
            Outcome::Session(id) => id,
            other => panic!("{other:?}"),
        }
    }

    /// The next request of the one client.
    pub(crate) fn next(&mut self, ops: Vec<Op>) -> RequestBody {
        self.number += 1;
        RequestBody::Mutate { session: self.session, number: self.number, acked_below: self.number, ops }
    }

    /// One operation on the volume.
    pub(crate) fn manage(&mut self, op: ManageOp) -> Outcome {
        self.number += 1;
        let (session, number) = (self.session, self.number);
        self.one(RequestBody::Manage { session, number, acked_below: number, op })
    }

    pub(crate) fn batch(&mut self, ops: Vec<Op>) -> Outcome {
        let body = self.next(ops);
        self.one(body)
    }

    pub(crate) fn done(&mut self, ops: Vec<Op>) -> Vec<OpDone> {
        match self.batch(ops) {
            Outcome::Done(done) => done,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn refused(&mut self, op: Op) -> Errno {
        match self.batch(vec![op]) {
            Outcome::Refused(refusal) => refusal.code,
            other => panic!("{other:?}"),
        }
    }
}
