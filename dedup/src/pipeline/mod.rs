//! The parallel way in: read → cut → hash → ask what is known → compress → hand on.
//!
//! Every thread does any part. One that has cut a batch of chunks gives it to a thread that has nothing to do, or goes on
//! with it itself; so many small files and one large file both keep all threads busy, and nothing piles up: memory is at most
//! a read buffer (4 MiB) and three batches a thread. A chunk that two threads hold at once is stored by one of them.
//!
//! Call it from a blocking thread.

mod claims;
mod file;

use std::collections::{HashSet, VecDeque};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use bytes::Bytes;

use causeway_base::ChunkId;

use crate::chunk::LEVEL_DEFAULT;
use crate::sparse::{Segment, Segments};
use crate::{ChunkSizes, Chunker, EncodedChunk, Extent, ManifestRoot, Realm};

use claims::Claims;
use file::Assembly;

/// Most chunks that the sink is asked about at once.
pub const BATCH_CHUNKS: usize = 4096;

/// How a pipeline works.
#[derive(Clone, Debug)]
pub struct PipelineOptions {
    /// Threads; at least 1. As many as cores if the sink is local, more if it waits for a network.
    pub threads: usize,
    /// The volume's chunk sizes.
    pub sizes: ChunkSizes,
    /// zstd level; `None` hands chunks on plain, which is best for a [`crate::ChunkStore`]: it compresses by itself.
    pub level: Option<i32>,
    /// Files up to this many bytes are given back whole.
    pub inline_bytes_max: u64,
    /// Plain bytes of the chunks that the sink is asked about at once.
    pub batch_bytes: usize,
}

impl Default for PipelineOptions {
    fn default() -> Self {
        Self {
            threads: std::thread::available_parallelism().map_or(2, usize::from),
            sizes: ChunkSizes::DEFAULT,
            level: Some(LEVEL_DEFAULT),
            inline_bytes_max: 4096,
            batch_bytes: 1 << 20,
        }
    }
}

/// What became of a file's bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Imported {
    /// Small enough to stand in the inode; no chunks.
    Inline(Bytes),
    /// All its chunks, metadata chunks included, were taken by the sink.
    Manifest(ManifestRoot),
}

impl Imported {
    /// Length of the file in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        match self {
            Self::Inline(bytes) => bytes.len() as u64,
            Self::Manifest(root) => root.size(),
        }
    }
}

/// Where chunks and results go. Called from many threads; may block, which slows the pipeline down.
pub trait Sink: Sync {
    /// Ends the whole run.
    type Error: Send;

    /// Those of `ids` that must be handed to [`Sink::store`].
    ///
    /// # Errors
    /// Ends the run.
    fn missing(&self, ids: &[ChunkId]) -> Result<Vec<ChunkId>, Self::Error>;

    /// Takes chunks; they are stored when this returns. A run hands over the same chunk twice only if it is missing again.
    ///
    /// # Errors
    /// Ends the run.
    fn store(&self, chunks: Vec<EncodedChunk>) -> Result<(), Self::Error>;

    /// The file at `position` of the input is done, or could not be read; the others go on. Files come in any order.
    ///
    /// # Errors
    /// Ends the run.
    fn done(&self, position: usize, result: io::Result<Imported>) -> Result<(), Self::Error>;
}

/// Runs all `files` through the pipeline. Sparse files stay sparse.
///
/// # Errors
/// The first error of the sink; files that were not done by then never are.
pub fn import<S: Sink>(
    realm: &Realm,
    options: &PipelineOptions,
    files: impl Iterator<Item = PathBuf> + Send,
    sink: &S,
) -> Result<(), S::Error> {
    let work = Work {
        realm,
        options,
        sink,
        shared: Mutex::new(Shared {
            files: files.enumerate(),
            batches: VecDeque::new(),
            idle: 0,
            over: false,
            error: None,
        }),
        changed: Condvar::new(),
        claims: Claims::default(),
    };
    std::thread::scope(|scope| {
        for _ in 1..options.threads.max(1) {
            scope.spawn(|| work.run());
        }
        work.run();
    });
    let shared = work.shared.into_inner().unwrap_or_else(PoisonError::into_inner);
    shared.error.map_or(Ok(()), Err)
}

