//! The feed of a volume: a stream of events that survives the loss of its node.

use std::time::Duration;

use bytes::Bytes;
use tonic::{Status, Streaming};

use causeway_base::{Seq, VolumeId};
use causeway_proto::v1;

use super::attempt::{Call, bad_answer};
use super::error::Failure;
use super::{ClientError, NamespaceClient};
use crate::manage::{FeedBatch, FeedPlace};
use crate::wire::Wire;

/// A node that says nothing for so long is given up: it tells where it is every 5 s.
const SILENCE_MAX: Duration = Duration::from_secs(15);

/// A feed under way; see [`NamespaceClient::feed`]. Dropping it ends it.
#[derive(Debug)]
pub struct Feed {
    client: NamespaceClient,
    what: String,
    request: v1::FeedRequest,
    stream: Option<(String, Streaming<v1::FeedResponse>)>,
    ended: bool,
}

impl NamespaceClient {
    /// The ordered changes of a volume from a place on, at or below `prefix`; with `follow` also those to come. Each event
    /// once, none left out, whatever happens to nodes and leaders.
    #[must_use]
    pub fn feed(&self, volume: VolumeId, from: FeedPlace, prefix: &[u8], follow: bool) -> Feed {
        let request = v1::FeedRequest {
            volume: volume.0,
            after: from.after.0,
            skip: from.skip,
            prefix: Bytes::copy_from_slice(prefix),
            follow,
        };
        Feed { client: self.clone(), what: format!("follow {volume}"), request, stream: None, ended: false }
    }
}

impl Feed {
    /// The next events, some of one commit, or none and how far the feed has come. `None`: everything was told, and the feed
    /// does not follow.
    ///
    /// # Errors
    /// [`ClientError::FellOff`] if the place is not kept at any node any more; else [`ClientError`] once no node has answered
    /// for the client's deadline. The feed may be asked again. Cancel safety: may be dropped at any time without loss.
    pub async fn next(&mut self) -> Result<Option<FeedBatch>, ClientError> {
        let mut call = self.client.call(self.what.as_str());
        loop {
            if self.ended {
                return Ok(None);
            }
            match self.step(&mut call).await {
                Ok(batch) => {
                    call.succeeded(&self.client);
                    let batch = batch.map(|batch| self.taken(batch)).transpose()?;
                    if let Some(batch) = batch {
                        return Ok(Some(batch));
                    }
                    self.ended = true;
                }
                Err(failure) => {
                    self.stream = None;
                    self.client.failed(&mut call, failure).await?;
                }
            }
        }
    }

    /// Where the feed goes on: behind everything that was handed out.
    #[must_use]
    pub fn place(&self) -> FeedPlace {
        FeedPlace { after: Seq(self.request.after), skip: self.request.skip }
    }

    async fn step(&mut self, call: &mut Call) -> Result<Option<v1::FeedResponse>, Failure> {
        let (node, limit) = self.client.next(call);
        if self.stream.is_none() {
            let request = self.client.stream_request(self.request.clone());
            let opening = async { node.manage().feed(request).await };
            let opened = tokio::time::timeout(limit, opening).await.map_err(|_| silent(&node.address))?;
            let stream = opened.map_err(|status| Failure::of(&status, &node.address))?.into_inner();
            self.stream = Some((node.address.clone(), stream));
        }
        let Some((address, stream)) = &mut self.stream else { return Ok(None) };
        match tokio::time::timeout(SILENCE_MAX, stream.message()).await {
            Ok(Ok(Some(message))) => Ok(Some(message)),
            Ok(Ok(None)) if !self.request.follow => Ok(None),
            Ok(Ok(None)) => Err(Failure::of(&Status::unavailable("the stream ended"), address)),
            Ok(Err(status)) => Err(Failure::of(&status, address)),
            Err(_) => Err(silent(address)),
        }
    }

    /// Remembers where to go on.
    fn taken(&mut self, message: v1::FeedResponse) -> Result<FeedBatch, ClientError> {
        let batch = FeedBatch::from_wire(message).map_err(|error| bad_answer(&self.what, &error))?;
        if let Some(last) = batch.events.last() {
            (self.request.after, self.request.skip) = (last.seq.0.saturating_sub(1), last.index + 1);
        }
        if let Some(through) = batch.through {
            (self.request.after, self.request.skip) = (self.request.after.max(through.0), 0);
        }
        Ok(batch)
    }
}

fn silent(address: &str) -> Failure {
    Failure::of(&Status::deadline_exceeded("no message of the feed came in time"), address)
}
