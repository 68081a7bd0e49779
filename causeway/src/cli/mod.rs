//! The command line: one file a command.

pub mod args;
pub mod exit;
mod init;

use std::process::ExitCode;

use clap::{CommandFactory as _, Parser as _};

use args::{Cli, Command, ConfigCommand};
use exit::{Exit, Failure};

use crate::config::{Config, ConfigError};
use crate::output;

/// Runs the command line of this process.
#[must_use]
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    init_tracing(cli.global.verbose, matches!(cli.command, Command::Node(_)));
    match run(cli) {
        Ok(exit) => exit.into(),
        Err(error) => {
            let exit = exit_of_error(&error);
            eprintln!("error: {}", chain(&error));
            exit.into()
        }
    }
}

fn run(cli: Cli) -> anyhow::Result<Exit> {
    match cli.command {
        Command::Init(args) => init::run(&cli.global, args),
        Command::Config(ConfigCommand::Check) => config_check(&cli.global),
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "causeway", &mut std::io::stdout());
            Ok(Exit::Done)
        }
        other => Err(Failure::error(Exit::Usage, format!("not wired yet: {other:?}"))),
    }
}

fn config_check(global: &args::Global) -> anyhow::Result<Exit> {
    #[derive(serde::Serialize)]
    struct Checked {
        file: String,
        cluster: String,
        sites: usize,
        nodes: usize,
    }
    let config = Config::load(&global.config)?;
    let checked = Checked {
        file: config.path.display().to_string(),
        cluster: config.cluster.id.to_string(),
        sites: config.sites.len(),
        nodes: config.nodes.len(),
    };
    output::print(global.output, &checked, |checked| {
        format!("{}: good; {} sites, {} nodes, cluster {}", checked.file, checked.sites, checked.nodes, checked.cluster)
    })?;
    Ok(Exit::Done)
}

/// The exit code of the innermost error that knows one.
fn exit_of_error(error: &anyhow::Error) -> Exit {
    if let Some(failure) = error.downcast_ref::<Failure>() {
        return failure.exit;
    }
    if error.downcast_ref::<ConfigError>().is_some() {
        return Exit::Usage;
    }
    Exit::Failed
}

/// An error with its causes, each on its own line, none twice.
fn chain(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain() {
        let cause = cause.to_string();
        if text.contains(&cause) {
            continue;
        }
        if !text.is_empty() {
            text.push_str("\n  because: ");
        }
        text.push_str(&cause);
    }
    text
}

fn init_tracing(verbose: u8, node: bool) {
    use tracing_subscriber::EnvFilter;
    let default = match (verbose, node) {
        (0, false) => "error",
        (0, true) | (1, _) => "info,openraft=warn,quinn=warn",
        (2, _) => "debug,openraft=info,quinn=info,h2=info,hyper=info",
        _ => "trace",
    };
    let filter = EnvFilter::try_from_env("CAUSEWAY_LOG").unwrap_or_else(|_| EnvFilter::new(default));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(!node).init();
}
