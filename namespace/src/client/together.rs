//! Calls of one kind that a client has at the same time travel together.
//!
//! A call that finds none of its kind under way to the node goes at once, by itself. Others wait for the next message, which goes
//! when one is answered, at the latest after a short pause: so a lone caller waits for nobody, a long link is kept full, and a
//! thousand callers cost a node some dozen messages. Each call keeps its own deadline and its own answer.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use causeway_base::{ClusterId, RetryClass};
use causeway_proto::v1;
use causeway_proto::v1::namespace_client::NamespaceClient as NamespaceStub;
use causeway_transport::grpc::MESSAGE_BYTES_MAX;
use futures::future::join_all;
use futures::stream::{FuturesUnordered, StreamExt};
use prost::Message;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};

use crate::rpc;
use crate::wire;

/// Calls in one message. So many stats, each of an inode as large as there may be, fit into an answer.
const MANY_MAX: usize = 64;
/// Bytes of a message after which the next call begins another.
const MANY_BYTES: usize = 1 << 20;
/// Messages under way; a call waits while there are so many.
const INFLIGHT_MAX: usize = 64;
/// Calls that wait to be taken into a message.
const WAITING_MAX: usize = 1024;
/// How long calls wait for company at most while a message is under way.
const PAUSE: Duration = Duration::from_millis(1);

type Outcome<A> = Result<A, Status>;
/// Some of many calls, and where they stand among them.
type Places<Q> = (Vec<usize>, Vec<Q>);

/// How calls of a kind go to a node.
pub(super) trait Carry<Q, A>: Clone + Send + Sync + 'static {
    /// One.
    fn alone(&self, ask: Q, limit: Duration) -> impl Future<Output = Outcome<A>> + Send;
    /// Many; an answer for each, in order.
    fn many(&self, asks: Vec<Q>, limit: Duration) -> impl Future<Output = Vec<Outcome<A>>> + Send;
}

/// The calls of one kind to one node.
#[derive(Debug)]
pub(super) struct Together<Q, A> {
    under_way: AtomicUsize,
    queue: OnceLock<mpsc::Sender<Waiting<Q, A>>>,
}

#[derive(Debug)]
struct Waiting<Q, A> {
    ask: Q,
    limit: Duration,
    answer: oneshot::Sender<Outcome<A>>,
}

/// Counts a call until it ends, however it does.
struct UnderWay<'a>(&'a AtomicUsize);

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl<Q: Send + 'static, A: Send + 'static> Together<Q, A> {
    pub(super) fn new() -> Self {
        Self { under_way: AtomicUsize::new(0), queue: OnceLock::new() }
    }

    /// One call. Cancel safety: dropped, it may have been made or not.
    pub(super) async fn ask(&self, ask: Q, limit: Duration, carrier: &impl Carry<Q, A>) -> Outcome<A> {
        let others = self.under_way.fetch_add(1, Ordering::Relaxed);
        let _counted = UnderWay(&self.under_way);
        if others == 0 {
            return carrier.alone(ask, limit).await;
        }
        let started = Instant::now();
        let queue = self.queue.get_or_init(|| {
            let (queue, waiting) = mpsc::channel(WAITING_MAX);
            // Ends with the last handle of the client, or with its runtime.
            tokio::spawn(run(waiting, carrier.clone()));
            queue
        });
        let (answer, answered) = oneshot::channel();
        let refused = match tokio::time::timeout(limit, queue.send(Waiting { ask, limit, answer })).await {
            Ok(sent) => sent.err(),
            Err(_) => return Err(rpc::failure(Code::Unavailable, RetryClass::Transient, "", LATE)),
        };
        let left = limit.saturating_sub(started.elapsed());
        match refused {
            // The runtime in which the client was first used is gone, this one is not.
            Some(mpsc::error::SendError(waiting)) => carrier.alone(waiting.ask, left).await,
            None => match tokio::time::timeout(left, answered).await {
                Ok(Ok(answer)) => answer,
                Ok(Err(_)) => Err(Status::unknown("the client was shut down while it waited for the answer")),
                Err(_) => Err(Status::deadline_exceeded("no answer came in time")),
            },
        }
    }
}

const LATE: &str = "too many calls wait for the node";

