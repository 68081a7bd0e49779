//! The committed code is what the .proto files give.
//!
//! `CAUSEWAY_UPDATE_GENERATED=1 cargo test -p causeway-proto` writes it anew.
#![allow(clippy::unwrap_used)] // a test file: helpers too

use std::fs;
use std::path::Path;

const FILES: [&str; 4] = [
    "causeway/v1/namespace.proto",
    "causeway/v1/admin.proto",
    "causeway/v1/manage.proto",
    "causeway/peer/v1/peer.proto",
];
const PACKAGES: [&str; 2] = ["causeway.v1.rs", "causeway.peer.v1.rs"];

#[test]
fn committed_code_is_what_the_proto_files_give() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let committed = root.join("src/generated");
    let fresh = tempfile::tempdir().unwrap();
    let update = std::env::var_os("CAUSEWAY_UPDATE_GENERATED").is_some();
    generate(root, if update { &committed } else { fresh.path() });
    if update {
        return;
    }
    for package in PACKAGES {
        let expected = fs::read_to_string(fresh.path().join(package)).unwrap();
        let found = fs::read_to_string(committed.join(package)).unwrap_or_default();
        assert!(found == expected, "src/generated/{package} is stale: run with CAUSEWAY_UPDATE_GENERATED=1");
    }
    assert_eq!(
        fs::read_dir(&committed).unwrap().count(),
        PACKAGES.len(),
        "a file in src/generated belongs to no package"
    );
}

fn generate(root: &Path, out: &Path) {
    let descriptors = protox::compile(FILES, [root.join("proto")]).unwrap();
    tonic_prost_build::configure()
        .out_dir(out)
        .bytes(".")
        .emit_rerun_if_changed(false)
        .build_transport(false)
        .compile_fds(descriptors)
        .unwrap();
}
