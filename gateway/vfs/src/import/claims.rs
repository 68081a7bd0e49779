//! Which chunks are being uploaded: groups that are under way at once, and hold the same chunk, send it once.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use causeway_base::ChunkId;
use tokio::sync::watch;

/// The chunks that some group of an import is uploading now.
#[derive(Debug)]
pub(super) struct Claims {
    ids: Mutex<HashSet<ChunkId>>,
    released: watch::Sender<u64>,
}

/// Chunks claimed by one group; given up when it is dropped, uploaded or not.
#[derive(Debug)]
pub(super) struct Claim {
    claims: Arc<Claims>,
    pub(super) ids: HashSet<ChunkId>,
}

impl Claims {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self { ids: Mutex::default(), released: watch::Sender::new(0) })
    }

    /// Claims what nobody has claimed; the rest is on its way by others.
    pub(super) fn claim(self: &Arc<Self>, ids: impl IntoIterator<Item = ChunkId>) -> (Claim, Vec<ChunkId>) {
        let mut claimed = self.lock();
        let (mine, others): (HashSet<_>, Vec<_>) =
            ids.into_iter().fold(Default::default(), |(mut mine, mut others), id| {
                if claimed.insert(id) {
                    mine.insert(id);
                } else {
                    others.push(id);
                }
                (mine, others)
            });
        drop(claimed);
        (Claim { claims: self.clone(), ids: mine }, others)
    }

    /// Waits until none of these is claimed. What was not uploaded after all is found missing by the commit. Cancel safe.
    pub(super) async fn wait(&self, ids: &[ChunkId]) {
        let mut released = self.released.subscribe();
        loop {
            released.borrow_and_update();
            if !ids.iter().any(|id| self.lock().contains(id)) || released.changed().await.is_err() {
                return;
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashSet<ChunkId>> {
        // Single inserts and removals: a panic elsewhere leaves it whole.
        self.ids.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let mut claimed = self.claims.lock();
        for id in &self.ids {
            claimed.remove(id);
        }
        drop(claimed);
        self.claims.released.send_modify(|count| *count += 1);
    }
}

#[cfg(test)]
mod tests {
    use futures::poll;

    use super::*;

    const fn id(byte: u8) -> ChunkId {
        ChunkId([byte; 32])
    }

    #[tokio::test]
    async fn the_second_waits_for_the_first() {
        let claims = Claims::new();
        let (first, others) = claims.claim([id(1), id(2)]);
        assert_eq!((first.ids.len(), others.len()), (2, 0));
        let (second, others) = claims.claim([id(2), id(3)]);
        assert_eq!((second.ids.len(), &others[..]), (1, &[id(2)][..]));
        let wait = claims.wait(&others);
        tokio::pin!(wait);
        assert!(poll!(&mut wait).is_pending());
        drop(second);
        assert!(poll!(&mut wait).is_pending());
        drop(first);
        assert!(poll!(&mut wait).is_ready());
    }
}
