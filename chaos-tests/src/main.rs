//! Long runs: `cargo run -p causeway-chaos-tests --release -- kill --seeds 100`.

use causeway_chaos_tests::kill::{Plan, run};
use clap::{Parser, Subcommand};

/// Causeway under faults.
#[derive(Debug, Parser)]
struct Cli {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Nodes are killed at random moments under a checking workload.
    Kill {
        /// First seed.
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// How many seeds.
        #[arg(long, default_value_t = 20)]
        seeds: u64,
        /// Kills in each run.
        #[arg(long, default_value_t = 8)]
        kills: usize,
        /// Concurrent writers.
        #[arg(long, default_value_t = 4)]
        writers: usize,
    },
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let What::Kill { seed, seeds, kills, writers } = Cli::parse().what;
    let (mut failed, mut last) = (0, None);
    for seed in seed..seed + seeds {
        match run(Plan { seed, kills, writers }).await {
            Ok(seen) => println!("seed {seed}: ok, {seen:?}"),
            Err(error) => {
                failed += 1;
                println!("seed {seed}: FAILED: {error:?}");
                println!(
                    "  again: cargo run -p causeway-chaos-tests --release -- kill --seed {seed} --seeds 1 --kills {kills} --writers {writers}"
                );
                last = Some(error);
            }
        }
    }
    println!("{} passed, {failed} failed", seeds - failed);
    last.map_or(Ok(()), Err)
}
