//! Numbers of at-most-once requests, by volume.
//!
//! A session numbers its requests; what is below the lowest number in flight is acknowledged with every request, so the
//! volume forgets those answers. A caller that gives up leaves its number: it counts as acknowledged from then on, and the
//! volume refuses it if it still arrives.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use causeway_namespace_core::command::{SESSION_WINDOW, SessionId};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// A session of this client on one volume, opened lazily.
#[derive(Debug)]
pub(super) struct Session {
    /// `None` until one is open, and after the volume forgot it. The async lock also makes one opener of many.
    pub(super) id: tokio::sync::Mutex<Option<SessionId>>,
    numbers: Arc<Mutex<Numbers>>,
    window: Arc<Semaphore>,
}

#[derive(Debug)]
struct Numbers {
    next: u64,
    in_flight: BTreeSet<u64>,
}

/// A number in flight; dropping it acknowledges it.
#[derive(Debug)]
pub(super) struct Ticket {
    pub(super) number: u64,
    numbers: Arc<Mutex<Numbers>>,
    _place: OwnedSemaphorePermit,
}

impl Session {
    pub(super) fn new() -> Self {
        // Below the volume's window, which counts from `acked_below` as it was when the oldest request was sent.
        let places = usize::try_from(SESSION_WINDOW / 2).unwrap_or(64);
        Self {
            id: tokio::sync::Mutex::new(None),
            numbers: Arc::new(Mutex::new(Numbers { next: 1, in_flight: BTreeSet::new() })),
            window: Arc::new(Semaphore::new(places)),
        }
    }

    /// The next number, as soon as there is a place in the window. Cancel safe.
    pub(super) async fn ticket(&self) -> Option<Ticket> {
        let place = self.window.clone().acquire_owned().await.ok()?;
        let mut numbers = self.numbers.lock().unwrap_or_else(PoisonError::into_inner);
        let number = numbers.next;
        numbers.next += 1;
        numbers.in_flight.insert(number);
        Some(Ticket { number, numbers: self.numbers.clone(), _place: place })
    }
}

impl Ticket {
    /// Every number below it has its answer, or is given up.
    pub(super) fn acked_below(&self) -> u64 {
        let numbers = self.numbers.lock().unwrap_or_else(PoisonError::into_inner);
        numbers.in_flight.first().copied().unwrap_or(numbers.next)
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.numbers.lock().unwrap_or_else(PoisonError::into_inner).in_flight.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[tokio::test]
    async fn what_is_below_the_oldest_in_flight_is_acknowledged() {
        let session = Session::new();
        let first = session.ticket().await.unwrap();
        let second = session.ticket().await.unwrap();
        assert_eq!((first.number, second.number), (1, 2));
        assert_eq!(second.acked_below(), 1);
        drop(first);
        assert_eq!(second.acked_below(), 2);
        let third = session.ticket().await.unwrap();
        drop(second);
        assert_eq!((third.number, third.acked_below()), (3, 3));
    }

    #[tokio::test]
    async fn the_window_is_bounded() {
        let session = Session::new();
        let mut held = Vec::new();
        for _ in 0..SESSION_WINDOW / 2 {
            held.push(session.ticket().await.unwrap());
        }
        let next = session.ticket();
        tokio::pin!(next);
        assert!(futures::poll!(&mut next).is_pending());
        held.pop();
        // Each permit above took from the task's budget, at whose end everything is pending for once.
        assert!(tokio::task::unconstrained(next).now_or_never().is_some());
    }
}
