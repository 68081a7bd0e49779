//! Bases of deltas out of the local store: at the source to encode against, at the asker to decode against.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use causeway_base::ChunkId;
use causeway_dedup::Realm;
use causeway_dedup::delta::BASE_BYTES_MAX;

use crate::local::LocalChunks;

/// Plain bytes of chunks read last: neighbouring chunks of a file have overlapping bases.
const RECENT_BYTES: usize = 4 << 20;

/// Reads and joins chunks, each verified. Blocks. Memory: [`RECENT_BYTES`], a chunk, and what it gives.
pub(crate) struct BaseReader {
    local: Arc<dyn LocalChunks>,
    realm: Realm,
    recent: VecDeque<(ChunkId, Bytes)>,
    recent_bytes: usize,
}

impl fmt::Debug for BaseReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BaseReader").field("recent_bytes", &self.recent_bytes).finish_non_exhaustive()
    }
}

impl BaseReader {
    pub(crate) fn new(local: Arc<dyn LocalChunks>, realm: Realm) -> Self {
        Self { local, realm, recent: VecDeque::new(), recent_bytes: 0 }
    }

    /// The plain bytes of these chunks, joined; `None` if one is not here, damaged or of another realm, or if they are too
    /// long for a base. A store that fails is noticed by whoever reads from it for more than a base.
    pub(crate) fn join(&mut self, chunks: &[ChunkId]) -> Option<Vec<u8>> {
        let mut joined = Vec::new();
        for id in chunks {
            let plain = self.chunk(id)?;
            if joined.len() + plain.len() > BASE_BYTES_MAX {
                return None;
            }
            joined.extend_from_slice(&plain);
        }
        Some(joined)
    }

    fn chunk(&mut self, id: &ChunkId) -> Option<Bytes> {
        if let Some((_, plain)) = self.recent.iter().find(|(recent, _)| recent == id) {
            return Some(plain.clone());
        }
        let plain = self.local.get(id).ok()??.decode(&self.realm).ok()?;
        self.recent_bytes += plain.len();
        self.recent.push_back((*id, plain.clone()));
        while self.recent_bytes > RECENT_BYTES {
            let Some((_, oldest)) = self.recent.pop_front() else { break };
            self.recent_bytes -= oldest.len();
        }
        Some(plain)
    }
}