/// A chunk on its way.
struct Piece {
    file: Arc<Assembly>,
    /// Its place among the extents of the file.
    number: u64,
    plain: Bytes,
}

type Batch = Vec<Piece>;

struct Work<'a, S: Sink, I> {
    realm: &'a Realm,
    options: &'a PipelineOptions,
    sink: &'a S,
    shared: Mutex<Shared<I, S::Error>>,
    changed: Condvar,
    claims: Claims,
}

struct Shared<I, E> {
    files: std::iter::Enumerate<I>,
    /// Handed to threads that wait: never more than those.
    batches: VecDeque<Batch>,
    /// Threads that wait for a batch.
    idle: usize,
    /// Nothing is left to do, or an error is noted.
    over: bool,
    error: Option<E>,
}

enum Next {
    Batch(Batch),
    File(usize, PathBuf),
}

/// The run is over: an error is noted.
struct Ended;

/// A sink that panics must not leave the other threads waiting: the panic is to come out of [`import`].
struct EndOnPanic<'w, 'a, S: Sink, I>(&'w Work<'a, S, I>);

impl<S: Sink, I> Drop for EndOnPanic<'_, '_, S, I> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.shared.lock().unwrap_or_else(PoisonError::into_inner).over = true;
            self.0.changed.notify_all();
        }
    }
}

