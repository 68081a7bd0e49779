//! Publishing images of volumes.
//!
//! An image is a stack of runs: a complete one, and net changes on top. A publish writes the changes since the newest head
//! as one run and then a head that names it; [`ImageWriter::compact`] merges runs so that the cost grows with the change
//! and reads stay few. Nothing refers to a run before the head that is put last, so a crash leaves garbage and no harm.

mod clean;
mod compact;
mod record;
mod source;
mod writer;

#[cfg(test)]
mod image_test;

pub use clean::{CleanPolicy, Cleaned};
pub(crate) use record::{complete, decode};
pub use source::{ChangeIter, ImageRecords, ImageSource, RecordIter};
pub use writer::{ImageWriter, Published, WriterOptions};
