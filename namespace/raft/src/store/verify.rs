//! Adding all records up again: the digest that is kept from change to change does not see what happens to a record at rest.

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};

use causeway_base::Seq;
use causeway_namespace_core::digest::Digest;
use causeway_namespace_core::records::ReadError;

use super::layout::install_key;
use super::view::ViewState;
use super::{GroupStore, META, StateView, StoreError, lock};

/// Records read at once.
const READ: usize = 512;

/// What the records of a view come to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AddedUp {
    /// Of the view.
    pub seq: Seq,
    /// How many there are.
    pub records: u64,
    /// Bytes of keys and values.
    pub bytes: u64,
    /// Whether number and digest are what the replica says of itself.
    pub right: bool,
}

impl GroupStore {
    /// The newest state, read anew: [`GroupStore::view`] may give a view of the same seq that was taken before a record was
    /// damaged.
    ///
    /// # Errors
    /// Any [`StoreError`].
    pub fn fresh_view(&self) -> Result<StateView, StoreError> {
        // Not in the middle of an installation, whose batches make a state only together.
        let _whole = lock(&self.meta);
        if self.kv.get(META, &install_key(self.id)).map_err(|source| self.kv_error(source))?.is_some() {
            return Err(self.damaged("an installation of its state is not finished"));
        }
        Ok(StateView::newest(Arc::new(ViewState::take(self.kv.as_ref(), self.id)?)))
    }
}

impl StateView {
    /// Adds up all records of a view of the newest state. `pace` is told the bytes of each step before the next is read: it
    /// may wait, and ends it by `false`. Blocks the thread.
    ///
    /// # Errors
    /// A record cannot be read: the replica is damaged, or its disk is.
    pub fn add_up(&self, pace: impl FnMut(u64) -> bool) -> Result<Option<AddedUp>, ReadError> {
        Ok(self.sum_up(pace)?.map(|(sum, _)| sum))
    }

    /// As [`StateView::add_up`], with what the records come to.
    pub(super) fn sum_up(&self, mut pace: impl FnMut(u64) -> bool) -> Result<Option<(AddedUp, Digest)>, ReadError> {
        let view = self.newest_of();
        let mut sum = AddedUp { seq: view.seq(), ..AddedUp::default() };
        let (mut digest, mut from) = (Digest::default(), Bytes::new());
        loop {
            let read = view.scan_versioned(&from, None, READ)?;
            let mut bytes = 0;
            for (key, _, value) in &read {
                digest.add(key, value);
                bytes += (key.len() + value.len()) as u64;
            }
            sum.records += read.len() as u64;
            sum.bytes += bytes;
            let Some((last, _, _)) = read.last().filter(|_| read.len() == READ) else { break };
            let mut next = BytesMut::from(last.as_ref());
            next.put_u8(0);
            from = next.freeze();
            if !pace(bytes) {
                return Ok(None);
            }
        }
        let meta = view.meta();
        sum.right = (meta.records, meta.digest) == (sum.records, digest);
        Ok(Some((sum, digest)))
    }
}
