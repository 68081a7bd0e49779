//! Edits of large files: chunks come as their difference from what the replica holds.

use std::sync::Arc;

use causeway_replicator::wire::{Bases, Cause, ChunkRequest, Form, Received};

use crate::cluster::*;
use crate::common::*;
use crate::follow::{Pair, pair, replicated};

fn float32(seed: u64, len: usize) -> Vec<f32> {
    noise(seed, 8 * len)
        .chunks_exact(8)
        .map(|bytes| {
            let uniform = |bytes: &[u8]| f32::from(u16::from_le_bytes([bytes[0], bytes[1]])) / 65_536.0;
            0.02 * (uniform(&bytes[..2]) + uniform(&bytes[2..4]) + uniform(&bytes[4..6]) + uniform(&bytes[6..]) - 2.0)
        })
        .collect()
}

fn bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edit_in_place_of_a_large_file_costs_a_few_hundred_bytes() {
    let Pair { volume, zurich, westeurope, homes: _homes, .. } = pair().await;
    let mut file = noise(1, 24 << 20);
    let seq = volume.mutate(vec![put("big", zurich.write(&file))]);
    westeurope.in_sync(seq).await;
    let first = replicated(&westeurope);
    assert_eq!(first.deltas_received, 0, "nothing was here");

    file[13 << 20] ^= 1;
    let seq = volume.mutate(vec![put("big", zurich.write(&file))]);
    westeurope.in_sync(seq).await;
    let edit = replicated(&westeurope);
    let (wire, plain) = (edit.wire() - first.wire(), edit.plain_received - first.plain_received);
    println!("one byte in 24 MiB: {wire} bytes on the wire for {plain} plain ones, {} deltas", edit.deltas_received);
    assert!(edit.deltas_received >= 2, "the chunk and the manifest's node: {edit:?}");
    assert!(wire < 2048, "{wire} bytes");
    assert!(plain > 8 * wire, "{plain} plain bytes");
    assert!(edit.delta_received < edit.chunk_received - first.chunk_received + 1);

    // It rests as it came: as its difference from what was there, which the source that wrote it does not say of its own.
    let rests = westeurope.store.stats();
    assert!(rests.delta_chunks >= 1 && rests.delta_stored_bytes * 20 < rests.delta_raw_bytes, "{rests:?}");
    assert_eq!(zurich.store.stats().delta_chunks, 0);

    // Bytes inserted near the front move all that follows; only what is around them comes.
    file.splice(1_000_000..1_000_000, noise(2, 1000));
    let seq = volume.mutate(vec![put("big", zurich.write(&file))]);
    westeurope.in_sync(seq).await;
    let insert = replicated(&westeurope);
    let wire = insert.wire() - edit.wire();
    println!("1,000 bytes inserted: {wire} bytes on the wire");
    assert!(wire < 6 << 10, "{wire} bytes");
    assert_eq!(westeurope.chunk_ids(), zurich.chunk_ids());

    // Where the state before is not kept any more, all comes whole, as it did.
    volume.forget_changes();
    file[3 << 20] ^= 1;
    let seq = volume.mutate(vec![put("big", zurich.write(&file))]);
    westeurope.in_sync(seq).await;
    assert_eq!(westeurope.chunk_ids(), zurich.chunk_ids());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drifted_tensor_comes_as_planes_and_a_grown_file_finds_its_old_part() {
    let Pair { volume, zurich, westeurope, homes: _homes, .. } = pair().await;
    let weights = float32(1, 1 << 20);
    let mut header = b"{\"step\": 1}".to_vec();
    let seq = volume.mutate(vec![put("weights", zurich.write(&[&header[..], &bytes(&weights)].concat()))]);
    westeurope.in_sync(seq).await;
    let first = replicated(&westeurope);

    // All values drift and the header grows by a byte: no chunk is the same, none is cut where it was.
    header.push(b' ');
    let drift = noise(3, weights.len());
    let drifted: Vec<f32> =
        weights.iter().zip(&drift).map(|(w, d)| w * (1.0 + 1e-3 * (f32::from(*d) / 128.0 - 1.0))).collect();
    let seq = volume.mutate(vec![put("weights", zurich.write(&[&header[..], &bytes(&drifted)].concat()))]);
    westeurope.in_sync(seq).await;
    let after = replicated(&westeurope);
    let (wire, plain) = (after.wire() - first.wire(), after.plain_received - first.plain_received);
    println!("4 MiB of float32, all drifted: {wire} bytes on the wire for {plain} plain ones");
    assert!(plain >= 4 << 20);
    assert!(wire * 100 < plain * 62, "{wire} of {plain} bytes");
    let rests = westeurope.store.stats();
    println!("at rest: {rests:?}");
    assert!(
        rests.delta_raw_bytes > 3 << 20 && rests.delta_stored_bytes * 100 < rests.delta_raw_bytes * 65,
        "{rests:?}"
    );
    assert_eq!(westeurope.chunk_ids(), zurich.chunk_ids());
}

/// The same but for a byte in every 30,000.
fn touched(bytes: &[u8]) -> Vec<u8> {
    let mut touched = bytes.to_vec();
    touched.iter_mut().step_by(30_000).for_each(|byte| *byte ^= 1);
    touched
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_file_that_resembles_another_comes_as_it_rests_at_the_source() {
    let Pair { volume, zurich, westeurope, homes: _homes, .. } = pair().await;
    let first = noise(1, 6 << 20);
    let seq = volume.mutate(vec![put("checkpoint-1", zurich.upload(&first))]);
    westeurope.in_sync(seq).await;
    let before = replicated(&westeurope);
    assert_eq!(before.deltas_received, 0);

    // No version of this one is anywhere: only the source knows what it resembles.
    let second = touched(&first);
    let seq = volume.mutate(vec![put("checkpoint-2", zurich.upload(&second))]);
    let rests = zurich.store.stats();
    assert!(rests.delta_chunks > 50, "{rests:?}");
    westeurope.in_sync(seq).await;
    let after = replicated(&westeurope);
    let (wire, plain) = (after.wire() - before.wire(), after.plain_received - before.plain_received);
    println!("{plain} plain bytes of a new file came as {wire}, in {} deltas", after.deltas_received);
    assert!(plain > 3 << 20 && wire * 10 < plain, "{wire} of {plain} bytes");
    assert_eq!(westeurope.chunk_ids(), zurich.chunk_ids());

    // A first copy of both at once: nothing is sent against what the asker still lacks.
    let (third, fourth) = (noise(2, 3 << 20), touched(&noise(2, 3 << 20)));
    let seq = volume.mutate(vec![put("third", zurich.upload(&third)), put("fourth", zurich.upload(&fourth))]);
    westeurope.in_sync(seq).await;
    assert_eq!(westeurope.chunk_ids(), zurich.chunk_ids());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_rests_on_chunks_that_only_the_source_has_comes_whole() {
    let Pair { volume, zurich, westeurope, homes: _homes, .. } = pair().await;
    let never_committed = noise(1, 6 << 20);
    zurich.upload(&never_committed);
    let only_there = zurich.chunk_ids();
    let seq = volume.mutate(vec![put("file", zurich.upload(&touched(&never_committed)))]);
    assert!(zurich.store.stats().delta_chunks > 50);
    let status = westeurope.in_sync(seq).await;
    assert_eq!((status.missing_count, status.error), (0, None));
    let here = westeurope.chunk_ids();
    assert!(zurich.chunk_ids().difference(&here).all(|id| only_there.contains(id)));
    assert!(here.len() > 50);
    let got = replicated(&westeurope);
    println!("{} of {} bytes were deltas that came in vain", got.delta_received, got.wire());
    assert!(got.delta_received * 20 < got.wire(), "{got:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_archive_whose_members_moved_finds_them_all_over_the_old_one() {
    let Pair { volume, zurich, westeurope, homes: _homes, .. } = pair().await;
    // Members far smaller than a chunk, in another order: hardly a chunk is the same, and a chunk's parts lie all over.
    let members: Vec<Vec<u8>> = (0..60).map(|seed| noise(100 + seed, 20_000)).collect();
    let archive = |step: usize| (0..60).flat_map(|n| members[n * step % 60].clone()).collect::<Vec<u8>>();
    let seq = volume.mutate(vec![put("archive", zurich.write(&archive(1)))]);
    westeurope.in_sync(seq).await;
    let first = replicated(&westeurope);
    let seq = volume.mutate(vec![put("archive", zurich.write(&archive(7)))]);
    westeurope.in_sync(seq).await;
    let after = replicated(&westeurope);
    let (wire, plain) = (after.wire() - first.wire(), after.plain_received - first.plain_received);
    println!("an archive of 1.2 MB in another order: {wire} bytes on the wire for {plain} plain ones");
    assert!(plain > 1_000_000, "{plain} plain bytes are new");
    assert!(wire < 20 << 10, "{wire} bytes");
    assert_eq!(westeurope.chunk_ids(), zurich.chunk_ids());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_base_that_is_damaged_here_is_done_without() {
    let Pair { volume, zurich, westeurope, homes, .. } = pair().await;
    let mut file = noise(5, 1 << 20);
    let seq = volume.mutate(vec![put("f", zurich.write(&file))]);
    westeurope.in_sync(seq).await;
    // The replica's disk loses a bit of every 4 KiB, and nobody has read it yet.
    for pack in homes[1].packs() {
        let mut bytes = std::fs::read(&pack).unwrap();
        for at in (4096..bytes.len()).step_by(4096) {
            bytes[at] ^= 1;
        }
        std::fs::write(&pack, bytes).unwrap();
    }
    let before = replicated(&westeurope);
    file[500_000] ^= 1;
    let seq = volume.mutate(vec![put("f", zurich.write(&file))]);
    westeurope.in_sync(seq).await;
    let after = replicated(&westeurope);
    assert_eq!(after.deltas_received, 1, "one came, in vain");
    assert!(after.chunk_received - before.chunk_received > 4096, "and then the whole chunk: {after:?}");
    let held: Vec<_> =
        zurich.chunk_ids().into_iter().filter(|id| westeurope.store.get(id).is_ok_and(|it| it.is_some())).collect();
    assert!(!held.is_empty(), "what came is good");
}

#[tokio::test]
async fn a_source_without_the_base_sends_the_whole_and_a_fetch_without_a_reader_offers_none() {
    let trust = Trust::new();
    let old = noise(1, 60_000);
    let mut new = old.clone();
    new[30_000] ^= 1;
    let (old, new) = (encode(old), encode(new));
    let client = trust.client(&node("eastus", 2));
    let held = MemoryChunks::with(std::slice::from_ref(&old));
    let mut sizes = Vec::new();
    for (site, has_base, reads) in [("zurich", true, true), ("lisbon", false, true), ("madrid", true, false)] {
        let chunks = if has_base { vec![old.clone(), new.clone()] } else { vec![new.clone()] };
        let (to, _server, _) = trust.serve(&node(site, 1), MemoryChunks::with(&chunks));
        let mut bases = Bases::default();
        assert!(bases.push(0, &[old.id], 0));
        let request = ChunkRequest {
            realm: "default".to_owned(),
            volume: None,
            cause: Cause::Replication,
            origin: None,
            form: Form::WAN,
            ids: vec![new.id],
            bases,
            any_base: false,
        };
        let held = held.clone();
        let read: causeway_replicator::wire::ReadBase = Box::new(move |ids| {
            let chunk = held.chunks.lock().unwrap().get(&ids[0]).cloned()?;
            Some(chunk.decode(&realm()).unwrap().to_vec())
        });
        let got = Arc::<std::sync::Mutex<Vec<Received>>>::default();
        let sink = got.clone();
        let consume = move |received| {
            sink.lock().unwrap().push(received);
            true
        };
        client.fetch(&to, realm(), request, &[], reads.then_some(read), consume).await.unwrap();
        let got = got.lock().unwrap();
        let [Received::Chunk { index: 0, plain, .. }] = &got[..] else { panic!("{got:?}") };
        assert_eq!(*plain, new.decode(&realm()).unwrap());
        let counted =
            client.counters().total(|account| account.place == causeway_replicator::Place::Site(site.parse().unwrap()));
        assert_eq!(counted.deltas_received, u64::from(has_base && reads));
        sizes.push(counted.wire());
    }
    assert!(sizes[0] * 50 < sizes[1] && sizes[0] * 50 < sizes[2], "{sizes:?}");
}
