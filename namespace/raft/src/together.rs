//! Short messages of many groups to one peer, sent together.
//!
//! A heartbeat or a vote costs far less than the call that carries it. So while calls of a kind to a peer are frequent, what
//! waits goes in one: the first at once, then at most one call in [`PAUSE`]. A message alone goes as it always did, and so does
//! one of a group that speaks far more often than heartbeats do: somebody waits for a read to be confirmed.
//!
//! A message goes, and its call lasts, though whoever sent it has given up waiting: on a busy machine an answer is often too late
//! for a leader, but its heartbeat still keeps the follower from an election. And a stream that is reset costs a connection
//! more than one that is answered. Only a later message of the same group takes the place of one that still waits.
//!
//! A message whose group is slow at the peer does not hold up the others: it is answered as late, and goes again alone. All go
//! alone to a peer that does not take them together, an older build.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::future::join_all;
use serde::{Deserialize, Serialize};
use tokio::sync::{Semaphore, oneshot};
use tokio::time::Instant;

use causeway_base::{NodeId, VolumeId};
use causeway_namespace_core::lineage::Lineage;

use crate::consensus::wire::{self, kind};
use crate::error::HandleError;
use crate::groups::Groups;
use crate::link::{LinkError, PeerLink, PeerRequest};

/// Between two calls of one kind to one peer.
const PAUSE: Duration = Duration::from_millis(4);
/// Messages in one call.
const MESSAGES_MAX: usize = 1024;
/// Bytes of a message that goes with others; a longer one goes alone.
const MESSAGE_BYTES: usize = 4096;
/// Calls of one kind to one peer that may be under way: on a long link more than one is.
const CALLS_MAX: usize = 16;
/// Messages to one peer that may wait; a group sends one at a time.
const WAITING_MAX: usize = 65_536;
/// A group that spoke so lately does not wait for others.
const LATELY: Duration = Duration::from_millis(20);
/// Groups of which it is remembered when they spoke, before what is long ago is forgotten.
const SPOKE_MAX: usize = 16_384;
/// How long messages go alone to a peer that refused them together.
const ALONE: Duration = Duration::from_secs(60);
/// A call lasts at least so long before it counts as lost.
const DEADLINE_MIN: Duration = Duration::from_secs(1);

type Answer = Result<Bytes, LinkError>;

/// By peer and kind.
type Lanes = BTreeMap<(NodeId, u8), Arc<Lane>>;

#[derive(Debug)]
struct Waiting {
    request: PeerRequest,
    since: Instant,
    deadline: Duration,
    answer: oneshot::Sender<Answer>,
}

/// What waits for one peer, of one kind.
#[derive(Debug)]
struct Lane {
    queue: Mutex<Queue>,
    calls: Arc<Semaphore>,
}

#[derive(Debug, Default)]
struct Queue {
    waiting: Vec<Waiting>,
    /// Somebody sends what waits.
    running: bool,
    not_before: Option<Instant>,
    /// The peer takes none together.
    alone_until: Option<Instant>,
    /// When groups last spoke.
    spoke: BTreeMap<VolumeId, Instant>,
}

impl Queue {
    /// Notes that a group speaks; whether it last did so lately.
    fn speaks(&mut self, group: VolumeId, now: Instant) -> bool {
        // Groups come and go: what they leave here stays within a bound.
        if self.spoke.len() >= SPOKE_MAX {
            self.spoke.retain(|_, at| now - *at < LATELY);
        }
        self.spoke.insert(group, now).is_some_and(|at| now - at < LATELY)
    }
}

impl Lane {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        // Valid after any single statement.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The way of short messages to the peers.
#[derive(Clone)]
pub(crate) struct Together {
    link: Arc<dyn PeerLink>,
    lanes: Arc<Mutex<Lanes>>,
}

impl fmt::Debug for Together {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Together").finish_non_exhaustive()
    }
}

/// Whether messages of this kind may go together.
fn goes_with_others(kind: u8) -> bool {
    matches!(kind, kind::APPEND | kind::VOTE | kind::PRE_VOTE)
}

impl Together {
    pub(crate) fn new(link: Arc<dyn PeerLink>) -> Self {
        Self { link, lanes: Arc::default() }
    }

