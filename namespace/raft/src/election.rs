//! Who stands for election, and when.

use std::sync::Arc;
use std::time::Duration;

use openraft::{Config, SnapshotPolicy};
use tokio_util::sync::CancellationToken;

use causeway_base::{NodeId, VolumeId};

use crate::error::StartError;
use crate::group::Group;
use crate::groups::GroupsConfig;
use crate::status::Timing;

/// openraft's settings of a group.
pub(crate) fn raft_config(groups: &GroupsConfig, id: VolumeId, home: Option<NodeId>) -> Result<Config, StartError> {
    let Timing { heartbeat, election_min, election_max } = groups.timing;
    let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    // Home stands first: its waits end before those of the others begin.
    let middle = (election_min + election_max) / 2;
    let (from, to) = match home {
        Some(home) if home == groups.node => (election_min, middle),
        Some(_) => (middle, election_max),
        None => (election_min, election_max),
    };
    let heartbeat = millis(heartbeat);
    // Until then a member holds to the leader that it heard. Without this a busy machine changes leaders for a late heartbeat.
    let lease = millis(election_min);
    let (waits_min, waits_max) = timeouts(lease + millis(from), lease + millis(to), heartbeat);
    let config = Config {
        cluster_name: id.to_string(),
        heartbeat_interval: heartbeat,
        election_timeout_min: waits_min,
        election_timeout_max: waits_max,
        enable_pre_vote: Some(true),
        // A restarted leader asks again: it may have missed an election.
        enable_leader_restore: Some(false),
        // Snapshots and purging go by bytes too: see upkeep.
        snapshot_policy: SnapshotPolicy::Never,
        max_in_snapshot_log_to_keep: u64::MAX / 2,
        // From the log as long as it has the entries.
        replication_lag_threshold: u64::MAX / 2,
        broadcast_submitted_on_append: Some(true),
        backoff: "50ms 100ms 200ms ...1s".to_owned(),
        ..Config::default()
    };
    config.validate().map_err(|error| StartError::Config(error.to_string()))
}

/// openraft waits twice: until the leader's lease ends, which lasts as long as its longest timeout, and then for a timeout
/// drawn at random. The settings with which both together last from `from` to `to` milliseconds.
fn timeouts(from: u64, to: u64, heartbeat: u64) -> (u64, u64) {
    let lease = to / 2;
    // openraft wants more than a heartbeat for either.
    let shortest = from.saturating_sub(lease).max(heartbeat + 1);
    (shortest, lease.max(shortest + 1))
}

/// How often the home of a new group stands for election before it waits like any other.
const FIRST_ELECTIONS: u32 = 4;

/// In a new group nobody leads, so its home need not wait to see whether somebody does: a volume takes writes as soon as its
/// voters run it.
pub(crate) async fn first(group: Arc<Group>, heartbeat: Duration, stop: CancellationToken) {
    for _ in 0..FIRST_ELECTIONS {
        if group.leader().is_some() || group.raft.trigger().elect(true).await.is_err() {
            return;
        }
        tokio::select! {
            () = tokio::time::sleep(heartbeat) => {}
            () = stop.cancelled() => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_waits_together_are_as_long_as_was_asked() {
        for (from, to, heartbeat) in [(500, 750, 100), (750, 1000, 100), (800, 1200, 200), (300, 450, 75)] {
            let (shortest, lease) = timeouts(from, to, heartbeat);
            assert!(heartbeat < shortest && shortest < lease, "{from} {to}");
            assert!((from..=from + heartbeat).contains(&(lease + shortest)), "{from} {to}: {}", lease + shortest);
            assert_eq!(lease * 2, to);
        }
        // As narrow as the configuration allows.
        let (shortest, lease) = timeouts(500, 505, 250);
        assert!(250 < shortest && shortest < lease);
    }
}
