//! The command line: one file a command.

pub mod args;
mod aside;
mod attr;
mod audit;
mod batch;
mod change;
mod confirm;
pub(crate) mod copy;
mod dev;
mod divergence;
mod dr;
mod dr_drill;
mod dr_find;
mod edit;
pub mod exit;
mod feed;
pub(crate) mod files;
mod init;
mod lock;
mod membership;
mod moves;
mod promote;
mod quota;
pub(crate) mod session;
pub(crate) mod show;
mod snapshot;
mod status;
mod store;
mod store_folder;
mod topology;
pub(crate) mod volume;

use std::process::ExitCode;

use clap::{CommandFactory as _, Parser as _};

use anyhow::Context as _;
use args::{Cli, Command, ConfigCommand, StoreCommand};
use causeway_namespace::client::ClientError;
use causeway_namespace_core::command::Errno;
use causeway_vfs::VfsError;
use exit::{Exit, Failure};
use tokio::signal::unix::{SignalKind, signal};

use crate::config::{Config, ConfigError};
use crate::output;

/// Runs the command line of this process.
#[must_use]
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    init_tracing(cli.global.verbose, matches!(&cli.command, Command::Node(args) if args.command.is_none()));
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
    let global = cli.global;
    match cli.command {
        Command::Init(args) => init::run(&global, args),
        Command::Config(ConfigCommand::Check) => config_check(&global),
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "causeway", &mut std::io::stdout());
            Ok(Exit::Done)
        }
        Command::Store(StoreCommand::Rebuild(folder)) => store_folder::rebuild(&global, &folder),
        Command::Store(StoreCommand::Stats(folder)) => store_folder::stats(&global, &folder),
        // These end their children and remove their files themselves when they are interrupted.
        Command::Demo(args) => on_runtime(crate::demo::run(&global, args)),
        Command::Dev(args) => on_runtime(dev::run(args)),
        Command::Node(args) if args.command.is_none() => on_runtime(crate::node::run(&global, args)),
        command => on_runtime(async {
            // What is under way removes its temporary files when it is dropped.
            let mut terminated = signal(SignalKind::terminate()).context("listen for SIGTERM")?;
            tokio::select! {
                ended = client(&global, command) => ended,
                _ = terminated.recv() => Ok(Exit::Interrupted),
                _ = tokio::signal::ctrl_c() => {
                    eprintln!("interrupted: what was under way may or may not have happened");
                    Ok(Exit::Interrupted)
                }
            }
        }),
    }
}

/// Commands that talk to a cluster or a repository and end.
async fn client(global: &args::Global, command: Command) -> anyhow::Result<Exit> {
    match command {
        Command::Volume(command) => volume::run(global, command).await,
        Command::Topology(command) => topology::run(global, command).await,
        Command::Node(args::NodeArgs { command: Some(command), .. }) => membership::run(global, command).await,
        Command::Put(args) => copy::put(global, args).await,
        Command::Get(args) => copy::get(global, args).await,
        Command::Cp(args) => copy::cp(global, args).await,
        Command::Ls(args) => files::ls(global, args).await,
        Command::Cat(args) => files::cat(global, args).await,
        Command::Write(args) => edit::write(global, args).await,
        Command::Append(args) => edit::append(global, args).await,
        Command::Truncate(args) => edit::truncate(global, args).await,
        Command::Stat(args) => files::stat(global, args).await,
        Command::Mkdir(args) => files::mkdir(global, args).await,
        Command::Mv(args) => files::mv(global, args).await,
        Command::Rm(args) => files::rm(global, args).await,
        Command::Chmod(args) => attr::chmod(global, args).await,
        Command::Chown(args) => attr::chown(global, args).await,
        Command::Touch(args) => attr::touch(global, args).await,
        Command::Ln(args) => attr::ln(global, args).await,
        Command::Xattr(command) => attr::xattr(global, command).await,
        Command::Batch(args) => batch::run(global, args).await,
        Command::Snapshot(command) => snapshot::run(global, command).await,
        Command::Diff(args) => snapshot::diff(global, args).await,
        Command::Feed(args) => feed::run(global, args).await,
        Command::Quota(command) => quota::run(global, command).await,
        Command::Lock(command) => lock::run(global, command).await,
        Command::Audit(args) => audit::run(global, args).await,
        Command::Status => status::status(global).await,
        Command::Sync(command) => status::sync(global, command).await,
        Command::Store(command) => store::run(global, command).await,
        Command::Dr(command) => dr::run(global, command).await,
        Command::Demo(_)
        | Command::Dev(_)
        | Command::Init(_)
        | Command::Node(_)
        | Command::Config(_)
        | Command::Completions { .. } => Err(Failure::error(Exit::Usage, "not a client command")),
    }
}

fn on_runtime(work: impl Future<Output = anyhow::Result<Exit>>) -> anyhow::Result<Exit> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("start the runtime")?;
    let ended = runtime.block_on(work);
    // A blocking thread that reads a slow disk must not keep a command that has ended.
    runtime.shutdown_timeout(std::time::Duration::from_secs(2));
    ended
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
    if let Some(error) = error.downcast_ref::<VfsError>() {
        return match error.errno() {
            Some(Errno::NotFound) => Exit::NotFound,
            _ => exit::exit_of(error.retry_class()),
        };
    }
    if let Some(error) = error.downcast_ref::<ClientError>() {
        return match error.refusal().map(|refusal| refusal.code) {
            Some(Errno::NotFound) => Exit::NotFound,
            _ => exit::exit_of(error.retry_class()),
        };
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
        (0, true) | (1, _) => "info,openraft=error,quinn=warn,fjall=warn,lsm_tree=warn",
        (2, _) => "debug,openraft=info,quinn=info,h2=info,hyper=info",
        _ => "trace",
    };
    let filter = EnvFilter::try_from_env("CAUSEWAY_LOG").unwrap_or_else(|_| EnvFilter::new(default));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(!node).init();
}
