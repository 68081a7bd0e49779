//! The bytes that a change brings.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::FileExt as _;

use bytes::Bytes;

/// New bytes, read by position and perhaps several times: when another writer was faster, they are needed again.
#[derive(Debug)]
pub enum NewBytes {
    /// In memory.
    Memory(Bytes),
    /// The first `len` bytes of a file that nobody changes meanwhile.
    File {
        /// The file.
        file: File,
        /// How many bytes.
        len: u64,
    },
}

impl Default for NewBytes {
    fn default() -> Self {
        Self::Memory(Bytes::new())
    }
}

impl NewBytes {
    /// So many bytes are kept in memory by [`NewBytes::read`].
    pub const MEMORY_BYTES_MAX: u64 = 8 << 20;

    /// All that a reader gives: in memory if it is little, else in a temporary file that has no name.
    ///
    /// # Errors
    /// As the operating system says.
    pub fn read(mut reader: impl io::Read) -> io::Result<Self> {
        let mut start = Vec::new();
        reader.by_ref().take(Self::MEMORY_BYTES_MAX).read_to_end(&mut start)?;
        if (start.len() as u64) < Self::MEMORY_BYTES_MAX {
            return Ok(Self::Memory(start.into()));
        }
        let mut file = tempfile::tempfile()?;
        let len = io::copy(&mut start.as_slice().chain(reader), &mut file)?;
        Ok(Self::File { file, len })
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> u64 {
        match self {
            Self::Memory(bytes) => bytes.len() as u64,
            Self::File { len, .. } => *len,
        }
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(super) fn fill(&self, from: u64, buffer: &mut [u8]) -> io::Result<()> {
        match self {
            Self::Memory(bytes) => {
                let start = usize::try_from(from).map_err(|_| io::ErrorKind::UnexpectedEof)?;
                let part = bytes.get(start..).and_then(|rest| rest.get(..buffer.len()));
                buffer.copy_from_slice(part.ok_or(io::ErrorKind::UnexpectedEof)?);
                Ok(())
            }
            Self::File { file, .. } => file.read_exact_at(buffer, from),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn little_is_kept_in_memory_and_much_in_a_file() {
        for len in [0, 1000, NewBytes::MEMORY_BYTES_MAX as usize, (9 << 20) + 1] {
            let all: Vec<u8> = (0..len).map(|number| (number / 7) as u8).collect();
            let new = NewBytes::read(&all[..]).unwrap();
            assert_eq!(matches!(new, NewBytes::Memory(_)), len < NewBytes::MEMORY_BYTES_MAX as usize);
            assert_eq!((new.len(), new.is_empty()), (len as u64, len == 0));
            let mut part = vec![0; len / 2];
            new.fill((len - len / 2) as u64, &mut part).unwrap();
            assert!(part == all[len - len / 2..]);
            assert!(new.fill(1, &mut vec![0; len]).is_err());
        }
    }
}
