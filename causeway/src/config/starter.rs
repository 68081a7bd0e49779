//! The commented file that `causeway init` writes.

use std::fmt::Write as _;

use causeway_base::{ClusterId, SiteName};

/// A node of a new cluster.
#[derive(Debug, Clone)]
pub struct StarterNode {
    /// Its id, from 1.
    pub id: u64,
    /// Its site.
    pub site: SiteName,
    /// Region of the site.
    pub region: String,
    /// Provider of the site.
    pub provider: String,
    /// `host:port` of gRPC.
    pub grpc: String,
    /// `host:port` of QUIC.
    pub quic: String,
}

/// The text of a new cluster's configuration.
#[must_use]
pub fn starter(cluster: ClusterId, trust_domain: &str, repository: &str, nodes: &[StarterNode]) -> String {
    let mut text = format!(
        r#"# A Causeway cluster: read by every node (`causeway node --config FILE --id N`) and by the command line.
# Relative paths are relative to this file. `causeway config check` names the line of what is wrong.

[cluster]
id = "{cluster}"              # drawn once; nodes refuse messages of any other cluster
trust_domain = "{trust_domain}"   # in each certificate: spiffe://TRUST_DOMAIN/site/SITE/node/ID
realm_key_file = "realm.key"  # key of the chunk ids; used once, when the cluster is set up
topology_file = "topology.toml"   # regions, links, prices; used once, then `causeway topology plan|apply` changes it

[client]
tls = "tls/admin"             # who the command line is: cert.pem, key.pem, ca.pem

[repository]
# Where packs and the exact image of the metadata go: a folder, azure://container/prefix, s3://bucket/prefix or
# gs://bucket/prefix. Credentials come from the environment (AZURE_STORAGE_*, AWS_*, GOOGLE_*), never from this file.
url = {repository:?}

[timing]
heartbeat = "100ms"           # a leader's; at most half of election_min
election_min = "500ms"        # without a leader for this long, a node waits for election_min to election_max more, at random, and
election_max = "1s"           # stands for election. Raise all three above the round trip between your sites: election_min >= 10 x RTT.

[limits]
metadata_cache = "128MiB"     # memory a node
index_cache = "64MiB"
index_engine = "fjall"        # of the chunk index: fjall, or sled (slower, and built anew from the packs after a crash)
deltas_at_rest = "like"       # chunks rest as their difference from like ones: like, place (the file's version before only) or off
chunk_capacity = "0B"         # above so many bytes of chunks, copies of what other sites have go; "0B": no limit
disk_reserve = "256MiB"       # free space below which data writes are refused, so that metadata can still be written

[upkeep]
gc_every = "6h"               # chunks that nothing names are collected; "0s": only by `causeway store gc`
gc_grace = "1h"               # but not before nothing has named them for so long
scrub_cycle = "14d"           # each stored byte is read and checked once in this time; "0s": only by `causeway store scrub`
rate = "64MiB"                # a second, read and written by each of these
versions = 100000             # seqs of each volume that can be read back to; their chunks are kept
compare_every = "5s"          # replicas of the metadata are compared by their digests; "0s": never
verify_cycle = "24h"          # and their records added up, once in this time; "0s": only by `causeway volume verify`
"#
    );
    let mut seen = Vec::new();
    for node in nodes.iter() {
        if !seen.contains(&&node.site) {
            seen.push(&node.site);
            let _ = write!(
                text,
                "\n[[site]]\nname = \"{}\"\nregion = {:?}\nprovider = {:?}\n",
                node.site, node.region, node.provider
            );
        }
    }
    text.push_str("\n# Node ids are never reused: a node that lost its disk comes back under a new one.\n");
    text.push_str(
        "# With metrics = \"127.0.0.1:9464\", say, a node tells its figures to Prometheus there (docs/metrics.md).\n",
    );
    for node in nodes {
        text.push_str(&node_section(node, false, false));
        text.push('\n');
    }
    text
}

/// The section of a node.
#[must_use]
pub fn node_section(node: &StarterNode, witness: bool, added: bool) -> String {
    let mut text = String::new();
    {
        let _ = write!(
            text,
            "[[node]]\nid = {id}\nsite = \"{site}\"\ngrpc = \"{grpc}\"\nquic = \"{quic}\"\ndata = \"sites/{site}/n{id}\"\ntls = \"tls/n{id}\"\n",
            id = node.id,
            site = node.site,
            grpc = node.grpc,
            quic = node.quic,
        );
    }
    if witness {
        text.push_str("role = \"witness\"\n");
    }
    if added {
        text.push_str("added = true\n");
    }
    text
}
