//! Chunking an edited file anew only where it changed.
//!
//! A [`Plan`] says what the edited file consists of: ranges of the old one, new bytes, holes. Its parts are looked at in order.
//! Where the file is cut at the start of an old chunk, and nothing that decides where that chunk ends has changed, it
//! is taken over unread; so are whole nodes of the old manifest. Elsewhere bytes are read and cut until a cut falls on
//! the start of such a chunk again. The result is the manifest that a full pass over the edited file makes, so that nobody
//! can tell an edited file from a written one, and both share all their chunks.
//!
//! A full pass means: holes of at least [`HOLE_BYTES_MIN`](crate::sparse::HOLE_BYTES_MIN) end a run, shorter ones are
//! zeros; holes that an edit makes or cuts start and end at multiples of 4 KiB, as in a file system. It also needs the old
//! manifest to be one of a full pass with the same chunk sizes; if it is not, the result still is the edited file, and only the
//! chunks that were taken over are as they were.
//!
//! Memory does not grow with the file. Call it from a blocking thread.

mod ahead;
mod plan;

use std::collections::VecDeque;

use bytes::Bytes;

use causeway_base::ChunkId;

use crate::chunker::Cutter;
use crate::manifest::cursor::Cursor;
use crate::pipeline::Imported;
use crate::{ChunkSizes, Extent, ManifestBuilder, ManifestError, ManifestRoot, Realm};

use ahead::{Ahead, Part};
pub use plan::{Plan, PlanError};

/// Read bytes that are cut off the front of the buffer at once.
const BUFFER_BYTES: usize = 1 << 20;

/// Where the bytes are, and where new chunks go.
pub trait Old {
    /// Ends the whole run.
    type Error;

    /// The plain, verified bytes of a chunk of the old file or of its manifest.
    ///
    /// # Errors
    /// Ends the run.
    fn chunk(&mut self, id: ChunkId) -> Result<Bytes, Self::Error>;

    /// Fills `buffer` with the new bytes from a position on.
    ///
    /// # Errors
    /// Ends the run.
    fn new_bytes(&mut self, from: u64, buffer: &mut [u8]) -> Result<(), Self::Error>;

    /// Takes a chunk of the edited file or of its manifest that was not taken over. It may be one that is known anyway.
    ///
    /// # Errors
    /// Ends the run.
    fn emit(&mut self, id: ChunkId, plain: Bytes) -> Result<(), Self::Error>;
}

/// Why an edited file was not chunked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RechunkError<E> {
    /// The old manifest is damaged, or belongs to a file of another length than the plan.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// A chunk is not as long as the manifest says.
    #[error("chunk {id} has {found} bytes, the manifest says {claimed}")]
    Chunk {
        /// The chunk.
        id: ChunkId,
        /// By the manifest.
        claimed: u32,
        /// As it came.
        found: usize,
    },
    /// The caller's.
    #[error("{0}")]
    Old(E),
}

/// What an edit took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RechunkStats {
    /// Chunks of the old file that were read.
    pub chunks_read: u64,
    /// Their bytes.
    pub bytes_read: u64,
    /// Nodes of the old manifest that were read.
    pub nodes_read: u64,
    /// Their bytes.
    pub node_bytes_read: u64,
    /// Chunks that were cut and hashed.
    pub chunks_cut: u64,
    /// Their bytes.
    pub bytes_cut: u64,
    /// Chunks that were taken over one by one.
    pub chunks_kept: u64,
    /// Nodes that were taken over whole.
    pub nodes_kept: u64,
}

/// How an edited file is chunked.
#[derive(Clone, Debug)]
pub struct RechunkOptions {
    /// The volume's realm.
    pub realm: Realm,
    /// The volume's chunk sizes.
    pub sizes: ChunkSizes,
    /// A file up to this many bytes is given back whole.
    pub inline_bytes_max: u64,
}

/// Chunks the file that `plan` makes of the one with this `root`.
///
/// # Errors
/// [`RechunkError`]. Chunks that were emitted before are of no use then, and do no harm.
pub fn rechunk<H: Old>(
    root: &ManifestRoot,
    plan: Plan,
    options: &RechunkOptions,
    old: &mut H,
) -> Result<(Imported, RechunkStats), RechunkError<H::Error>> {
    if plan.old_size != root.size() {
        return Err(ManifestError::Size { claimed: plan.old_size, found: root.size() }.into());
    }
    let size = plan.size();
    let mut run = Rechunker {
        old,
        realm: options.realm.clone(),
        sizes: options.sizes,
        cutter: Cutter::new(options.sizes),
        builder: ManifestBuilder::new(options.realm.clone()),
        emitted: Vec::new(),
        ahead: Ahead::new(plan, Cursor::new(root)?),
        parts: VecDeque::new(),
        buffer: Vec::new(),
        start: 0,
        loaded: 0,
        last: None,
        stats: RechunkStats::default(),
    };
    if size <= options.inline_bytes_max {
        let bytes = run.whole()?;
        return Ok((Imported::Inline(bytes), run.stats));
    }
    run.all()
}

struct Rechunker<'a, H> {
    old: &'a mut H,
    realm: Realm,
    sizes: ChunkSizes,
    cutter: Cutter,
    builder: ManifestBuilder,
    /// Metadata chunks that were made and not given away yet.
    emitted: Vec<(ChunkId, Bytes)>,
    ahead: Ahead,
    /// What comes next. The first of it is in the buffer.
    parts: VecDeque<Part>,
    /// From `start` on, the bytes of the first `loaded` parts.
    buffer: Vec<u8>,
    start: usize,
    loaded: usize,
    /// The chunk read last: what is in front of a change and what is behind it are often of one chunk.
    last: Option<(ChunkId, Bytes)>,
    stats: RechunkStats,
}

