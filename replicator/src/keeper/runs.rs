//! Runs that last longer than a request: begun by one, waited for by others.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

use super::KeepError;

/// Names a run of this node since it started.
pub type Ticket = u64;

/// What is known of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome<T> {
    /// It is under way.
    Running,
    /// It is done.
    Done(T),
    /// It stopped, with the reason.
    Failed(String),
    /// There is no such run: the node was started again, or it is long over.
    Unknown,
}

/// Runs that are remembered.
const KEPT: usize = 16;

/// The runs of one kind.
#[derive(Debug)]
pub struct Runs<T> {
    runs: Mutex<BTreeMap<Ticket, watch::Receiver<Outcome<T>>>>,
}

impl<T> Default for Runs<T> {
    fn default() -> Self {
        Self { runs: Mutex::default() }
    }
}

impl<T: Clone + Send + Sync + 'static> Runs<T> {
    /// Begins a run (no ticket), or takes up one that was begun, and waits for its end for at most `wait`.
    ///
    /// Cancel safe: the run goes on.
    pub async fn follow<F>(
        self: &Arc<Self>,
        ticket: Option<Ticket>,
        wait: Duration,
        begin: impl FnOnce() -> F,
    ) -> (Ticket, Outcome<T>)
    where
        F: Future<Output = Result<T, KeepError>> + Send + 'static,
    {
        let (ticket, mut watched) = match ticket {
            Some(ticket) => match self.lock().get(&ticket) {
                Some(watched) => (ticket, watched.clone()),
                None => return (ticket, Outcome::Unknown),
            },
            None => self.begin(begin()),
        };
        let ended = watched.wait_for(|outcome| !matches!(outcome, Outcome::Running));
        let outcome = match tokio::time::timeout(wait, ended).await {
            Ok(Ok(outcome)) => outcome.clone(),
            Ok(Err(_)) => Outcome::Failed("it ended without an answer".to_owned()),
            Err(_) => Outcome::Running,
        };
        (ticket, outcome)
    }

    fn begin<F>(&self, work: F) -> (Ticket, watch::Receiver<Outcome<T>>)
    where
        F: Future<Output = Result<T, KeepError>> + Send + 'static,
    {
        let (tell, watched) = watch::channel(Outcome::Running);
        let mut runs = self.lock();
        let ticket = runs.last_key_value().map_or(1, |(last, _)| last + 1);
        runs.insert(ticket, watched.clone());
        if runs.len() > KEPT {
            runs.pop_first();
        }
        drop(runs);
        // Bounded by the keeper's turn and by its end, which stops each run.
        tokio::spawn(async move {
            let outcome = match work.await {
                Ok(done) => Outcome::Done(done),
                Err(error) => Outcome::Failed(chain(&error)),
            };
            tell.send_replace(outcome);
        });
        (ticket, watched)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<Ticket, watch::Receiver<Outcome<T>>>> {
        self.runs.lock().unwrap_or_else(PoisonError::into_inner) // single inserts
    }
}

pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
