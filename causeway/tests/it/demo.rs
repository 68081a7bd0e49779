//! The demo on a small input, and what it leaves behind when it is interrupted.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::cluster::{PROGRAM, text};
use crate::copies::noise;

fn small_input(at: &Path) {
    for folder in ["first", "second", "second/deeper"] {
        std::fs::create_dir_all(at.join(folder)).unwrap();
        for number in 0..8_u8 {
            let content = noise(number, 3_000 << (number % 6));
            std::fs::write(at.join(folder).join(format!("file-{number}")), content).unwrap();
        }
    }
    std::fs::write(at.join("second/large"), noise(99, 3 << 20)).unwrap();
    std::os::unix::fs::symlink("large", at.join("second/link")).unwrap();
}

fn entries(folder: &Path) -> usize {
    std::fs::read_dir(folder).unwrap().count()
}

#[test]
fn every_comparison_of_the_demo_holds() {
    let temp = tempfile::tempdir().unwrap();
    let (input, work) = (temp.path().join("input"), temp.path().join("work"));
    small_input(&input);
    let output = Command::new(PROGRAM)
        .args(["demo", "--json", "--workdir"])
        .args([&work, &input])
        .env_remove("CAUSEWAY_CONFIG")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["held"], true, "{report}");
    assert!(report["steps"].as_array().unwrap().len() >= 15, "{report}");
    assert!(report["rto_seconds"].as_f64().unwrap() > 0.0, "{report}");
    assert_eq!(entries(&work), 0, "nothing is left");
}

#[test]
fn an_interrupted_demo_leaves_no_process_and_no_file() {
    let temp = tempfile::tempdir().unwrap();
    let (input, work) = (temp.path().join("input"), temp.path().join("work"));
    small_input(&input);
    std::fs::create_dir(&work).unwrap();
    let mut demo = Command::new(PROGRAM)
        .args(["demo", "--workdir"])
        .args([&work, &input])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    // The sites have begun: their folders are there.
    let started = Instant::now();
    while !running(&work) {
        assert!(started.elapsed() < Duration::from_secs(60), "no node has started");
        std::thread::sleep(Duration::from_millis(20));
    }
    let pid = rustix::process::Pid::from_raw(demo.id().try_into().unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    assert_eq!(demo.wait().unwrap().code(), Some(130));
    assert_eq!(entries(&work), 0, "no file is left");
    assert!(!running(&work), "no process is left");
}

/// Whether any process runs with a path below the folder in its command line.
fn running(folder: &Path) -> bool {
    let folder = folder.as_os_str().as_encoded_bytes();
    let processes = std::fs::read_dir("/proc").unwrap().filter_map(Result::ok);
    let mut lines = processes.filter_map(|process| std::fs::read(process.path().join("cmdline")).ok());
    lines.any(|line| {
        let node = line.split(|byte| *byte == 0).any(|argument| argument == b"node");
        node && line.windows(folder.len()).any(|part| part == folder)
    })
}
