//! Which chunks are being stored: threads of one run that hold the same chunk at once store it once.

use std::collections::HashSet;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use causeway_base::ChunkId;

/// The chunks that some thread of a run is storing now.
#[derive(Debug, Default)]
pub(super) struct Claims {
    state: Mutex<State>,
    released: Condvar,
}

#[derive(Debug, Default)]
struct State {
    ids: HashSet<ChunkId>,
    /// A thread panicked while it was storing what it had claimed.
    broken: bool,
}

/// Chunks claimed by one thread; given up when it is dropped, stored or not.
#[derive(Debug)]
pub(super) struct Claim<'a> {
    claims: &'a Claims,
    pub(super) ids: Vec<ChunkId>,
}

impl Claims {
    /// Claims what nobody has claimed; the second value is on its way by others.
    pub(super) fn claim(&self, ids: impl IntoIterator<Item = ChunkId>) -> (Claim<'_>, Vec<ChunkId>) {
        let mut claimed = self.lock();
        let mut others = HashSet::new();
        let mut mine = Vec::new();
        for id in ids {
            if claimed.ids.insert(id) {
                mine.push(id);
            } else {
                others.insert(id);
            }
        }
        // What came twice from the caller itself is no other's.
        for id in &mine {
            others.remove(id);
        }
        (Claim { claims: self, ids: mine }, others.into_iter().collect())
    }

    /// Waits until none of these is claimed; `false` if whoever claimed one may not have stored it. To be called with no claim
    /// of one's own, or two would wait for each other.
    #[must_use]
    pub(super) fn wait(&self, ids: &[ChunkId]) -> bool {
        let mut claimed = self.lock();
        while ids.iter().any(|id| claimed.ids.contains(id)) {
            claimed = self.released.wait(claimed).unwrap_or_else(PoisonError::into_inner);
        }
        !claimed.broken
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Single inserts and removals: a panic elsewhere leaves it whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        let mut claimed = self.claims.lock();
        for id in &self.ids {
            claimed.ids.remove(id);
        }
        claimed.broken |= std::thread::panicking();
        drop(claimed);
        self.claims.released.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn id(byte: u8) -> ChunkId {
        ChunkId([byte; 32])
    }

    #[test]
    fn the_second_waits_for_the_first() {
        let claims = Claims::default();
        let (first, others) = claims.claim([id(1), id(2), id(1)]);
        assert_eq!((&first.ids[..], others.len()), (&[id(1), id(2)][..], 0));
        let (second, others) = claims.claim([id(2), id(3)]);
        assert_eq!((&second.ids[..], &others[..]), (&[id(3)][..], &[id(2)][..]));
        drop(second);
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| claims.wait(&others));
            drop(first);
            assert!(waiting.join().unwrap());
        });
        assert!(claims.lock().ids.is_empty());
    }
}
