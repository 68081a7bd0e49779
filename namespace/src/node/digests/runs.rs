//! Work that lasts longer than a request: begun by one, waited for by others; one at a time for a group.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use causeway_base::VolumeId;
use tokio::sync::watch;
use tokio_util::task::TaskTracker;

type Outcome<T> = Option<Result<T, String>>;
/// A run's ticket, and where its outcome will be.
type Newest<T> = (u64, watch::Receiver<Outcome<T>>);

/// The newest run of each group.
#[derive(Debug)]
pub(crate) struct Runs<T> {
    runs: Mutex<BTreeMap<VolumeId, Newest<T>>>,
}

impl<T> Default for Runs<T> {
    fn default() -> Self {
        Self { runs: Mutex::default() }
    }
}

impl<T: Clone + Send + Sync + 'static> Runs<T> {
    /// Joins the run with this ticket, or (ticket 0) the one under way, or begins one; waits for its end for at most `wait`.
    /// `None`: it goes on.
    ///
    /// Cancel safe: the run goes on.
    pub(crate) async fn follow<F>(
        &self,
        group: VolumeId,
        ticket: u64,
        wait: Duration,
        tasks: &TaskTracker,
        work: impl FnOnce() -> F,
    ) -> (u64, Outcome<T>)
    where
        F: Future<Output = Result<T, String>> + Send + 'static,
    {
        let begun = {
            let mut runs = self.runs.lock().unwrap_or_else(PoisonError::into_inner); // single inserts
            let newest = runs.get(&group).map(|(newest, watched)| (*newest, watched.clone()));
            match newest {
                Some((newest, watched)) if newest == ticket || (ticket == 0 && watched.borrow().is_none()) => {
                    Ok((newest, watched))
                }
                _ if ticket != 0 => return (ticket, Some(Err("there is no such run any more".to_owned()))),
                newest => {
                    let ticket = newest.map_or(1, |(newest, _)| newest + 1);
                    let (tell, watched) = watch::channel(None);
                    runs.insert(group, (ticket, watched.clone()));
                    Err((ticket, watched, tell))
                }
            }
        };
        let (ticket, mut watched) = match begun {
            Ok(joined) => joined,
            Err((ticket, watched, tell)) => {
                let work = work();
                // Ends by itself when the node does.
                tasks.spawn(async move { tell.send_replace(Some(work.await)) });
                (ticket, watched)
            }
        };
        let ended = watched.wait_for(Option::is_some);
        let outcome = match tokio::time::timeout(wait, ended).await {
            Ok(Ok(outcome)) => outcome.clone(),
            Ok(Err(_)) => Some(Err("the node shut down".to_owned())),
            Err(_) => None,
        };
        (ticket, outcome)
    }
}
