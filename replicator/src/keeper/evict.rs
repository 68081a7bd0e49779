//! Keeps a store within its capacity by letting go of what other sites have as well.
//!
//! A log-structured cache: the oldest packs go first, and what of them was read again lately, or is no copy, moves to new packs
//! (a second chance; "segment FIFO with reinsertion"). Only chunks of volumes that this site merely caches, and always did, go, and of
//! those only such as came from another site; and only while the volume's home is verified in sync. It is a collection with another mark, so leases, revivals and crashes are as safe as there
//! (`docs/gc.md`).

use std::sync::Arc;
use std::time::Duration;

use super::{GcAsk, Keeper};

/// Between two looks at the size.
const LOOK: Duration = Duration::from_secs(15);
/// The same after an eviction that gave nothing back: each reads all metadata twice.
const LOOK_LATER: Duration = Duration::from_secs(300);
/// As much of the capacity is in use after an eviction, in percent, so that the next one is a while away.
const LEFT_PERCENT: u64 = 90;

impl Keeper {
    pub(super) async fn evict_regularly(self: &Arc<Self>) {
        if self.options.capacity == 0 {
            return;
        }
        let mut wait = LOOK;
        while self.sleep(wait).await {
            wait = if self.evict().await { LOOK } else { LOOK_LATER };
        }
    }

    /// Brings the store below its capacity, if it is above; waits for its turn. False if nothing was given back though it is.
    ///
    /// Cancel safe: what was condemned stays so, or is pardoned by the next collection.
    pub async fn evict(&self) -> bool {
        let capacity = self.options.capacity;
        let before = self.parts.store.stats().stored_bytes;
        let Some(over) = before.checked_sub(capacity).filter(|over| *over > 0) else {
            self.lock().over_capacity = 0;
            return true;
        };
        let wanted = over.saturating_add(capacity / 100 * (100 - LEFT_PERCENT));
        // The first condemns, the second removes.
        for bytes in [wanted, 0] {
            let ask = GcAsk { grace: Some(Duration::ZERO), full_speed: true, evict: Some(bytes), ..GcAsk::default() };
            if self.collect(ask).await.is_err() {
                return false; // said there
            }
        }
        let left = self.parts.store.stats().stored_bytes;
        let over = left.saturating_sub(capacity);
        let mut status = self.lock();
        status.over_capacity = over;
        status.totals.evictions += 1;
        drop(status);
        if over > 0 {
            tracing::warn!(
                capacity,
                stored = left,
                "the chunk store is above its capacity: what else is here may be only here (the home of its volume is not in sync, or \
                 not in reach), is or was to be here by its volume's policy, was read lately, or an upload under way may count on it; \
                 raise `[limits] chunk_capacity`, or see `causeway status`"
            );
        } else {
            tracing::info!(before, stored = left, "copies of what other sites have were evicted");
        }
        left < before
    }
}
