//! Links between nodes of one process, with delays and cuts: for tests, benches and simulations.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{BoxStream, StreamExt};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;

use causeway_base::NodeId;

use crate::error::HandleError;
use crate::groups::Groups;
use crate::link::{Incoming, LinkError, Outgoing, PeerLink, PeerRequest};

/// Messages of a stream that may be on their way.
const ON_THE_WAY: usize = 64;

/// A network within a process.
#[derive(Clone, Debug)]
pub struct MemoryNet(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    /// Counts changes of the cuts.
    changed: watch::Sender<u64>,
}

#[derive(Default)]
struct State {
    nodes: BTreeMap<NodeId, Weak<Groups>>,
    cuts: BTreeSet<(NodeId, NodeId)>,
    delay: Duration,
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("State").field("cuts", &self.cuts).field("delay", &self.delay).finish_non_exhaustive()
    }
}

impl Default for MemoryNet {
    fn default() -> Self {
        Self::new(Duration::ZERO)
    }
}

impl MemoryNet {
    /// A network whose messages take `delay` each way.
    #[must_use]
    pub fn new(delay: Duration) -> Self {
        let state = State { delay, ..State::default() };
        Self(Arc::new(Shared { state: Mutex::new(state), changed: watch::Sender::new(0) }))
    }

    /// The link of a node.
    #[must_use]
    pub fn link(&self, node: NodeId) -> Arc<dyn PeerLink> {
        Arc::new(MemoryLink { net: self.clone(), node })
    }

    /// Makes a node reachable; in place of an earlier one with its id.
    pub fn attach(&self, groups: &Arc<Groups>) {
        self.change(|state| {
            state.nodes.insert(groups.config.node, Arc::downgrade(groups));
        });
    }

    /// Makes a node unreachable: its process is gone.
    pub fn detach(&self, node: NodeId) {
        self.change(|state| {
            state.nodes.remove(&node);
        });
    }

    /// Cuts the way between two nodes: calls run into their deadlines, streams break.
    pub fn cut(&self, one: NodeId, other: NodeId) {
        self.change(|state| {
            state.cuts.extend([(one, other), (other, one)]);
        });
    }

    /// Cuts a node from all others.
    pub fn isolate(&self, node: NodeId) {
        self.change(|state| {
            let others: Vec<NodeId> = state.nodes.keys().copied().filter(|other| *other != node).collect();
            state.cuts.extend(others.into_iter().flat_map(|other| [(node, other), (other, node)]));
        });
    }

    /// Undoes all cuts.
    pub fn heal(&self) {
        self.change(|state| state.cuts.clear());
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.lock());
        self.0.changed.send_modify(|count| *count += 1);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn delay(&self) -> Duration {
        self.lock().delay
    }

    fn is_cut(&self, from: NodeId, to: NodeId) -> bool {
        self.lock().cuts.contains(&(from, to))
    }

    fn node(&self, from: NodeId, to: NodeId) -> Option<Result<Arc<Groups>, LinkError>> {
        if self.is_cut(from, to) {
            return None;
        }
        let node = self.lock().nodes.get(&to).and_then(Weak::upgrade);
        Some(node.ok_or_else(|| LinkError::Unreachable(format!("{to} does not run"))))
    }

    /// Ends when messages do not pass any more.
    async fn broken(self, from: NodeId, to: NodeId) {
        let mut changed = self.0.changed.subscribe();
        loop {
            if !matches!(self.node(from, to), Some(Ok(_))) {
                return;
            }
            if changed.changed().await.is_err() {
                return;
            }
        }
    }

    /// Messages as they arrive: in order, each `delay` after it was sent, none after a cut.
    fn carry<T: Send + 'static>(
        &self,
        from: NodeId,
        to: NodeId,
        messages: BoxStream<'static, T>,
    ) -> BoxStream<'static, T> {
        let (sender, arrived) = mpsc::channel(ON_THE_WAY);
        let delay = self.delay();
        let mut messages = messages.take_until(Box::pin(self.clone().broken(from, to)));
        // Ends with either side.
        tokio::spawn(async move {
            loop {
                let message = tokio::select! {
                    message = messages.next() => message,
                    () = sender.closed() => return,
                };
                let Some(message) = message else { return };
                if sender.send((Instant::now() + delay, message)).await.is_err() {
                    return;
                }
            }
        });
        let arrived = ReceiverStream::new(arrived).then(move |(at, message)| async move {
            if !delay.is_zero() {
                tokio::time::sleep_until(at).await;
            }
            message
        });
        arrived.boxed()
    }
}

/// A node's link into a [`MemoryNet`].
#[derive(Debug)]
struct MemoryLink {
    net: MemoryNet,
    node: NodeId,
}

impl MemoryLink {
    async fn reach(&self, to: NodeId) -> Result<Arc<Groups>, LinkError> {
        let delay = self.net.delay();
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        match self.net.node(self.node, to) {
            Some(node) => node,
            None => std::future::pending().await,
        }
    }

    async fn answer(&self, to: NodeId, request: PeerRequest) -> Result<Bytes, LinkError> {
        let groups = self.reach(to).await?;
        let answer = groups.handle(self.node, request).await;
        drop(groups);
        let delay = self.net.delay();
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        if self.net.is_cut(to, self.node) {
            std::future::pending::<()>().await;
        }
        answer.map_err(refused)
    }
}

#[async_trait]
impl PeerLink for MemoryLink {
    async fn call(&self, to: NodeId, request: PeerRequest, deadline: Duration) -> Result<Bytes, LinkError> {
        tokio::time::timeout(deadline, self.answer(to, request)).await.unwrap_or(Err(LinkError::Timeout))
    }

    async fn open(
        &self,
        to: NodeId,
        request: PeerRequest,
        outgoing: Outgoing,
        deadline: Duration,
    ) -> Result<Incoming, LinkError> {
        let opened = tokio::time::timeout(deadline, self.reach(to)).await;
        let groups = opened.unwrap_or(Err(LinkError::Timeout))?;
        let there = self.net.carry(self.node, to, outgoing);
        let answers = groups.handle_stream(self.node, request, there).await;
        let answers = answers.map_err(refused)?;
        let back = answers.map(|answer| answer.map_err(refused)).boxed();
        Ok(self.net.carry(to, self.node, back))
    }
}

fn refused(error: HandleError) -> LinkError {
    match error {
        HandleError::Fenced { lineage, .. } => LinkError::Fenced(lineage),
        other => LinkError::Refused(other.to_string()),
    }
}
