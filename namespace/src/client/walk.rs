//! A walk: a stream of entries that survives the loss of its node.

use bytes::Bytes;
use tonic::{Status, Streaming};

use causeway_base::VolumeId;
use causeway_namespace_core::command::{At, Errno};
use causeway_proto::v1;

use super::attempt::{Call, bad_answer, shown};
use super::error::Failure;
use super::{ClientError, NamespaceClient};
use crate::entry::Entry;
use crate::read::{Freshness, ReadState};
use crate::wire::{self, Wire};

/// Entries of a walk, some at a time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WalkBatch {
    /// What these entries stand for.
    pub state: ReadState,
    /// In depth-first name order.
    pub entries: Vec<Entry>,
}

/// A walk under way; see [`NamespaceClient::walk`]. Dropping it ends it.
#[derive(Debug)]
pub struct Walk {
    client: NamespaceClient,
    what: String,
    request: v1::WalkRequest,
    stream: Option<(String, Streaming<v1::WalkResponse>)>,
    ended: bool,
}

/// A message of the stream, or why there is none.
enum Step {
    Batch(WalkBatch),
    End(Option<WalkBatch>),
    Missing(Errno),
    Failed(Failure),
}

impl Walk {
    pub(super) fn new(client: NamespaceClient, volume: VolumeId, at: At, plus: bool, freshness: Freshness) -> Self {
        let what = format!("walk {} in {volume}", shown(&at.path));
        let request = v1::WalkRequest {
            volume: volume.0,
            at: Some(at.into_wire()),
            plus,
            after: None,
            consistency: Some(freshness.into_wire()),
        };
        Self { client, what, request, stream: None, ended: false }
    }

    /// The next entries; `None` at the end. `Ok` with an [`Errno`] inside, once, if the start cannot be walked.
    ///
    /// The client's deadline bounds each call of this, not the walk.
    ///
    /// # Errors
    /// [`ClientError`]; the walk has ended then. Cancel safety: may be dropped at any time; the next call goes on without
    /// loss.
    pub async fn next(&mut self) -> Result<Option<Result<WalkBatch, Errno>>, ClientError> {
        let mut call = self.client.call(self.what.as_str());
        while !self.ended {
            match self.step(&mut call).await? {
                Step::Batch(batch) => return Ok(Some(Ok(batch))),
                Step::End(last) => {
                    self.ended = true;
                    return Ok(last.map(Ok));
                }
                Step::Missing(errno) => {
                    self.ended = true;
                    return Ok(Some(Err(errno)));
                }
                Step::Failed(failure) => {
                    self.stream = None;
                    let failed = self.client.failed(&mut call, failure).await;
                    self.ended = failed.is_err();
                    failed?;
                }
            }
        }
        Ok(None)
    }

    async fn step(&mut self, call: &mut Call) -> Result<Step, ClientError> {
        let (node, limit) = self.client.next(call);
        if self.stream.is_none() {
            let request = self.client.stream_request(self.request.clone());
            let opening = async { node.namespace().walk(request).await };
            match tokio::time::timeout(limit, opening).await {
                Ok(Ok(response)) => self.stream = Some((node.address.clone(), response.into_inner())),
                Ok(Err(status)) => return Ok(Step::Failed(Failure::of(&status, &node.address))),
                Err(_) => return Ok(Step::Failed(silent(&node.address))),
            }
        }
        let Some((address, stream)) = &mut self.stream else { return Ok(Step::End(None)) };
        let answer = match tokio::time::timeout(limit, stream.message()).await {
            Ok(Ok(Some(answer))) => answer,
            Ok(Ok(None)) => {
                let status = Status::unavailable("the stream ended before the walk did");
                return Ok(Step::Failed(Failure::of(&status, address)));
            }
            Ok(Err(status)) => return Ok(Step::Failed(Failure::of(&status, address))),
            Err(_) => return Ok(Step::Failed(silent(address))),
        };
        call.succeeded(&self.client);
        self.taken(answer).map_err(|error| bad_answer(&self.what, &error))
    }

    fn taken(&mut self, answer: v1::WalkResponse) -> Result<Step, wire::WireError> {
        if answer.missing != 0 {
            return Ok(Step::Missing(Errno::from_wire(answer.missing)?));
        }
        let state: ReadState = wire::required(answer.state, "state")?;
        let entries: Vec<Entry> = wire::all(answer.entries)?;
        if let Some(last) = entries.last() {
            self.request.after = Some(last.name.clone());
        }
        // Going on elsewhere must not go back in time.
        if let Some(consistency) = &mut self.request.consistency {
            consistency.seq_min = consistency.seq_min.max(state.seq.0);
        }
        let batch = WalkBatch { state, entries };
        Ok(if answer.end { Step::End((!batch.entries.is_empty()).then_some(batch)) } else { Step::Batch(batch) })
    }

    /// Where a walk that starts anew would go on: the path of the last entry received.
    #[must_use]
    pub fn after(&self) -> Option<&Bytes> {
        self.request.after.as_ref()
    }
}

fn silent(address: &str) -> Failure {
    Failure::of(&Status::deadline_exceeded("no message of the walk came in time"), address)
}
