//! One writer: files of its own, each replaced now and then.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::ensure;
use causeway_base::RetryClass;
use causeway_vfs::{Progress, Vfs};
use rand::rngs::StdRng;
use rand::{Rng as _, RngCore as _, SeedableRng as _};

use super::cluster::VOLUME;
use super::oracle::Oracle;

/// Files of a writer.
const FILES: u32 = 12;

pub(super) async fn run(
    vfs: Vfs,
    number: usize,
    seed: u64,
    oracle: Arc<Oracle>,
    stop: Arc<AtomicBool>,
    scratch: PathBuf,
) -> anyhow::Result<()> {
    let mut rng = StdRng::seed_from_u64(seed);
    let local = scratch.join(format!("writer-{number}"));
    while !stop.load(Ordering::Relaxed) {
        let path = format!("/{VOLUME}/w{number}-{}", rng.random_range(0..FILES));
        // Inline, one chunk, some chunks.
        let len = [200, 9_000, 60_000, 700_000][rng.random_range(0..4)];
        let mut content = vec![0; len];
        rng.fill_bytes(&mut content);
        let hash = *blake3::hash(&content).as_bytes();
        std::fs::write(&local, &content)?;
        let written = async {
            let place = vfs.locate(path.as_bytes()).await?;
            vfs.import(&local, &place, Arc::new(Progress::default())).await
        };
        match written.await {
            Ok(report) => {
                ensure!(report.left_out.is_empty(), "{path}: {:?}", report.left_out);
                oracle.wrote(&path, hash, true);
            }
            Err(error) => {
                let class = error.retry_class();
                tracing::debug!(%error, ?class, "write failed");
                ensure!(class != RetryClass::Damaged, "{path}: {error}");
                ensure!(class != RetryClass::Refused, "{path}: a good write was refused: {error}");
                // Whatever it says, it counts as unknown.
                oracle.wrote(&path, hash, false);
            }
        }
    }
    Ok(())
}
