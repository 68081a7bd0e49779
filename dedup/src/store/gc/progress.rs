//! How far an interrupted mark came, in a file. `docs/formats/gc.md` is the page of the file, `docs/gc.md` says why going on with it is
//! safe: the mark that goes on is a new one, which begins with what the old one reached.

use std::collections::BTreeMap;
use std::io;

use causeway_base::{Ino, Seq, VolumeId};
use causeway_storage::disk::{DiskFile, Open};

use super::collect::Mark;
use super::files::replace_with;
use super::reached::Reached;
use crate::store::{ChunkStore, StoreError};

/// How far a mark is in a volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Marked {
    /// The chunks of each inode's newest version at this seq were reached,
    pub seq: Seq,
    /// of the inodes below this one.
    pub below: Ino,
    /// The line of the volume's history that the seq is of, in the caller's numbers.
    pub line: [u64; 4],
    /// Whether the volume was walked as one of which every byte is to be here.
    pub follows: bool,
}

/// The volumes that a mark has reached, in whole or in part.
pub type Progress = BTreeMap<VolumeId, Marked>;

const FILE: &str = "gc.mark";
const MAGIC: [u8; 4] = *b"CWGM";
const VERSION: u16 = 1;
const HEADER_BYTES: usize = 48;
const VOLUME_BYTES: usize = 64;
/// More volumes than a cluster has.
const VOLUMES_MAX: usize = 1 << 20;
/// Words of the filter that are written or read at once.
const WORDS: usize = 128 << 10;

impl ChunkStore {
    /// Begins a mark as [`ChunkStore::begin_mark`] does, with what the last one had reached if that was kept. Of the volumes
    /// that are named with it only what is newer needs a look.
    pub fn resume_mark(&self) -> (Mark, Progress) {
        let mut mark = self.begin_mark();
        let path = self.files.dir().join(FILE);
        let read = self.files.disk().open(&path, Open::Read).and_then(|file| read(file.as_ref()));
        match read {
            Ok((reached, progress)) => {
                mark.reached = reached;
                (mark, progress)
            }
            Err(error) => {
                if error.kind() != io::ErrorKind::NotFound {
                    tracing::warn!(path = %path.display(), %error, "the interrupted mark cannot be read; it begins anew");
                }
                (mark, Progress::new())
            }
        }
    }

    /// Keeps what a mark has reached, in case it is interrupted; durable on return.
    ///
    /// # Errors
    /// [`StoreError::Io`]; harmless, an interrupted mark then goes on from where it was kept last.
    pub fn keep_mark(&self, reached: &Reached, progress: &Progress) -> Result<(), StoreError> {
        let kept = replace_with(self.files.disk(), self.files.dir(), FILE, |file| write(file, reached, progress));
        kept.map_err(|source| self.files.dir_error("write the interrupted mark to", source))
    }

    /// Forgets what was kept: the mark is complete.
    ///
    /// # Errors
    /// [`StoreError::Io`]; the next mark would go on with this one and collect less.
    pub fn forget_mark(&self) -> Result<(), StoreError> {
        let disk = self.files.disk();
        match disk.remove(&self.files.dir().join(FILE)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            removed => {
                let removed = removed.and_then(|()| disk.sync_dir(self.files.dir()));
                removed.map_err(|source| self.files.dir_error("remove the interrupted mark from", source))
            }
        }
    }
}

fn write(file: &dyn DiskFile, reached: &Reached, progress: &Progress) -> io::Result<()> {
    let (words, seed, added) = reached.parts();
    if progress.len() > VOLUMES_MAX {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{} volumes", progress.len())));
    }
    let mut head = Vec::with_capacity(HEADER_BYTES + progress.len() * VOLUME_BYTES);
    head.extend_from_slice(&MAGIC);
    head.extend_from_slice(&VERSION.to_le_bytes());
    head.extend_from_slice(&[0; 2]);
    for number in [seed, added, words.len() as u64, progress.len() as u64, 0] {
        head.extend_from_slice(&number.to_le_bytes());
    }
    for (volume, marked) in progress {
        let numbers = [volume.0, marked.seq.0, marked.below.0, u64::from(marked.follows)];
        for number in numbers.iter().chain(&marked.line) {
            head.extend_from_slice(&number.to_le_bytes());
        }
    }
    let mut out = Summed { file, at: 0, crc: 0 };
    out.write(&head)?;
    for some in words.chunks(WORDS) {
        let bytes: Vec<u8> = some.iter().flat_map(|word| word.to_le_bytes()).collect();
        out.write(&bytes)?;
    }
    file.write_all_at(&out.crc.to_le_bytes(), out.at)
}

