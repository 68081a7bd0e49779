//! Reads chunks in order, wherever they are.

use std::collections::BTreeMap;

use bytes::Bytes;
use causeway_base::{ChunkId, SiteName};
use causeway_transport::quic::PeerAddr;
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

use super::{About, ChunkClient, ClientError, answer, request};
use crate::wire::{Cause, ChunkRequest, IDS_MAX, Received, Receiver, service};

/// Verified chunks ahead of the reader: at the largest average size 16 MiB, usually 4.
const CHUNKS_AHEAD: usize = 64;
/// Chunks held because an earlier one is late. A node sends late only what it had to fetch again within a window.
const LATE_MAX: usize = 256;

impl ChunkClient {
    /// Reads chunks through a node, which fetches what it does not have. `origin` is the site to ask first. The calls are
    /// made as the chunks are taken; a list of any length is fine.
    #[must_use]
    pub fn read(&self, to: &PeerAddr, about: &About, origin: Option<SiteName>, ids: Vec<ChunkId>) -> ChunkReader {
        let (out, chunks) = mpsc::channel(CHUNKS_AHEAD);
        let about = About { cause: Cause::Read, ..about.clone() };
        let (client, to) = (self.clone(), to.clone());
        let count = ids.len();
        let task = tokio::spawn(async move {
            for (call, ids) in ids.chunks(IDS_MAX).enumerate() {
                let request = ChunkRequest { origin: origin.clone(), ..request(&about, ids) };
                if let Err(error) = client.read_once(&to, &about, request, call * IDS_MAX, out.clone()).await {
                    let _ = out.send(Err(error)).await;
                    return;
                }
            }
        });
        ChunkReader { count, next: 0, late: BTreeMap::new(), chunks, _task: AbortOnDropHandle::new(task) }
    }

    async fn read_once(
        &self,
        to: &PeerAddr,
        about: &About,
        request: ChunkRequest,
        first: usize,
        out: mpsc::Sender<Result<(usize, Bytes), ClientError>>,
    ) -> Result<(), ClientError> {
        let tally = self.tally(to, about);
        let ids = request.ids.clone();
        let wanted = ids.iter().map(|id| (*id, None)).collect();
        let (send, recv) = self.call(to, service::READ, request.encode()?, &tally).await?;
        send.finish()?;
        let counts = answer::run(recv, Receiver::new(about.realm.clone(), wanted), tally, move |received: Received| {
            let item = match received {
                Received::Chunk { index, plain, .. } => Ok((first + index, plain)),
                Received::Missing { index } | Received::Corrupt { index } | Received::Baseless { index } => {
                    Err(ClientError::Chunk(ids[index]))
                }
            };
            let good = item.is_ok();
            out.blocking_send(item).is_ok() && good
        });
        counts.await.map(|_| ())
    }
}

/// Chunks as they come. Dropped, it ends the call.
#[derive(Debug)]
pub struct ChunkReader {
    count: usize,
    next: usize,
    /// By their place in the list.
    late: BTreeMap<usize, Bytes>,
    chunks: mpsc::Receiver<Result<(usize, Bytes), ClientError>>,
    _task: AbortOnDropHandle<()>,
}

impl ChunkReader {
    /// The plain, verified bytes of the next chunk; `None` after the last.
    ///
    /// Cancel safe.
    ///
    /// # Errors
    /// [`ClientError`]; nothing follows.
    pub async fn next(&mut self) -> Result<Option<Bytes>, ClientError> {
        while self.next < self.count {
            if let Some(plain) = self.late.remove(&self.next) {
                self.next += 1;
                return Ok(Some(plain));
            }
            let (place, plain) = match self.chunks.recv().await {
                Some(chunk) => chunk?,
                None => return Err(ClientError::OutOfTurn("the answers end before the last chunk")),
            };
            if self.late.len() == LATE_MAX {
                return Err(ClientError::OutOfTurn("too many chunks before their turn"));
            }
            self.late.insert(place, plain);
        }
        Ok(None)
    }
}
