//! Where a sparse file has data and where it has none.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;

use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;

/// Holes shorter than this are read as zeros: cutting a file into more runs costs more chunks than the zeros do, which
/// compress to nothing.
pub const HOLE_BYTES_MIN: u64 = 64 << 10;

/// A part of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Segment {
    /// Bytes to be read.
    Data {
        /// Where they start.
        offset: u64,
        /// How many.
        len: u64,
    },
    /// Zeros that take no space.
    Hole {
        /// Where they start.
        offset: u64,
        /// How many.
        len: u64,
    },
}

/// The data and holes of a file, in order, without gaps, up to its size when this was made.
///
/// Found lazily by `SEEK_DATA` and `SEEK_HOLE`, which move the file's own position: read by position, or seek before
/// each segment. A file system that cannot tell holes gives one segment of data.
#[derive(Debug)]
pub struct Segments<'a> {
    file: &'a File,
    size: u64,
    at: u64,
    /// Found behind the data that was given last.
    hole: u64,
}

impl<'a> Segments<'a> {
    /// The segments of a file.
    ///
    /// # Errors
    /// As the operating system says.
    pub fn new(file: &'a File) -> io::Result<Self> {
        Ok(Self { file, size: file.metadata()?.len(), at: 0, hole: 0 })
    }

    /// Where the data ends that starts at or after `from`, and the next data starts; short holes are data.
    fn data_end(&self, from: u64) -> io::Result<(u64, u64)> {
        let mut from = from;
        loop {
            let end = match seek(self.file.as_fd(), SeekFrom::Hole(from)) {
                Ok(end) => end.clamp(from, self.size),
                Err(Errno::NXIO | Errno::INVAL | Errno::OPNOTSUPP) => self.size,
                Err(error) => return Err(error.into()),
            };
            let next = self.next_data(end)?;
            if next - end >= HOLE_BYTES_MIN || next == self.size {
                // Also at the end of the file a short hole is data.
                let short = next - end < HOLE_BYTES_MIN;
                return Ok(if short { (next, next) } else { (end, next) });
            }
            from = next.max(from + 1);
        }
    }

    fn next_data(&self, from: u64) -> io::Result<u64> {
        if from >= self.size {
            return Ok(self.size);
        }
        match seek(self.file.as_fd(), SeekFrom::Data(from)) {
            Ok(next) => Ok(next.clamp(from, self.size)),
            Err(Errno::NXIO) => Ok(self.size), // nothing but a hole to the end
            Err(Errno::INVAL | Errno::OPNOTSUPP) => Ok(from),
            Err(error) => Err(error.into()),
        }
    }

    fn advance(&mut self) -> io::Result<Segment> {
        let offset = self.at;
        if offset == 0 && self.hole == 0 {
            let start = self.next_data(0)?;
            self.hole = if start >= HOLE_BYTES_MIN { start } else { 0 };
        }
        if self.hole > 0 {
            let len = std::mem::take(&mut self.hole);
            self.at += len;
            return Ok(Segment::Hole { offset, len });
        }
        let (end, next) = self.data_end(offset)?;
        self.at = end;
        self.hole = next - end;
        Ok(Segment::Data { offset, len: end - offset })
    }
}

impl Iterator for Segments<'_> {
    type Item = io::Result<Segment>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.at >= self.size {
            return None;
        }
        let segment = self.advance();
        if segment.is_err() {
            self.at = self.size;
        }
        Some(segment)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use super::*;

    fn segments(file: &File) -> Vec<Segment> {
        Segments::new(file).unwrap().collect::<io::Result<_>>().unwrap()
    }

    #[test]
    fn an_empty_and_a_full_file() {
        let file = tempfile::tempfile().unwrap();
        assert_eq!(segments(&file), []);
        file.write_all_at(&[1; 300_000], 0).unwrap();
        assert_eq!(segments(&file), [Segment::Data { offset: 0, len: 300_000 }]);
    }

    #[test]
    fn long_holes_are_kept_and_short_ones_are_data() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(10 << 20).unwrap();
        assert_eq!(segments(&file), [Segment::Hole { offset: 0, len: 10 << 20 }]);
        file.write_all_at(&[1; 4096], 1 << 20).unwrap();
        file.write_all_at(&[1; 4096], (1 << 20) + 8192).unwrap(); // 4 KiB between the two
        file.write_all_at(&[1; 4096], 5 << 20).unwrap();
        assert_eq!(
            segments(&file),
            [
                Segment::Hole { offset: 0, len: 1 << 20 },
                Segment::Data { offset: 1 << 20, len: 12_288 },
                Segment::Hole { offset: (1 << 20) + 12_288, len: (4 << 20) - 12_288 },
                Segment::Data { offset: 5 << 20, len: 4096 },
                Segment::Hole { offset: (5 << 20) + 4096, len: (5 << 20) - 4096 },
            ]
        );
        file.set_len((5 << 20) + 5000).unwrap();
        assert_eq!(segments(&file).last(), Some(&Segment::Data { offset: 5 << 20, len: 5000 }));
    }

    #[test]
    fn a_file_that_starts_with_a_short_hole() {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(&[1; 4096], 8192).unwrap();
        assert_eq!(segments(&file), [Segment::Data { offset: 0, len: 12_288 }]);
    }
}
