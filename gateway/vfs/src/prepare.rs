//! Turning local files into contents and chunks: reading, cutting, hashing. Blocking; runs on a blocking thread.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::path::Path;

use bytes::Bytes;
use causeway_base::ChunkId;
use causeway_dedup::manifest::ManifestBuilder;
use causeway_dedup::sparse::{Segment, Segments};
use causeway_dedup::{ChunkSizes, Chunker, Extent, ManifestRoot, Realm};

/// A chunk with its name, not compressed yet.
pub(crate) type PlainChunk = (ChunkId, Bytes);

/// What a volume says about how files are stored.
#[derive(Debug, Clone)]
pub(crate) struct Rules {
    pub(crate) realm: Realm,
    pub(crate) sizes: ChunkSizes,
    pub(crate) inline_bytes_max: u64,
}

/// A file's content, ready to be committed once its chunks are durable.
#[derive(Debug, Clone)]
pub(crate) enum Prepared {
    Inline(Bytes),
    Manifest(ManifestRoot),
}

/// Cuts one file; hands chunks to `emit` as they are found, metadata chunks last. `emit` may stop it by an error.
pub(crate) fn file(
    path: &Path,
    rules: &Rules,
    mut emit: impl FnMut(PlainChunk) -> io::Result<()>,
) -> io::Result<Prepared> {
    let file = File::open(path)?;
    let size = file.metadata()?.len();
    if size <= rules.inline_bytes_max {
        let mut bytes = Vec::with_capacity(usize::try_from(size).unwrap_or_default());
        // One byte more than the limit tells a file that has grown meanwhile.
        (&file).take(rules.inline_bytes_max + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 <= rules.inline_bytes_max {
            return Ok(Prepared::Inline(bytes.into()));
        }
        (&file).rewind()?;
    }
    let mut builder = ManifestBuilder::new(rules.realm.clone());
    let mut metadata = Vec::new();
    for segment in Segments::new(&file)? {
        match segment? {
            Segment::Hole { len, .. } => push(&mut builder, Extent::Hole { len }, &mut metadata)?,
            Segment::Data { offset, len } => {
                (&file).seek(SeekFrom::Start(offset))?;
                // To the end of the data, or of the file if it is cut meanwhile.
                for chunk in Chunker::with_length(&file, rules.sizes, len) {
                    let chunk = chunk?;
                    let id = rules.realm.chunk_id(&chunk);
                    let len = u32::try_from(chunk.len()).map_err(|_| io::ErrorKind::FileTooLarge)?;
                    push(&mut builder, Extent::Chunk { id, len }, &mut metadata)?;
                    emit((id, chunk))?;
                }
            }
        }
        for chunk in metadata.drain(..) {
            emit(chunk)?;
        }
    }
    let root = builder.finish(|id, plain| metadata.push((id, plain))).map_err(io::Error::other)?;
    for chunk in metadata {
        emit(chunk)?;
    }
    Ok(Prepared::Manifest(root))
}

fn push(builder: &mut ManifestBuilder, extent: Extent, metadata: &mut Vec<PlainChunk>) -> io::Result<()> {
    builder.push(extent, |id, plain| metadata.push((id, plain))).map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt as _;

    use super::*;

    fn rules() -> Rules {
        Rules {
            realm: Realm::new("test", [7; 32]),
            sizes: ChunkSizes::from_avg(64 << 10).unwrap(),
            inline_bytes_max: 4096,
        }
    }

    fn prepare(path: &Path) -> (Prepared, Vec<PlainChunk>) {
        let mut chunks = Vec::new();
        let prepared = file(path, &rules(), |chunk| {
            chunks.push(chunk);
            Ok(())
        });
        (prepared.unwrap(), chunks)
    }

    #[test]
    fn small_files_are_inline_up_to_the_limit() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("file");
        for (size, inline) in [(0, true), (4096, true), (4097, false)] {
            std::fs::write(&path, vec![1; size]).unwrap();
            let (prepared, chunks) = prepare(&path);
            assert_eq!(matches!(prepared, Prepared::Inline(_)), inline, "{size}");
            assert_eq!(chunks.is_empty(), inline, "{size}");
        }
    }

    #[test]
    fn a_sparse_file_is_its_data_and_holes() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("sparse");
        let local = File::create(&path).unwrap();
        local.write_all_at(&[1; 8192], 0).unwrap();
        local.write_all_at(&[2; 8192], 64 << 20).unwrap();
        local.set_len(128 << 20).unwrap();
        let (prepared, chunks) = prepare(&path);
        let Prepared::Manifest(root) = prepared else { panic!("inline") };
        assert_eq!(root.size(), 128 << 20);
        let stored: usize = chunks.iter().map(|(_, plain)| plain.len()).sum();
        assert!(stored <= 64 << 10, "{stored} bytes stored");
        let manifest = root.load(|_| Err::<Bytes, _>(())).unwrap();
        assert!(manifest.extents.iter().any(|extent| matches!(extent, Extent::Hole { len } if *len > 60 << 20)));
    }
}