impl<H: Old> Rechunker<'_, H> {
    fn all(mut self) -> Result<(Imported, RechunkStats), RechunkError<H::Error>> {
        loop {
            self.give_away()?;
            if self.parts.is_empty() {
                self.buffer.clear();
                self.start = 0;
                if self.take_node()? {
                    continue;
                }
                if !self.pull()? {
                    break;
                }
            }
            match self.parts.front() {
                Some(Part::Hole { len }) => {
                    let len = *len;
                    self.append(Extent::Hole { len })?;
                    self.parts.pop_front();
                }
                Some(Part::Chunk { id, len, kept: true, .. }) => {
                    let (id, len) = (*id, *len);
                    self.append(Extent::Chunk { id, len })?;
                    self.stats.chunks_kept += 1;
                    if self.loaded > 0 {
                        self.loaded -= 1;
                        self.start += len as usize;
                    }
                    self.parts.pop_front();
                }
                Some(_) => self.cut()?,
                None => {}
            }
        }
        let emitted = &mut self.emitted;
        let root = self.builder.finish(|id, plain| emitted.push((id, plain)))?;
        for (id, plain) in self.emitted {
            self.old.emit(id, plain).map_err(RechunkError::Old)?;
        }
        Ok((Imported::Manifest(root), self.stats))
    }

    fn append(&mut self, extent: Extent) -> Result<(), ManifestError> {
        let emitted = &mut self.emitted;
        self.builder.push(extent, |id, plain| emitted.push((id, plain)))
    }

    fn give_away(&mut self) -> Result<(), RechunkError<H::Error>> {
        for (id, plain) in self.emitted.drain(..) {
            self.old.emit(id, plain).map_err(RechunkError::Old)?;
        }
        Ok(())
    }

    /// Cuts one chunk at the front, reading no more than is needed to know where it ends.
    fn cut(&mut self) -> Result<(), RechunkError<H::Error>> {
        let max = self.sizes.max();
        let len = loop {
            let window = &self.buffer[self.start..];
            let window = &window[..window.len().min(max)];
            let len = self.cutter.first(window);
            // The byte behind a chunk decides whether it ends, in steps of two; so a cut that is not at the very end of
            // what is known is where it would be if more were.
            if window.len() == max || (len > 0 && len + 2 <= window.len()) || !self.load()? {
                break len;
            }
        };
        let plain = Bytes::copy_from_slice(&self.buffer[self.start..self.start + len]);
        let id = self.realm.chunk_id(&plain);
        self.stats.chunks_cut += 1;
        self.stats.bytes_cut += len as u64;
        // A chunk is 1 MiB long at most.
        self.append(Extent::Chunk { id, len: len as u32 })?;
        self.old.emit(id, plain).map_err(RechunkError::Old)?;
        self.start += len;
        let mut left = len as u64;
        while left > 0
            && let Some(part) = self.parts.front_mut()
        {
            if part.len() > left {
                *part = part.behind(left);
                break;
            }
            left -= part.len();
            self.parts.pop_front();
            self.loaded -= 1;
        }
        if self.start >= BUFFER_BYTES {
            self.buffer.drain(..self.start);
            self.start = 0;
        }
        Ok(())
    }

    /// Reads the next part of the run into the buffer; `false` at the end of the run.
    fn load(&mut self) -> Result<bool, RechunkError<H::Error>> {
        if self.loaded == self.parts.len() && !self.pull()? {
            return Ok(false);
        }
        let part = match self.parts.get(self.loaded) {
            None | Some(Part::Hole { .. }) => return Ok(false),
            Some(part) => *part,
        };
        let end = self.buffer.len();
        match part {
            Part::Chunk { id, len, from, to, .. } => {
                let plain = self.old_chunk(id, len)?;
                self.buffer.extend_from_slice(&plain[from as usize..to as usize]);
            }
            Part::New { from, len } => {
                self.buffer.resize(end + len as usize, 0);
                self.old.new_bytes(from, &mut self.buffer[end..]).map_err(RechunkError::Old)?;
            }
            Part::Zeros { len } | Part::Hole { len } => self.buffer.resize(end + len as usize, 0),
        }
        self.loaded += 1;
        Ok(true)
    }

    fn old_chunk(&mut self, id: ChunkId, len: u32) -> Result<Bytes, RechunkError<H::Error>> {
        if let Some((last, plain)) = &self.last
            && *last == id
        {
            return Ok(plain.clone());
        }
        let plain = self.old.chunk(id).map_err(RechunkError::Old)?;
        if plain.len() != len as usize {
            return Err(RechunkError::Chunk { id, claimed: len, found: plain.len() });
        }
        self.stats.chunks_read += 1;
        self.stats.bytes_read += plain.len() as u64;
        self.last = Some((id, plain.clone()));
        Ok(plain)
    }

    /// All of a small file.
    fn whole(&mut self) -> Result<Bytes, RechunkError<H::Error>> {
        loop {
            while self.load()? {}
            match self.parts.get(self.loaded) {
                Some(Part::Hole { len }) => {
                    let len = *len;
                    self.parts[self.loaded] = Part::Zeros { len };
                }
                _ => return Ok(std::mem::take(&mut self.buffer).into()),
            }
        }
    }
}

#[cfg(test)]
mod tests;
