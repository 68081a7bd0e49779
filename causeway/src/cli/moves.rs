//! What a change of placement moves: which bytes, over which links, for how long and for how much.

use std::collections::BTreeSet;
use std::time::Duration;

use causeway_base::{ByteSize, NodeId, SiteName};
use causeway_namespace::VolumeTotals;
use causeway_namespace_core::root::{NodeRecord, VolumeSpec};
use causeway_topology::{PathPolicy, Price, Topology};
use serde::Serialize;

/// Metadata of a file, directory or symlink on the wire, in bytes: measured at 351 in the store with ten million files
/// (docs/kv.md); an estimate here.
const METADATA_BYTES: u64 = 351;

/// What one site gets.
#[derive(Debug, Serialize)]
pub(crate) struct Move {
    volume: String,
    what: &'static str,
    from: SiteName,
    to: SiteName,
    /// Bytes before deduplication and compression: an upper bound for data, an estimate for metadata.
    bytes: u64,
    links: Vec<String>,
    seconds: Option<f64>,
    /// In millionths of the currency of the topology's prices.
    cost_micros: u64,
}

/// What comes to sites that did not have it.
pub(crate) fn moves(
    topology: &Topology,
    nodes: &[NodeRecord],
    before: &VolumeSpec,
    after: &VolumeSpec,
    totals: &VolumeTotals,
) -> Vec<Move> {
    let site = |id: NodeId| nodes.iter().find(|node| node.id == id).map(|node| node.site.clone());
    let placed: BTreeSet<NodeId> = before.placed().collect();
    let new_nodes = after.placed().filter(|id| !placed.contains(id)).filter_map(site);
    let files = totals.files + totals.directories + totals.symlinks;
    let metadata = new_nodes.map(|to| ("metadata", to, files.saturating_mul(METADATA_BYTES)));
    let logical = totals.logical_bytes;
    let data = after.replicas.iter().filter(|to| !before.replicas.contains(to)).map(|to| ("data", to.clone(), logical));
    let found = metadata.chain(data).filter(|(_, to, _)| *to != before.home);
    found
        .map(|(what, to, bytes)| {
            let path = topology.path(&before.home, &to, PathPolicy::default(), &BTreeSet::new());
            let rate = path.as_ref().and_then(|path| path.rate);
            let seconds = rate.map(|rate| rate.time_of(bytes)).filter(|time| *time < Duration::MAX);
            Move {
                volume: after.name.clone(),
                what,
                from: before.home.clone(),
                bytes,
                links: path.iter().flat_map(|path| path.links.iter().map(ToString::to_string)).collect(),
                seconds: seconds.map(|time| time.as_secs_f64()),
                cost_micros: path.map_or(0, |path| path.price_per_gib.of(bytes)),
                to,
            }
        })
        .collect()
}

/// For people.
pub(crate) fn shown(moves: &[Move]) -> String {
    if moves.is_empty() {
        return "nothing moves between sites\n".to_owned();
    }
    let rows = moves.iter().map(|one| {
        vec![
            one.volume.clone(),
            one.what.to_owned(),
            one.from.to_string(),
            one.to.to_string(),
            ByteSize(one.bytes).to_string(),
            if one.links.is_empty() { "no link".to_owned() } else { one.links.join(", ") },
            one.seconds.map_or_else(String::new, |seconds| format!("{seconds:.1} s")),
            Price(one.cost_micros).to_string(),
        ]
    });
    let header = ["volume", "what", "from", "to", "at most", "over", "takes", "costs"];
    let mut text = crate::output::table(&header, &[4, 6, 7], rows);
    let total: u64 = moves.iter().map(|one| one.cost_micros).sum();
    let bytes: u64 = moves.iter().map(|one| one.bytes).sum();
    text.push_str(&format!(
        "\nat most {} in all, {}; before deduplication and compression, metadata estimated\n",
        ByteSize(bytes),
        Price(total)
    ));
    text
}
