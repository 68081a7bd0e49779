//! Looks at fjall's journals before the engine does.
//!
//! The engine (3.1.13) refuses to open a store whose last journal was torn inside a value, although nothing that was
//! synced is missing (`JournalRecovery(ChecksumMismatch)`), and it drops in silence what follows a broken entry, in any
//! journal. So: the torn end of the newest journal is cut here, with a copy kept aside; an older journal, which was
//! synced before the newer one was made, must be whole. What was cut although it had been synced is found afterwards by
//! [`super::mark`].
//!
//! A journal is a sequence of batches, then zeros (its space is allocated ahead) or the end. All integers are
//! little-endian:
//!
//! ```text
//! start  1, item count u32, sequence number u64
//! item   2, value type u8, compression u8, space id u64, key length u16, value length u32, stored length u32, key, value
//! clear  4, space id u64
//! end    3, xxh3 of the bytes of all items u64, "FJL" 3
//! ```

use std::fs::{File, OpenOptions};
use std::io::{self, BufReader, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use xxhash_rust::xxh3::Xxh3;

use crate::disk::{Disk, RealDisk};
use crate::kv::{KEY_BYTES_MAX, VALUE_BYTES_MAX};

const TRAILER: [u8; 4] = [b'F', b'J', b'L', 3];
/// Larger than what [`crate::kv::Batch`] lets through; bounds what a broken length makes us read.
const STORED_BYTES_MAX: usize = 2 * VALUE_BYTES_MAX;

/// What was done to the journals.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Repair {
    /// Nothing was torn.
    Whole,
    /// This many bytes, from the first batch that is not whole, were cut off the newest journal.
    Cut(u64),
    /// An older journal is not whole.
    Damaged(PathBuf),
}

/// Checks the journals of the store at `path`, and cuts a torn end off the newest.
pub(super) fn repair(path: &Path) -> io::Result<Repair> {
    let mut journals = journals(path)?;
    journals.sort();
    let Some((_, newest)) = journals.pop() else { return Ok(Repair::Whole) };
    for (_, older) in journals {
        if scan(&older)?.torn > 0 {
            return Ok(Repair::Damaged(older));
        }
    }
    let found = scan(&newest)?;
    if found.torn == 0 {
        return Ok(Repair::Whole);
    }
    // The copy is durable before anything is cut.
    let aside = newest.with_extension("jnl.torn");
    std::fs::copy(&newest, &aside)?;
    File::open(&aside)?.sync_all()?;
    RealDisk.sync_dir(path)?;
    let file = OpenOptions::new().write(true).open(&newest)?;
    file.set_len(found.whole)?;
    file.sync_all()?;
    Ok(Repair::Cut(found.torn))
}

fn journals(path: &Path) -> io::Result<Vec<(u64, PathBuf)>> {
    let names = match RealDisk.list(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        names => names?,
    };
    let number = |name: &Path| name.to_str()?.strip_suffix(".jnl")?.parse().ok();
    Ok(names.into_iter().filter_map(|name| Some((number(&name)?, path.join(name)))).collect())
}

/// How a journal divides.
struct Found {
    /// Bytes of whole batches from the start.
    whole: u64,
    /// Bytes after them up to the last one that is not zero.
    torn: u64,
}

fn scan(path: &Path) -> io::Result<Found> {
    let mut reader = Reader { file: BufReader::with_capacity(1 << 20, File::open(path)?), position: 0, items: None };
    let mut whole = 0;
    while reader.batch()? {
        whole = reader.position;
    }
    Ok(Found { whole, torn: last_non_zero(path, whole)?.map_or(0, |last| last + 1 - whole) })
}

/// Where the last byte at or after `from` is that is not zero. By blocks, since tens of megabytes of zeros are usual.
fn last_non_zero(path: &Path, from: u64) -> io::Result<Option<u64>> {
    const BLOCK: usize = 64 << 10;
    let file = File::open(path)?;
    let zeros = [0; BLOCK];
    let mut block = vec![0; BLOCK];
    let mut end = file.metadata()?.len();
    while end > from {
        let start = from.max(end.saturating_sub(BLOCK as u64));
        let bytes = &mut block[..(end - start) as usize];
        file.read_exact_at(bytes, start)?;
        if *bytes != zeros[..bytes.len()] {
            return Ok(bytes.iter().rposition(|byte| *byte != 0).map(|last| start + last as u64));
        }
        end = start;
    }
    Ok(None)
}

struct Reader {
    file: BufReader<File>,
    position: u64,
    /// Over the items of the batch being read.
    items: Option<Xxh3>,
}

impl Reader {
    /// Reads one batch; `false` if there is none or it is not whole.
    fn batch(&mut self) -> io::Result<bool> {
        match self.try_batch() {
            Ok(()) => Ok(true),
            Err(Stop::Broken) => Ok(false),
            Err(Stop::Io(error)) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
            Err(Stop::Io(error)) => Err(error),
        }
    }

    fn try_batch(&mut self) -> Result<(), Stop> {
        self.items = None;
        expect(self.take::<1>()? == [1])?;
        let count = u32::from_le_bytes(self.take()?);
        self.take::<8>()?;
        self.items = Some(Xxh3::new());
        for _ in 0..count {
            match self.take::<1>()? {
                [2] => self.item()?,
                [4] => drop(self.take::<8>()?),
                _ => return Err(Stop::Broken),
            }
        }
        let expected = self.items.take().map(|hasher| hasher.digest());
        expect(self.take::<1>()? == [3])?;
        expect(Some(u64::from_le_bytes(self.take()?)) == expected)?;
        expect(self.take()? == TRAILER)
    }

    fn item(&mut self) -> Result<(), Stop> {
        let [value_type, compression] = self.take()?;
        expect(value_type <= 4 && compression <= 1)?;
        self.take::<8>()?;
        let key = usize::from(u16::from_le_bytes(self.take()?));
        let value = u32::from_le_bytes(self.take()?) as usize;
        let stored = u32::from_le_bytes(self.take()?) as usize;
        expect(key <= KEY_BYTES_MAX && value <= VALUE_BYTES_MAX && stored <= STORED_BYTES_MAX)?;
        expect(compression == 1 || value == stored)?;
        self.skip(key + stored)
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N], Stop> {
        let mut bytes = [0; N];
        self.read(&mut bytes)?;
        Ok(bytes)
    }

    fn skip(&mut self, mut len: usize) -> Result<(), Stop> {
        let mut bytes = [0; 4096];
        while len > 0 {
            let part = len.min(bytes.len());
            self.read(&mut bytes[..part])?;
            len -= part;
        }
        Ok(())
    }

    fn read(&mut self, bytes: &mut [u8]) -> Result<(), Stop> {
        self.file.read_exact(bytes).map_err(Stop::Io)?;
        self.position += bytes.len() as u64;
        if let Some(items) = &mut self.items {
            items.update(bytes);
        }
        Ok(())
    }
}

enum Stop {
    Broken,
    Io(io::Error),
}

fn expect(holds: bool) -> Result<(), Stop> {
    if holds { Ok(()) } else { Err(Stop::Broken) }
}
