//! Read-through: brings chunks here once, however many wait for them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use causeway_base::{ChunkId, RetryClass};
use causeway_replicator_core::WhyMissing;
use tokio::sync::watch;
use tokio::time::timeout;

use crate::fetcher::{Fetcher, Job, Need};
use crate::local;
use crate::service::{Needed, ReadThrough};
use crate::wire::Refusal;

/// How often a call fetches a chunk before it says that nothing comes of it: chunks may be found damaged between.
const FETCHES_MAX: u32 = 3;

/// Fetches what is needed here, each chunk by one transfer at a time.
#[derive(Debug)]
pub struct Ensure {
    fetcher: Fetcher,
    /// Chunks that are being fetched; the receiver is closed when that is over, however it ended.
    flights: Arc<Mutex<HashMap<ChunkId, watch::Receiver<()>>>>,
}

fn lock<T>(flights: &Mutex<T>) -> MutexGuard<'_, T> {
    flights.lock().unwrap_or_else(PoisonError::into_inner) // single inserts and removals
}

/// Chunks that this call fetches. Dropped, whoever waits for them looks again.
struct Flight {
    ids: Vec<ChunkId>,
    flights: Arc<Mutex<HashMap<ChunkId, watch::Receiver<()>>>>,
    _over: watch::Sender<()>,
}

impl Drop for Flight {
    fn drop(&mut self) {
        let mut flights = lock(&self.flights);
        for id in &self.ids {
            flights.remove(id);
        }
    }
}

impl Ensure {
    /// Over a fetcher.
    #[must_use]
    pub fn new(fetcher: Fetcher) -> Self {
        Self { fetcher, flights: Arc::default() }
    }

    async fn bring(&self, needed: &Needed) -> Result<(), Refusal> {
        let refuse = |error: local::LocalError| Refusal { class: error.class, message: error.reason };
        let mut fetched = HashMap::<ChunkId, u32>::new();
        loop {
            let missing = local::missing(self.fetcher.local(), needed.ids.clone()).await.map_err(refuse)?;
            if missing.is_empty() {
                return Ok(());
            }
            let (flight, mut others) = self.split(missing);
            // What is taken and not given would be fetched, and appended, for as long as the caller waits.
            for id in &flight.ids {
                let times = fetched.entry(*id).or_default();
                if *times == FETCHES_MAX {
                    let message = format!("chunk {id} came {times} times, and this node's store does not give it");
                    return Err(Refusal { class: RetryClass::Damaged, message });
                }
                *times += 1;
            }
            if !flight.ids.is_empty() {
                self.fetch(needed, &flight.ids).await?;
            }
            drop(flight);
            while let Some(mut other) = others.pop() {
                // Closed when the other call is over. If that failed, this one tries by itself.
                while other.changed().await.is_ok() {}
            }
        }
    }

    /// Takes what nobody is fetching; the rest is waited for.
    fn split(&self, missing: Vec<ChunkId>) -> (Flight, Vec<watch::Receiver<()>>) {
        let (over, watched) = watch::channel(());
        let mut flights = lock(&self.flights);
        let mut ids = Vec::new();
        let mut others = Vec::new();
        for id in missing {
            match flights.get(&id) {
                Some(other) => others.push(other.clone()),
                None => {
                    flights.insert(id, watched.clone());
                    ids.push(id);
                }
            }
        }
        (Flight { ids, flights: self.flights.clone(), _over: over }, others)
    }

    async fn fetch(&self, needed: &Needed, ids: &[ChunkId]) -> Result<(), Refusal> {
        let job = Job { realm: needed.realm.clone(), volume: needed.volume, cause: needed.cause };
        let needs = ids
            .iter()
            .map(|id| Need { id: *id, len: None, origin: needed.origin.clone(), bases: Vec::new() })
            .collect();
        let fetched = self.fetcher.run(&job, needs, &|_, _| ()).await;
        let fetched = fetched.map_err(|error| Refusal { class: error.class, message: error.reason })?;
        let Some(first) = fetched.missing.first() else { return Ok(()) };
        let why = match first.why {
            WhyMissing::Nowhere => "no site and no repository has it",
            WhyMissing::Corrupt => "it is damaged wherever it is",
            WhyMissing::Unreachable => "the sites that may have it cannot be reached",
        };
        let class = if first.why == WhyMissing::Corrupt { RetryClass::Damaged } else { RetryClass::Transient };
        let others = match fetched.missing.len() - 1 {
            0 => String::new(),
            others => format!(" (and {others} more)"),
        };
        Err(Refusal { class, message: format!("chunk {} cannot be had: {why}{others}", first.id) })
    }
}

#[async_trait]
impl ReadThrough for Ensure {
    async fn ensure(&self, needed: Needed, deadline: Duration) -> Result<(), Refusal> {
        timeout(deadline, self.bring(&needed)).await.unwrap_or_else(|_| {
            let message = format!("{} chunks did not all come within {deadline:?}", needed.ids.len());
            Err(Refusal { class: RetryClass::Transient, message })
        })
    }
}
