//! `init`, `config check`, completions: what needs no cluster.

use crate::cluster::{new_config, run_with, text};

#[test]
fn init_writes_what_config_check_accepts() {
    let temp = tempfile::tempdir().unwrap();
    let config = new_config(temp.path().join("cluster"));
    let output = run_with(&config.path, ["config", "check"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
}

#[test]
fn a_bad_line_is_named_and_ends_with_the_code_of_bad_configuration() {
    let temp = tempfile::tempdir().unwrap();
    let config = new_config(temp.path().join("cluster"));
    let good = std::fs::read_to_string(&config.path).unwrap();
    let line = good.lines().position(|line| line.starts_with("heartbeat")).unwrap() + 1;
    std::fs::write(&config.path, good.replace("heartbeat =", "hartbeat =")).unwrap();
    let output = run_with(&config.path, ["config", "check"]);
    assert_eq!(output.status.code(), Some(2), "{}", text(&output));
    let expected = format!("{}:{line}: unknown field `hartbeat`", config.path.display());
    assert!(text(&output).contains(&expected), "{}", text(&output));
}

#[test]
fn a_cluster_that_does_not_run_is_unavailable() {
    let temp = tempfile::tempdir().unwrap();
    let config = new_config(temp.path().join("cluster"));
    let output = run_with(&config.path, ["--timeout", "300ms", "status"]);
    assert_eq!(output.status.code(), Some(6), "{}", text(&output));
    assert!(text(&output).contains("127.0.0.1:"), "the address is named: {}", text(&output));
}

#[test]
fn completions_are_scripts() {
    for shell in ["bash", "zsh", "fish"] {
        let output = run_with("none".as_ref(), ["completions", shell]);
        assert_eq!(output.status.code(), Some(0), "{}", text(&output));
        assert!(text(&output).contains("causeway"));
    }
}
