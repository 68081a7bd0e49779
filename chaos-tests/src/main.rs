//! Long runs: `cargo run -p causeway-chaos-tests --release -- kill --seeds 100`.

use causeway_chaos_tests::kill::{Plan, run};
use causeway_chaos_tests::takeover;
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
    /// How long a volume takes no writes when its leader is killed, and when leadership moves.
    Takeover {
        /// SIGKILLs of the leader.
        #[arg(long, default_value_t = 50)]
        kills: usize,
        /// Moves of leadership.
        #[arg(long, default_value_t = 100)]
        transfers: usize,
        /// Seconds of writing before, in which no leader should change.
        #[arg(long, default_value_t = 30)]
        calm: u64,
        /// Threads that burn CPU in these.
        #[arg(long, default_value_t = 0)]
        burn: usize,
    },
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    match Cli::parse().what {
        What::Kill { seed, seeds, kills, writers } => kill(seed, seeds, kills, writers).await,
        What::Takeover { kills, transfers, calm, burn } => {
            takeover::run(takeover::Plan { kills, transfers, calm, burn }).await
        }
    }
}

async fn kill(seed: u64, seeds: u64, kills: usize, writers: usize) -> anyhow::Result<()> {
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
