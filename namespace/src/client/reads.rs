//! Reads of the tree.

use bytes::Bytes;

use causeway_base::VolumeId;
use causeway_namespace_core::command::{At, Errno};
use causeway_proto::v1;

use super::attempt::{bad_answer, shown};
use super::{ClientError, NamespaceClient, Walk};
use crate::entry::{Found, Page, Place};
use crate::read::{Freshness, Read, ReadState};
use crate::wire::{self, Wire, WireError};

/// What of a directory to list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListPage {
    /// Entries after this name; empty: from the start.
    pub after: Bytes,
    /// At most this many, 4,096 at most; zero: 1,000. A page also ends at 2 MiB.
    pub limit: u32,
    /// With inodes.
    pub plus: bool,
}

impl NamespaceClient {
    /// One inode. `Ok` with an [`Errno`] inside if there is none.
    ///
    /// # Errors
    /// [`ClientError`]. Cancel safety: may be dropped at any time.
    pub async fn stat(
        &self,
        volume: VolumeId,
        at: At,
        freshness: impl Into<Freshness>,
    ) -> Result<Read<Result<Found, Errno>>, ClientError> {
        let what = format!("stat {} in {volume}", shown(&at.path));
        let freshness = self.in_line(volume, freshness.into());
        let consistency = Some(freshness.into_wire());
        let message = v1::StatRequest { volume: volume.0, at: Some(at.into_wire()), consistency };
        let attempt = |node: super::Node, limit| {
            let message = message.clone();
            async move { node.stat(message, limit).await.map(tonic::Response::new) }
        };
        let answer = self.try_all(what.as_str(), attempt).await?;
        let value = wire::required(answer.result, "result");
        self.read(volume, freshness, answer.state, value).map_err(|error| bad_answer(&what, &error))
    }

    /// Many inodes, at most 4,096, all at one seq, in the order asked.
    ///
    /// # Errors
    /// As [`NamespaceClient::stat`].
    pub async fn stat_many(
        &self,
        volume: VolumeId,
        at: Vec<At>,
        freshness: impl Into<Freshness>,
    ) -> Result<Read<Vec<Result<Found, Errno>>>, ClientError> {
        let what = format!("stat of {} paths in {volume}", at.len());
        let freshness = self.in_line(volume, freshness.into());
        let consistency = Some(freshness.into_wire());
        let message = v1::StatManyRequest { volume: volume.0, at: wire::all_into(at), consistency };
        let attempt = |node: super::Node, limit| {
            let request = self.request(message.clone(), limit);
            async move { node.namespace().stat_many(request).await }
        };
        let answer = self.try_all(what.as_str(), attempt).await?;
        let value = wire::all(answer.results);
        self.read(volume, freshness, answer.state, value).map_err(|error| bad_answer(&what, &error))
    }

    /// A page of a directory in the byte order of names. `Ok` with an [`Errno`] inside if it cannot be listed.
    ///
    /// # Errors
    /// As [`NamespaceClient::stat`].
    pub async fn list_page(
        &self,
        volume: VolumeId,
        dir: At,
        page: ListPage,
        freshness: impl Into<Freshness>,
    ) -> Result<Read<Result<Page, Errno>>, ClientError> {
        let what = format!("list {} in {volume}", shown(&dir.path));
        let freshness = self.in_line(volume, freshness.into());
        let message = v1::ListRequest {
            volume: volume.0,
            at: Some(dir.into_wire()),
            after: page.after,
            limit: page.limit,
            plus: page.plus,
            consistency: Some(freshness.into_wire()),
        };
        let attempt = |node: super::Node, limit| {
            let request = self.request(message.clone(), limit);
            async move { node.namespace().list(request).await }
        };
        let answer = self.try_all(what.as_str(), attempt).await?;
        let value = match answer.missing {
            0 => wire::all(answer.entries).map(|entries| Ok(Page { entries, more: answer.more })),
            errno => Errno::from_wire(errno).map(Err),
        };
        self.read(volume, freshness, answer.state, value).map_err(|error| bad_answer(&what, &error))
    }

    /// Everything below a directory (the directory itself first), with inodes if `plus`, all at one seq unless the stream
    /// had to move to another node (then later batches show a later seq, and go on after the last path). For bulk readers.
    #[must_use]
    pub fn walk(&self, volume: VolumeId, at: At, plus: bool, freshness: impl Into<Freshness>) -> Walk {
        Walk::new(self.clone(), volume, at, plus, self.in_line(volume, freshness.into()))
    }

    /// Where an absolute path of the namespace leads, by the mounts as the answering node knows them; what it does not
    /// know, it asks the root group, if that can be reached.
    ///
    /// # Errors
    /// As [`NamespaceClient::stat`].
    pub async fn resolve(&self, path: &[u8]) -> Result<Place, ClientError> {
        let what = format!("resolve {}", shown(path));
        let message = v1::ResolveRequest { path: Bytes::copy_from_slice(path) };
        let attempt = |node: super::Node, limit| {
            let request = self.request(message.clone(), limit);
            async move { node.namespace().resolve(request).await }
        };
        let answer = self.try_all(what.as_str(), attempt).await?;
        wire::required(answer.place, "place").map_err(|error| bad_answer(&what, &error))
    }

    fn read<T>(
        &self,
        volume: VolumeId,
        freshness: Freshness,
        state: Option<v1::ReadState>,
        value: Result<T, WireError>,
    ) -> Result<Read<T>, WireError> {
        let state = wire::required::<ReadState>(state, "state")?;
        if freshness.at.is_none() && !self.saw(volume, state.seq) {
            return Err(WireError::bad("state", "it is of a line of the volume that a promotion has ended"));
        }
        Ok(Read { state, value: value? })
    }
}