async fn run<Q, A>(mut waiting: mpsc::Receiver<Waiting<Q, A>>, carrier: impl Carry<Q, A>)
where
    Q: Send + 'static,
    A: Send + 'static,
{
    let mut inflight = FuturesUnordered::new();
    let mut batch: Vec<Waiting<Q, A>> = Vec::new();
    let mut not_before = Instant::now();
    loop {
        while batch.len() < MANY_MAX
            && let Ok(one) = waiting.try_recv()
        {
            batch.push(one);
        }
        let ready = batch.len() >= MANY_MAX || inflight.is_empty() || Instant::now() >= not_before;
        let full = inflight.len() >= INFLIGHT_MAX;
        if !batch.is_empty() && ready && !full {
            not_before = Instant::now() + PAUSE;
            inflight.push(send(std::mem::take(&mut batch), carrier.clone()));
            continue;
        }
        tokio::select! {
            Some(()) = inflight.next(), if !inflight.is_empty() => {
                not_before = Instant::now();
                // Those that were answered may ask again at once: together.
                tokio::task::yield_now().await;
            }
            one = waiting.recv(), if batch.is_empty() => match one {
                Some(one) => batch.push(one),
                // Nobody waits for an answer any more.
                None => return,
            },
            () = tokio::time::sleep_until(not_before), if !batch.is_empty() && !full => {}
        }
    }
}

async fn send<Q, A>(batch: Vec<Waiting<Q, A>>, carrier: impl Carry<Q, A>) {
    let (mut asks, mut answers, mut limit) =
        (Vec::with_capacity(batch.len()), Vec::with_capacity(batch.len()), Duration::ZERO);
    // Who has gone asks nothing any more.
    for one in batch.into_iter().filter(|one| !one.answer.is_closed()) {
        limit = limit.max(one.limit);
        asks.push(one.ask);
        answers.push(one.answer);
    }
    if asks.is_empty() {
        return;
    }
    for (answer, outcome) in answers.into_iter().zip(carrier.many(asks, limit).await) {
        // Who has gone needs no answer.
        let _ = answer.send(outcome);
    }
}

/// Carries stats and batches to a node.
#[derive(Clone, Debug)]
pub(super) struct Carrier {
    channel: Channel,
    cluster: ClusterId,
    /// The node does not know of many batches in one call.
    singly: Arc<AtomicBool>,
}

impl Carrier {
    pub(super) fn new(channel: Channel, cluster: ClusterId) -> Self {
        Self { channel, cluster, singly: Arc::default() }
    }

    fn stub(&self) -> NamespaceStub<Channel> {
        NamespaceStub::new(self.channel.clone()).max_decoding_message_size(MESSAGE_BYTES_MAX)
    }

    fn request<T>(&self, message: T, limit: Duration) -> Request<T> {
        let mut request = Request::new(message);
        rpc::stamp(&mut request, self.cluster, Some(limit));
        request
    }

    /// Stats of one volume at one freshness.
    async fn stats(&self, mut asks: Vec<v1::StatRequest>, limit: Duration) -> Vec<Outcome<v1::StatResponse>> {
        let count = asks.len();
        let Some(first) = asks.pop_if(|_| count == 1) else {
            let (volume, consistency) = asks.first().map_or((0, None), |ask| (ask.volume, ask.consistency));
            let at = asks.into_iter().map(|ask| ask.at.unwrap_or_default()).collect();
            let request = self.request(v1::StatManyRequest { volume, at, consistency }, limit);
            return match self.stub().stat_many(request).await.map(tonic::Response::into_inner) {
                Ok(answer) if answer.results.len() == count => {
                    let state = answer.state;
                    let each = |result| Ok(v1::StatResponse { state, result: Some(result) });
                    answer.results.into_iter().map(each).collect()
                }
                Ok(_) => {
                    vec![Err(Status::unknown("the node answered another number of stats than it was asked")); count]
                }
                Err(status) => vec![Err(status); count],
            };
        };
        vec![self.alone(first, limit).await]
    }

    /// Batches that fit into one message.
    async fn batches(&self, asks: Vec<v1::MutateRequest>, limit: Duration) -> Vec<Outcome<v1::MutateResponse>> {
        let count = asks.len();
        if count > 1 && !self.singly.load(Ordering::Relaxed) {
            let message = v1::MutateManyRequest { requests: asks };
            return match self.stub().mutate_many(self.request(message, limit)).await.map(tonic::Response::into_inner) {
                Ok(answer) if answer.answers.len() == count => answer.answers.into_iter().map(wire::answered).collect(),
                Ok(_) => vec![Err(Status::unknown("the node answered another number of batches")); count],
                // An older node: it surely did nothing, and is asked one by one from now on.
                Err(status) if status.code() == Code::Unimplemented => {
                    self.singly.store(true, Ordering::Relaxed);
                    let message = "the node is of an older version and takes one batch at a time";
                    vec![Err(rpc::failure(Code::Unavailable, RetryClass::Transient, "", message)); count]
                }
                Err(status) => vec![Err(status); count],
            };
        }
        join_all(asks.into_iter().map(|ask| self.alone(ask, limit))).await
    }
}

impl Carry<v1::StatRequest, v1::StatResponse> for Carrier {
    async fn alone(&self, ask: v1::StatRequest, limit: Duration) -> Outcome<v1::StatResponse> {
        self.stub().stat(self.request(ask, limit)).await.map(tonic::Response::into_inner)
    }

