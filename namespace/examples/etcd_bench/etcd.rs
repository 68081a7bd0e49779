//! etcd's side: its gRPC with what is needed of its messages.

use std::path::Path;

use futures::future::join_all;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::Channel;
use tonic_prost::ProstCodec;

use super::{BYTES, addresses, tls};

const CLIENT_PORT: u16 = 7410;
const PEER_PORT: u16 = 7420;

fn port(base: u16, node: usize) -> u16 {
    base + u16::try_from(node).unwrap()
}

/// How a node is started. Everything that is not named has its default; fsync is on.
pub(super) fn arguments(dir: &Path, node: usize) -> String {
    let addresses = addresses(dir);
    let url = |base: u16, node: usize| format!("https://{}:{}", addresses[node - 1], port(base, node));
    let peers: Vec<String> = (1..=addresses.len()).map(|node| format!("n{node}={}", url(PEER_PORT, node))).collect();
    let (client, peer) = (url(CLIENT_PORT, node), url(PEER_PORT, node));
    let own = dir.join("etcd");
    let file = |name: &str| own.join(name).display().to_string();
    let tls = |prefix: &str| {
        format!(
            "--{prefix}cert-file={} --{prefix}key-file={} --{prefix}trusted-ca-file={} --{prefix}client-cert-auth=true",
            file("node.pem"),
            file("node.key.pem"),
            file("ca.pem")
        )
    };
    format!(
        "--name=n{node} --data-dir={} --listen-client-urls={client} --advertise-client-urls={client} \
         --listen-peer-urls={peer} --initial-advertise-peer-urls={peer} --initial-cluster={} \
         --initial-cluster-state=new --initial-cluster-token=bench --logger=zap --log-level=error {} {}",
        file(&format!("data-{node}")),
        peers.join(","),
        tls(""),
        tls("peer-"),
    )
}

pub(super) async fn connect(dir: &Path, count: usize) -> Vec<Channel> {
    connect_to(dir, 1, count).await
}

async fn connect_to(dir: &Path, node: usize, count: usize) -> Vec<Channel> {
    let address = format!("{}:{}", addresses(dir)[node - 1], port(CLIENT_PORT, node));
    join_all((0..count).map(|_| tls::channel(dir, &address))).await
}

/// Has the first node lead.
pub(super) async fn lead(dir: &Path) {
    let (first, leader, channel) = leader(dir).await;
    if first != leader {
        let _: Empty = call(channel, "/etcdserverpb.Maintenance/MoveLeader", MoveLeader { target: first }).await;
    }
}

/// The ids of the first member and of the leader, and a channel to that.
pub(super) async fn leader(dir: &Path) -> (u64, u64, Channel) {
    let mut members = Vec::new();
    for node in 1..=addresses(dir).len() {
        let channel = connect_to(dir, node, 1).await.remove(0);
        let status: Status = call(channel.clone(), "/etcdserverpb.Maintenance/Status", Empty {}).await;
        members.push((status.header.unwrap().member_id, status.leader, channel));
    }
    let (first, leader) = (members[0].0, members[0].1);
    let (_, _, channel) = members.into_iter().find(|(id, ..)| *id == leader).expect("etcd has a leader");
    (first, leader, channel)
}

pub(super) async fn put(channel: Channel, key: String) {
    let message = Put { key: key.into_bytes(), value: vec![7; BYTES] };
    let _: Empty = call(channel, "/etcdserverpb.KV/Put", message).await;
}

pub(super) async fn get(channel: Channel, key: String, fresh: bool) {
    let message = Range { key: key.into_bytes(), serializable: !fresh };
    let answer: RangeAnswer = call(channel, "/etcdserverpb.KV/Range", message).await;
    assert_eq!(answer.count, 1);
}

async fn call<T, U>(channel: Channel, path: &'static str, message: T) -> U
where
    T: prost::Message + Send + Sync + 'static,
    U: prost::Message + Default + Send + Sync + 'static,
{
    let mut grpc = tonic::client::Grpc::new(channel);
    grpc.ready().await.unwrap();
    let codec = ProstCodec::<T, U>::default();
    let request = tonic::Request::new(message);
    grpc.unary(request, PathAndQuery::from_static(path), codec).await.unwrap().into_inner()
}

// Of etcd's rpc.proto and kv.proto, the fields that are used; unknown ones are skipped.

#[derive(Clone, PartialEq, prost::Message)]
struct Empty {}

#[derive(Clone, PartialEq, prost::Message)]
struct Put {
    #[prost(bytes = "vec", tag = "1")]
    key: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    value: Vec<u8>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Range {
    #[prost(bytes = "vec", tag = "1")]
    key: Vec<u8>,
    #[prost(bool, tag = "7")]
    serializable: bool,
}

#[derive(Clone, PartialEq, prost::Message)]
struct RangeAnswer {
    #[prost(message, repeated, tag = "2")]
    kvs: Vec<KeyValue>,
    #[prost(int64, tag = "4")]
    count: i64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct KeyValue {
    #[prost(bytes = "vec", tag = "1")]
    key: Vec<u8>,
    #[prost(bytes = "vec", tag = "5")]
    value: Vec<u8>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Header {
    #[prost(uint64, tag = "2")]
    member_id: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Status {
    #[prost(message, optional, tag = "1")]
    header: Option<Header>,
    #[prost(uint64, tag = "4")]
    leader: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct MoveLeader {
    #[prost(uint64, tag = "1")]
    target: u64,
}
