//! Snapshots, quotas, locks, and differences of two states.

use causeway_base::{Seq, VolumeId};
use causeway_namespace_core::query::TreeChange;
use causeway_proto::v1;

use super::attempt::bad_answer;
use super::error::Failure;
use super::{ClientError, NamespaceClient, Node};
use crate::manage::{HeldLock, Quotas, Snapshots, Version};
use crate::read::{Freshness, Read, ReadState};
use crate::wire::{self, Wire};

/// What differs between two states.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Diff {
    /// What is gone first, then what is renamed, new, and changed.
    pub changes: Vec<TreeChange>,
    /// How many changed records were looked at: what the answer cost.
    pub records: u64,
}

impl NamespaceClient {
    /// The snapshots of a volume, and how far back the answering node can read.
    ///
    /// # Errors
    /// [`ClientError`]. Cancel safety: may be dropped at any time.
    pub async fn snapshots(
        &self,
        volume: VolumeId,
        freshness: impl Into<Freshness>,
    ) -> Result<Read<Snapshots>, ClientError> {
        let what = format!("list the snapshots of {volume}");
        let message = v1::SnapshotsRequest { volume: volume.0, consistency: Some(freshness.into().into_wire()) };
        let attempt = |node: Node, limit| {
            let request = self.request(message, limit);
            async move { node.manage().snapshots(request).await }
        };
        let answer = self.try_all(what.as_str(), attempt).await?;
        let decode = || {
            let state: ReadState = wire::required(answer.state, "state")?;
            let value = Snapshots {
                snapshots: wire::all(answer.snapshots)?,
                oldest: Seq(answer.oldest),
                oldest_time: (answer.oldest_time != 0).then_some(causeway_base::Timestamp(answer.oldest_time)),
                retention: answer.retention.map(Wire::from_wire).transpose()?,
            };
            Ok(Read { state, value })
        };
        decode().map_err(|error| bad_answer(&what, &error))
    }

    /// The seq that a version stands for; `None` if there is no such snapshot.
    ///
    /// # Errors
    /// [`ClientError::FellOff`] for a time of which no node that was asked keeps a state; else [`ClientError`]. Cancel safety:
    /// may be dropped at any time.
    pub async fn find_version(
        &self,
        volume: VolumeId,
        version: Version,
        freshness: impl Into<Freshness>,
    ) -> Result<Option<Seq>, ClientError> {
        use v1::find_version_request::Which;
        let which = Some(match version {
            Version::Snapshot(name) => Which::Name(name),
            Version::Time(time) => Which::Time(time.0),
        });
        let consistency = Some(freshness.into().into_wire());
        let message = v1::FindVersionRequest { volume: volume.0, which, consistency };
        let attempt = |node: Node, limit| {
            let request = self.request(message.clone(), limit);
            async move { node.manage().find_version(request).await }
        };
        let answer = self.try_all(format!("find a version of {volume}"), attempt).await?;
        Ok((answer.seq != 0).then_some(Seq(answer.seq)))
    }

    /// Quotas and what counts against them.
    ///
    /// # Errors
    /// [`ClientError`]. Cancel safety: may be dropped at any time.
    pub async fn quotas(&self, volume: VolumeId, freshness: impl Into<Freshness>) -> Result<Read<Quotas>, ClientError> {
        let what = format!("list the quotas of {volume}");
        let message = v1::QuotasRequest { volume: volume.0, consistency: Some(freshness.into().into_wire()) };
        let attempt = |node: Node, limit| {
            let request = self.request(message, limit);
            async move { node.manage().quotas(request).await }
        };
        let answer = self.try_all(what.as_str(), attempt).await?;
        let decode = || {
            let value = Quotas { directories: wire::all(answer.directories)?, owners: wire::all(answer.owners)? };
            Ok(Read { state: wire::required(answer.state, "state")?, value })
        };
        decode().map_err(|error| bad_answer(&what, &error))
    }

    /// The locks that are held.
    ///
    /// # Errors
    /// [`ClientError`]. Cancel safety: may be dropped at any time.
    pub async fn locks(
        &self,
        volume: VolumeId,
        freshness: impl Into<Freshness>,
    ) -> Result<Read<Vec<HeldLock>>, ClientError> {
        let what = format!("list the locks of {volume}");
        let message = v1::LocksRequest { volume: volume.0, consistency: Some(freshness.into().into_wire()) };
        let attempt = |node: Node, limit| {
            let request = self.request(message, limit);
            async move { node.manage().locks(request).await }
        };
        let answer = self.try_all(what.as_str(), attempt).await?;
        let decode = || Ok(Read { state: wire::required(answer.state, "state")?, value: wire::all(answer.locks)? });
        decode().map_err(|error| bad_answer(&what, &error))
    }

    /// What differs between two states (`from` the earlier) at or below `prefix`.
    ///
    /// # Errors
    /// [`ClientError::FellOff`] if one of them is not kept; [`ClientError::Rejected`] with reason `too-much` beyond a million
    /// changed records; else [`ClientError`]. Cancel safety: may be dropped at any time.
    pub async fn diff(&self, volume: VolumeId, from: Seq, to: Seq, prefix: &[u8]) -> Result<Diff, ClientError> {
        let what = format!("compare {from} with {to} of {volume}");
        let prefix = bytes::Bytes::copy_from_slice(prefix);
        let message = v1::DiffRequest { volume: volume.0, from: from.0, to: to.0, prefix };
        let mut call = self.call(what.as_str());
        'attempts: loop {
            let (node, _) = self.next(&call);
            let mut diff = Diff::default();
            let request = self.request(message.clone(), call.left());
            let mut stream = match node.manage().diff(request).await {
                Ok(response) => response.into_inner(),
                Err(status) => {
                    self.failed(&mut call, Failure::of(&status, &node.address)).await?;
                    continue;
                }
            };
            loop {
                let failure = match stream.message().await {
                    Ok(Some(message)) => {
                        let changes: Result<Vec<_>, _> = wire::all(message.changes);
                        diff.changes.extend(changes.map_err(|error| bad_answer(&what, &error))?);
                        diff.records = message.records;
                        if message.end {
                            call.succeeded(self);
                            return Ok(diff);
                        }
                        continue;
                    }
                    Ok(None) => Failure::transient(&node.address, "the stream ended before the comparison did"),
                    Err(status) => Failure::of(&status, &node.address),
                };
                self.failed(&mut call, failure).await?;
                continue 'attempts;
            }
        }
    }
}
