//! Checks an image and everything that it needs.

use std::collections::BTreeSet;

use causeway_base::{ChunkId, Ino};
use causeway_dedup::ManifestRoot;
use causeway_namespace_core::inode::{Body, Content, Inode};
use causeway_namespace_core::{encode, key};

use super::contents::load_error;
use super::{Contents, DrVolume};
use crate::error::Error;

/// How many of the bytes a check reads.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum ReadData {
    /// None: only that each chunk is in the index. (Chunks that hold manifests are read.)
    No,
    /// A share from 0 to 1 of the chunks; which ones depends on `salt`, so that shares with different ones differ.
    Share {
        /// From 0 to 1.
        share: f64,
        /// For example the day.
        salt: u64,
    },
    /// All.
    All,
}

/// What a check found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VerifyReport {
    /// Records of the image; their digest is the image's.
    pub records: u64,
    /// Regular files.
    pub files: u64,
    /// Chunks that they name, each counted about once.
    pub chunks: u64,
    /// Chunks that were read, decoded and hashed.
    pub chunks_read: u64,
    /// Plain bytes of those.
    pub bytes_read: u64,
    /// What is wrong with the chunks: at most [`PROBLEMS_MAX`] are listed.
    pub problems: Vec<(Ino, String)>,
    /// How many problems there are.
    pub problem_count: u64,
}

/// Problems listed by a [`VerifyReport`].
pub const PROBLEMS_MAX: usize = 100;

/// Chunks asked for at once.
const BATCH: usize = 256;
/// Chunks remembered, so that one that many files share is checked once: 128 MiB of memory.
const SEEN_MAX: usize = 2 << 20;

impl VerifyReport {
    /// Whether nothing is wrong.
    #[must_use]
    pub const fn is_whole(&self) -> bool {
        self.problem_count == 0
    }
}

impl DrVolume {
    /// Checks every object of the image (BLAKE3), its digest, and that every chunk that any file needs is in the archive;
    /// with `read`, also the bytes of chunks against their names.
    ///
    /// Blocks: call it on a blocking thread. Memory: two segments for each run, 256 chunks, and 128 MiB of ids at most.
    ///
    /// # Errors
    /// [`Error::Digest`], [`Error::Corrupt`] or [`Error::Missing`] if the image itself is damaged; the store's. What is wrong
    /// with chunks is in the report.
    pub fn verify(&self, contents: &Contents, read: ReadData) -> Result<VerifyReport, Error> {
        let mut check = Check {
            volume: self,
            contents,
            read,
            report: VerifyReport::default(),
            batch: Vec::new(),
            seen: BTreeSet::new(),
        };
        for record in self.records() {
            let (key, value) = record?;
            check.report.records += 1;
            if let Some(ino) = key::inode_of(&key) {
                let inode: Inode = encode::record(&key, &value)?;
                check.inode(ino, &inode)?;
            }
        }
        check.flush()?;
        Ok(check.report)
    }
}

struct Check<'a> {
    volume: &'a DrVolume,
    contents: &'a Contents,
    read: ReadData,
    report: VerifyReport,
    batch: Vec<(Ino, ChunkId)>,
    seen: BTreeSet<ChunkId>,
}

impl Check<'_> {
    fn inode(&mut self, ino: Ino, inode: &Inode) -> Result<(), Error> {
        let Body::File(content) = &inode.body else { return Ok(()) };
        self.report.files += 1;
        let Content::Manifest(manifest) = content else { return Ok(()) };
        let root = match ManifestRoot::decode(&manifest.root) {
            Ok(root) if root.size() == manifest.size => root,
            Ok(root) => {
                self.problem(ino, format!("its manifest is of {} bytes, the inode of {}", root.size(), manifest.size));
                return Ok(());
            }
            Err(error) => {
                self.problem(ino, error.to_string());
                return Ok(());
            }
        };
        let handle = self.volume.handle.clone();
        let contents = self.contents.clone();
        let fetch = move |id| handle.block_on(contents.chunk(id));
        for placed in root.walk(0, fetch) {
            match placed.map_err(load_error) {
                Ok(placed) => {
                    if let Some(id) = placed.extent.chunk_id() {
                        self.chunk(ino, id)?;
                    }
                }
                Err(error @ (Error::Store { .. } | Error::Deadline { .. })) => return Err(error),
                Err(error) => {
                    self.problem(ino, error.to_string());
                    break;
                }
            }
        }
        Ok(())
    }

    fn chunk(&mut self, ino: Ino, id: ChunkId) -> Result<(), Error> {
        if self.seen.len() >= SEEN_MAX {
            self.seen.clear();
        }
        if !self.seen.insert(id) {
            return Ok(());
        }
        self.report.chunks += 1;
        self.batch.push((ino, id));
        if self.batch.len() >= BATCH { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<(), Error> {
        let batch = std::mem::take(&mut self.batch);
        let (chosen, rest): (Vec<_>, Vec<_>) = batch.into_iter().partition(|(_, id)| self.is_chosen(id));
        let handle = self.volume.handle.clone();
        let ids: Vec<_> = rest.iter().map(|(_, id)| *id).collect();
        let held = handle.block_on(self.contents.archive().contains(&ids))?;
        for ((ino, id), _) in rest.into_iter().zip(held).filter(|(_, held)| !held) {
            self.problem(ino, Error::ChunkMissing { id }.to_string());
        }
        let ids: Vec<_> = chosen.iter().map(|(_, id)| *id).collect();
        match handle.block_on(self.contents.plain(&ids)) {
            Ok(plain) => {
                self.report.chunks_read += plain.len() as u64;
                self.report.bytes_read += plain.values().map(|bytes| bytes.len() as u64).sum::<u64>();
            }
            Err(error @ (Error::Store { .. } | Error::Deadline { .. })) => return Err(error),
            // One of them is bad: one by one, to say which.
            Err(_) => self.one_by_one(chosen)?,
        }
        Ok(())
    }

    fn one_by_one(&mut self, chosen: Vec<(Ino, ChunkId)>) -> Result<(), Error> {
        let handle = self.volume.handle.clone();
        for (ino, id) in chosen {
            match handle.block_on(self.contents.chunk(id)) {
                Ok(bytes) => {
                    self.report.chunks_read += 1;
                    self.report.bytes_read += bytes.len() as u64;
                }
                Err(error @ (Error::Store { .. } | Error::Deadline { .. })) => return Err(error),
                Err(error) => self.problem(ino, error.to_string()),
            }
        }
        Ok(())
    }

    fn is_chosen(&self, id: &ChunkId) -> bool {
        match self.read {
            ReadData::No => false,
            ReadData::All => true,
            ReadData::Share { share, salt } => {
                let mut hasher = blake3::Hasher::new();
                hasher.update(&salt.to_le_bytes());
                hasher.update(id.as_bytes());
                let drawn = u32::from_le_bytes(*hasher.finalize().as_bytes().first_chunk().unwrap_or(&[0; 4]));
                f64::from(drawn) < share * f64::from(u32::MAX)
            }
        }
    }

    fn problem(&mut self, ino: Ino, what: String) {
        self.report.problem_count += 1;
        if self.report.problems.len() < PROBLEMS_MAX {
            self.report.problems.push((ino, what));
        }
    }
}
