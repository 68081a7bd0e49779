//! A walk as a stream of messages: one thread reads, a few batches ahead of the network.

use bytes::Bytes;
use causeway_namespace_core::command::{At, Errno};
use causeway_namespace_core::inode::FileKind;
use causeway_namespace_core::query::Walk;
use causeway_namespace_core::records::{ReadError, Records};
use causeway_proto::v1;
use futures::StreamExt;
use futures::stream::BoxStream;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::guard::Admitted;
use crate::entry::{Entry, Found};
use crate::error::Error;
use crate::node::Snapshot;
use crate::node::reads_found as found;
use crate::read::ReadState;
use crate::wire::{self, Wire};

/// Batches that may wait for the network; with [`BATCH_BYTES`] half a MiB a walk.
const AHEAD: usize = 4;
/// A batch ends when its entries take this much, in bytes, or with [`BATCH_ENTRIES`].
const BATCH_BYTES: usize = 128 << 10;
const BATCH_ENTRIES: usize = 1024;

/// What of the tree to walk.
pub(super) struct Wanted {
    pub(super) at: At,
    pub(super) plus: bool,
    pub(super) after: Option<Bytes>,
}

type Item = Result<v1::WalkResponse, Status>;

/// The walk as a stream. It ends when the receiver goes or the node shuts down.
pub(super) fn stream(
    snapshot: Snapshot,
    wanted: Wanted,
    admitted: Admitted,
    stop: CancellationToken,
) -> BoxStream<'static, Item> {
    let (sender, receiver) = mpsc::channel(AHEAD);
    tokio::task::spawn_blocking(move || {
        let out = Out { sender, state: snapshot.state, stop, batch: Vec::new(), bytes: 0 };
        walk(&snapshot.view, &wanted, out);
        drop(admitted);
    });
    ReceiverStream::new(receiver).boxed()
}

fn walk(records: &dyn Records, wanted: &Wanted, mut out: Out) {
    let done = match found(records, &wanted.at) {
        Ok(Ok(start)) => below(records, start, wanted, &mut out),
        Ok(Err(errno)) => return out.missing(errno),
        Err(error) => Err(error),
    };
    match done {
        Ok(()) => out.end(),
        Err(error) => out.failed(error),
    }
}

fn below(records: &dyn Records, start: Found, wanted: &Wanted, out: &mut Out) -> Result<(), ReadError> {
    let Found { ino, inode } = start;
    let kind = inode.kind();
    let entry = Entry { name: Bytes::new(), ino, kind, inode: wanted.plus.then_some(inode) };
    if wanted.after.is_none() && !out.push(entry) {
        return Ok(());
    }
    if kind != FileKind::Directory {
        return Ok(());
    }
    for entry in Walk::resume(records, ino, wanted.after.as_deref().unwrap_or_default())? {
        let entry = entry?;
        let (ino, kind) = (entry.entry.ino, entry.entry.kind);
        if !out.push(Entry { name: entry.path, ino, kind, inode: wanted.plus.then_some(entry.inode) }) {
            break;
        }
    }
    Ok(())
}

struct Out {
    sender: mpsc::Sender<Item>,
    state: ReadState,
    stop: CancellationToken,
    batch: Vec<Entry>,
    bytes: usize,
}

impl Out {
    /// `false`: nobody listens any more.
    fn push(&mut self, entry: Entry) -> bool {
        self.bytes += entry.bytes();
        self.batch.push(entry);
        let full = self.bytes >= BATCH_BYTES || self.batch.len() >= BATCH_ENTRIES;
        !full || self.send(false, 0)
    }

    fn end(mut self) {
        if !self.sender.is_closed() && !self.stop.is_cancelled() {
            self.send(true, 0);
        }
    }

    fn missing(mut self, errno: Errno) {
        self.send(true, errno.into_wire());
    }

    fn failed(self, error: ReadError) {
        // The receiver may have gone.
        let _ = self.sender.blocking_send(Err(Error::Read(error).into()));
    }

    fn send(&mut self, end: bool, missing: i32) -> bool {
        self.bytes = 0;
        let entries = wire::all_into(std::mem::take(&mut self.batch));
        let message = v1::WalkResponse { state: Some(self.state.into_wire()), entries, end, missing };
        let item = if self.stop.is_cancelled() { Err(Error::ShuttingDown.into()) } else { Ok(message) };
        let ok = item.is_ok();
        self.sender.blocking_send(item).is_ok() && ok
    }
}