    /// As [`PeerLink::call`].
    ///
    /// Cancel safety: may be dropped at any time; the message may then go all the same.
    ///
    /// # Errors
    /// As there.
    pub(crate) async fn call(&self, to: NodeId, request: PeerRequest, deadline: Duration) -> Answer {
        if !goes_with_others(request.kind) || request.payload.len() > MESSAGE_BYTES {
            return self.link.call(to, request, deadline).await;
        }
        let lane = {
            let mut lanes = self.lanes.lock().unwrap_or_else(PoisonError::into_inner);
            let new = || Arc::new(Lane { queue: Mutex::default(), calls: Arc::new(Semaphore::new(CALLS_MAX)) });
            Arc::clone(lanes.entry((to, request.kind)).or_insert_with(new))
        };
        let (answer, answered) = oneshot::channel();
        let alone = {
            let (mut queue, now) = (lane.lock(), Instant::now());
            queue.speaks(request.group, now) || queue.alone_until.is_some_and(|until| until > now)
        };
        if alone {
            return self.link.call(to, request, deadline).await;
        }
        let start = {
            let mut queue = lane.lock();
            if queue.waiting.len() >= WAITING_MAX {
                return Err(LinkError::Timeout);
            }
            // A group has one message of a kind on its way at a time: one that is there was given up.
            queue.waiting.retain(|one| one.request.group != request.group || !one.answer.is_closed());
            queue.waiting.push(Waiting { request, since: Instant::now(), deadline, answer });
            !std::mem::replace(&mut queue.running, true)
        };
        if start {
            // Ends when nothing waits any more.
            tokio::spawn(self.clone().run(to, lane));
        }
        match tokio::time::timeout(deadline, answered).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) | Err(_) => Err(LinkError::Timeout),
        }
    }

    async fn run(self, to: NodeId, lane: Arc<Lane>) {
        loop {
            let not_before = lane.lock().not_before;
            if let Some(at) = not_before.filter(|at| *at > Instant::now()) {
                tokio::time::sleep_until(at).await;
            }
            let Ok(place) = Arc::clone(&lane.calls).acquire_owned().await else { return };
            let batch = {
                let mut queue = lane.lock();
                if queue.waiting.is_empty() {
                    queue.running = false;
                    return;
                }
                queue.not_before = Some(Instant::now() + PAUSE);
                let count = queue.waiting.len().min(MESSAGES_MAX);
                queue.waiting.drain(..count).collect::<Vec<_>>()
            };
            let this = self.clone();
            let lane = Arc::clone(&lane);
            // Bounded by its deadline.
            tokio::spawn(async move {
                let again = this.send(to, batch, &lane).await;
                drop(place);
                join_all(again.into_iter().map(|one| this.send_alone(to, one))).await;
            });
        }
    }

    /// Sends these and tells their answers; gives those that are to be sent alone.
    async fn send(&self, to: NodeId, mut batch: Vec<Waiting>, lane: &Lane) -> Vec<Waiting> {
        if batch.len() == 1
            && let Some(Waiting { request, deadline, answer, .. }) = batch.pop()
        {
            // Whoever gave up does not listen.
            let deadline = deadline.max(DEADLINE_MIN);
            let _ = answer.send(bounded(self.link.call(to, request, deadline), deadline).await);
            return Vec::new();
        }
        let longest = batch.iter().map(|one| one.deadline).max().unwrap_or_default();
        let shortest = batch.iter().map(|one| one.deadline).min().unwrap_or_default();
        let deadline = longest.max(DEADLINE_MIN);
        let messages = batch.iter().map(|one| Message::of(&one.request)).collect();
        // With a round trip of half a heartbeat's interval, the most that is set up, all are in time for the most urgent.
        let within = u32::try_from((shortest / 4).as_millis()).unwrap_or(u32::MAX);
        let payload = wire::encode(&Messages { within, messages });
        let request = PeerRequest { group: VolumeId::ROOT, lineage: Lineage::default(), kind: kind::TOGETHER, payload };
        let answers = bounded(self.link.call(to, request, deadline), deadline).await;
        let answers = answers.and_then(|bytes| {
            let answers: Vec<Result<Bytes, Failed>> = wire::decode(&bytes).map_err(LinkError::Refused)?;
            match answers.len() == batch.len() {
                true => Ok(answers),
                false => Err(LinkError::Refused(format!("{} answers to {} messages", answers.len(), batch.len()))),
            }
        });
        let mut again = Vec::new();
        match answers {
            Ok(answers) => {
                for (answer, waiting) in answers.into_iter().zip(batch) {
                    match answer {
                        Err(Failed::Late) => again.push(waiting),
                        answer => drop(waiting.answer.send(answer.map_err(LinkError::from))),
                    }
                }
            }
            // Said of all of them, or of the root group in whose name they went: nothing about any of their groups.
            Err(LinkError::Refused(_) | LinkError::Fenced(_)) => {
                lane.lock().alone_until = Some(Instant::now() + ALONE);
                again = batch;
            }
            Err(error) => batch.into_iter().for_each(|one| drop(one.answer.send(Err(error.clone())))),
        }
        again
    }

    /// Sends one as if there were no others. That it may arrive twice is nothing new to Raft.
    async fn send_alone(&self, to: NodeId, one: Waiting) {
        let Waiting { request, since, deadline, answer } = one;
        let left = deadline.saturating_sub(since.elapsed());
        if left.is_zero() || answer.is_closed() {
            return;
        }
        let _ = answer.send(bounded(self.link.call(to, request, left), left).await);
    }
}

