//! Decoded blocks that were used lately.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use super::block::Block;

type Key = (u128, u32);

/// Decoded blocks of all segments of a repository, bounded by memory; the one read longest ago goes first.
#[derive(Debug)]
pub struct BlockCache {
    bytes_max: u64,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    blocks: BTreeMap<Key, Arc<Block>>,
    order: VecDeque<Key>,
    bytes: u64,
}

impl BlockCache {
    /// Holds at most about `bytes_max`.
    #[must_use]
    pub fn new(bytes_max: u64) -> Self {
        Self { bytes_max, state: Mutex::default() }
    }

    pub(crate) fn get(&self, segment: u128, block: u32) -> Option<Arc<Block>> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.blocks.get(&(segment, block)).cloned()
    }

    pub(crate) fn insert(&self, segment: u128, number: u32, block: Arc<Block>) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let memory = block.memory as u64;
        if state.blocks.insert((segment, number), block).is_none() {
            state.order.push_back((segment, number));
            state.bytes += memory;
        }
        // The newest stays even if it alone is too large: its reader is about to use it.
        while state.bytes > self.bytes_max && state.order.len() > 1 {
            let Some(oldest) = state.order.pop_front() else { break };
            if let Some(block) = state.blocks.remove(&oldest) {
                state.bytes = state.bytes.saturating_sub(block.memory as u64);
            }
        }
    }
}