impl<S: Sink, I: Iterator<Item = PathBuf> + Send> Work<'_, S, I> {
    fn lock(&self) -> std::sync::MutexGuard<'_, Shared<I, S::Error>> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self) {
        let _guard = EndOnPanic(self);
        let mut batch = Batch::new();
        while let Some(next) = self.next(&mut batch) {
            let result = match next {
                Next::Batch(batch) => self.process(batch),
                Next::File(position, path) => self.read(position, &path, &mut batch),
            };
            if result.is_err() {
                break;
            }
        }
    }

    /// What to do next; before it waits, a thread finishes what it began. `None` when the run is over.
    fn next(&self, own: &mut Batch) -> Option<Next> {
        let mut shared = self.lock();
        loop {
            if shared.over {
                return None;
            }
            if let Some(batch) = shared.batches.pop_front() {
                return Some(Next::Batch(batch));
            }
            if let Some((position, path)) = shared.files.next() {
                return Some(Next::File(position, path));
            }
            if !own.is_empty() {
                return Some(Next::Batch(std::mem::take(own)));
            }
            shared.idle += 1;
            if shared.idle == self.options.threads.max(1) {
                // The last one has nothing to do, so nobody will hand anything over any more.
                shared.over = true;
                self.changed.notify_all();
                return None;
            }
            while shared.batches.is_empty() && !shared.over {
                shared = self.changed.wait(shared).unwrap_or_else(PoisonError::into_inner);
            }
            shared.idle -= 1;
        }
    }

    fn fail(&self, error: S::Error) -> Ended {
        let mut shared = self.lock();
        shared.error.get_or_insert(error);
        shared.over = true;
        drop(shared);
        self.changed.notify_all();
        Ended
    }

    /// Cuts one file; full batches are handed over or processed here, the rest stays in `batch`.
    fn read(&self, position: usize, path: &Path, batch: &mut Batch) -> Result<(), Ended> {
        match self.cut(position, path, batch) {
            Ok(ended) => ended,
            Err(error) => self.sink.done(position, Err(error)).map_err(|error| self.fail(error)),
        }
    }

    fn cut(&self, position: usize, path: &Path, batch: &mut Batch) -> io::Result<Result<(), Ended>> {
        let mut file = File::open(path)?;
        let mut head = Vec::new();
        let inline = self.options.inline_bytes_max;
        if file.metadata()?.len() <= inline {
            // One byte more tells a file that has grown meanwhile.
            (&mut file).take(inline + 1).read_to_end(&mut head)?;
            if head.len() as u64 <= inline {
                let result = self.sink.done(position, Ok(Imported::Inline(head.into())));
                return Ok(result.map_err(|error| self.fail(error)));
            }
        }
        let assembly = Arc::new(Assembly::new(position, self.realm.clone()));
        let mut number = 0;
        let mut bytes: usize = batch.iter().map(|piece| piece.plain.len()).sum();
        for segment in Segments::new(&file)? {
            match segment? {
                Segment::Hole { len, .. } => {
                    assembly.add_early(number, Extent::Hole { len });
                    number += 1;
                }
                Segment::Data { offset, len } => {
                    let mut reader = &file;
                    reader.seek(SeekFrom::Start(offset))?;
                    for chunk in Chunker::with_length(reader, self.options.sizes, len) {
                        let plain = chunk?;
                        bytes += plain.len();
                        batch.push(Piece { file: Arc::clone(&assembly), number, plain });
                        number += 1;
                        if bytes >= self.options.batch_bytes || batch.len() >= BATCH_CHUNKS {
                            bytes = 0;
                            if let Err(ended) = self.hand_over(std::mem::take(batch)) {
                                return Ok(Err(ended));
                            }
                        }
                    }
                }
            }
        }
        Ok(self.settle(&assembly, assembly.end(number)))
    }

    /// Gives a batch to a thread that waits, or processes it here.
    fn hand_over(&self, batch: Batch) -> Result<(), Ended> {
        let mut shared = self.lock();
        if shared.idle > shared.batches.len() {
            shared.batches.push_back(batch);
            drop(shared);
            self.changed.notify_one();
            return Ok(());
        }
        drop(shared);
        self.process(batch)
    }

    fn process(&self, batch: Batch) -> Result<(), Ended> {
        let chunks: Vec<(ChunkId, Bytes)> =
            batch.iter().map(|piece| (self.realm.chunk_id(&piece.plain), piece.plain.clone())).collect();
        let ids: Vec<(ChunkId, u32)> = chunks.iter().map(|(id, plain)| (*id, plain.len() as u32)).collect();
        self.store(chunks)?;
        for (piece, (id, len)) in batch.into_iter().zip(ids) {
            let assembly = piece.file;
            let step = assembly.add(piece.number, Extent::Chunk { id, len });
            self.settle(&assembly, step)?;
        }
        Ok(())
    }

    /// Stores the metadata that became ready, and tells of the file if it is whole.
    fn settle(&self, assembly: &Assembly, step: file::Step) -> Result<(), Ended> {
        let root = if step.metadata.is_empty() {
            step.root
        } else {
            self.store(step.metadata)?;
            assembly.stored()
        };
        let Some(root) = root else { return Ok(()) };
        let result = root.map(Imported::Manifest).map_err(io::Error::other);
        self.sink.done(assembly.position(), result).map_err(|error| self.fail(error))
    }

    /// Encodes and hands on those of the chunks that the sink lacks. All are stored when it returns.
    fn store(&self, chunks: Vec<(ChunkId, Bytes)>) -> Result<(), Ended> {
        let (claim, others) = self.claims.claim(chunks.iter().map(|(id, _)| *id));
        if !claim.ids.is_empty() {
            store(self.sink, &claim.ids, chunks, self.options.level).map_err(|error| self.fail(error))?;
        }
        drop(claim);
        if others.is_empty() {
            return Ok(());
        }
        // Whoever failed to store them has ended the run before giving them up.
        if self.claims.wait(&others) && !self.lock().over { Ok(()) } else { Err(Ended) }
    }
}

/// Asks a sink which of these ids it lacks, and encodes and hands on those of the chunks.
///
/// # Errors
/// The sink's.
pub fn store<S: Sink>(
    sink: &S,
    ids: &[ChunkId],
    chunks: Vec<(ChunkId, Bytes)>,
    level: Option<i32>,
) -> Result<(), S::Error> {
    let mut missing: HashSet<ChunkId> = sink.missing(ids)?.into_iter().collect();
    if missing.is_empty() {
        return Ok(());
    }
    let encoded = chunks
        .into_iter()
        .filter(|(id, _)| missing.remove(id))
        .map(|(id, plain)| EncodedChunk::encode_at(id, plain, level))
        .collect();
    sink.store(encoded)
}

#[cfg(test)]
mod tests;
