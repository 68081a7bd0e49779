//! Causeway: one namespace over on-prem and cloud clusters.

fn main() -> std::process::ExitCode {
    causeway::cli::main()
}