    async fn many(&self, asks: Vec<v1::StatRequest>, limit: Duration) -> Vec<Outcome<v1::StatResponse>> {
        let mut kinds: BTreeMap<(u64, Vec<u8>), Places<v1::StatRequest>> = BTreeMap::new();
        let count = asks.len();
        for (place, ask) in asks.into_iter().enumerate() {
            let freshness = ask.consistency.map(|consistency| consistency.encode_to_vec()).unwrap_or_default();
            let (places, asks) = kinds.entry((ask.volume, freshness)).or_default();
            places.push(place);
            asks.push(ask);
        }
        let each = kinds.into_values().map(|(places, asks)| async { (places, self.stats(asks, limit).await) });
        let mut outcomes: Vec<_> = (0..count).map(|_| None).collect();
        for (places, answers) in join_all(each).await {
            for (place, answer) in places.into_iter().zip(answers) {
                outcomes[place] = Some(answer);
            }
        }
        outcomes.into_iter().map(|outcome| outcome.unwrap_or_else(|| Err(Status::unknown("not answered")))).collect()
    }
}

impl Carry<v1::MutateRequest, v1::MutateResponse> for Carrier {
    async fn alone(&self, ask: v1::MutateRequest, limit: Duration) -> Outcome<v1::MutateResponse> {
        self.stub().mutate(self.request(ask, limit)).await.map(tonic::Response::into_inner)
    }

    async fn many(&self, asks: Vec<v1::MutateRequest>, limit: Duration) -> Vec<Outcome<v1::MutateResponse>> {
        let (mut messages, mut bytes) = (vec![Vec::new()], 0);
        for ask in asks {
            let len = ask.encoded_len();
            if bytes > 0 && bytes + len > MANY_BYTES {
                messages.push(Vec::new());
                bytes = 0;
            }
            bytes += len;
            if let Some(last) = messages.last_mut() {
                last.push(ask);
            }
        }
        let each = messages.into_iter().map(|message| self.batches(message, limit));
        join_all(each).await.into_iter().flatten().collect()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use tokio::sync::Semaphore;

    use super::*;

    /// Notes what travels together, and answers when it is let.
    #[derive(Clone)]
    struct Fake {
        messages: Arc<Mutex<Vec<Vec<u64>>>>,
        let_through: Arc<Semaphore>,
    }

    impl Carry<u64, u64> for Fake {
        async fn alone(&self, ask: u64, limit: Duration) -> Outcome<u64> {
            self.many(vec![ask], limit).await.remove(0)
        }

        async fn many(&self, asks: Vec<u64>, _: Duration) -> Vec<Outcome<u64>> {
            self.messages.lock().unwrap().push(asks.clone());
            self.let_through.acquire().await.unwrap().forget();
            let answer = |ask| if ask % 5 == 4 { Err(Status::not_found(format!("{ask}"))) } else { Ok(ask * 2) };
            asks.into_iter().map(answer).collect()
        }
    }

    fn fake() -> Fake {
        Fake { messages: Arc::default(), let_through: Arc::new(Semaphore::new(0)) }
    }

    const LIMIT: Duration = Duration::from_secs(5);

    #[tokio::test(start_paused = true)]
    async fn those_that_ask_at_the_same_time_share_messages_and_each_has_its_answer() {
        let (together, fake) = (Together::new(), fake());
        let asks = join_all((0..100).map(|ask| together.ask(ask, LIMIT, &fake)));
        let answering = async {
            while fake.messages.lock().unwrap().iter().map(Vec::len).sum::<usize>() < 100 {
                tokio::time::sleep(PAUSE).await;
            }
            fake.let_through.add_permits(100);
        };
        let (answers, ()) = tokio::join!(asks, answering);
        for (ask, answer) in (0..).zip(answers) {
            match answer {
                Ok(answer) => assert!(ask % 5 != 4 && answer == ask * 2),
                Err(status) => assert!(ask % 5 == 4 && status.message() == ask.to_string()),
            }
        }
        let messages = fake.messages.lock().unwrap();
        assert_eq!(messages[0], [0], "the first waits for nobody");
        assert!(messages.iter().all(|message| message.len() <= MANY_MAX) && messages.len() <= 5, "{messages:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_keeps_its_own_deadline() {
        let (together, fake) = (Together::new(), fake());
        let started = Instant::now();
        let long = together.ask(0, LIMIT, &fake);
        let short = async {
            let answer = together.ask(1, LIMIT / 5, &fake).await;
            assert_eq!((answer.unwrap_err().code(), started.elapsed()), (Code::DeadlineExceeded, LIMIT / 5));
            fake.let_through.add_permits(2);
        };
        let (answer, ()) = tokio::join!(long, short);
        assert_eq!(answer.unwrap(), 0);
    }
}
