//! Writes a run as segments, in bounded memory.

use bytes::Bytes;
use futures::StreamExt;
use futures::stream;
use tokio::sync::mpsc;

use super::builder::{Built, SegmentBuilder};
use super::{RunKind, SegmentRef};
use crate::error::Error;
use crate::repository::Repository;

/// Builds segments from `records` on a blocking thread and puts them, several at once; all are durable on return.
///
/// Memory: one segment being built, one waiting, `concurrency` under way. Dropping the future stops the thread at its next
/// segment; segments put by then are garbage that nothing names.
pub(crate) async fn write_run<R, P>(
    repository: &Repository,
    kind: RunKind,
    path_of: P,
    records: R,
) -> Result<Vec<SegmentRef>, Error>
where
    R: Iterator<Item = Result<(Bytes, Bytes), Error>> + Send + 'static,
    P: Fn(u128) -> String,
{
    let (sender, receiver) = mpsc::channel(1);
    let names = repository.store.clone();
    let segment_bytes = usize::try_from(repository.options.segment_bytes.bytes()).unwrap_or(usize::MAX);
    let building = tokio::task::spawn_blocking(move || {
        let send = |built: Built| sender.blocking_send(built).is_ok();
        let mut builder = SegmentBuilder::new(kind);
        for record in records {
            let (key, value) = record?;
            builder.push(&key, &value).map_err(|error| Error::Source(error.to_string()))?;
            if builder.len() >= segment_bytes {
                let full = std::mem::replace(&mut builder, SegmentBuilder::new(kind));
                if !send(full.finish(names.names().draw())) {
                    return Ok(());
                }
            }
        }
        if !builder.is_empty() {
            send(builder.finish(names.names().draw()));
        }
        Ok::<(), Error>(())
    });
    let received = stream::unfold(receiver, |mut receiver| async move { receiver.recv().await.map(|b| (b, receiver)) });
    let mut puts = std::pin::pin!(
        received
            .map(|built| {
                let path = path_of(built.segment.name);
                async move {
                    repository.store.create_unique(&path, built.bytes).await?;
                    Ok::<_, Error>(built.segment)
                }
            })
            .buffered(repository.options.concurrency.max(1))
    );
    let mut segments = Vec::new();
    let mut failed = None;
    while let Some(put) = puts.next().await {
        match put {
            Ok(segment) => segments.push(segment),
            Err(error) => {
                failed = Some(error);
                break;
            }
        }
    }
    if let Some(error) = failed {
        return Err(error);
    }
    building.await.map_err(|error| Error::Task(error.to_string()))??;
    Ok(segments)
}
