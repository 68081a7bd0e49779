//! A short run in CI; `cargo run -p causeway-chaos-tests --release -- kill` runs as many seeds as you like.

use causeway_chaos_tests::kill::{Plan, run};

async fn kill(seed: u64) {
    let seen = run(Plan { seed, kills: 4, writers: 3 }).await;
    println!("seed {seed}: {seen:?}");
    seen.unwrap_or_else(|error| panic!("{error:?}"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_acknowledged_is_lost_when_nodes_are_killed_1() {
    kill(1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_acknowledged_is_lost_when_nodes_are_killed_2() {
    kill(2).await;
}
