//! Which chunks does a node lack?

use causeway_base::ChunkId;
use causeway_transport::quic::PeerAddr;

use super::{About, ChunkClient, ClientError, request};
use crate::exchange;
use crate::wire::{Cause, Frame, IDS_MAX, service};

impl ChunkClient {
    /// Those of `ids` that the node lacks, in their order. Costs 32 bytes an id up and a bit down.
    ///
    /// Cancel safe.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn missing(&self, to: &PeerAddr, about: &About, ids: &[ChunkId]) -> Result<Vec<ChunkId>, ClientError> {
        let mut missing = Vec::new();
        let about = About { cause: Cause::Query, ..about.clone() };
        for ids in ids.chunks(IDS_MAX) {
            let bits = self.ask(to, &about, ids).await?;
            let is_missing = |index: usize| bits[index / 8] >> (index % 8) & 1 == 1;
            missing.extend(ids.iter().enumerate().filter(|(index, _)| is_missing(*index)).map(|(_, id)| *id));
        }
        Ok(missing)
    }

    /// A bit for each id, as many bytes as they need.
    async fn ask(&self, to: &PeerAddr, about: &About, ids: &[ChunkId]) -> Result<Vec<u8>, ClientError> {
        let tally = self.tally(to, about);
        let (send, mut recv) = self.call(to, service::MISSING, request(about, ids).encode()?, &tally).await?;
        send.finish()?;
        let mut bits = None;
        while let Some(bytes) = exchange::read(&mut recv).await? {
            let len = bytes.len();
            let frame = Frame::parse(bytes)?;
            tally.received(&frame, len);
            match frame {
                Frame::Bitmap(found) if found.len() == ids.len().div_ceil(8) => bits = Some(found.to_vec()),
                Frame::End(_) => break,
                Frame::Refused(refusal) => return Err(refusal.into()),
                _ => return Err(ClientError::OutOfTurn("a list of missing chunks was expected")),
            }
        }
        bits.ok_or(ClientError::OutOfTurn("no list of missing chunks came"))
    }
}
