//! File creates and stats beside etcd's puts and gets, both with mutual TLS and fsync, from one client process in one run.
//!
//! `scripts/bench-etcd` calls it; by hand:
//!
//! ```text
//! etcd_bench init DIR IP IP IP                 certificates for both; the nodes' addresses
//! etcd_bench node DIR N                        Causeway's node N (1 to 3); ends with its standard input
//! etcd_bench etcd DIR N                        prints etcd's arguments for node N
//! etcd_bench ready DIR                         fails unless the nodes of both answer
//! etcd_bench compare DIR SECONDS [CLIENTS...]  both in turn, line by line; CLIENTS default 1 64 1024
//! ```
//! A client waits for each answer. Up to 16 share a connection, on both sides, and all go to the leader, which is the first node
//! on both sides. Of each line the first half second is not counted. CPU is what the client and all three nodes of a side used for a
//! request (from the files `causeway.pids` and `etcd.pids` in DIR): rates and times also tell what other work the machine has.
#![allow(clippy::unwrap_used)] // a bench: what fails, fails loudly

mod causeway;
mod etcd;
mod tls;

use std::collections::BTreeMap;
use std::future::Future;
use std::path::Path;
use std::time::Duration;

use futures::future::join_all;
use tokio::time::Instant;

/// Clients that share a connection.
const PER_CONNECTION: usize = 16;
/// Of a file, or of a value.
const BYTES: usize = 256;
const WARM_UP: Duration = Duration::from_millis(500);
const NODES: usize = 3;

#[tokio::main]
async fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match args[..] {
        ["init", dir, one, two, three] => init(Path::new(dir), [one, two, three]),
        ["node", dir, node] => causeway::node(Path::new(dir), node.parse().unwrap()).await,
        ["etcd", dir, node] => println!("{}", etcd::arguments(Path::new(dir), node.parse().unwrap())),
        ["ready", dir] => {
            etcd::leader(Path::new(dir)).await;
            causeway::connect(Path::new(dir), 1).await;
        }
        ["compare", dir, seconds, ref clients @ ..] => {
            let clients: Vec<usize> = clients.iter().map(|count| count.parse().unwrap()).collect();
            let clients = if clients.is_empty() { vec![1, 64, 1024] } else { clients };
            compare(Path::new(dir), Duration::from_secs(seconds.parse().unwrap()), &clients).await;
        }
        _ => {
            eprintln!("see the first lines of etcd_bench/main.rs");
            std::process::exit(2);
        }
    }
}

fn init(dir: &Path, addresses: [&str; NODES]) {
    std::fs::create_dir_all(dir).unwrap();
    std::fs::write(dir.join("addresses"), addresses.join("\n")).unwrap();
    causeway::init(dir);
    tls::init(dir, &addresses);
}

/// The address of each node.
fn addresses(dir: &Path) -> Vec<String> {
    std::fs::read_to_string(dir.join("addresses")).unwrap().lines().map(str::to_owned).collect()
}

/// What one line found.
#[derive(Clone, Copy, Default)]
struct Found {
    rate: f64,
    p50: f64,
    /// CPU time of a request, in microseconds: of the client, of the nodes.
    cpu: (f64, f64),
}

/// CPU time of processes so far, in microseconds, to ten milliseconds.
fn cpu(pids: &[u32]) -> f64 {
    let one = |pid: &u32| {
        let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        let fields: Vec<&str> = text.rsplit(')').next().unwrap().split_whitespace().collect();
        fields[11..13].iter().map(|ticks| ticks.parse::<f64>().unwrap()).sum::<f64>() * 1e4
    };
    pids.iter().map(one).sum()
}

