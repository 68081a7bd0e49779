//! What an edit of a large file costs, against cutting all of it again.
//!
//! ```text
//! cargo run --release -p causeway-dedup --example rechunk_bench -- [MiB]
//! ```
//! Noise in memory (1,024 MiB unless said), chunks of 64 KiB on average. One run.

use std::collections::HashMap;
use std::time::Instant;

use bytes::Bytes;

use causeway_base::{ByteSize, ChunkId};
use causeway_dedup::pipeline::Imported;
use causeway_dedup::rechunk::{Old, Plan, RechunkOptions, rechunk};
use causeway_dedup::{ChunkSizes, Extent, ManifestBuilder, Realm, chunker};

type Fallible<T = ()> = Result<T, Box<dyn std::error::Error>>;

struct Memory {
    chunks: HashMap<ChunkId, Bytes>,
    new: Vec<u8>,
    emitted: u64,
}

impl Old for Memory {
    type Error = String;

    fn chunk(&mut self, id: ChunkId) -> Result<Bytes, String> {
        self.chunks.get(&id).cloned().ok_or_else(|| format!("{id} is not there"))
    }

    fn new_bytes(&mut self, from: u64, buffer: &mut [u8]) -> Result<(), String> {
        buffer.copy_from_slice(&self.new[usize::try_from(from).map_err(|error| error.to_string())?..][..buffer.len()]);
        Ok(())
    }

    fn emit(&mut self, _: ChunkId, plain: Bytes) -> Result<(), String> {
        self.emitted += plain.len() as u64;
        Ok(())
    }
}

fn main() -> Fallible {
    let mib: usize = std::env::args().nth(1).map_or(Ok(1024), |text| text.parse())?;
    let realm = Realm::new("bench", [1; 32]);
    let sizes = ChunkSizes::DEFAULT;
    let mut noise = vec![0; mib << 20];
    blake3::Hasher::new().finalize_xof().fill(&mut noise);
    let noise = Bytes::from(noise);

    let start = Instant::now();
    let mut memory = Memory { chunks: HashMap::new(), new: vec![0x55; 1 << 20], emitted: 0 };
    let mut builder = ManifestBuilder::new(realm.clone());
    let mut made = Vec::new();
    for plain in chunker::chunks(noise.clone(), sizes) {
        let extent = Extent::Chunk { id: realm.chunk_id(&plain), len: u32::try_from(plain.len())? };
        made.push((realm.chunk_id(&plain), plain));
        builder.push(extent, |id, plain| made.push((id, plain)))?;
    }
    let root = builder.finish(|id, plain| made.push((id, plain)))?;
    memory.chunks.extend(made);
    let full = start.elapsed().as_secs_f64();
    println!("full pass, one thread: {mib} MiB, {} chunks and nodes, {:.1} ms", memory.chunks.len(), full * 1e3);

    let options = RechunkOptions { realm, sizes, inline_bytes_max: 4096 };
    let size = root.size();
    let middle = size / 2 + 12_345;
    type Edit = fn(&mut Plan, u64) -> Result<(), causeway_dedup::rechunk::PlanError>;
    let edits: [(&str, Edit); 6] = [
        ("1 byte overwritten", |plan, at| plan.write(at, 0, 1)),
        ("1 byte inserted", |plan, at| plan.insert(at, 0, 1)),
        ("1 MiB overwritten", |plan, at| plan.write(at, 0, 1 << 20)),
        ("1 MiB appended", |plan, _| plan.write(plan.size(), 0, 1 << 20)),
        ("cut in the middle", |plan, at| plan.truncate(at)),
        ("1 byte in each of 100 places", |plan, at| (0..100).try_for_each(|n| plan.write(at / 50 * n, n, 1))),
    ];
    println!("{:<30} {:>9} {:>10} {:>10} {:>10} {:>8}", "edit", "ms", "read", "nodes", "emitted", "ratio");
    for (what, edit) in edits {
        memory.emitted = 0;
        let mut plan = Plan::new(size);
        edit(&mut plan, middle)?;
        let start = Instant::now();
        let (imported, stats) = rechunk(&root, plan, &options, &mut memory)?;
        let seconds = start.elapsed().as_secs_f64();
        assert!(matches!(imported, Imported::Manifest(_)), "a large file has a manifest");
        println!(
            "{what:<30} {:>9.2} {:>10} {:>10} {:>10} {:>7.0}×",
            seconds * 1e3,
            ByteSize(stats.bytes_read).to_string(),
            ByteSize(stats.node_bytes_read).to_string(),
            ByteSize(memory.emitted).to_string(),
            full / seconds
        );
    }
    Ok(())
}
