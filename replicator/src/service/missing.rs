//! MISSING: which of these does the node lack?

use std::collections::BTreeSet;

use causeway_base::ChunkId;

use super::{Call, ChunkService, Cut, refuse};
use crate::exchange;
use crate::local;
use crate::wire::{EndCounts, Frame};

impl ChunkService {
    pub(super) async fn missing(&self, mut call: Call) -> Result<(), Cut> {
        let _turn = match self.turn(&self.queries).await {
            Ok(turn) => turn,
            Err(refusal) => return refuse(call.send, refusal, &call.tally).await,
        };
        let ids = std::mem::take(&mut call.request.ids);
        let missing = match local::missing(&self.local, ids.clone()).await {
            Ok(missing) => missing,
            Err(error) => {
                let Cut::Refused(refusal) = error.into() else { return Ok(()) };
                return refuse(call.send, refusal, &call.tally).await;
            }
        };
        let counts = EndCounts { missing: u32::try_from(missing.len()).unwrap_or(u32::MAX), ..EndCounts::default() };
        let bits = bitmap(&ids, &missing.into_iter().collect());
        exchange::write(&mut call.send, &Frame::Bitmap(bits.into()), &call.tally).await?;
        exchange::write(&mut call.send, &Frame::End(counts), &call.tally).await?;
        Ok(call.send.finish()?)
    }
}

fn bitmap(ids: &[ChunkId], missing: &BTreeSet<ChunkId>) -> Vec<u8> {
    let mut bits = vec![0_u8; ids.len().div_ceil(8)];
    for (index, id) in ids.iter().enumerate() {
        bits[index / 8] |= u8::from(missing.contains(id)) << (index % 8);
    }
    bits
}