/// The link keeps the deadline; this is for one that does not.
async fn bounded(call: impl Future<Output = Answer>, deadline: Duration) -> Answer {
    tokio::time::timeout(deadline, call).await.unwrap_or(Err(LinkError::Timeout))
}

/// Messages of many groups.
#[derive(Debug, Serialize, Deserialize)]
struct Messages {
    /// Milliseconds after which one that is not answered yet is answered as late, so that it does not hold up the others.
    within: u32,
    messages: Vec<Message>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Message {
    group: u64,
    lineage: Lineage,
    kind: u8,
    payload: Bytes,
}

impl Message {
    fn of(request: &PeerRequest) -> Self {
        let PeerRequest { group, lineage, kind, payload } = request;
        Self { group: group.0, lineage: *lineage, kind: *kind, payload: payload.clone() }
    }
}

/// Why one of the messages has no answer.
#[derive(Debug, Serialize, Deserialize)]
enum Failed {
    Late,
    Refused(String),
    Fenced(Lineage),
}

impl From<Failed> for LinkError {
    fn from(failed: Failed) -> Self {
        match failed {
            Failed::Late => Self::Timeout,
            Failed::Refused(reason) => Self::Refused(reason),
            Failed::Fenced(lineage) => Self::Fenced(lineage),
        }
    }
}

impl Groups {
    /// Handles messages that came together, each as if it had come alone.
    pub(crate) async fn handle_together(&self, from: NodeId, payload: &[u8]) -> Result<Bytes, HandleError> {
        let Messages { within, messages } = wire::decode(payload).map_err(HandleError::Bad)?;
        if messages.len() > MESSAGES_MAX || !messages.iter().all(|one| goes_with_others(one.kind)) {
            return Err(HandleError::Bad(format!("{} messages, or some that go alone", messages.len())));
        }
        let within = Duration::from_millis(within.into());
        let handled = messages.into_iter().map(|one| async move {
            let work = async {
                let group = self.of_line(from, VolumeId(one.group), one.lineage).await?;
                group.receiver.handle(from, one.kind, one.payload).await
            };
            match tokio::time::timeout(within, work).await {
                Ok(Ok(answer)) => Ok(answer),
                Ok(Err(HandleError::Fenced { lineage, .. })) => Err(Failed::Fenced(lineage)),
                Ok(Err(error)) => Err(Failed::Refused(error.to_string())),
                Err(_) => Err(Failed::Late),
            }
        });
        Ok(wire::encode(&join_all(handled).await))
    }
}

#[cfg(test)]
mod tests {
    use async_trait::async_trait;

    use super::*;
    use crate::link::{Incoming, Outgoing};

    /// What a peer does with messages that come together.
    #[derive(Clone, Copy, Debug)]
    enum Peer {
        /// An older build whose root group is on a later line: it says so of whatever it does not know.
        Fences,
        /// One group is always slow.
        Slow(u64),
    }

