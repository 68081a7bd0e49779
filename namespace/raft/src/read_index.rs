//! Linearizable reads: one confirmation by a quorum serves all that asked before it began.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use openraft::ReadPolicy;
use openraft::errors::{LinearizableReadError, RaftError};
use tokio::sync::oneshot;

use causeway_base::{NodeId, Seq};

use crate::consensus::types::Raft;
use crate::error::ReadIndexError;
use crate::store::chain;

type Answer = Result<Seq, ReadIndexError>;

/// Readers that share confirmations.
#[derive(Clone, Debug)]
pub(crate) struct ReadIndex {
    raft: Raft,
    queue: Arc<Mutex<Queue>>,
}

#[derive(Debug, Default)]
struct Queue {
    waiting: Vec<oneshot::Sender<Answer>>,
    running: bool,
}

/// Readers that may wait at once.
const WAITING_MAX: usize = 65_536;

impl ReadIndex {
    pub(crate) fn new(raft: Raft) -> Self {
        Self { raft, queue: Arc::default() }
    }

    /// The seq that a read must see.
    ///
    /// # Errors
    /// Any [`ReadIndexError`].
    pub(crate) async fn get(&self, deadline: Duration) -> Answer {
        let (sender, answer) = oneshot::channel();
        let start = {
            let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
            if queue.waiting.len() >= WAITING_MAX {
                return Err(ReadIndexError::Timeout);
            }
            queue.waiting.push(sender);
            !std::mem::replace(&mut queue.running, true)
        };
        if start {
            // Ends when nobody waits any more; each round is bounded by openraft's lease.
            tokio::spawn(self.clone().run(deadline));
        }
        match tokio::time::timeout(deadline, answer).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) | Err(_) => Err(ReadIndexError::Timeout),
        }
    }

    async fn run(self, deadline: Duration) {
        loop {
            let waiting = {
                let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
                queue.waiting.retain(|one| !one.is_closed());
                if queue.waiting.is_empty() {
                    queue.running = false;
                    return;
                }
                std::mem::take(&mut queue.waiting)
            };
            let answer = self.confirm(deadline).await;
            for one in waiting {
                let _ = one.send(answer.clone());
            }
        }
    }

    async fn confirm(&self, deadline: Duration) -> Answer {
        let asked = self.raft.get_read_linearizer(ReadPolicy::ReadIndex);
        let Ok(answer) = tokio::time::timeout(deadline, asked).await else { return Err(ReadIndexError::Timeout) };
        match answer {
            Ok(linearizer) => Ok(Seq(linearizer.read_log_id().index())),
            Err(RaftError::APIError(LinearizableReadError::ForwardToLeader(forward))) => {
                Err(ReadIndexError::NotLeader { leader: forward.leader_id.map(NodeId) })
            }
            Err(RaftError::APIError(_)) => Err(ReadIndexError::Timeout),
            Err(RaftError::Fatal(fatal)) => Err(ReadIndexError::Stopped(chain(&fatal))),
        }
    }
}
