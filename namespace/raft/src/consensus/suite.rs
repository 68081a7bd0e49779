//! openraft's own suite for storage, on the log and the state store.

use std::sync::Arc;

use openraft::StorageError;
use openraft::testing::log::{StoreBuilder, Suite};
use openraft_rt::deterministic_rng::DeterministicRng;
use openraft_rt_tokio::TokioRuntime;
use tempfile::TempDir;

use causeway_base::VolumeId;
use causeway_storage::disk::RealDisk;
use causeway_storage::kv::MemoryKv;

use crate::store::{STATE_SPACES, StateStore};
use crate::wal::{Wal, WalOptions};

use super::blocking::Blocking;
use super::log_store::LogStore;
use super::state_machine::StateMachine;
use super::types::TypeConfig;

#[derive(Debug)]
struct Builder;

impl StoreBuilder<TypeConfig, LogStore, StateMachine, (TempDir, Wal)> for Builder {
    async fn build(&self) -> Result<((TempDir, Wal), LogStore, StateMachine), StorageError<TypeConfig>> {
        let dir = tempfile::tempdir().unwrap();
        let options = WalOptions { segment_bytes: 64 << 10, ..WalOptions::default() };
        let (wal, _) = Wal::open(Arc::new(RealDisk), &dir.path().join("wal"), options).unwrap();
        let kv = Arc::new(MemoryKv::new(STATE_SPACES));
        let states = StateStore::open(kv, Arc::new(RealDisk), &dir.path().join("snapshots")).unwrap();
        let log = LogStore::new(wal.group(VolumeId(1)), Blocking::Pool);
        let machine = StateMachine::new(Arc::clone(&states), states.group(VolumeId(1)).unwrap(), Blocking::Pool);
        Ok(((dir, wal), log, machine))
    }
}

#[tokio::test]
async fn openraft_accepts_the_storage() {
    let suite = async { Suite::test_all(Builder).await };
    DeterministicRng::<TokioRuntime>::scope(7, suite).await.unwrap();
}