    #[derive(Debug)]
    struct TestLink {
        peer: Peer,
        /// Kinds and groups of the calls.
        calls: Mutex<Vec<(u8, u64)>>,
    }

    #[async_trait]
    impl PeerLink for TestLink {
        async fn call(&self, _: NodeId, request: PeerRequest, _: Duration) -> Answer {
            self.calls.lock().unwrap().push((request.kind, request.group.0));
            if request.kind != kind::TOGETHER {
                return Ok(request.payload);
            }
            let Messages { messages, .. } = wire::decode(&request.payload).unwrap();
            match self.peer {
                Peer::Fences => Err(LinkError::Fenced(Lineage::default())),
                Peer::Slow(slow) => {
                    let answer = |one: Message| if one.group == slow { Err(Failed::Late) } else { Ok(one.payload) };
                    Ok(wire::encode(&messages.into_iter().map(answer).collect::<Vec<_>>()))
                }
            }
        }

        async fn open(&self, _: NodeId, _: PeerRequest, _: Outgoing, _: Duration) -> Result<Incoming, LinkError> {
            Err(LinkError::Timeout)
        }
    }

    /// Messages of ten groups at once; each must have its own answer. Gives the calls that it took.
    async fn ten(together: &Together, link: &TestLink) -> Vec<(u8, u64)> {
        let call = |group: u64| async move {
            let payload = Bytes::from(group.to_string());
            let request = PeerRequest {
                group: VolumeId(group),
                lineage: Lineage::default(),
                kind: kind::APPEND,
                payload: payload.clone(),
            };
            assert_eq!(together.call(NodeId(2), request, Duration::from_secs(20)).await, Ok(payload));
        };
        join_all((1..=10).map(call)).await;
        std::mem::take(&mut link.calls.lock().unwrap())
    }

    fn link(peer: Peer) -> (Arc<TestLink>, Together) {
        let link = Arc::new(TestLink { peer, calls: Mutex::default() });
        (Arc::clone(&link), Together::new(link))
    }

    #[tokio::test(start_paused = true)]
    async fn to_a_peer_that_takes_none_together_they_go_alone() {
        let (link, together) = link(Peer::Fences);
        // That the root group is fenced there is not said of any of these.
        let first = ten(&together, &link).await;
        assert_eq!(first.iter().filter(|(kind, _)| *kind == kind::TOGETHER).count(), 1, "{first:?}");
        tokio::time::advance(LATELY * 2).await;
        let next = ten(&together, &link).await;
        assert!(next.len() == 10 && next.iter().all(|(kind, _)| *kind == kind::APPEND), "{next:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn who_speaks_often_waits_for_nobody() {
        let (link, together) = link(Peer::Slow(0));
        let count = |calls: &[(u8, u64)]| calls.iter().filter(|(kind, _)| *kind == kind::TOGETHER).count();
        assert_eq!(count(&ten(&together, &link).await), 1);
        assert_eq!(count(&ten(&together, &link).await), 0, "a read after the other");
        tokio::time::advance(LATELY * 2).await;
        assert_eq!(count(&ten(&together, &link).await), 1, "heartbeats");
    }

    #[tokio::test(start_paused = true)]
    async fn groups_that_are_gone_are_forgotten() {
        let mut queue = Queue::default();
        for group in 0..3 * SPOKE_MAX as u64 {
            if group.is_multiple_of(1000) {
                tokio::time::advance(LATELY * 2).await;
            }
            assert!(!queue.speaks(VolumeId(group), Instant::now()));
            assert!(queue.spoke.len() <= SPOKE_MAX);
        }
        assert!(queue.speaks(VolumeId(3 * SPOKE_MAX as u64 - 1), Instant::now()), "the last one did lately");
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_group_goes_again_alone() {
        let (link, together) = link(Peer::Slow(7));
        let calls = ten(&together, &link).await;
        let alone: Vec<u64> = calls.iter().filter(|(kind, _)| *kind == kind::APPEND).map(|(_, group)| *group).collect();
        assert_eq!(alone, [7], "{calls:?}");
    }
}
