//! A group's replica on this node, and how reads of it become fresh.
//!
//! Linearizable and bounded reads need a confirmation: the leader's read index, waited for here. Confirmations go in
//! rounds. A read joins the next round to start, so its confirmation begins after it was asked, as linearizability needs;
//! all that wait share one round, so a thousand concurrent reads cost the leader a few.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use causeway_base::{NodeId, Seq, VolumeId};
use causeway_namespace_core::records::ReadError;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::error::Error;
use crate::node::forward::Forward;
use crate::read::{Consistency, Freshness, ReadState};
use causeway_namespace_raft::store::ViewError;
use causeway_namespace_raft::{Group, StateView, WaitError};

/// Reads that may wait for the next round; each costs some hundred bytes. More are told that there is too much to do.
const WAITING_MAX: usize = 8192;
/// Rounds at once: the next need not wait for the slowest, and a leader is not flooded.
const ROUNDS_MAX: usize = 4;
/// Longest round. A read that may wait longer joins another.
const ROUND_MAX: Duration = Duration::from_secs(5);
/// A local read that shows a greater age has the next one refreshed, beside it.
const REFRESH_AFTER: Duration = Duration::from_secs(1);

type Confirmed = Result<(), Error>;

/// A group's replica on this node.
#[derive(Debug)]
pub(crate) struct Replica {
    pub(crate) group: Arc<Group>,
    node: NodeId,
    waiting: mpsc::Sender<Option<oneshot::Sender<Confirmed>>>,
    fresh: Arc<Fresh>,
}

/// When this replica last had everything that was acknowledged until then.
#[derive(Debug, Default)]
struct Fresh(Mutex<Option<Instant>>);

impl Fresh {
    fn since(&self) -> Option<Instant> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn confirm(&self, at: Instant) {
        let mut fresh = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *fresh = (*fresh).max(Some(at));
    }
}

impl Replica {
    pub(crate) fn new(
        group: Arc<Group>,
        node: NodeId,
        forward: Forward,
        tasks: &TaskTracker,
        stop: CancellationToken,
    ) -> Arc<Self> {
        let (waiting, queue) = mpsc::channel(WAITING_MAX);
        let fresh = Arc::new(Fresh::default());
        let rounds = Rounds { group: group.clone(), forward, fresh: fresh.clone() };
        tasks.spawn(rounds.run(queue, tasks.clone(), stop));
        Arc::new(Self { group, node, waiting, fresh })
    }

    pub(crate) fn id(&self) -> VolumeId {
        self.group.id()
    }

    /// A view that is as fresh as asked. Cancel safe.
    pub(crate) async fn view(&self, freshness: Freshness, deadline: Duration) -> Result<(StateView, ReadState), Error> {
        let started = Instant::now();
        // What is applied here at a seq is what was committed there, for ever.
        let past = freshness.at.is_some_and(|at| at <= self.group.applied());
        match freshness.consistency {
            _ if past => {}
            Consistency::Linearizable => self.confirm(deadline).await?,
            Consistency::Bounded(age) => {
                if self.age().is_none_or(|known| known > age) {
                    self.confirm(deadline).await?;
                }
            }
            Consistency::Local => self.refresh_soon(),
        }
        let seq_min = freshness.seq_min.max(freshness.at.unwrap_or(Seq::ZERO));
        if seq_min > self.group.applied() {
            let left = deadline.saturating_sub(started.elapsed());
            let waited = self.group.wait_applied(seq_min, left).await;
            waited.map_err(|error| wait_error(self.id(), error))?;
        }
        if let Some(mark) = self.group.diverged() {
            return Err(Error::Diverged { group: self.id(), node: self.node, seq: mark.seq });
        }
        // Taken before the view, which can only be newer.
        let fresh = self.fresh.since();
        let view = self.group.view().map_err(|error| ReadError::Store(error.to_string()))?;
        let view = match freshness.at {
            Some(at) => view.at(at).map_err(|error| view_error(self.id(), error))?,
            None => view,
        };
        let state = ReadState { seq: view.seq(), age: fresh.map(|at| at.elapsed()), node: self.node };
        Ok((view, state))
    }

    fn age(&self) -> Option<Duration> {
        self.fresh.since().map(|at| at.elapsed())
    }

