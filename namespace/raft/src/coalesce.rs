//! Requests on their way into log entries.
//!
//! Requests that arrive while entries are under way share the next entry: at one client each request goes at once, at a
//! thousand an entry and its fsync carry hundreds. Entries are pipelined; a new one goes when another is answered, or after
//! a short pause, so that on a long link the first byte never waits for a round trip.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt};
use openraft::errors::ClientWriteError;
use openraft::impls::OneshotResponder;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use causeway_base::{NodeId, Seq};
use causeway_namespace_core::command::{REQUEST_BYTES_MAX, REQUESTS_MAX, Request};
use causeway_namespace_core::encode;

use crate::consensus::types::{EncodedCommand, Raft};
use crate::error::ProposeError;
use crate::status::Proposed;
use crate::store::chain;

/// Requests of one group that may wait to be put into an entry.
const WAITING_MAX: usize = 16_384;
/// Bytes of requests of one group that may wait or be under way.
const WAITING_BYTES_MAX: usize = 64 << 20;
/// Bytes of requests after which an entry takes no more.
const ENTRY_BYTES: usize = 1 << 20;
/// Entries that may be under way.
const INFLIGHT_MAX: usize = 256;
/// Entries under way from which on the next one waits a little for company.
const BUSY: usize = 2;
/// How long it waits at most.
const PAUSE: Duration = Duration::from_millis(1);

type Answer = Result<Proposed, ProposeError>;

/// A request in its encoded form.
#[derive(Debug)]
struct Waiting {
    request: Bytes,
    answer: oneshot::Sender<Answer>,
    _room: OwnedSemaphorePermit,
}

/// The way into a group's log.
#[derive(Clone, Debug)]
pub(crate) struct Coalescer {
    queue: mpsc::Sender<Waiting>,
    room: Arc<Semaphore>,
}

impl Coalescer {
    /// The handle, and the task that its owner runs; it ends at `stop`.
    pub(crate) fn new(raft: Raft, stop: CancellationToken) -> (Self, impl Future<Output = ()> + Send) {
        let (queue, waiting) = mpsc::channel(WAITING_MAX);
        let room = Arc::new(Semaphore::new(WAITING_BYTES_MAX));
        (Self { queue, room }, run(raft, waiting, stop))
    }

    /// Puts a request into the log.
    ///
    /// # Errors
    /// Any [`ProposeError`].
    pub(crate) async fn propose(&self, request: &Request, deadline: Duration) -> Answer {
        let bytes = encoded(request)?;
        let size = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        let room = Arc::clone(&self.room).try_acquire_many_owned(size).map_err(|_| ProposeError::Overloaded)?;
        let (answer, answered) = oneshot::channel();
        let waiting = Waiting { request: bytes, answer, _room: room };
        self.queue.try_send(waiting).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => ProposeError::Overloaded,
            mpsc::error::TrySendError::Closed(_) => ProposeError::Stopped("it was shut down".to_owned()),
        })?;
        match tokio::time::timeout(deadline, answered).await {
            Ok(Ok(answer)) => answer,
            // No answer came, or nobody is left to give one: it may be in the log.
            Ok(Err(_)) | Err(_) => Err(ProposeError::Unknown),
        }
    }
}

/// The part of an encoded command that is this request.
fn encoded(request: &Request) -> Result<Bytes, ProposeError> {
    let bytes = request.encode();
    if bytes.len() > REQUEST_BYTES_MAX {
        return Err(ProposeError::Refused(format!("a request of {} bytes, at most {REQUEST_BYTES_MAX}", bytes.len())));
    }
    // A committed command that does not decode would stop every replica for ever.
    Request::decode(&bytes).map_err(|error| ProposeError::Refused(error.to_string()))?;
    Ok(bytes.slice(1..))
}

/// The command of encoded requests: what `Command::encode` gives for them.
fn command<'a>(requests: impl ExactSizeIterator<Item = &'a Bytes> + Clone) -> EncodedCommand {
    let size: usize = requests.clone().map(Bytes::len).sum();
    let mut out = BytesMut::with_capacity(size + 4);
    out.put_u8(encode::VERSION);
    let mut count = requests.len();
    while count >= 0x80 {
        out.put_u8(u8::try_from(count & 0x7f).unwrap_or(0) | 0x80);
        count >>= 7;
    }
    out.put_u8(u8::try_from(count).unwrap_or(0));
    requests.for_each(|request| out.put_slice(request));
    EncodedCommand(out.freeze())
}