fn read(file: &dyn DiskFile) -> io::Result<(Reached, Progress)> {
    let wrong = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_owned());
    let mut input = Summed { file, at: 0, crc: 0 };
    let header = input.read(HEADER_BYTES)?;
    if header[..4] != MAGIC || header[4..6] != VERSION.to_le_bytes() {
        return Err(wrong("it is not a mark, or of another version"));
    }
    let [seed, added, words, volumes, _] = numbers(&header[8..]);
    let len = file.len()?;
    // Bounded by the file's length before anything is allocated.
    let expected = words.checked_mul(8).zip(volumes.checked_mul(VOLUME_BYTES as u64));
    let expected =
        expected.and_then(|(words, volumes)| words.checked_add(volumes)?.checked_add(HEADER_BYTES as u64 + 4));
    if expected != Some(len) || volumes > VOLUMES_MAX as u64 {
        return Err(wrong("its length is wrong"));
    }
    let mut progress = Progress::new();
    for entry in input.read(volumes as usize * VOLUME_BYTES)?.chunks_exact(VOLUME_BYTES) {
        let [volume, seq, below, follows, line @ ..] = numbers::<8>(entry);
        progress.insert(VolumeId(volume), Marked { seq: Seq(seq), below: Ino(below), line, follows: follows != 0 });
    }
    let mut filter = Vec::with_capacity(usize::try_from(words).map_err(io::Error::other)?);
    while filter.len() < filter.capacity().min(words as usize) {
        let some = WORDS.min(words as usize - filter.len());
        filter.extend(input.read(some * 8)?.chunks_exact(8).map(|bytes| numbers::<1>(bytes)[0]));
    }
    let crc = input.crc;
    if input.read(4)? != crc.to_le_bytes() {
        return Err(wrong("its checksum does not hold"));
    }
    let reached =
        Reached::from_parts(filter, seed, added).ok_or_else(|| wrong("its filter has a size that none has"))?;
    Ok((reached, progress))
}

/// The first numbers of bytes that are long enough.
fn numbers<const N: usize>(bytes: &[u8]) -> [u64; N] {
    std::array::from_fn(|at| bytes[at * 8..at * 8 + 8].iter().rev().fold(0, |long, byte| long << 8 | u64::from(*byte)))
}

/// A file from its start on, and the checksum so far.
struct Summed<'a> {
    file: &'a dyn DiskFile,
    at: u64,
    crc: u32,
}

impl Summed<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all_at(bytes, self.at)?;
        self.took(bytes);
        Ok(())
    }

    fn read(&mut self, len: usize) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; len];
        self.file.read_exact_at(&mut bytes, self.at)?;
        self.took(&bytes);
        Ok(bytes)
    }

    fn took(&mut self, bytes: &[u8]) {
        self.at += bytes.len() as u64;
        self.crc = crc32c::crc32c_append(self.crc, bytes);
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;

    use causeway_base::ChunkId;
    use causeway_storage::disk::{Disk as _, SimDisk};
    use causeway_storage::kv::MemoryKv;

    use super::*;
    use crate::store::{INDEX_SPACES, StoreOptions};

    #[test]
    fn a_mark_is_gone_on_with_and_a_damaged_one_begins_anew() {
        let disk = SimDisk::new(1);
        let open = || {
            let kv = Arc::new(MemoryKv::new(INDEX_SPACES));
            ChunkStore::open(Arc::new(disk.clone()), "/packs", kv, StoreOptions::default()).unwrap().0
        };
        let store = open();
        let (mut mark, none) = store.resume_mark();
        assert!(none.is_empty() && mark.reached.is_empty());
        let id = |number: u64| ChunkId(*blake3::hash(&number.to_le_bytes()).as_bytes());
        (0..5_000).for_each(|number| _ = mark.reached.add(&id(number)));
        let marked = |below| Marked { seq: Seq(7), below: Ino(below), line: [1, 2, 3, below], follows: true };
        let progress: Progress = [(VolumeId(1), marked(9)), (VolumeId(4), marked(u64::MAX))].into();
        store.keep_mark(&mark.reached, &progress).unwrap();
        drop(store);
        let store = open();
        let (again, found) = store.resume_mark();
        assert_eq!((found, again.reached.len()), (progress, mark.reached.len()));
        assert!((0..5_000).all(|number| again.reached.contains(&id(number))));
        assert!(!(5_000..5_100).all(|number| again.reached.contains(&id(number))));

        let path = Path::new("/packs").join(FILE);
        let len = disk.open(&path, Open::Read).unwrap().len().unwrap();
        for offset in (0..len).step_by(611).chain(len - 4..len) {
            disk.flip_bit(&path, offset, 1).unwrap();
            let (mark, found) = store.resume_mark();
            assert!(found.is_empty() && mark.reached.is_empty(), "a flip at {offset}");
            disk.flip_bit(&path, offset, 1).unwrap();
        }
        assert_eq!(store.resume_mark().1.len(), 2);
        store.forget_mark().unwrap();
        assert!(store.resume_mark().1.is_empty());
        store.forget_mark().unwrap();
    }
}