    /// Waits until this replica has everything that was acknowledged before the call. Cancel safe.
    pub(crate) async fn confirm(&self, deadline: Duration) -> Result<(), Error> {
        let started = Instant::now();
        loop {
            let (asked, answer) = oneshot::channel();
            self.waiting.try_send(Some(asked)).map_err(|error| match error {
                mpsc::error::TrySendError::Full(_) => Error::Overloaded(self.id()),
                mpsc::error::TrySendError::Closed(_) => Error::ShuttingDown,
            })?;
            let left = deadline.saturating_sub(started.elapsed());
            let last = match tokio::time::timeout(left, answer).await {
                Ok(Ok(Ok(()))) => return Ok(()),
                Ok(Ok(Err(error))) => error,
                Ok(Err(_)) => return Err(Error::ShuttingDown),
                Err(_) => {
                    let last = "no quorum confirmed the leader".to_owned();
                    return Err(Error::NoLeader { group: self.id(), waited: started.elapsed(), last });
                }
            };
            // A round is shorter than some deadlines.
            if !matches!(last, Error::NoLeader { .. } | Error::Behind { .. }) || started.elapsed() >= deadline {
                return Err(last);
            }
        }
    }

    /// Has the age of later reads lowered, without waiting.
    fn refresh_soon(&self) {
        if self.age().is_none_or(|age| age > REFRESH_AFTER) {
            // Full: a round is about to come anyway.
            let _ = self.waiting.try_send(None);
        }
    }
}

pub(crate) fn view_error(group: VolumeId, error: ViewError) -> Error {
    match error {
        ViewError::TooOld { wanted, oldest } => Error::TooOld { group, wanted, oldest },
        ViewError::NotYet { wanted, applied } => Error::Behind { group, wanted, applied },
        ViewError::TooEarly { oldest, since } => Error::TooEarly { group, oldest, since },
        ViewError::Read(error) => Error::Read(error),
        other => Error::Read(ReadError::Store(other.to_string())),
    }
}

pub(crate) fn wait_error(group: VolumeId, error: WaitError) -> Error {
    match error {
        WaitError::Timeout { wanted, applied } => Error::Behind { group, wanted, applied },
        WaitError::Stopped(reason) => Error::Stopped { group, reason },
        other => Error::Stopped { group, reason: other.to_string() },
    }
}

/// Runs the rounds of a replica.
struct Rounds {
    group: Arc<Group>,
    forward: Forward,
    fresh: Arc<Fresh>,
}

impl Rounds {
    async fn run(
        self,
        mut queue: mpsc::Receiver<Option<oneshot::Sender<Confirmed>>>,
        tasks: TaskTracker,
        stop: CancellationToken,
    ) {
        let this = Arc::new(self);
        let places = Arc::new(Semaphore::new(ROUNDS_MAX));
        loop {
            let next = async {
                // The place comes first: whoever asks while none is free shares the round that then starts.
                let place = places.clone().acquire_owned().await.ok()?;
                let mut batch = Vec::new();
                (queue.recv_many(&mut batch, WAITING_MAX).await > 0).then_some((place, batch))
            };
            let (place, batch) = tokio::select! {
                next = next => match next {
                    Some(next) => next,
                    None => return,
                },
                () = stop.cancelled() => return,
            };
            let round = this.clone().round(batch);
            let stop = stop.clone();
            tasks.spawn(async move {
                tokio::select! {
                    () = round => {}
                    () = stop.cancelled() => {}
                }
                drop(place);
            });
        }
    }

    async fn round(self: Arc<Self>, batch: Vec<Option<oneshot::Sender<Confirmed>>>) {
        let started = Instant::now();
        let outcome = self.confirm(started).await;
        if outcome.is_ok() {
            self.fresh.confirm(started);
        }
        for asked in batch.into_iter().flatten() {
            // Whoever has gone needs no answer.
            let _ = asked.send(outcome.clone());
        }
    }

    async fn confirm(&self, started: Instant) -> Confirmed {
        let seq = self.forward.read_index(&self.group, ROUND_MAX).await?;
        let left = ROUND_MAX.saturating_sub(started.elapsed());
        self.group.wait_applied(seq, left).await.map_err(|error| wait_error(self.group.id(), error))
    }
}
