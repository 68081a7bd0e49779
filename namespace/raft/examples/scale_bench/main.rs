//! What a replica costs by the number of its files: load, disk, memory, restart after SIGKILL, reads, a snapshot for a new node.
//!
//! ```sh
//! cargo run --release -p causeway-namespace-raft --example scale_bench -- DIR files [COUNT...]
//! cargo run --release -p causeway-namespace-raft --example scale_bench -- DIR folder [COUNT...]
//! ```
//! `files`: COUNT files (default 100,000 and 1,000,000) in folders of 100, each with a manifest of 40 bytes that do not compress.
//! A process of its own runs one voter with the real log and the real store, loads them through the log in batches of 1,010
//! operations, goes on to write, and is killed while it does. A second one opens what is left; its time counts from its start to
//! the first linearizable read. It then reads, and sends its state to a new node as a snapshot through Raft; both are in one
//! process, so that memory is told before. Rates a CPU second are by the time that the process (of stats: the thread) ran, which a
//! busy machine does not change much. `folder`: COUNT entries (default 10,000, 100,000 and 1,000,000) in one folder: made,
//! listed in pages, looked up, removed. Everything is below DIR, in a folder that is removed; what the sizes cost beside each other is
//! drawn to DIR/scale.svg.
#![allow(clippy::unwrap_used)] // a bench: what fails, fails loudly

mod chart;
mod folder;
mod node;
mod steps;

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

/// What is told of each size, in this order; see `steps`.
const ROWS: [&str; 22] = [
    "load, files/s",
    "load, files a CPU second",
    "of that its first tenth, files/s",
    "of that its last tenth, files/s",
    "disk after the load, B a file",
    "disk at rest, B a file",
    "memory after the load, MiB",
    "most memory of the load, MiB",
    "restart after SIGKILL, s",
    "restart after SIGKILL, CPU s",
    "memory after the restart, MiB",
    "stats/s, 1,000 files",
    "stats a CPU second, 1,000 files",
    "stats a CPU second, any file",
    "list of 1,000, p50 ms",
    "list of 1,000, p99 ms",
    "list of 1,000, p99 CPU ms",
    "with inodes, p99 ms",
    "with inodes, p99 CPU ms",
    "snapshot to a new node, s",
    "snapshot to a new node, records/s",
    "the same, records a CPU second",
];

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let numbers = |from: usize| args[from..].iter().map(|arg| arg.parse::<u64>().unwrap()).collect::<Vec<_>>();
    match args.get(1).map(String::as_str) {
        Some("files") => files(Path::new(&args[0]), or(numbers(2), &[100_000, 1_000_000])),
        Some("folder") => folder::all(Path::new(&args[0]), or(numbers(2), &[10_000, 100_000, 1_000_000])),
        Some("load") => node::block_on(steps::load(Path::new(&args[0]), numbers(2)[0])),
        Some("serve") => node::block_on(steps::serve(Path::new(&args[0]), numbers(2)[0])),
        _ => {
            eprintln!("usage: scale_bench DIR files|folder [COUNT...]");
            std::process::exit(2);
        }
    }
}

fn or(asked: Vec<u64>, default: &[u64]) -> Vec<u64> {
    if asked.is_empty() { default.to_vec() } else { asked }
}

fn files(base: &Path, counts: Vec<u64>) {
    let mut columns = Vec::new();
    for count in &counts {
        let dir = tempfile::tempdir_in(base).unwrap();
        columns.push(one(dir.path(), *count));
        table(&counts[..columns.len()], &columns);
        let chart = base.join("scale.svg");
        std::fs::write(&chart, chart::svg(&counts[..columns.len()], &columns)).unwrap();
        println!("chart: {}", chart.display());
    }
}

/// All steps for one size.
fn one(dir: &Path, count: u64) -> BTreeMap<String, f64> {
    let mut found = BTreeMap::new();
    let (mut child, mut lines) = step(dir, "load", count);
    until(&mut lines, "loaded", &mut found);
    child.kill().unwrap(); // SIGKILL, while it writes
    child.wait().unwrap();
    let started = Instant::now();
    let (mut child, mut lines) = step(dir, "serve", count);
    until(&mut lines, "serving", &mut found);
    found.insert("restart after SIGKILL, s".to_owned(), started.elapsed().as_secs_f64());
    until(&mut lines, "done", &mut found);
    assert!(child.wait().unwrap().success());
    found
}

type Lines = std::io::Lines<BufReader<std::process::ChildStdout>>;

fn step(dir: &Path, what: &str, count: u64) -> (Child, Lines) {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.arg(dir).arg(what).arg(count.to_string()).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    (child, lines)
}

/// Takes `name: value` lines until one is `end`.
fn until(lines: &mut Lines, end: &str, found: &mut BTreeMap<String, f64>) {
    for line in lines {
        let line = line.unwrap();
        if line == end {
            return;
        }
        let (name, value) = line.rsplit_once(": ").unwrap();
        eprintln!("  {line}");
        found.insert(name.to_owned(), value.parse().unwrap());
    }
    panic!("it ended before it said {end:?}");
}

fn table(counts: &[u64], columns: &[BTreeMap<String, f64>]) {
    println!("\n{}", node::load_average());
    print!("| {:<36} |", "files");
    counts.iter().for_each(|count| print!(" {count:>10} |"));
    println!(" last ÷ first |\n|{}", "---|".repeat(counts.len() + 2));
    for row in ROWS {
        let values: Vec<f64> = columns.iter().map(|column| column[row]).collect();
        print!("| {row:<36} |");
        values.iter().for_each(|value| print!(" {:>10} |", node::short(*value)));
        println!(" {:>12.2} |", values[values.len() - 1] / values[0]);
    }
}
