//! Takes an answer: frames are read on the reactor, decoded and verified on a blocking thread.

use bytes::Bytes;
use causeway_transport::quic::RecvStream;
use tokio::sync::mpsc;

use super::ClientError;
use crate::exchange::{self, Tally};
use crate::local::blocking;
use crate::source::Consumer;
use crate::wire::{EndCounts, Frame, Received, Receiver};

/// Frames between the two: at most as many times 1 MiB.
const FRAMES_AHEAD: usize = 4;

/// Runs an answer to its end. Cancel safe: the thread ends with what it has at hand.
pub(super) async fn run(
    mut recv: RecvStream,
    mut receiver: Receiver,
    tally: Tally,
    mut consume: impl Consumer + 'static,
) -> Result<EndCounts, ClientError> {
    let (frames, mut waiting) = mpsc::channel::<Bytes>(FRAMES_AHEAD);
    let mut take = move |consume: &mut dyn Consumer| {
        while let Some(bytes) = waiting.blocking_recv() {
            let len = bytes.len();
            let frame = Frame::parse(bytes)?;
            tally.received(&frame, len);
            let mut go_on = true;
            let done = receiver.frame(frame, |received| {
                if let Received::Chunk { plain, .. } = &received {
                    tally.verified(plain.len());
                }
                go_on = go_on && consume.take(received);
            })?;
            if !go_on {
                return Err(ClientError::Stopped);
            }
            if let Some(counts) = done {
                return Ok(Some(counts));
            }
        }
        Ok(None)
    };
    let work = blocking(move || {
        let taken = take(&mut consume);
        consume.finish();
        taken
    });
    let reading = async move {
        while let Some(bytes) = exchange::read(&mut recv).await? {
            if frames.send(bytes).await.is_err() {
                break; // the thread has its end or an error
            }
        }
        Ok::<_, ClientError>(())
    };
    let (worked, read) = tokio::join!(work, reading);
    match worked?? {
        Some(counts) => Ok(counts),
        None => {
            read?;
            Err(ClientError::OutOfTurn("the stream ends before the answer does"))
        }
    }
}
