//! A cluster of the built binary for one test, and its command line.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use causeway::cluster::{LocalCluster, NewCluster, create};
use causeway::config::Config;
use causeway_base::NodeId;

pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_causeway");

/// Three sites that run, with the volume `data`: home zurich, replica westeurope, cache eastus.
pub(crate) struct Cluster {
    pub(crate) nodes: LocalCluster,
    pub(crate) config: Config,
    pub(crate) folder: tempfile::TempDir,
}

/// Writes a cluster that does not run yet.
pub(crate) fn new_config(dir: PathBuf) -> Config {
    new_config_of(dir, &["zurich", "westeurope", "eastus"])
}

/// Writes a cluster of these sites that does not run yet.
pub(crate) fn new_config_of(dir: PathBuf, sites: &[&str]) -> Config {
    create(&NewCluster {
        dir,
        id: None,
        realm_key: None,
        sites: sites.iter().map(|site| site.parse().unwrap()).collect(),
        first_node: NodeId(1),
        host: "127.0.0.1".into(),
        base_port: 0,
        repository: "../repository".into(),
        certificate_life: Duration::from_secs(3600),
    })
    .unwrap()
}

impl Cluster {
    pub(crate) async fn start() -> Self {
        let cluster = Self::start_of(&["zurich", "westeurope", "eastus"], |_| {}).await;
        cluster.ok(["volume", "create", "data", "--home", "zurich", "--replicas", "zurich,westeurope"]);
        cluster
    }

    /// A node at each of these sites, from 1; `edit` changes what `init` wrote into the folder. No volume.
    pub(crate) async fn start_of(sites: &[&str], edit: impl FnOnce(&Path)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let config = new_config_of(folder.path().join("cluster"), sites);
        edit(&config.base);
        let config = Config::load(&config.path).unwrap();
        let mut nodes = LocalCluster::new(PROGRAM.into(), &config);
        nodes.start(config.nodes().map(|node| node.node_id()).collect::<Vec<_>>()).await.unwrap();
        Self { nodes, config, folder }
    }

    /// Where a volume is, by `volume show`.
    pub(crate) fn placed(&self, volume: &str) -> Placed {
        serde_json::from_value(self.json(["volume", "show", volume])).unwrap()
    }

    /// Runs a command to its end; `Output` with its exit code.
    pub(crate) fn run<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Output {
        run_with(&self.config.path, args)
    }

    /// Runs a command that must succeed; its standard output.
    pub(crate) fn ok<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Vec<u8> {
        let output = self.run(args);
        assert_eq!(output.status.code(), Some(0), "{}", text(&output));
        output.stdout
    }

    /// Runs a command that must end with an exit code; its standard error.
    pub(crate) fn fails<S: AsRef<OsStr>>(&self, code: i32, args: impl IntoIterator<Item = S>) -> String {
        let output = self.run(args);
        assert_eq!(output.status.code(), Some(code), "{}", text(&output));
        String::from_utf8_lossy(&output.stderr).into_owned()
    }

    /// Runs a command with JSON output.
    pub(crate) fn json<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> serde_json::Value {
        let args: Vec<_> = args.into_iter().map(|arg| arg.as_ref().to_owned()).collect();
        let output =
            self.ok([OsStr::new("--output"), OsStr::new("json")].into_iter().chain(args.iter().map(AsRef::as_ref)));
        serde_json::from_slice(&output).unwrap()
    }
}

/// Where a volume is.
#[derive(Debug, serde::Deserialize)]
pub(crate) struct Placed {
    pub(crate) home: String,
    pub(crate) voters: Vec<u64>,
    pub(crate) learners: Vec<u64>,
    pub(crate) leaving: Vec<u64>,
    pub(crate) state: State,
}

#[derive(Debug, serde::Deserialize)]
pub(crate) struct State {
    pub(crate) leader: Option<u64>,
}

/// Asks again, by commands that take their time, until something holds.
pub(crate) async fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = std::time::Instant::now() + Duration::from_secs(60);
    while !holds() {
        assert!(std::time::Instant::now() < deadline, "{what}: not within a minute");
        tokio::task::yield_now().await;
    }
}

/// Runs a command that reads `input` from its standard input.
pub(crate) fn feed<S: AsRef<OsStr>>(
    cluster: &Cluster,
    args: impl IntoIterator<Item = S>,
    input: Vec<u8>,
) -> std::thread::JoinHandle<Output> {
    use std::io::Write as _;
    let mut command = Command::new(PROGRAM);
    command.args(["--output", "json"]).arg("--config").arg(&cluster.config.path).args(args);
    command.env_remove("CAUSEWAY_CONFIG").env_remove("CAUSEWAY_SITE");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    std::thread::spawn(move || {
        // One that has refused reads no more.
        let _ = stdin.write_all(&input);
        drop(stdin);
        child.wait_with_output().unwrap()
    })
}

pub(crate) fn run_with<S: AsRef<OsStr>>(config: &Path, args: impl IntoIterator<Item = S>) -> Output {
    let mut command = Command::new(PROGRAM);
    command.arg("--config").arg(config).args(args).env_remove("CAUSEWAY_CONFIG").env_remove("CAUSEWAY_SITE");
    command.output().unwrap()
}

pub(crate) fn text(output: &Output) -> String {
    format!(
        "{}\nstdout: {}\nstderr: {}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}
