//! What every disk must do, as a suite that each of them runs.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{Disk, DiskFile, Open};

type Check = fn(&dyn Disk, &Path);

/// Runs all checks, each in a folder of its own below `root`.
///
/// # Panics
/// If the disk does not do what it must.
pub fn run(disk: &dyn Disk, root: &Path) {
    let checks: [(&str, Check); 8] = [
        ("opening", opening),
        ("reading_and_writing", reading_and_writing),
        ("lengths", lengths),
        ("handles", handles),
        ("folders", folders),
        ("renaming", renaming),
        ("removing", removing),
        ("threads", threads),
    ];
    for (name, check) in checks {
        let folder = root.join(name);
        disk.create_dir_all(&folder).expect("a folder");
        check(disk, &folder);
    }
    assert!(disk.free_bytes(root).expect("free bytes") > 0);
}

fn opening(disk: &dyn Disk, dir: &Path) {
    let path = dir.join("f");
    assert_eq!(disk.open(&path, Open::Read).expect_err("missing").kind(), ErrorKind::NotFound);
    assert_eq!(disk.open(&path, Open::Write).expect_err("missing").kind(), ErrorKind::NotFound);
    let file = create(disk, &path);
    assert_eq!(disk.open(&path, Open::CreateNew).expect_err("present").kind(), ErrorKind::AlreadyExists);
    file.write_all_at(b"abc", 0).expect("a write");
    assert_eq!(contents(disk, &path), b"abc");
    let reader = disk.open(&path, Open::Read).expect("present");
    assert!(reader.write_all_at(b"x", 0).is_err(), "a file opened for reading took a write");
    disk.open(&path, Open::Write).expect("present").write_all_at(b"B", 1).expect("a write");
    assert_eq!(contents(disk, &path), b"aBc");
    let nowhere = dir.join("no folder").join("f");
    assert_eq!(disk.open(&nowhere, Open::CreateNew).expect_err("no folder").kind(), ErrorKind::NotFound);
}

fn reading_and_writing(disk: &dyn Disk, dir: &Path) {
    let file = create(disk, &dir.join("f"));
    assert!(file.is_empty().expect("a length"));
    let bytes: Vec<u8> = (0..20_000_u32).map(|i| (i % 253) as u8).collect();
    file.write_all_at(&bytes, 4_000).expect("a write");
    file.write_all_at(b"", 90_000).expect("nothing to write");
    assert_eq!(file.len().expect("a length"), 24_000);
    let mut read = vec![1; 24_000];
    file.read_exact_at(&mut read, 0).expect("a read");
    assert!(read[..4_000].iter().all(|byte| *byte == 0), "a hole is not zero");
    assert_eq!(read[4_000..], bytes);
    let mut middle = [0; 5];
    file.read_exact_at(&mut middle, 4_095).expect("a read");
    assert_eq!(middle, bytes[95..100]);
    let beyond = file.read_exact_at(&mut [0; 2], 23_999).expect_err("beyond the end");
    assert_eq!(beyond.kind(), ErrorKind::UnexpectedEof);
    file.read_exact_at(&mut [], 24_000).expect("nothing to read");
}

fn lengths(disk: &dyn Disk, dir: &Path) {
    let file = create(disk, &dir.join("f"));
    file.write_all_at(&[7; 10_000], 0).expect("a write");
    file.set_len(5_001).expect("cut");
    file.set_len(12_000).expect("extend");
    let mut read = vec![1; 12_000];
    file.read_exact_at(&mut read, 0).expect("a read");
    assert!(read[..5_001].iter().all(|byte| *byte == 7));
    assert!(read[5_001..].iter().all(|byte| *byte == 0), "what was cut came back");
    file.sync_data().expect("a sync");
    file.set_len(0).expect("cut");
    assert!(file.is_empty().expect("a length"));
}

fn handles(disk: &dyn Disk, dir: &Path) {
    let path = dir.join("f");
    let file = create(disk, &path);
    let other = disk.open(&path, Open::Write).expect("present");
    other.write_all_at(b"shared", 0).expect("a write");
    let mut read = [0; 6];
    file.read_exact_at(&mut read, 0).expect("a read");
    assert_eq!(&read, b"shared");
    // A file without a name lives on for those who have it open; a new one of the name is another.
    disk.remove(&path).expect("removed");
    let anew = create(disk, &path);
    assert!(anew.is_empty().expect("a length"));
    disk.sync_dir(dir).expect("a sync");
    file.read_exact_at(&mut read, 0).expect("a read");
    assert_eq!(&read, b"shared");
    file.sync_data().expect("a sync");
}