/// Lines so far, by what was asked and of whom; ratios come of them.
#[derive(Default)]
struct Report {
    found: BTreeMap<(usize, &'static str), Found>,
    /// The nodes' processes, by side.
    pids: BTreeMap<&'static str, Vec<u32>>,
}

impl Report {
    /// Runs `count` clients for a while, each doing `work(client, turn)` again and again; `each` files or keys a request.
    async fn run<F, Fut>(&mut self, name: &'static str, count: usize, time: Duration, each: usize, work: F)
    where
        F: Fn(usize, u64) -> Fut + Clone + Send + 'static,
        Fut: Future<Output = ()> + Send,
    {
        let nodes = self.pids[name.split(' ').next().unwrap()].clone();
        let client = [std::process::id()];
        let before = (cpu(&client), cpu(&nodes));
        let counted = Instant::now() + WARM_UP;
        let end = counted + time;
        let tasks = (0..count).map(|client| {
            let work = work.clone();
            tokio::spawn(async move {
                let (mut latencies, mut all) = (Vec::new(), 0_usize);
                for turn in 0.. {
                    let started = Instant::now();
                    if started >= end {
                        break;
                    }
                    work(client, turn).await;
                    all += 1;
                    // Those under way at the end count: their time is in the latencies, and as many were under way at the start.
                    if started >= counted {
                        latencies.push(started.elapsed());
                    }
                }
                (latencies, all)
            })
        });
        let tasks: Vec<_> = tasks.collect();
        let (mut latencies, mut all) = (Vec::new(), 0);
        for (found, requests) in join_all(tasks).await.into_iter().map(Result::unwrap) {
            latencies.extend(found);
            all += requests;
        }
        let rate = (latencies.len() * each) as f64 / counted.elapsed().as_secs_f64();
        latencies.sort_unstable();
        let at = |part: f64| latencies[((latencies.len() - 1) as f64 * part) as usize].as_secs_f64() * 1e3;
        let each = 1.0 / (all * each) as f64;
        let cpu = ((cpu(&client) - before.0) * each, (cpu(&nodes) - before.1) * each);
        println!(
            "| {count:>7} | {name:<36} | {rate:>10.0} | {:>8.2} | {:>8.2} | {:>8.1} | {:>8.1} | {:>8.1} |",
            at(0.5),
            at(0.99),
            at(1.0),
            cpu.0,
            cpu.1,
        );
        self.found.insert((count, name), Found { rate, p50: at(0.5), cpu });
    }

    fn ratio(&self, count: usize, what: &str, ours: &'static str, theirs: &'static str) {
        let of = |name| self.found.get(&(count, name));
        let (Some(ours), Some(theirs)) = (of(ours), of(theirs)) else { return };
        println!(
            "{count:>5} clients, {what}: {:.2} times etcd's rate, {:.2} times as many by CPU; p50 {:.2} ms against {:.2} ms",
            ours.rate / theirs.rate,
            (theirs.cpu.0 + theirs.cpu.1) / (ours.cpu.0 + ours.cpu.1),
            ours.p50,
            theirs.p50
        );
    }
}

const CREATE: &str = "causeway create";
const PUT: &str = "etcd put";
const STAT: &str = "causeway stat, linearizable";
const GET: &str = "etcd get, linearizable";
const LOCAL: &str = "causeway stat, local";
const SERIALIZABLE: &str = "etcd get, serializable";
const MANY: &str = "causeway stat_many of 1,000, local";

async fn compare(dir: &Path, time: Duration, clients: &[usize]) {
    let pids = |side: &str| -> Vec<u32> {
        let text = std::fs::read_to_string(dir.join(format!("{side}.pids"))).unwrap();
        text.split_whitespace().map(|pid| pid.parse().unwrap()).collect()
    };
    let pids = ["causeway", "etcd"].map(|side| (side, pids(side))).into();
    let mut report = Report { pids, ..Report::default() };
    let volume = causeway::volume(dir).await;
    etcd::lead(dir).await;
    let load = std::fs::read_to_string("/proc/loadavg").unwrap();
    println!("load average {}", load.trim());
    println!("| clients | request | a second | p50 ms | p99 ms | max ms | CPU µs, client | CPU µs, nodes |");
    println!("|{}", "---|".repeat(8));
    for &count in clients {
        let connections = count.div_ceil(PER_CONNECTION);
        let ours = causeway::connect(dir, connections).await;
        let theirs = etcd::connect(dir, connections).await;
        let (c, e) = (ours.clone(), theirs.clone());
        let key = move |client: usize, turn: u64| format!("{count}-{client}-{turn}");
        report
            .run(CREATE, count, time, 1, move |client, turn| {
                let connection = c[client % c.len()].clone();
                async move { causeway::create(&connection, volume, key(client, turn)).await }
            })
            .await;
        report
            .run(PUT, count, time, 1, move |client, turn| {
                let connection = e[client % e.len()].clone();
                async move { etcd::put(connection, key(client, turn)).await }
            })
            .await;
        for (ours_name, theirs_name, fresh) in [(STAT, GET, true), (LOCAL, SERIALIZABLE, false)] {
            let (c, e) = (ours.clone(), theirs.clone());
            report
                .run(ours_name, count, time, 1, move |client, _| {
                    let connection = c[client % c.len()].clone();
                    async move { causeway::stat(&connection, volume, key(client, 0), fresh).await }
                })
                .await;
            report
                .run(theirs_name, count, time, 1, move |client, _| {
                    let connection = e[client % e.len()].clone();
                    async move { etcd::get(connection, key(client, 0), fresh).await }
                })
                .await;
        }
        if count == clients[0] {
            let c = ours.clone();
            report
                .run(MANY, count, time, 1000, move |client, _| {
                    let connection = c[client % c.len()].clone();
                    async move { causeway::stat_many(&connection, volume, key(client, 0), 1000).await }
                })
                .await;
        }
    }
    println!();
    for &count in clients {
        report.ratio(count, "creates against puts", CREATE, PUT);
        report.ratio(count, "linearizable stats against gets", STAT, GET);
        report.ratio(count, "local stats against serializable gets", LOCAL, SERIALIZABLE);
    }
}
