//! Outgoing connections: one per address and expected peer, made once for all who want it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::FutureExt;
use futures::future::{BoxFuture, Shared};
use quinn::Connection;

use super::CallError;
use super::ledger::Entry;
use super::shaper::Assignment;
use crate::{ExpectPeer, PeerId};

/// Where a peer is, and who must be there.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerAddr {
    /// `host:port`; a name is resolved for each new connection.
    pub addr: String,
    /// Who must answer.
    pub expect: ExpectPeer,
}

/// An open outgoing connection.
#[derive(Clone, Debug)]
pub(super) struct Link {
    pub(super) connection: Connection,
    pub(super) peer: PeerId,
    pub(super) _held: Arc<(Entry, Assignment)>,
}

/// A connection, or the one attempt to make it that everybody waits for.
pub(super) type Connecting = Shared<BoxFuture<'static, Result<Link, CallError>>>;

#[derive(Debug, Default)]
pub(super) struct Pool(Mutex<Slots>);

#[derive(Default)]
struct Slots {
    used: u64,
    slots: BTreeMap<PeerAddr, Slot>,
}

struct Slot {
    last_used: u64,
    connecting: Connecting,
}

impl Pool {
    /// The connection to `to`, or `connect`'s attempt to make one, shared with whoever asks meanwhile.
    pub(super) fn get(
        &self,
        to: &PeerAddr,
        max: usize,
        connect: impl FnOnce() -> BoxFuture<'static, Result<Link, CallError>>,
    ) -> Connecting {
        let mut slots = self.slots();
        slots.used += 1;
        let now = slots.used;
        if let Some(slot) = slots.slots.get_mut(to)
            && slot.usable()
        {
            slot.last_used = now;
            return slot.connecting.clone();
        }
        slots.slots.retain(|_, slot| slot.usable());
        while slots.slots.len() >= max.max(1) {
            let oldest = slots.slots.iter().min_by_key(|(_, slot)| slot.last_used).map(|(to, _)| to.clone());
            // There is one, since there are `max` of them. Its calls go on; the connection closes after the last.
            let Some(oldest) = oldest else { break };
            slots.slots.remove(&oldest);
        }
        let connecting = connect().shared();
        slots.slots.insert(to.clone(), Slot { last_used: now, connecting: connecting.clone() });
        connecting
    }

    /// Forgets the connection with this id, if it is still the one in use.
    pub(super) fn forget(&self, to: &PeerAddr, stable_id: usize) {
        let mut slots = self.slots();
        let is_it =
            |slot: &Slot| matches!(slot.connecting.peek(), Some(Ok(link)) if link.connection.stable_id() == stable_id);
        if slots.slots.get(to).is_some_and(is_it) {
            slots.slots.remove(to);
        }
    }

    /// Forgets all.
    pub(super) fn clear(&self) {
        self.slots().slots.clear();
    }

    fn slots(&self) -> MutexGuard<'_, Slots> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Slot {
    /// Still connecting, or open.
    fn usable(&self) -> bool {
        match self.connecting.peek() {
            None => true,
            Some(Ok(link)) => link.connection.close_reason().is_none(),
            Some(Err(_)) => false,
        }
    }
}

impl std::fmt::Debug for Slots {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.slots.keys()).finish()
    }
}
