use super::*;

fn nodes() -> Vec<StarterNode> {
    ["zurich", "westeurope", "eastus"]
        .iter()
        .zip(1..)
        .map(|(site, id)| StarterNode {
            id,
            site: site.parse().unwrap(),
            region: format!("{site}-region"),
            provider: "azure".into(),
            grpc: format!("127.0.0.1:{}", 7400 + id),
            quic: format!("127.0.0.1:{}", 7500 + id),
        })
        .collect()
}

fn text() -> String {
    starter(ClusterId(7), "test.causeway", "repository", &nodes())
}

fn parse(text: &str) -> Result<Config, ConfigError> {
    Config::parse(Path::new("/etc/causeway/causeway.toml"), text)
}

#[test]
fn the_starter_is_a_valid_configuration() {
    let config = parse(&text()).unwrap();
    assert_eq!(config.nodes().count(), 3);
    assert_eq!(config.sites().count(), 3);
    assert_eq!(config.cluster.id, ClusterId(7));
    assert_eq!(config.repository_url().unwrap(), "/etc/causeway/repository");
    assert_eq!(config.resolve(&config.node(NodeId(2)).unwrap().data), Path::new("/etc/causeway/sites/westeurope/n2"));
}

/// Each case breaks one thing of the starter; the error must name the line where it stands.
#[test]
fn errors_name_file_and_line() {
    let cases = [
        ("heartbeat = \"100ms\"", "heartbeat = \"soon\"", "is not a duration"),
        ("heartbeat = \"100ms\"", "heartbeat = \"400ms\"", "at most half of election_min"),
        ("heartbeat = \"100ms\"", "hartbeat = \"100ms\"", "unknown field `hartbeat`"),
        ("disk_reserve = \"256MiB\"", "disk_reserve = \"lots\"", "is not a size"),
        ("deltas_at_rest = \"like\"", "deltas_at_rest = \"maybe\"", "unknown variant `maybe`"),
        ("site = \"eastus\"\n", "site = \"mars\"\n", "no [[site]] named \"mars\""),
        ("[[node]]\nid = 3", "[[node]]\nid = 2", "node id 2 stands twice"),
        ("name = \"eastus\"", "name = \"zurich\"", "site zurich stands twice"),
        ("quic = \"127.0.0.1:7503\"", "quic = \"nowhere\"", "is not host:port"),
        ("quic = \"127.0.0.1:7503\"", "metrics = \"9464\"\nquic = \"127.0.0.1:7503\"", "is not host:port"),
        ("url = \"repository\"", "url = \"ftp://x\"", "use azure://, s3://"),
        ("rate = \"64MiB\"", "rate = \"1KiB\"", "at least 1MiB"),
        ("versions = 100000", "versions = 0", "at least 1"),
        ("compare_every = \"5s\"", "compare_every = \"5ms\"", "at least 100ms"),
        ("chunk_capacity = \"0B\"", "chunk_capacity = \"1MiB\"", "at least 16MiB"),
        ("gc_every = \"6h\"", "gc_every = \"1m\"", "at least gc_grace"),
        ("[cluster]", "[cluster", "unclosed table"),
    ];
    for (from, to, expected) in cases {
        let good = text();
        assert!(good.contains(from), "{from}");
        let bad = good.replacen(from, to, 1);
        let error = parse(&bad).expect_err(to).to_string();
        assert!(error.contains(expected), "{to}: {error}");
        let line = error.strip_prefix("/etc/causeway/causeway.toml:").and_then(|rest| rest.split(':').next());
        let line: usize = line.unwrap().parse().unwrap();
        let at = good[..good.find(from).unwrap()].lines().count() + 1;
        // What is wrong with a whole section is said of its header or its first key.
        assert!(line.abs_diff(at) <= 1, "{to}: said line {line}, stands at {at}");
    }
}

#[test]
fn a_missing_file_says_what_to_do() {
    let error = Config::load(Path::new("/nonexistent/causeway.toml")).unwrap_err().to_string();
    assert!(error.contains("causeway init"), "{error}");
}
