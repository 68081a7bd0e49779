//! Batches and sessions.

use std::time::Duration;

use causeway_base::{ClientId, RetryClass, VolumeId};
use causeway_namespace_core::command::{OPS_MAX, Op, Outcome, Request, RequestBody, SessionId};
use causeway_namespace_core::inode::{Content, ManifestRef};
use causeway_namespace_core::root::VolumeRecord;
use tokio::time::Instant;

use super::Namespace;
use crate::client::Numbered;
use crate::content::ContentHold;
use crate::error::Error;
use causeway_namespace_raft::Proposed;

impl Namespace {
    /// Opens a session of at-most-once requests on a volume.
    ///
    /// # Errors
    /// [`Error`]. Cancel safety: dropped, it may have opened one; that is evicted when its place is needed.
    pub async fn open_session(
        &self,
        volume: VolumeId,
        client: ClientId,
        deadline: Duration,
    ) -> Result<(SessionId, Proposed), Error> {
        let started = Instant::now();
        let volume = self.find_volume(volume, deadline).await?;
        let deadline = deadline.saturating_sub(started.elapsed());
        let proposed = self.propose(&volume, RequestBody::OpenSession { client }, deadline).await?;
        match proposed.outcome {
            Outcome::Session(id) => Ok((id, proposed)),
            Outcome::Invalid(reason) => Err(Error::Invalid(reason)),
            other => Err(Error::Invalid(format!("the volume answered {other:?}"))),
        }
    }

    /// Applies a batch at most once. Every outcome of the volume is an `Ok`, refusals too.
    ///
    /// Contents in chunks must be durable on this node, and get its site as origin.
    ///
    /// # Errors
    /// [`Error`]; after [`Error::Unknown`] the same session and number again, at any node, tell what became of it.
    /// Cancel safety: dropping it leaves the outcome unknown.
    pub async fn mutate(&self, volume: VolumeId, batch: Numbered, deadline: Duration) -> Result<Proposed, Error> {
        let started = Instant::now();
        let volume = self.find_volume(volume, deadline).await?;
        let Numbered { session, number, acked_below, mut ops } = batch;
        if ops.is_empty() || ops.len() > OPS_MAX {
            return Err(Error::Invalid(format!("a batch of {} operations, 1 to {OPS_MAX} are allowed", ops.len())));
        }
        let hold = self.check_contents(&volume, &mut ops, deadline).await?;
        let body = RequestBody::Mutate { session, number, acked_below, ops };
        let proposed = self.propose(&volume, body, deadline.saturating_sub(started.elapsed())).await;
        if !matches!(&proposed, Err(error) if error.retry_class() == RetryClass::Unknown) {
            hold.settle();
        }
        proposed
    }

    /// Refuses a batch whose contents are not all durable here.
    pub(super) async fn check_contents(
        &self,
        volume: &VolumeRecord,
        ops: &mut [Op],
        deadline: Duration,
    ) -> Result<ContentHold, Error> {
        let started = Instant::now();
        let manifests = self.contents(volume, ops)?;
        let mut hold = ContentHold::default();
        if !manifests.is_empty() {
            let check = self.content.check(volume, &manifests);
            let out_of_time = || Error::NoLeader {
                group: volume.id,
                waited: started.elapsed(),
                last: "the check of its contents took too long".to_owned(),
            };
            hold = tokio::time::timeout(deadline, check).await.map_err(|_| out_of_time())??;
        }
        Ok(hold)
    }

    /// Checks the contents of a batch against the volume's settings, names this site as their origin, and gives those in
    /// chunks.
    fn contents(&self, volume: &VolumeRecord, ops: &mut [Op]) -> Result<Vec<ManifestRef>, Error> {
        let mut manifests = Vec::new();
        for op in ops {
            match op {
                Op::PutFile { content: Content::Manifest(manifest), .. } => {
                    manifest.origin = self.node.site.clone();
                    manifests.push(manifest.clone());
                }
                Op::PutFile { content: Content::Inline(bytes), at, .. }
                    if bytes.len() > volume.spec.inline_bytes_max as usize =>
                {
                    return Err(Error::Invalid(format!(
                        "{}: {} bytes inline, volume {:?} keeps at most {} inline; store it in chunks",
                        String::from_utf8_lossy(&at.path),
                        bytes.len(),
                        volume.spec.name,
                        volume.spec.inline_bytes_max,
                    )));
                }
                _ => {}
            }
        }
        Ok(manifests)
    }

    pub(super) async fn propose(
        &self,
        volume: &VolumeRecord,
        body: RequestBody,
        deadline: Duration,
    ) -> Result<Proposed, Error> {
        self.check_fence(volume.id)?;
        let request = Request { at: self.clock.now(), body };
        self.forward.propose(volume.id, &volume.spec.voters, &request, deadline).await
    }
}
