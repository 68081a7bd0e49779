//! What changed, as streams: differences of two states, and the feed.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use causeway_base::{Seq, VolumeId};
use causeway_namespace_core::query::{self, TreeChange};
use causeway_namespace_core::records::ReadError;
use causeway_namespace_raft::store::{SeqChanges, StoreError, ViewError};
use causeway_namespace_raft::{Group, StateView};
use causeway_proto::v1;
use futures::StreamExt;
use futures::stream::BoxStream;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::guard::Admitted;
use crate::error::Error;
use crate::manage::{FeedBatch, FeedEvent, FeedPlace};
use crate::node::blocking;
use crate::node::replica::view_error;
use crate::rpc;
use crate::wire::{self, Wire};

/// Messages that may wait for the network.
const AHEAD: usize = 4;
/// Changes in a message; a path has at most 4,096 bytes, so a message stays below the bound of the connection.
const BATCH: usize = 256;
/// Most changed records that a diff looks at: some hundred bytes each, in memory while it runs.
const DIFF_RECORDS_MAX: usize = 1_000_000;
/// Changed seqs that a feed reads at once, so that the store's snapshot behind a view is not kept long.
const SEQS: usize = 64;
/// A feed says where it is at least so often, though nothing passes its prefix.
const PLACE_EVERY: Duration = Duration::from_secs(5);

/// Which states to compare.
pub(super) struct Compare {
    pub(super) volume: VolumeId,
    pub(super) from: Seq,
    pub(super) to: Seq,
    pub(super) prefix: Bytes,
}

/// What differs, as a stream that ends when the receiver goes or the node shuts down.
pub(super) fn diff(
    view: StateView,
    wanted: Compare,
    admitted: Admitted,
    stop: CancellationToken,
) -> BoxStream<'static, Result<v1::DiffResponse, Status>> {
    let (sender, receiver) = mpsc::channel(AHEAD);
    tokio::task::spawn_blocking(move || {
        let item = |changes: Vec<TreeChange>, records: usize, end| v1::DiffResponse {
            changes: wire::all_into(changes),
            end,
            records: records as u64,
        };
        match compare(&view, &wanted) {
            Ok((changes, records)) => {
                let mut changes = changes.into_iter();
                loop {
                    let some: Vec<_> = changes.by_ref().take(BATCH).collect();
                    let end = some.len() < BATCH;
                    if stop.is_cancelled() || sender.blocking_send(Ok(item(some, records, end))).is_err() || end {
                        break;
                    }
                }
            }
            // The receiver may have gone.
            Err(error) => drop(sender.blocking_send(Err(error.into()))),
        }
        drop(admitted);
    });
    ReceiverStream::new(receiver).boxed()
}

fn compare(view: &StateView, wanted: &Compare) -> Result<(Vec<TreeChange>, usize), Error> {
    let told = |error| view_error(wanted.volume, error);
    let changed = view.changed_between(wanted.from, wanted.to, DIFF_RECORDS_MAX).map_err(told)?;
    let changed = changed.ok_or(Error::TooMuch { group: wanted.volume, max: DIFF_RECORDS_MAX })?;
    let (before, after) = (view.at(wanted.from).map_err(told)?, view.at(wanted.to).map_err(told)?);
    let keys = changed.iter().map(|(key, name)| (key, name.as_ref()));
    let mut changes = query::tree_changes(&before, &after, keys)?;
    changes.retain(|change| change.is_below(&wanted.prefix));
    Ok((changes, changed.len()))
}

/// What to follow.
pub(super) struct Follow {
    pub(super) group: Arc<Group>,
    pub(super) place: FeedPlace,
    pub(super) prefix: Bytes,
    pub(super) follow: bool,
}

