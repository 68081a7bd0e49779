//! openraft's log storage over a group's part of the shared log.

use std::fmt::Debug;
use std::io;
use std::ops::{Bound, Range, RangeBounds};

use bytes::Bytes;
use futures::stream::{self, Stream};
use openraft::storage::{IOFlushed, RaftLogStorage};
use openraft::{LogState, RaftLogReader};

use crate::store::Position;
use crate::wal::{GroupLog, WalError};

use super::blocking::Blocking;
use super::types::{Entry, LogId, TypeConfig, Vote, log_id, position};
use super::wire::{self, VoteWire};

/// Bytes of entries read at once for replication or applying.
const READ_BYTES: usize = 2 << 20;

/// A group's log, as openraft sees it. Also its reader: clones share the log.
#[derive(Clone, Debug)]
pub(crate) struct LogStore {
    log: GroupLog,
    blocking: Blocking,
}

impl LogStore {
    pub(crate) fn new(log: GroupLog, blocking: Blocking) -> Self {
        Self { log, blocking }
    }

    async fn read(&self, range: Range<u64>, bytes_max: usize) -> io::Result<Vec<Entry>> {
        let log = self.log.clone();
        let found = if log.is_cached(range.clone()) {
            log.read(range, bytes_max)
        } else {
            self.blocking.run(move || log.read(range, bytes_max)).await
        };
        found?.into_iter().map(|(index, bytes)| wire::decode_entry(index, bytes).map_err(bad)).collect()
    }
}

/// Something stored does not decode.
fn bad(reason: wire::Bad) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason)
}

fn indexes(range: &impl RangeBounds<u64>) -> Range<u64> {
    let start = match range.start_bound() {
        Bound::Included(start) => *start,
        Bound::Excluded(start) => start.saturating_add(1),
        Bound::Unbounded => 0,
    };
    let end = match range.end_bound() {
        Bound::Included(end) => end.saturating_add(1),
        Bound::Excluded(end) => *end,
        Bound::Unbounded => u64::MAX,
    };
    start..end
}

impl RaftLogReader<TypeConfig> for LogStore {
    async fn try_get_log_entries<RB>(&mut self, range: RB) -> io::Result<Vec<Entry>>
    where
        RB: RangeBounds<u64> + Clone + Debug + Send,
    {
        self.read(indexes(&range), usize::MAX).await
    }

    async fn read_vote(&mut self) -> io::Result<Option<Vote>> {
        self.log.vote().map(|bytes| wire::decode::<VoteWire>(&bytes).map(Vote::from).map_err(bad)).transpose()
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> io::Result<Vec<Entry>> {
        self.read(start..end, READ_BYTES).await
    }

    async fn entries_stream<RB>(&mut self, range: RB) -> impl Stream<Item = io::Result<Entry>> + Send
    where
        RB: RangeBounds<u64> + Clone + Debug + Send,
    {
        let reader = self.clone();
        let state = (reader, indexes(&range), Vec::new().into_iter(), false);
        stream::unfold(state, |(reader, mut range, mut read, mut ended)| async move {
            loop {
                if let Some(entry) = read.next() {
                    return Some((Ok(entry), (reader, range, read, ended)));
                }
                if ended || range.is_empty() {
                    return None;
                }
                match reader.read(range.clone(), READ_BYTES).await {
                    Ok(entries) => {
                        ended = entries.is_empty();
                        range.start = entries.last().map_or(range.end, |entry| entry.log_id.index + 1);
                        read = entries.into_iter();
                    }
                    Err(error) => return Some((Err(error), (reader, range, read, true))),
                }
            }
        })
    }
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> io::Result<LogState<TypeConfig>> {
        let purged = self.log.purged().map(|(_, name)| wire::decode::<Position>(&name).map_err(bad)).transpose()?;
        let log = self.log.clone();
        let last = self.blocking.run(move || log.last()).await?;
        let last = match last {
            Some((index, bytes)) => {
                let term = wire::entry_term(&bytes).ok_or_else(|| bad(format!("entry {index} is cut")))?;
                Some(Position { term, index })
            }
            None => purged,
        };
        Ok(LogState { last_purged_log_id: purged.map(log_id), last_log_id: last.map(log_id) })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> io::Result<()> {
        Ok(self.log.save_vote(wire::encode(&VoteWire::from(vote))).await?)
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> io::Result<()> {
        self.log.save_committed(committed.map(|id| wire::encode(&position(&id))));
        Ok(())
    }

    async fn read_committed(&mut self) -> io::Result<Option<LogId>> {
        let committed = self.log.committed().filter(|bytes| !bytes.is_empty());
        committed.map(|bytes| wire::decode::<Position>(&bytes).map(log_id).map_err(bad)).transpose()
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<TypeConfig>) -> io::Result<()>
    where
        I: IntoIterator<Item = Entry> + Send,
        I::IntoIter: Send,
    {
        let entries: Vec<(u64, Bytes)> =
            entries.into_iter().map(|entry| (entry.log_id.index, wire::encode_entry(&entry))).collect();
        let done = move |result: Result<(), WalError>| callback.io_completed(result.map_err(io::Error::from));
        Ok(self.log.append(entries, Box::new(done)).await?)
    }

    async fn truncate_after(&mut self, last: Option<LogId>) -> io::Result<()> {
        Ok(self.log.truncate_from(last.map_or(0, |id| id.index.saturating_add(1)))?)
    }

    async fn purge(&mut self, upto: LogId) -> io::Result<()> {
        Ok(self.log.purge(upto.index, wire::encode(&position(&upto)))?)
    }
}