fn folders(disk: &dyn Disk, dir: &Path) {
    let deep = dir.join("a").join("b").join("c");
    disk.create_dir_all(&deep).expect("folders");
    disk.create_dir_all(&deep).expect("folders that are there");
    create(disk, &dir.join("z"));
    create(disk, &dir.join("a").join("y"));
    assert_eq!(disk.list(dir).expect("names"), ["a", "z"].map(PathBuf::from));
    assert_eq!(disk.list(&dir.join("a")).expect("names"), ["b", "y"].map(PathBuf::from));
    assert_eq!(disk.list(&deep).expect("names"), Vec::<PathBuf>::new());
    assert_eq!(disk.list(&dir.join("missing")).expect_err("missing").kind(), ErrorKind::NotFound);
    assert_eq!(disk.sync_dir(&dir.join("missing")).expect_err("missing").kind(), ErrorKind::NotFound);
    assert!(disk.create_dir_all(&dir.join("z")).is_err(), "a file is no folder");
    disk.sync_dir(dir).expect("a sync");
}

fn renaming(disk: &dyn Disk, dir: &Path) {
    let (from, to) = (dir.join("from"), dir.join("to"));
    let file = create(disk, &from);
    file.write_all_at(b"new", 0).expect("a write");
    create(disk, &to).write_all_at(b"old!", 0).expect("a write");
    disk.rename(&from, &to).expect("a rename");
    assert_eq!(disk.list(dir).expect("names"), [PathBuf::from("to")]);
    assert_eq!(contents(disk, &to), b"new");
    file.write_all_at(b"NEW", 0).expect("a write through the old handle");
    assert_eq!(contents(disk, &to), b"NEW");
    assert_eq!(disk.rename(&from, &to).expect_err("missing").kind(), ErrorKind::NotFound);
    disk.rename(&to, &to).expect("to itself");
    disk.create_dir_all(&dir.join("sub")).expect("a folder");
    disk.rename(&to, &dir.join("sub").join("moved")).expect("to another folder");
    assert_eq!(disk.list(dir).expect("names"), [PathBuf::from("sub")]);
    assert_eq!(contents(disk, &dir.join("sub").join("moved")), b"NEW");
}

fn removing(disk: &dyn Disk, dir: &Path) {
    let path = dir.join("f");
    create(disk, &path);
    disk.remove(&path).expect("removed");
    assert_eq!(disk.remove(&path).expect_err("missing").kind(), ErrorKind::NotFound);
    assert_eq!(disk.list(dir).expect("names"), Vec::<PathBuf>::new());
}

fn threads(disk: &dyn Disk, dir: &Path) {
    const WRITERS: u64 = 4;
    const BLOCK: usize = 3_000;
    let file = create(disk, &dir.join("f"));
    std::thread::scope(|scope| {
        for writer in 0..WRITERS {
            let file = &file;
            scope.spawn(move || {
                for round in 0..20 {
                    let offset = (round * WRITERS + writer) * BLOCK as u64;
                    file.write_all_at(&[writer as u8; BLOCK], offset).expect("a write");
                    file.sync_data().expect("a sync");
                }
            });
        }
    });
    let bytes = contents(disk, &dir.join("f"));
    assert_eq!(bytes.len(), 80 * BLOCK);
    for (i, block) in bytes.chunks(BLOCK).enumerate() {
        assert!(block.iter().all(|byte| u64::from(*byte) == i as u64 % WRITERS), "block {i} was mixed up");
    }
}

fn create(disk: &dyn Disk, path: &Path) -> Arc<dyn DiskFile> {
    disk.open(path, Open::CreateNew).expect("a new file")
}

fn contents(disk: &dyn Disk, path: &Path) -> Vec<u8> {
    let file = disk.open(path, Open::Read).expect("present");
    let mut bytes = vec![0; usize::try_from(file.len().expect("a length")).expect("small")];
    file.read_exact_at(&mut bytes, 0).expect("a read");
    bytes
}
