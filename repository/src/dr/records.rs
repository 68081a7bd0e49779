//! All records of an image, for a restore.

use bytes::Bytes;

use causeway_namespace_core::digest::Digest;

use super::DrVolume;
use crate::error::Error;
use crate::image::complete;
use crate::names;
use crate::run::{Merged, RunKind, RunRecords, SegmentRef};

/// All records in key order; see [`DrVolume::records`].
pub struct DrRecords {
    records: Box<dyn Iterator<Item = Result<(Bytes, Bytes), Error>> + Send>,
    digest: Digest,
    expected: Digest,
    volume: causeway_base::VolumeId,
    seq: causeway_base::Seq,
    ended: bool,
}

impl DrVolume {
    /// All records in key order. Every segment's BLAKE3 is checked before a record of it is given; when all were given and
    /// they do not add up to the image's digest, the last item is [`Error::Digest`]: nothing may be kept then.
    ///
    /// `next` blocks on the network: iterate on a blocking thread. Memory: two segments for each run.
    #[must_use]
    pub fn records(&self) -> DrRecords {
        let sources = self.head.runs.iter().map(|run| {
            let path = |segment: &SegmentRef| (names::segment(&self.directory, segment.name), segment.clone());
            let segments = run.segments.iter().map(path).collect();
            RunRecords::new(self.handle.clone(), self.repository.store.clone(), RunKind::Image, segments)
        });
        DrRecords {
            records: Box::new(complete(Merged::new(sources.collect()))),
            digest: Digest::default(),
            expected: self.head.digest,
            volume: self.head.volume,
            seq: self.head.seq,
            ended: false,
        }
    }
}

impl Iterator for DrRecords {
    type Item = Result<(Bytes, Bytes), Error>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        match self.records.next() {
            Some(Ok((key, value))) => {
                self.digest.add(&key, &value);
                Some(Ok((key, value)))
            }
            Some(Err(error)) => {
                self.ended = true;
                Some(Err(error))
            }
            None => {
                self.ended = true;
                (self.digest != self.expected).then(|| {
                    let (expected, found) = (self.expected.to_string(), self.digest.to_string());
                    Err(Error::Digest { volume: self.volume, seq: self.seq, expected, found })
                })
            }
        }
    }
}

impl std::fmt::Debug for DrRecords {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "DrRecords({} at {})", self.volume, self.seq)
    }
}
