//! Trying a call: which node, how long, and when to give up.

use std::future::Future;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::Duration;

use causeway_base::RetryClass;
use rand::Rng;
use tokio::time::Instant;
use tonic::{Request, Response, Status};

use super::error::Failure;
use super::{ClientError, NamespaceClient, Node};
use crate::rpc;
use crate::wire::WireError;

/// Longest pause between two attempts.
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// One call of a caller: what it is for people, when it ends, what happened so far.
#[derive(Debug)]
pub(super) struct Call {
    pub(super) what: String,
    started: Instant,
    ends: Instant,
    pause: Duration,
    /// An attempt may have had its effect. Only of interest if it has one.
    pub(super) unknown: bool,
    at: usize,
    refused_by: usize,
}

impl NamespaceClient {
    pub(super) fn call(&self, what: impl Into<String>) -> Call {
        let started = Instant::now();
        Call {
            what: what.into(),
            started,
            ends: started + self.deadline,
            pause: self.shared.config.pause,
            unknown: false,
            at: self.shared.preferred.load(Ordering::Relaxed),
            refused_by: 0,
        }
    }

    /// Runs `attempt` at one node after the other until one answers, one refuses for good, or time is up. For calls whose
    /// repetition is harmless.
    pub(super) async fn try_all<T, F, Fut>(&self, what: impl Into<String>, mut attempt: F) -> Result<T, ClientError>
    where
        F: FnMut(Node, Duration) -> Fut,
        Fut: Future<Output = Result<Response<T>, Status>>,
    {
        let mut call = self.call(what);
        loop {
            let (node, limit) = self.next(&call);
            match attempt(node.clone(), limit).await {
                Ok(response) => {
                    self.shared.preferred.store(call.at, Ordering::Relaxed);
                    return Ok(response.into_inner());
                }
                Err(status) => self.failed(&mut call, Failure::of(&status, &node.address)).await?,
            }
        }
    }

    /// The node to ask now, and how long it may take.
    pub(super) fn next(&self, call: &Call) -> (Node, Duration) {
        let node = &self.shared.nodes[call.at % self.shared.nodes.len()];
        (node.clone(), call.left().min(self.shared.config.attempt))
    }

    /// As [`Self::failed`], but stays with the node.
    pub(super) async fn stay(&self, call: &mut Call, failure: Failure) -> Result<(), ClientError> {
        let at = call.at;
        let unknown = call.unknown;
        self.failed(call, failure).await?;
        (call.at, call.unknown) = (at, unknown);
        Ok(())
    }

    /// An attempt failed: pauses and moves on to the next node, or ends the call.
    pub(super) async fn failed(&self, call: &mut Call, failure: Failure) -> Result<(), ClientError> {
        call.unknown |= failure.class == RetryClass::Unknown;
        let others = self.shared.nodes.len();
        // Nodes may differ in what they refuse only by whom they trust; one round settles it.
        let mut over = match failure.class {
            // Or by how much of the past they keep.
            RetryClass::Refused if failure.reason.is_empty() || failure.oldest.is_some() => {
                call.refused_by += 1;
                call.refused_by >= others
            }
            RetryClass::Refused | RetryClass::Damaged => true,
            RetryClass::Transient | RetryClass::Unknown => failure.missing.is_some(),
        };
        let pause = self.jittered(call.pause);
        over |= Instant::now() + pause >= call.ends;
        if over {
            return Err(failure.end(&call.what, call.started.elapsed(), call.unknown));
        }
        tracing::debug!(
            what = call.what,
            node = failure.node,
            message = failure.message,
            "attempt failed, trying again"
        );
        call.at = (call.at + 1) % others;
        call.pause = (call.pause * 2).min(PAUSE_MAX);
        tokio::time::sleep(pause).await;
        Ok(())
    }

    /// Half to all of `pause`, so that clients that failed together do not come back together.
    fn jittered(&self, pause: Duration) -> Duration {
        let mut rng = self.shared.jitter.lock().unwrap_or_else(PoisonError::into_inner);
        pause.mul_f64(rng.random_range(0.5..=1.0))
    }

    /// A message with the metadata that every call carries.
    pub(super) fn request<T>(&self, message: T, limit: Duration) -> Request<T> {
        let mut request = Request::new(message);
        rpc::stamp(&mut request, self.shared.config.cluster, Some(limit));
        request
    }

    /// As [`Self::request`] without a deadline: for a stream, whose whole life it would bound.
    pub(super) fn stream_request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        rpc::stamp(&mut request, self.shared.config.cluster, None);
        request
    }
}

impl Call {
    pub(super) fn succeeded(&self, client: &NamespaceClient) {
        client.shared.preferred.store(self.at, Ordering::Relaxed);
    }

    pub(super) fn left(&self) -> Duration {
        self.ends.saturating_duration_since(Instant::now())
    }

    pub(super) fn waited(&self) -> Duration {
        self.started.elapsed()
    }
}

/// The error for an answer that does not decode.
pub(super) fn bad_answer(what: &str, error: &WireError) -> ClientError {
    ClientError::BadAnswer { what: what.to_owned(), node: "the node".to_owned(), message: error.to_string() }
}

/// A path for people: at most 120 characters of it.
pub(super) fn shown(path: &[u8]) -> String {
    let text = String::from_utf8_lossy(path);
    match text.char_indices().nth(120) {
        Some((cut, _)) => format!("{:?}…", &text[..cut]),
        None => format!("{text:?}"),
    }
}