async fn run(raft: Raft, mut waiting: mpsc::Receiver<Waiting>, stop: CancellationToken) {
    let mut inflight: FuturesUnordered<BoxFuture<'static, ()>> = FuturesUnordered::new();
    let mut batch: VecDeque<Waiting> = VecDeque::new();
    let mut not_before = Instant::now();
    loop {
        let busy = inflight.len() >= BUSY;
        let full = inflight.len() >= INFLIGHT_MAX;
        // Take what is there, up to an entry.
        let mut bytes: usize = batch.iter().map(|one| one.request.len()).sum();
        while batch.len() < REQUESTS_MAX
            && bytes < ENTRY_BYTES
            && let Ok(one) = waiting.try_recv()
        {
            bytes += one.request.len();
            batch.push_back(one);
        }
        let ready = batch.len() >= REQUESTS_MAX || bytes >= ENTRY_BYTES || !busy || Instant::now() >= not_before;
        if !batch.is_empty() && ready && !full {
            not_before = Instant::now() + PAUSE;
            let sent = send(&raft, std::mem::take(&mut batch)).await;
            inflight.push(sent);
            continue;
        }
        tokio::select! {
            // Whoever waits is told that the outcome is unknown.
            () = stop.cancelled() => return,
            // An answer makes room at once.
            Some(()) = inflight.next(), if !inflight.is_empty() => not_before = Instant::now(),
            one = waiting.recv(), if batch.is_empty() => match one {
                Some(one) => batch.push_back(one),
                None => return,
            },
            () = tokio::time::sleep_until(not_before), if !batch.is_empty() && !full => {}
        }
    }
}

/// Hands an entry to the log; the future answers its requests.
async fn send(raft: &Raft, batch: VecDeque<Waiting>) -> BoxFuture<'static, ()> {
    let entry = command(batch.iter().map(|one| &one.request));
    let (responder, answer) = OneshotResponder::new_pair();
    if let Err(fatal) = raft.client_write_ff(entry, Some(responder)).await {
        let reason = ProposeError::Stopped(chain(&fatal));
        answer_all(batch, &Err(reason));
        return Box::pin(async {});
    }
    Box::pin(async move {
        match answer.await {
            Ok(Ok(written)) => {
                let seq = Seq(written.log_id.index);
                let mut outcomes = written.response().0.iter();
                for one in batch {
                    let proposed = outcomes.next().map(|outcome| Proposed { seq, outcome: outcome.clone() });
                    // A caller that gave up does not listen.
                    let _ = one.answer.send(proposed.ok_or(ProposeError::Unknown));
                }
            }
            Ok(Err(ClientWriteError::ForwardToLeader(forward))) => {
                answer_all(batch, &Err(ProposeError::NotLeader { leader: forward.leader_id.map(NodeId) }));
            }
            // Discarded here it may still commit elsewhere; and if openraft stops, nothing is known.
            Ok(Err(_)) | Err(_) => answer_all(batch, &Err(ProposeError::Unknown)),
        }
    })
}

fn answer_all(batch: VecDeque<Waiting>, answer: &Answer) {
    for one in batch {
        let _ = one.answer.send(answer.clone());
    }
}

#[cfg(test)]
mod tests {
    use causeway_base::{ClientId, Timestamp};
    use causeway_namespace_core::command::{Command, RequestBody};

    use super::*;

    #[test]
    fn a_command_made_of_encoded_requests_is_the_encoded_command() {
        for count in [1, 127, 128, 500] {
            let request = |n: u64| Request {
                at: Timestamp(i64::try_from(n).unwrap() - 5),
                body: RequestBody::OpenSession { client: ClientId(n.into()) },
            };
            let requests: Vec<Request> = (0..count).map(request).collect();
            let parts: Vec<Bytes> = requests.iter().map(|request| encoded(request).unwrap()).collect();
            assert_eq!(command(parts.iter()).0, Command { requests }.encode());
        }
    }
}