/// The feed, as a stream that ends when the receiver goes or the node shuts down.
pub(super) fn feed(
    wanted: Follow,
    admitted: Admitted,
    stop: CancellationToken,
) -> BoxStream<'static, Result<v1::FeedResponse, Status>> {
    let (sender, receiver) = mpsc::channel(AHEAD);
    tokio::spawn(async move {
        let stopped = stop.cancelled();
        let ended = tokio::select! {
            ended = follow(wanted, &sender) => ended,
            () = stopped => Err(Error::ShuttingDown),
            () = sender.closed() => Ok(()),
        };
        if let Err(error) = ended {
            // The receiver may have gone.
            let _ = sender.send(Err(error.into())).await;
        }
        drop(admitted);
    });
    ReceiverStream::new(receiver).boxed()
}

async fn follow(wanted: Follow, sender: &mpsc::Sender<Result<v1::FeedResponse, Status>>) -> Result<(), Error> {
    let Follow { group, mut place, prefix, follow } = wanted;
    let mut applied = group.watch_applied();
    loop {
        applied.borrow_and_update();
        let (reader, below) = (group.clone(), prefix.clone());
        let (batches, reached, more) = blocking(move || read(&reader, place, &below)).await?;
        let sent_events = batches.iter().any(|batch| !batch.events.is_empty());
        for batch in batches {
            if sender.send(Ok(batch.into_wire())).await.is_err() {
                return Ok(());
            }
        }
        let moved = place.after != reached;
        place = FeedPlace { after: reached, skip: 0 };
        if more {
            continue;
        }
        if moved || !follow || sent_events {
            let through = Some(reached).filter(|seq| *seq != Seq::ZERO);
            let here = FeedBatch { events: Vec::new(), through, newest: true };
            if sender.send(Ok(here.into_wire())).await.is_err() || !follow {
                return Ok(());
            }
        }
        loop {
            tokio::select! {
                changed = applied.changed() => match changed {
                    Ok(()) => break,
                    Err(_) => return Err(Error::ShuttingDown),
                },
                () = tokio::time::sleep(PLACE_EVERY) => {
                    let through = Some(reached).filter(|seq| *seq != Seq::ZERO);
                    let here = FeedBatch { events: Vec::new(), through, newest: true };
                    if sender.send(Ok(here.into_wire())).await.is_err() {
                        return Ok(());
                    }
                }
            }
        }
    }
}

/// The next events, how far they reach, and whether there are more already.
fn read(group: &Group, place: FeedPlace, prefix: &[u8]) -> Result<(Vec<FeedBatch>, Seq, bool), Error> {
    let told = |error: ViewError| view_error(group.id(), error);
    let damaged = |error: StoreError| Error::Read(ReadError::Store(rpc::chain(&error)));
    let view = group.view().map_err(damaged)?;
    let seqs = view.changes(place.after, view.seq(), SEQS).map_err(told)?;
    let more = seqs.len() == SEQS;
    let reached = if more { seqs.last().map_or(place.after, |last| last.seq) } else { view.seq().max(place.after) };
    let mut batches = Vec::new();
    for changed in &seqs {
        let skip = if changed.seq.0 == place.after.0 + 1 { place.skip } else { 0 };
        let events = events(&view, changed).map_err(told)?;
        let wanted: Vec<FeedEvent> =
            events.into_iter().filter(|event| event.index >= skip && event.change.is_below(prefix)).collect();
        let mut rest = wanted.into_iter().peekable();
        while rest.peek().is_some() {
            let events: Vec<FeedEvent> = rest.by_ref().take(BATCH).collect();
            let through = rest.peek().is_none().then_some(changed.seq);
            batches.push(FeedBatch { events, through, newest: false });
        }
    }
    Ok((batches, reached, more))
}

/// The events of one commit: what differs between the states before and after it.
pub(crate) fn events(view: &StateView, changed: &SeqChanges) -> Result<Vec<FeedEvent>, ViewError> {
    let (seq, at) = (changed.seq, changed.time);
    let (before, after) = (view.at(Seq(seq.0.saturating_sub(1)))?, view.at(seq)?);
    let keys = changed.keys.iter().map(|(key, name)| (key, name.as_ref()));
    let changes = query::tree_changes(&before, &after, keys)?;
    Ok((0..).zip(changes).map(|(index, change)| FeedEvent { seq, index, at, change }).collect())
}
